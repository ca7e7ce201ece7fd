// The client that counts ends, against a server that answers by a script.
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { type WebSocket, WebSocketServer } from 'ws'
import { CountingClient, tallyOf } from '../../../bench/server/counting-client.js'

const servers: WebSocketServer[] = []

afterEach(async () => {
  for (const server of servers.splice(0)) {
    for (const socket of server.clients) socket.terminate()
    await new Promise((closed) => server.close(closed))
  }
})

/** @param answer what to do about a frame that is not `hello`. */
async function clientOf(answer: (frame: Record<string, unknown>, socket: WebSocket) => void): Promise<CountingClient> {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 })
  servers.push(server)
  await once(server, 'listening')
  server.on('connection', (socket) =>
    socket.on('message', (data) => {
      const frame = JSON.parse(String(data))
      if (frame.type === 'hello') socket.send('{"type":"welcome"}')
      else answer(frame, socket)
    }),
  )
  return CountingClient.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
}

const send = (socket: WebSocket, ...frames: object[]) => {
  for (const frame of frames) socket.send(JSON.stringify(frame))
}

describe('ends', () => {
  test('are counted by what they say, and tokens are kept', async () => {
    const client = await clientOf(({ id }, socket) =>
      send(
        socket,
        { type: 'delta', id, ids: [1, 2] },
        { type: 'delta', id, ids: [3] },
        id === 'a' ? { type: 'done', id, finish: 'stop' } : { type: 'error', id, code: 'ERR_QUEUE_FULL' },
      ),
    )
    client.generate('a', 'x')
    client.generate('b', 'x')
    expect(client.running).toBe(2)
    await client.until(() => client.running === 0)
    expect(client.tokensOf('a')).toEqual([1, 2, 3])
    expect(tallyOf([client])).toEqual({ stop: 1, ERR_QUEUE_FULL: 1 })
  })

  test('that are missing, or too many, stand out', async () => {
    const client = await clientOf(({ id, type, t }, socket) => {
      const done = { type: 'done', id, finish: 'stop' }
      if (type === 'ping') send(socket, { type: 'pong', t })
      else if (id === 'a') send(socket, done, done)
    })
    client.generate('a', 'x')
    client.generate('b', 'x')
    await client.answered()
    expect(tallyOf([client])).toEqual({ twice: 1, never: 1 })
  })

  test('come with the connection’s, for what has no other', async () => {
    const client = await clientOf(({ id }, socket) => {
      if (id === 'a') send(socket, { type: 'done', id, finish: 'stop' })
      else socket.close(4409, 'in use')
    })
    client.generate('a', 'x')
    client.generate('b', 'x')
    expect(await client.closed()).toBe(4409)
    expect(tallyOf([client])).toEqual({ stop: 1, 'closed 4409': 1 })
  })
})

test('nobody waits for a connection that is gone', async () => {
  const client = await clientOf((_, socket) => socket.terminate())
  client.generate('a', 'x')
  await client.until(() => false)
  await client.answered()
  expect(client.closeCode).toBe(1006)
})
