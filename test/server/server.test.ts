// From listening to closed: what a server answers, and that it leaves nothing behind.
import { networkInterfaces } from 'node:os'
import { describe, expect, test } from 'vitest'
import type { Engine } from '../../src/index.js'
import { createServer } from '../../src/server/index.js'
import { createLogger } from '../../src/server/log.js'
import { failure } from '../support/errors.js'
import { postText, rawClient } from '../support/raw-http.js'
import { runningServers, until } from '../support/server.js'

const startServer = runningServers()

/** Containers often have none. */
const hasIPv6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
)

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

  test('a port in use is an error that says so, and can be tried again', async () => {
    const { engine, port, close } = await startServer()
    const second = createServer({ engine, port })
    await failure(() => second.listen(), 'ERR_LISTEN', /in use/)
    await close()
    expect(await second.listen()).toMatchObject({ port })
    await second.close()
  })

  const NAMES = [
    ['0.0.0.0', '127.0.0.1'],
    ['localhost', 'localhost'],
    ['::', '[::1]'],
    ['[::1]', '[::1]'],
  ] as const

  for (const [host, name] of NAMES) {
    test.skipIf(host.includes(':') && !hasIPv6)(`at ${host} it is reached as ${name}`, async () => {
      const { url, port } = await startServer({ host, allowPublic: true })
      expect(url).toBe(`http://${name}:${port}`)
      expect((await fetch(`${url}/health`)).status).toBe(200)
    })
  }

  test('at an address of another machine it cannot be', async () => {
    const { engine } = await startServer()
    const server = createServer({ engine, port: 0, host: '203.0.113.1', allowPublic: true })
    await failure(() => server.listen(), 'ERR_LISTEN', /not an address of this machine/)
    await server.close()
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

  test('an answer has an id for the log: a new one, or the balancer’s where it is plain', async () => {
    const { url } = await startServer()
    const idOf = async (given?: string) =>
      (await fetch(`${url}/health`, { headers: given === undefined ? {} : { 'x-request-id': given } })).headers.get(
        'x-request-id',
      )
    expect(await idOf()).toMatch(/^[\w-]{12}$/)
    expect(await idOf()).not.toBe(await idOf())
    expect(await idOf('balancer-1.2:3')).toBe('balancer-1.2:3')
    expect(await idOf('has spaces and "quotes"')).toMatch(/^[\w-]{12}$/)
    expect(await idOf('x'.repeat(129))).toMatch(/^[\w-]{12}$/)
  })

  test('HEAD is GET without a body', async () => {
    const { url } = await startServer()
    const answer = await fetch(`${url}/health/ready`, { method: 'HEAD' })
    expect(answer.status).toBe(200)
    expect(await answer.text()).toBe('')
  })

  test('clients that would as soon speak HTTP/2 are served', async () => {
    const { port } = await startServer()
    const h2c = { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAEAAEAAAAIAAAABAAMAAABk' }
    const client = await rawClient(port)
    client.write(postText('/tokenize', '{"text":"x"}', h2c))
    expect(await client.until(/"count":\d+\}/)).toMatch(/^HTTP\/1\.1 200/)
    // The connection goes on.
    const headers = Object.entries(h2c).map(([name, value]) => `${name}: ${value}\r\n`)
    client.write(`GET /v1/models HTTP/1.1\r\nhost: localhost\r\n${headers.join('')}\r\n`)
    expect(await client.until(/"object":"list"/)).toMatch(/HTTP\/1\.1 200[\s\S]*HTTP\/1\.1 200/)
    client.socket.destroy()
  })

  test('more ids than a request may turn into text are refused', async () => {
    const { url } = await startServer()
    const most = 65_536
    const status = async (count: number) => (await post(`${url}/detokenize`, { tokens: Array(count).fill(1) })).status
    expect(await status(most)).toBe(200)
    expect(await status(most + 1)).toBe(400)
  })

  test('an id that the model does not have is refused', async () => {
    const { engine, url } = await startServer()
    const { vocab } = engine.info
    expect((await post(`${url}/detokenize`, { tokens: [vocab - 1] })).status).toBe(200)
    const refused = await post(`${url}/detokenize`, { tokens: [1, vocab] })
    expect(refused.status).toBe(400)
    expect(await refused.json()).toMatchObject({ error: { code: 'ERR_TOKEN_RANGE' } })
  })

  test('a longer text than a request may turn into ids is refused', async () => {
    const { url } = await startServer()
    const tokenize = (characters: number) => post(`${url}/tokenize`, { text: 'word '.repeat(characters / 5) })
    expect((await tokenize(1_000_000)).status).toBe(200)
    const refused = await tokenize(1_000_005)
    expect(refused.status).toBe(413)
    expect(await refused.json()).toMatchObject({ error: { code: 'ERR_TOO_LARGE' } })
  })

  test('a socket is refused where there is none', async () => {
    const { port } = await startServer()
    const client = await rawClient(port)
    client.write('GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 404 [\s\S]*ERR_ROUTE/)
  })
})

describe('who may ask', () => {
  const keys = ['the-right-key']
  const tokenize = (url: string, headers: Record<string, string> = {}) =>
    post(`${url}/tokenize`, { text: 'x' }, headers)

  test('with keys, whoever has one; health is open, metrics are not', async () => {
    const { url } = await startServer({ keys })
    const refused = await tokenize(url)
    expect(refused.status).toBe(401)
    expect(refused.headers.get('www-authenticate')).toBe('Bearer')
    expect(refused.headers.get('x-should-retry')).toBe('false')
    expect((await tokenize(url, { authorization: 'Bearer the-wrong-key' })).status).toBe(401)
    expect((await tokenize(url, { authorization: 'Bearer the-right-key' })).status).toBe(200)
    expect((await fetch(`${url}/health/live`)).status).toBe(200)
    expect((await fetch(`${url}/metrics`)).status).toBe(401)
  })

  test('a page of another origin may not, unless it is listed', async () => {
    const { url } = await startServer({ origins: ['https://app.example'] })
    const foreign = await tokenize(url, { origin: 'https://evil.example' })
    expect(foreign.status).toBe(403)
    expect(foreign.headers.get('access-control-allow-origin')).toBeNull()
    const own = await tokenize(url, { origin: url })
    expect(own.status).toBe(200)
    const listed = await tokenize(url, { origin: 'https://app.example' })
    expect(listed.status).toBe(200)
    expect(listed.headers.get('access-control-allow-origin')).toBe('https://app.example')
    expect(listed.headers.get('vary')).toBe('origin')
  })

  test('a foreign page may cause a harmless request, but not read the answer', async () => {
    const { url } = await startServer()
    const answer = await fetch(`${url}/v1/models`, { headers: { origin: 'https://evil.example' } })
    expect(answer.status).toBe(200)
    expect(answer.headers.get('access-control-allow-origin')).toBeNull()
  })

  test('a browser that asks beforehand is told what a listed page may do', async () => {
    const { url } = await startServer({ origins: ['https://app.example'], keys })
    const preflight = (origin: string) =>
      fetch(`${url}/tokenize`, {
        method: 'OPTIONS',
        headers: {
          origin,
          'access-control-request-method': 'POST',
          'access-control-request-headers': 'authorization, content-type, x-stainless-os',
        },
      })
    const listed = await preflight('https://app.example')
    expect(listed.status).toBe(204)
    expect(listed.headers.get('access-control-allow-methods')).toBe('POST')
    expect(listed.headers.get('access-control-allow-headers')).toBe('authorization, content-type, x-stainless-os')
    const foreign = await preflight('https://evil.example')
    expect(foreign.status).toBe(204)
    expect(foreign.headers.get('allow')).toBe('POST, OPTIONS')
    expect(foreign.headers.get('access-control-allow-origin')).toBeNull()
    expect(foreign.headers.get('access-control-allow-methods')).toBeNull()
  })

  test('a page that had its name lead here is refused', async () => {
    const { port } = await startServer()
    const client = await rawClient(port)
    client.write('GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n')
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 403 [\s\S]*ERR_FORBIDDEN/)
  })

  test('whoever decides by itself and fails is a fault of the server, which the log has', async () => {
    const lines: string[] = []
    const { url } = await startServer({
      authenticate: () => {
        throw new Error('the directory is down')
      },
      logger: createLogger('error', { write: (line) => lines.push(line) }),
    })
    const answer = await tokenize(url)
    const text = await answer.text()
    expect(answer.status).toBe(500)
    expect(text).toContain(answer.headers.get('x-request-id'))
    expect(text).not.toContain('directory')
    expect(lines.join('')).toContain('the directory is down')
  })
})

describe('limits', () => {
  test('more requests of a key than it may have are told when to come back', async () => {
    const { url } = await startServer({ limits: { perKey: { requestsPerMinute: 2 } } })
    const tokenize = () => post(`${url}/tokenize`, { text: 'x' })
    expect((await tokenize()).status).toBe(200)
    expect((await tokenize()).status).toBe(200)
    const third = await tokenize()
    expect(third.status).toBe(429)
    const seconds = Number(third.headers.get('retry-after'))
    expect(seconds).toBeGreaterThan(0)
    expect(seconds).toBeLessThanOrEqual(30)
    expect(third.headers.get('x-should-retry')).toBe('true')
    expect(await third.json()).toMatchObject({ error: { type: 'rate_limit_error', code: 'ERR_RATE_LIMIT' } })
  })

  test('a connection too many is told so, and one that closes makes room', async () => {
    const { port } = await startServer({ limits: { connections: 2 } })
    const [first] = await Promise.all([rawClient(port), rawClient(port)])
    const third = await rawClient(port)
    expect(await third.closed()).toMatch(/^HTTP\/1\.1 503 [\s\S]*ERR_CONNECTIONS/)
    first.socket.destroy()
    await first.closed()
    const ask = async () => {
      const client = await rawClient(port)
      client.write('GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
      return client.closed()
    }
    // The server may hear of the end after it hears of the next.
    let answer = await ask()
    for (let tries = 0; tries < 50 && answer.includes('503'); tries++) answer = await ask()
    expect(answer).toMatch(/^HTTP\/1\.1 200/)
  })

  test('a connection too many of one address is its own fault', async () => {
    const { port } = await startServer({ limits: { connectionsPerAddress: 1 } })
    await rawClient(port)
    const second = await rawClient(port)
    expect(await second.closed()).toMatch(/^HTTP\/1\.1 429 [\s\S]*connectionsPerAddress/)
  })

  test('whoever sends request upon request on one connection is stopped', async () => {
    const { port, engine } = await startServer({ limits: { perConnection: 2 } })
    const client = await rawClient(port)
    const body = JSON.stringify({ prompt: 'const x =', max_tokens: 5000, stream: true, ignore_eos: true })
    client.write(postText('/v1/completions', body).repeat(20))
    expect(await client.until(/data: /)).toContain('200 OK')
    const { running, queued } = engine.stats()
    expect(running + queued).toBeGreaterThan(0)
    expect(running + queued).toBeLessThanOrEqual(2)
    client.socket.destroy()
    await until(() => engine.stats().running === 0)
  })

  test('headers that never end are cut off', async () => {
    const { port } = await startServer({ limits: { headersMs: 200 } })
    const [slow, silent] = [await rawClient(port), await rawClient(port)]
    slow.write('GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ')
    const drip = setInterval(() => slow.write('a'), 20)
    expect(await slow.closed()).toMatch(/^HTTP\/1\.1 408 [\s\S]*ERR_REQUEST_TIMEOUT/)
    clearInterval(drip)
    await silent.closed()
  })

  test('headers that are too large are refused', async () => {
    const { port } = await startServer()
    const client = await rawClient(port)
    client.write(`GET /health HTTP/1.1\r\nHost: localhost\r\nX-Large: ${'a'.repeat(100_000)}\r\n\r\n`)
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 431 [\s\S]*ERR_TOO_LARGE/)
  })

  test('a connection that says nothing more is closed in time', async () => {
    const { port } = await startServer({ limits: { idleMs: 100 } })
    const client = await rawClient(port)
    client.write('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n')
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 200/)
  })
})

describe('loading', () => {
  test('is said to whoever asks, until the model is there', async () => {
    let arrive: (engine: Engine) => void = () => undefined
    const coming = new Promise<Engine>((resolve) => {
      arrive = resolve
    })
    const { url } = await startServer({
      engine: { demo: coming },
      loading: () => ({ phase: 'map', done: 1, total: 2 }),
    })
    const ready = await fetch(`${url}/health/ready`)
    expect(ready.status).toBe(503)
    expect(await ready.json()).toEqual({ status: 'loading', phase: 'map', done: 1, total: 2 })
    const early = await post(`${url}/tokenize`, { text: 'x' })
    expect(early.status).toBe(503)
    expect(early.headers.get('retry-after')).toBe('1')
    const { engine } = await startServer()
    arrive(engine)
    await coming
    expect((await fetch(`${url}/health/ready`)).status).toBe(200)
    expect((await post(`${url}/tokenize`, { text: 'x' })).status).toBe(200)
  })

  test('that fails is said too, and the server still closes', async () => {
    const { url, close } = await startServer({ engine: { demo: Promise.reject(new Error('no such file')) } })
    expect(await (await fetch(`${url}/health/ready`)).json()).toEqual({ status: 'failed' })
    const answer = await post(`${url}/tokenize`, { text: 'x' })
    expect(answer.status).toBe(503)
    expect(await answer.json()).toMatchObject({ error: { code: 'ERR_LOAD_FAILED' } })
    await close()
  })

  test('does not hold up closing', async () => {
    const { close } = await startServer({ engine: new Promise<Engine>(() => undefined) })
    await close()
  })
})

describe('closing', () => {
  const stream = (url: string, tokens: number, signal?: AbortSignal) =>
    fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'const x =', max_tokens: tokens, stream: true, ignore_eos: true }),
      ...(signal && { signal }),
    })

  test('lets what runs finish, refuses what is new, and says so while it does', async () => {
    const { url, close, engine } = await startServer()
    const running = await stream(url, 200)
    const closing = close()
    const late = await post(`${url}/tokenize`, { text: 'x' })
    expect(late.status).toBe(503)
    expect(late.headers.get('connection')).toBe('close')
    expect(await late.json()).toMatchObject({ error: { code: 'ERR_DRAINING' } })
    expect(await (await fetch(`${url}/health/ready`)).json()).toEqual({ status: 'draining' })
    const text = await running.text()
    expect(text).toMatch(/"finish_reason":"length"[\s\S]*data: \[DONE\]\n\n$/)
    await closing
    expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
    await expect(fetch(`${url}/health`)).rejects.toThrow()
  })

  test('is not put off by balancers that keep asking whether it is ready', async () => {
    const { url, close } = await startServer()
    const running = await stream(url, 200)
    let isClosed = false
    const closing = close().then(() => {
      isClosed = true
    })
    const ask = async (): Promise<void> => {
      while (!isClosed) await fetch(`${url}/health/ready`).catch(() => undefined)
    }
    await Promise.all([closing, running.text(), ...Array.from({ length: 8 }, ask)])
  })

  test('cuts short what runs for longer than it may, and tells it why', async () => {
    const { url, close, engine } = await startServer()
    const running = await stream(url, 15_000)
    const text = running.text()
    await close({ drainMs: 50 })
    expect(await text).toMatch(/event: error\ndata: \{"error":.*"code":"ERR_DRAINING"\}\}\n\n$/)
    expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })

  test('again may bring the end forward, and never puts it off', async () => {
    const { url, server } = await startServer()
    const running = await stream(url, 15_000)
    const text = running.text()
    const first = server.close()
    await Promise.all([first, server.close({ drainMs: 0 }), server.close({ drainMs: 600_000 })])
    expect(await text).toContain('ERR_DRAINING')
  })

  test('does not wait for clients who only stay connected, or do not read', async () => {
    const { port, close, engine } = await startServer()
    const idle = await rawClient(port)
    const deaf = await rawClient(port)
    deaf.socket.pause()
    const body = JSON.stringify({ prompt: 'const x =', max_tokens: 10_000, stream: true, ignore_eos: true })
    deaf.write(postText('/v1/completions', body))
    await until(() => engine.stats().running === 1)
    await close({ drainMs: 50 })
    await idle.closed()
    deaf.socket.resume()
    await deaf.closed()
    expect(engine.stats().running).toBe(0)
  })

  test('before or while it listens leaves nothing', async () => {
    const { engine } = await startServer()
    await createServer({ engine, port: 0 }).close()
    const server = createServer({ engine, port: 0 })
    const listening = server.listen()
    await server.close()
    const { url } = await listening
    await expect(fetch(`${url}/health`)).rejects.toThrow()
  })

  test('a server is closed at the end of its block', async () => {
    const { engine } = await startServer()
    let address = ''
    {
      await using server = createServer({ engine, port: 0 })
      address = (await server.listen()).url
    }
    await expect(fetch(`${address}/health`)).rejects.toThrow()
  })
})
