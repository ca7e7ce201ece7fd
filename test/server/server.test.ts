// From listening to closed: what a server answers, and that it leaves nothing behind.
import { createConnection } from 'node:net'
import { describe, expect, test } from 'vitest'
import { createServer } from '../../src/server/index.js'
import { failure } from '../support/errors.js'
import { runningServers } from '../support/server.js'

const startServer = runningServers()

const post = (url: string, body: unknown, headers: Record<string, string> = {}) =>
  fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

describe('listening', () => {
  test('gives the address, the same each time', async () => {
    const { server, url, port } = await startServer()
    expect(url).toBe(`http://127.0.0.1:${port}`)
    expect(await server.listen()).toEqual({ url, host: '127.0.0.1', port })
    expect(server.address).toEqual({ url, host: '127.0.0.1', port })
  })

  test('a port in use is an error that says so', async () => {
    const { engine, port } = await startServer()
    const second = createServer({ engine, port })
    await failure(() => second.listen(), 'ERR_LISTEN', /in use/)
    await second.close()
  })

  test('after close the port is free, and the engine still works', async () => {
    const { engine, port, close } = await startServer()
    await close()
    const again = createServer({ engine, port })
    await again.listen()
    await again.close()
    expect((await engine.generate('const x =', { maxTokens: 2 })).tokens).toHaveLength(2)
  })

  test('a closed server does not listen again', async () => {
    const { server, close } = await startServer()
    await close()
    await close()
    expect(server.address).toBeNull()
    await failure(() => server.listen(), 'ERR_CLOSED')
  })
})

describe('routes', () => {
  test('text becomes the ids that the library gives, and back', async () => {
    const { engine, url } = await startServer()
    const text = 'export function add(a: number, b: number) {'
    const answer = await post(`${url}/tokenize`, { text })
    const { tokens, count, model } = (await answer.json()) as { tokens: number[]; count: number; model: string }
    expect(tokens).toEqual(Array.from(await engine.tokenize(text)))
    expect({ count, model }).toEqual({ count: tokens.length, model: 'demo' })
    const back = await post(`${url}/detokenize`, { tokens })
    expect(await back.json()).toEqual({ model: 'demo', text: engine.detokenize(tokens) })
  })

  test.each([
    ['GET', '/nothing', 404, 'ERR_ROUTE', null],
    ['GET', '/tokenize', 405, 'ERR_METHOD', 'POST'],
    ['DELETE', '/tokenize', 405, 'ERR_METHOD', 'POST'],
  ])('%s %s is %i %s', async (method, path, status, code, allow) => {
    const { url } = await startServer()
    const answer = await fetch(url + path, { method })
    expect(answer.status).toBe(status)
    expect(answer.headers.get('allow')).toBe(allow)
    expect(await answer.json()).toMatchObject({ error: { code } })
  })

  test('an unknown field is named, with what was meant', async () => {
    const { url } = await startServer()
    const answer = await post(`${url}/tokenize`, { txt: 'a' })
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({
      error: { type: 'invalid_request_error', code: 'ERR_OPTION', message: expect.stringContaining('"text"') },
    })
  })

  test('a model that is not there is 404', async () => {
    const { url } = await startServer()
    const answer = await post(`${url}/tokenize`, { model: 'other', text: 'a' })
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({ error: { code: 'ERR_MODEL_UNKNOWN', param: 'model' } })
  })

  test('a socket is refused where there is none', async () => {
    const { port } = await startServer()
    const socket = createConnection(port, '127.0.0.1')
    socket.write('GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    const [answer] = await new Promise<Buffer[]>((resolve) => socket.once('data', (data) => resolve([data])))
    expect(answer?.toString()).toMatch(/^HTTP\/1.1 404 /)
    socket.destroy()
  })
})
