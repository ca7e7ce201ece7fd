// Being refused on a bare socket: told why in HTTP, then closed, whatever the other side does.
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { GorgonError } from '../../src/errors.js'
import { problemOf } from '../../src/server/errors.js'
import { refuse } from '../../src/server/refusal.js'
import { rawClient } from '../support/raw-http.js'

const PROBLEM = problemOf(new GorgonError('ERR_CONNECTIONS', 'Too many: 3 of 3 ä.'), '')

let close = (): void => undefined
afterEach(() => close())

/** A server that refuses all; gives its port, and the sockets it has refused. */
async function refusing(): Promise<{ port: number; refused: Socket[] }> {
  const refused: Socket[] = []
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    refused.push(socket)
    refuse(socket, PROBLEM, { 'x-extra': '1' })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  close = () => void server.close()
  return { port: (server.address() as AddressInfo).port, refused }
}

test('the answer is whole, and says when to come back', async () => {
  const { port } = await refusing()
  const answer = await (await rawClient(port)).closed()
  const [head = '', body = ''] = Buffer.from(answer, 'latin1').toString('utf8').split('\r\n\r\n')
  expect(head).toMatch(/^HTTP\/1\.1 429 Too Many Requests\r\nconnection: close\r\n/)
  expect(head).toContain('\r\nretry-after: 1\r\n')
  expect(head).toContain('\r\nx-extra: 1')
  expect(head).toContain(`\r\ncontent-length: ${Buffer.byteLength(body)}\r\n`)
  expect(JSON.parse(body)).toMatchObject({ error: { code: 'ERR_CONNECTIONS', message: 'Too many: 3 of 3 ä.' } })
})

test('somebody who is still sending gets it too', async () => {
  const { port, refused } = await refusing()
  const client = await rawClient(port)
  client.socket.on('drain', () => client.write(Buffer.alloc(64 * 1024)))
  client.write(Buffer.alloc(1024 * 1024))
  expect(await client.closed()).toMatch(/^HTTP\/1\.1 429/)
  if (!refused[0]!.destroyed) await once(refused[0]!, 'close')
})

test('somebody who neither reads nor leaves is closed on', async () => {
  const { port, refused } = await refusing()
  const client = await rawClient(port)
  client.socket.pause()
  while (refused.length === 0) await new Promise((resolve) => setImmediate(resolve))
  await once(refused[0]!, 'close')
  client.socket.destroy()
})

test('a socket that is gone already is no trouble', async () => {
  const { port, refused } = await refusing()
  const client = await rawClient(port)
  await client.closed()
  refuse(refused[0]!, PROBLEM)
  expect(refused[0]!.destroyed).toBe(true)
})
