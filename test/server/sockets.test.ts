// WebSockets over a real server: handshakes, signs of life, closing, and the same text as the library gives.
import { createConnection } from 'node:net'
import { describe, expect, test } from 'vitest'
import { CloseCode } from '../../src/server/index.js'
import { cut } from '../../src/server/sockets.js'
import { expectWellFormed, NativePeer, refusedHandshake } from '../support/native-peer.js'
import { runningServers } from '../support/server.js'
import { ToyTokenizer, toyEngines } from '../support/toy-engine.js'

const startToy = toyEngines()
const startServer = runningServers()
const KEY = 'a-key-of-this-test'
const PROMPT = 'export function add('

describe('a response', () => {
  test.each([{ temperature: 0 }, { temperature: 0.8, seed: 7 }])(
    'has the text of the library: %j',
    async (sampling) => {
      const { engine, port } = await startServer()
      const options = { maxTokens: 24, ...sampling }
      const expected = await engine.generate(PROMPT, options)
      const peer = await NativePeer.open(port)
      peer.say({ type: 'generate', id: 'a', input: PROMPT, options, ids: true })
      const done = await peer.end('a')
      expectWellFormed(peer.frames)
      expect(done).toMatchObject({ type: 'done', finish: expected.finish, seed: expected.seed, usage: expected.usage })
      expect(peer.text('a')).toBe(expected.text)
      expect(peer.of('delta', 'a').flatMap(({ ids }) => ids)).toEqual([...expected.tokens])
    },
  )

  test('has a seed that the server chose, with which it is had again', async () => {
    const { engine, port } = await startServer()
    const peer = await NativePeer.open(port)
    const options = { maxTokens: 16, temperature: 1 }
    peer.say({ type: 'generate', id: 'a', input: PROMPT, options })
    const { seed } = await peer.first('accepted', 'a')
    await peer.end('a')
    expect((await engine.generate(PROMPT, { ...options, seed: Number(seed) })).text).toBe(peer.text('a'))
  })
})

describe('a handshake', () => {
  test('without a subprotocol is refused, and told which to ask for', async () => {
    const { port } = await startServer()
    const { status, headers, body } = await refusedHandshake(port, { protocols: [] })
    expect({ status, subprotocol: headers['sec-websocket-protocol'] }).toEqual({
      status: 426,
      subprotocol: 'gorgon.v1',
    })
    expect(JSON.parse(body).error).toMatchObject({ code: 'ERR_UNSUPPORTED' })
  })

  test('with another subprotocol is refused', async () => {
    const { port } = await startServer()
    expect(await refusedHandshake(port, { protocols: ['gorgon.v2', 'chat'] })).toMatchObject({ status: 400 })
  })

  test('with the right one among others gets it', async () => {
    const { port } = await startServer()
    const peer = await NativePeer.connect(port, { protocols: ['gorgon.v2', 'gorgon.v1'] })
    expect(peer.ws.protocol).toBe('gorgon.v1')
  })

  test('at another path is refused', async () => {
    const { port } = await startServer()
    expect(await refusedHandshake(port, { path: '/v1/other' })).toMatchObject({ status: 404 })
  })

  test('from a page of another origin is refused, unless that is listed', async () => {
    const { port } = await startServer({ origins: ['https://app.example'] })
    expect(await refusedHandshake(port, { origin: 'https://evil.example' })).toMatchObject({ status: 403 })
    await NativePeer.open(port, { origin: 'https://app.example' })
    await NativePeer.open(port, { origin: `http://127.0.0.1:${port}` })
  })

  test('that is a plain request is told to upgrade', async () => {
    const { url } = await startServer()
    const answer = await fetch(`${url}/v1/stream`)
    expect({ status: answer.status, upgrade: answer.headers.get('upgrade') }).toEqual({
      status: 426,
      upgrade: 'websocket',
    })
  })
})

describe('a key', () => {
  const bearer = (key: string) => `bearer.${Buffer.from(key).toString('base64url')}`

  test.each([
    ['in the header', { headers: { authorization: `Bearer ${KEY}` } }],
    ['beside the subprotocol', { protocols: ['gorgon.v1', bearer(KEY)] }],
    ['in hello', { hello: { token: KEY } }],
  ])('%s lets in', async (_, options) => {
    const { port } = await startServer({ keys: [KEY] })
    const peer = await NativePeer.open(port, options)
    expect(peer.ws.protocol).toBe('gorgon.v1')
    peer.say({ type: 'generate', id: 'a', input: PROMPT, options: { maxTokens: 1 } })
    expect(await peer.end('a')).toMatchObject({ type: 'done' })
  })

  test.each([
    ['in the header', { headers: { authorization: 'Bearer another-key' } }],
    ['beside the subprotocol', { protocols: ['gorgon.v1', bearer('another-key')] }],
  ])('that is wrong %s is refused before anything is spoken', async (_, options) => {
    const { port } = await startServer({ keys: [KEY] })
    expect(await refusedHandshake(port, options)).toMatchObject({ status: 401 })
  })

  test.each([[{ token: 'another-key' }], [{}]])(
    'that is wrong or missing in hello %j closes with 4401',
    async (hello) => {
      const { port } = await startServer({ keys: [KEY] })
      const peer = await NativePeer.connect(port)
      peer.say({ type: 'hello', ...hello }, { type: 'generate', id: 'a', input: 'x' })
      expect(await peer.closing()).toMatchObject({ code: CloseCode.unauthorized })
      expect(peer.frames).toEqual([])
    },
  )
})

describe('a connection is closed', () => {
  test('when there is no hello in time', async () => {
    const { port } = await startServer({ limits: { helloMs: 100 } })
    const peer = await NativePeer.connect(port)
    expect(await peer.closing()).toMatchObject({ code: CloseCode.timeout })
  })

  test('when nothing is asked for too long, but not while something runs', async () => {
    const idleMs = 150
    const tokenizer = new ToyTokenizer()
    let goOn!: () => void
    tokenizer.gate = new Promise((resolve) => {
      goOn = resolve
    })
    const { port } = await startServer({ engine: startToy({ tokenizer }).engine, limits: { idleMs } })
    const busy = await NativePeer.open(port)
    busy.say({ type: 'generate', id: 'a', input: PROMPT, options: { maxTokens: 1 } })
    await busy.first('accepted', 'a')
    // Whatever is closed for its silence now, the silence of the other began earlier.
    const idle = await NativePeer.open(port)
    expect(await idle.closing()).toMatchObject({ code: CloseCode.timeout })
    expect(busy.closed).toBeNull()

    const beforeLast = performance.now()
    goOn()
    expect(await busy.end('a')).toMatchObject({ type: 'done' })
    expect(await busy.closing()).toMatchObject({ code: CloseCode.timeout })
    // The clock runs from the last frame, not from the last request.
    expect(performance.now() - beforeLast).toBeGreaterThan(idleMs - 1)
  })

  test('when a message is binary', async () => {
    const { port } = await startServer()
    const peer = await NativePeer.open(port)
    peer.write(Buffer.from('{"type":"ping","t":1}'))
    expect(await peer.closing()).toMatchObject({ code: CloseCode.badFrame })
  })

  test('when a message is too large, and not when it is as large as it may be', async () => {
    const { port } = await startServer({ limits: { messageBytes: 2048 } })
    const peer = await NativePeer.open(port)
    const frame = (bytes: number) => {
      const empty = JSON.stringify({ type: 'generate', id: 'a', input: '', options: { maxTokens: 1 } })
      return empty.replace('""', `"${'x'.repeat(bytes - empty.length)}"`)
    }
    peer.write(frame(2048))
    expect(await peer.end('a')).toMatchObject({ type: 'done' })
    peer.write(frame(2049))
    expect(await peer.closing()).toMatchObject({ code: CloseCode.tooBig })
  })

  test('when it answers no pings, after two that went unanswered', async () => {
    const { server, port } = await startServer({ limits: { heartbeatMs: 100 } })
    const living = await NativePeer.open(port)
    const dead = await NativePeer.open(port, { autoPong: false })
    const { code } = await dead.closing()
    // No closing handshake: nobody is there.
    expect(code).toBe(1006)
    expect(living.closed).toBeNull()
    expect(server.intake.running).toBe(0)
  })

  test('with 1000 when the client is finished, after what runs', async () => {
    const { port } = await startServer()
    const peer = await NativePeer.open(port)
    peer.say({ type: 'generate', id: 'a', input: PROMPT, options: { maxTokens: 8 } }, { type: 'finish' })
    expect(await peer.closing()).toMatchObject({ code: CloseCode.normal })
    expect(peer.of('done', 'a')).toHaveLength(1)
  })

  test('with 1001 when the server stops, after what runs', async () => {
    const { port, close } = await startServer()
    const idle = await NativePeer.open(port)
    const busy = await NativePeer.open(port)
    busy.say({ type: 'generate', id: 'a', input: PROMPT, options: { maxTokens: 64, ignoreEos: true } })
    await busy.first('delta', 'a')
    await close({ drainMs: 60_000 })
    expect(idle.frames.at(-1)).toEqual({ type: 'draining', deadlineMs: 60_000 })
    expect(idle.closed).toMatchObject({ code: CloseCode.goingAway })
    expect(busy.of('done', 'a')).toMatchObject([{ finish: 'length' }])
    expect(busy.closed).toMatchObject({ code: CloseCode.goingAway })
  })

  test('with 1001 when the server cannot wait: what ran is cut short', async () => {
    const { engine, port, close } = await startServer()
    const peer = await NativePeer.open(port)
    peer.say({ type: 'generate', id: 'a', input: PROMPT, options: { maxTokens: 4000, ignoreEos: true } })
    await peer.first('delta', 'a')
    await close({ drainMs: 0 })
    expect(await peer.closing()).toMatchObject({ code: CloseCode.goingAway })
    expect(peer.of('done', 'a')).toMatchObject([{ finish: 'aborted' }])
    expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })
})

test('a second turn of a session that is at its first is refused, and the first goes on', async () => {
  const { port } = await startServer()
  const peer = await NativePeer.open(port)
  const options = { maxTokens: 64, ignoreEos: true }
  peer.say(
    { type: 'session.open', session: 's' },
    { type: 'generate', id: 'a', session: 's', input: PROMPT, options },
    { type: 'generate', id: 'b', session: 's', input: PROMPT, options },
  )
  expect(await peer.end('b')).toMatchObject({ type: 'error', seq: 1, code: 'ERR_BUSY', retryable: true })
  expect(await peer.end('a')).toMatchObject({ type: 'done', finish: 'length' })
})

test('a client that stops reading is coalesced, parked and closed, and each is counted', async () => {
  const { url, engine, server, port } = await startServer({ limits: { stallMs: 300 } })
  const peer = await NativePeer.open(port)
  // Frames with the likeliest tokens are large: what the system's own buffers take is soon full.
  const options = { maxTokens: 16_000, ignoreEos: true, logprobs: 20, kv: { policy: 'streaming', budget: 64 } } as const
  for (const id of ['a', 'b', 'c', 'd']) peer.say({ type: 'generate', id, input: PROMPT, options })
  await peer.first('delta', 'd')
  peer.ws.pause()
  await server.intake.idle()
  peer.ws.resume()
  // Whether the code arrives before the server gives up on it depends on how fast the rest is read.
  expect([CloseCode.slowConsumer, 1006]).toContain((await peer.closing()).code)
  expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
  const metrics = await (await fetch(`${url}/metrics`)).text()
  for (const name of ['socket_coalesced_frames', 'socket_parked_responses', 'socket_slow_closes']) {
    expect(Number(new RegExp(`^gorgon_${name}_total (\\d+)`, 'm').exec(metrics)?.[1]), name).toBeGreaterThan(0)
  }
})

test('a client that is gone frees everything within a step', async () => {
  const { engine, server, port } = await startServer()
  const peer = await NativePeer.open(port)
  peer.say({ type: 'session.open', session: 's' })
  for (const id of ['a', 'b']) {
    peer.say({ type: 'generate', id, input: PROMPT, options: { maxTokens: 10_000, ignoreEos: true } })
  }
  peer.say({ type: 'generate', id: 'c', session: 's', input: PROMPT, options: { maxTokens: 10_000, ignoreEos: true } })
  await Promise.all(['a', 'b', 'c'].map((id) => peer.first('delta', id)))
  peer.cut()
  await server.intake.idle()
  await expect.poll(() => engine.stats()).toMatchObject({ running: 0, queued: 0, sessions: 0 })
})

test('a socket that is dropped in its handshake is no trouble', async () => {
  const { engine, port } = await startServer()
  for (let i = 0; i < 20; i++) {
    const socket = createConnection(port, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.write('GET /v1/stream HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n')
    if (i % 2 === 0)
      socket.write(
        'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: gorgon.v1\r\n\r\n',
      )
    socket.destroy()
  }
  const peer = await NativePeer.open(port)
  peer.say({ type: 'generate', id: 'a', input: PROMPT, options: { maxTokens: 1 } })
  await peer.end('a')
  expect(engine.stats().running).toBe(0)
})

test.each([
  ['short', 'short'],
  ['é'.repeat(62), 'é'.repeat(61)],
  ['😀'.repeat(31), '😀'.repeat(30)],
  ['a'.repeat(123), 'a'.repeat(123)],
  [`${'a'.repeat(121)}é`, `${'a'.repeat(121)}é`],
])('a reason is cut between characters: %s', (reason, expected) => {
  expect(cut(reason)).toBe(expected)
  expect(Buffer.byteLength(cut(reason))).toBeLessThanOrEqual(123)
})
