// A client that leaves frees what it held, wherever its request is: in the queue, in its prompt, in its answer.
import { describe, expect, test } from 'vitest'
import { GorgonError } from '../../src/errors.js'
import { metricOf } from '../support/metrics.js'
import { NativePeer } from '../support/native-peer.js'
import { postText, type RawClient, rawClient } from '../support/raw-http.js'
import { runningServers, until } from '../support/server.js'
import { toyEngines } from '../support/toy-engine.js'

const startServer = runningServers({ limits: { maxSequences: 2 } })
const toyEngine = toyEngines()

const completion = (more: object) => postText('/v1/completions', JSON.stringify({ ignore_eos: true, ...more }))
const LONG_ANSWER = { prompt: 'const x =', max_tokens: 12_000 }

/** Ways to leave: closing, resetting, and closing only the sending half. */
const WAYS: readonly [string, (client: RawClient) => void][] = [
  ['closes', ({ socket }) => void socket.destroy()],
  ['resets', ({ socket }) => void socket.resetAndDestroy()],
  ['says that it has said all', ({ socket }) => void socket.end()],
]

describe.each(WAYS)('a client that %s', (_, leave) => {
  test.each([true, false])('while its answer is made ends it (in pieces: %s)', async (stream) => {
    const { engine, port, close } = await startServer()
    const before = engine.stats().totals.completionTokens
    const client = await rawClient(port)
    client.write(completion({ ...LONG_ANSWER, stream }))
    await until(() => engine.stats().decoding === 1)
    if (stream) await client.until(/data: /)
    leave(client)
    await until(() => engine.stats().running === 0)
    expect(engine.stats().totals.completionTokens - before).toBeLessThan(LONG_ANSWER.max_tokens)
    // Nothing is left to wait for.
    await close()
  })

  test.each(['/v1/completions', '/v1/responses'])(
    'has no answer of %s, so there is no error to count',
    async (path) => {
      const { engine, port, url } = await startServer()
      const client = await rawClient(port)
      const body = { prompt: LONG_ANSWER.prompt, max_tokens: LONG_ANSWER.max_tokens, ignore_eos: true }
      const input = { input: LONG_ANSWER.prompt, gorgon: { ignoreEos: true } }
      client.write(postText(path, JSON.stringify(path === '/v1/responses' ? input : body)))
      await until(() => engine.stats().decoding === 1)
      leave(client)
      await until(() => engine.stats().running === 0)
      await until(async () => (await metricOf(url, 'gorgon_http_requests_in_flight')) === 1)
      expect(await (await fetch(`${url}/metrics`)).text()).not.toContain('gorgon_http_errors_total{')
    },
  )

  test('while its prompt is worked through ends it', async () => {
    const { engine, port } = await startServer()
    const before = engine.stats().totals.finished
    const client = await rawClient(port)
    client.write(completion({ prompt: 'const x = 1\n'.repeat(2500), max_tokens: 1 }))
    await until(() => engine.stats().prefilling === 1)
    leave(client)
    await until(() => engine.stats().running === 0)
    expect(engine.stats().totals).toMatchObject({ finished: before + 1 })
    expect(engine.stats().memory.kv).toBe(0)
  })

  test('while it waits in the queue leaves it, and those behind move up', async () => {
    const { engine, port } = await startServer()
    const running = [await rawClient(port), await rawClient(port)]
    for (const client of running) client.write(completion(LONG_ANSWER))
    await until(() => engine.stats().running === 2)
    const waiting = await rawClient(port)
    waiting.write(completion(LONG_ANSWER))
    await until(() => engine.stats().queued === 1)
    const last = await rawClient(port)
    last.write(completion({ prompt: 'const x =', max_tokens: 1 }))
    await until(() => engine.stats().queued === 2)
    leave(waiting)
    await until(() => engine.stats().queued === 1)
    leave(running[0]!)
    expect(await last.until(/"finish_reason":"length"/)).toContain('200 OK')
    for (const { socket } of [running[1]!, last]) socket.destroy()
    await until(() => engine.stats().running + engine.stats().queued === 0)
  })
})

test('of several choices of one request none goes on', async () => {
  const { engine, port } = await startServer()
  const client = await rawClient(port)
  client.write(completion({ ...LONG_ANSWER, n: 4, temperature: 1, stream: true }))
  await until(() => engine.stats().running === 2 && engine.stats().queued === 2)
  client.socket.destroy()
  await until(() => engine.stats().running + engine.stats().queued === 0)
})

test('a client that stops reading pauses its answer, and is cut off in time', async () => {
  const { engine } = toyEngine({ toy: { maxPositions: 1_000_000 } })
  const { port } = await startServer({ engine, limits: { stallMs: 300 } })
  const client = await rawClient(port)
  client.socket.pause()
  // More than lies between the two can hold.
  client.write(completion({ prompt: 'x', max_tokens: 500_000, stream: true, logprobs: 20 }))
  await until(() => engine.stats().running === 1)
  await until(() => engine.stats().running === 0)
  expect(engine.stats().totals.completionTokens).toBeLessThan(500_000)
  client.socket.resume()
  expect(await client.closed()).not.toContain('[DONE]')
})

test('a session that waits for its client gives its cache back when memory is short', async () => {
  const { engine, native } = toyEngine()
  const { port, url } = await startServer({ engine })
  const peer = await NativePeer.open(port)
  peer.say({ type: 'session.open', session: 's', resumable: true })
  peer.say({ type: 'generate', id: 'a', session: 's', input: 'x', options: { maxTokens: 2 } })
  await peer.first('done', 'a')
  peer.ws.terminate()
  await until(async () => (await metricOf(url, 'gorgon_detached{kind="session"}')) === 1)
  expect(native.openSessions).toBe(1)
  const { openSession } = native
  native.openSession = () => {
    throw new GorgonError('ERR_OUT_OF_MEMORY', 'There is no memory left.')
  }
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'x' }),
  })
  expect(response.status).toBe(503)
  await until(() => native.openSessions === 0)
  native.openSession = openSession
})
