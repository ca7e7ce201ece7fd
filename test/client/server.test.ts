// The client over a real server and the demo model: the library's tokens, whatever becomes of connections and servers.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterEach, describe, expect, it } from 'vitest'
import { type Client, type ConnectOptions, connect, type GenerateOptions, type Restart } from '../../src/client/node.js'
import type { GenerateOptions as LibraryOptions } from '../../src/index.js'
import { breakingSockets } from '../support/breaking-socket.js'
import { rejection, watchRejections } from '../support/client.js'
import { type RunningServer, runningServers, until } from '../support/server.js'

watchRejections()

// Drafts are accepted, so that steps have several tokens.
const startServer = runningServers({ speculation: { mode: 'medusa' }, limits: { maxSequences: 4 } })
const clients: Client[] = []

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.close({ drainMs: 0 })))
})

function open(url: string, options: ConnectOptions = {}): Client {
  const client = connect(url, { reconnect: { minDelayMs: 5, maxDelayMs: 1000 }, ...options })
  clients.push(client)
  return client
}

const PROMPT = 'export function add(a: number, b: number): number {\n'
const ASKED = { maxTokens: 40, ignoreEos: true, temperature: 0.8, seed: 11 } as const satisfies LibraryOptions

/** What the library makes of it. */
async function alone({ engine }: RunningServer, input: string, options: LibraryOptions) {
  const { text, tokens } = await engine.generate(input, options)
  return { text, ids: [...tokens] }
}

/** Chunks joined, and held against the result. */
async function read(client: Client, input: string, options: GenerateOptions) {
  const generation = client.generate(input, { ids: true, ...options })
  let [text, n, drafted] = ['', 0, 0]
  const ids: number[] = []
  for await (const chunk of generation) {
    text += chunk.text
    n += chunk.n
    drafted += chunk.drafted
    ids.push(...(chunk.ids ?? []))
    expect(chunk.ids).toHaveLength(chunk.n)
    const chars = (chunk.spans ?? []).flatMap((span) => span.chars)
    expect(chars.reduce((sum, units) => sum + units, 0)).toBe(chunk.text.length)
  }
  const result = await generation
  expect({ text, ids }).toEqual({ text: result.text, ids: result.ids })
  expect(n).toBe(ids.length)
  return { text, ids, drafted }
}

/** Collects what is no longer referenced, and says how much is left. */
function heapBytes(): number {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  return process.memoryUsage().heapUsed
}

describe('a generation', () => {
  it.each<[string, LibraryOptions]>([
    ['greedy', { maxTokens: 40 }],
    ['sampled', ASKED],
    ['of plain steps', { ...ASKED, speculation: { mode: 'off' } }],
    ['that a string stops', { ...ASKED, maxTokens: 200, stop: ['return', 'const'] }],
    ['with a small cache', { ...ASKED, kv: { budget: 16, window: 8 } }],
  ])('%s is the library’s', async (_, options) => {
    const running = await startServer()
    const { text, ids, drafted } = await read(open(running.url), PROMPT, options as GenerateOptions)
    expect({ text, ids }).toEqual(await alone(running, PROMPT, options))
    expect(drafted > 0).toBe(options.speculation?.mode !== 'off')
  })

  it('chooses a seed of its own when it is given none, and says which', async () => {
    const running = await startServer()
    const { seed: _, ...unseeded } = ASKED
    const { text, seed } = await open(running.url).generate(PROMPT, unseeded)
    expect((await alone(running, PROMPT, { ...ASKED, seed: seed as number })).text).toBe(text)
  })

  it('takes ids, and messages of a chat', async () => {
    const running = await startServer()
    const client = open(running.url)
    const ids = await running.engine.tokenize(PROMPT)
    expect((await client.generate(ids, ASKED)).text).toBe((await running.engine.generate(ids, ASKED)).text)
    const messages = [{ role: 'user', content: 'Hello' }]
    expect((await client.generate(messages, ASKED)).text).toBe((await running.engine.generate(messages, ASKED)).text)
  })

  it('rejects with the server’s word for what it cannot do', async () => {
    const client = open((await startServer()).url)
    const wrong = { maxTokns: 5 } as GenerateOptions
    for (const [generation, code] of [
      [client.generate(PROMPT, wrong), 'ERR_OPTION'],
      [client.generate(PROMPT, { model: 'other' }), 'ERR_MODEL_UNKNOWN'],
      [client.generate([999_999]), 'ERR_TOKEN_RANGE'],
      [client.generate('x '.repeat(3_000_000)), 'ERR_TOO_LARGE'],
    ] as const) {
      expect(await rejection(generation)).toMatchObject({ code, retryable: false })
    }
    expect((await client.generate(PROMPT, { maxTokens: 2 })).usage.completion).toBe(2)
  })

  it('is one of many at once, on one connection that allows fewer', async () => {
    const running = await startServer({ limits: { perConnection: 3 } })
    const client = open(running.url)
    const seeds = Array.from({ length: 12 }, (_, i) => i)
    const answers = await Promise.all(seeds.map((seed) => read(client, PROMPT, { ...ASKED, seed })))
    for (const seed of seeds) {
      const { text, ids } = answers[seed]!
      expect({ text, ids }).toEqual(await alone(running, PROMPT, { ...ASKED, seed }))
    }
    expect(new Set(answers.map(({ text }) => text)).size).toBeGreaterThan(6)
  })

  it('slows the server down to its reader', async () => {
    const running = await startServer()
    const { engine } = running
    const options = { ...ASKED, maxTokens: 150, speculation: { mode: 'off' } } as const
    const generation = open(running.url).generate(PROMPT, { ...options, highWaterMark: 4 })
    const chunks = generation[Symbol.asyncIterator]()
    const first = await chunks.next()
    // Beside this, in the same steps, it would have ended twice.
    await engine.generate(PROMPT, { ...options, maxTokens: 300 })
    expect(engine.stats().decoding).toBe(1)
    let text = first.value?.text ?? ''
    for await (const chunk of { [Symbol.asyncIterator]: () => chunks }) text += chunk.text
    expect(text).toBe((await alone(running, PROMPT, options)).text)
  })
})

describe('a connection that breaks', () => {
  const chunkCount = async (running: RunningServer, options: GenerateOptions) => {
    let count = 0
    for await (const _ of open(running.url).generate(PROMPT, options)) count++
    return count
  }

  it.each([
    ['kept by the server', { resumable: true }],
    ['kept by nobody', { resumable: false }],
  ])('at any message costs no token, of a response %s', async (_, { resumable }) => {
    const running = await startServer()
    const expected = await alone(running, PROMPT, ASKED)
    const messages = 4 + (await chunkCount(running, ASKED))
    for (let at = 0; at <= messages; at++) {
      const restarts: Restart[] = []
      const sockets = breakingSockets((connection) => (connection === 0 ? at : Number.POSITIVE_INFINITY))
      const client = open(running.url, { WebSocket: sockets.WebSocket })
      const onRestart = (restart: Restart) => restarts.push(restart)
      const { text, ids } = await read(client, PROMPT, { ...ASKED, resumable, onRestart })
      expect({ at, text, ids }).toEqual({ at, ...expected })
      if (resumable) expect(restarts).toEqual([])
      await client.close()
    }
    await until(() => running.engine.stats().running === 0)
  })

  it.each([true, false])('again and again costs no token (resumable: %s)', async (resumable) => {
    const running = await startServer()
    const expected = await alone(running, PROMPT, ASKED)
    // A response that is made anew each time must come a little further.
    let connections = 0
    const sockets = breakingSockets((connection) => {
      connections = connection
      return resumable ? 4 : 4 + 2 * connection
    })
    const client = open(running.url, { WebSocket: sockets.WebSocket, reconnect: { minDelayMs: 1 } })
    const { text, ids } = await read(client, PROMPT, { ...ASKED, resumable })
    expect({ text, ids }).toEqual(expected)
    expect(connections).toBeGreaterThan(2)
  })

  it('breaks under many, and none loses a token', async () => {
    const running = await startServer()
    const sockets = breakingSockets((connection) => (connection < 8 ? 12 : Number.POSITIVE_INFINITY))
    const client = open(running.url, { WebSocket: sockets.WebSocket, retries: 20 })
    const seeds = [1, 2, 3, 4, 5]
    const answers = await Promise.all(seeds.map((seed) => read(client, PROMPT, { ...ASKED, seed })))
    expect(sockets.count).toBe(9)
    for (const [i, seed] of seeds.entries()) {
      const { text, ids } = answers[i]!
      expect({ text, ids }).toEqual(await alone(running, PROMPT, { ...ASKED, seed }))
    }
  })

  it('for good frees what it had when its time is over', async () => {
    const running = await startServer({ limits: { resumeMs: 50 } })
    const client = open(running.url, { WebSocket: breakingSockets(() => 4).WebSocket, reconnect: false })
    expect((await rejection(client.generate(PROMPT, { ...ASKED, maxTokens: 4000 }))).code).toBe('ERR_DISCONNECTED')
    await until(() => running.engine.stats().running === 0)
    expect(running.engine.stats().memory.kv).toBe(0)
  })
})

describe('a server that goes', () => {
  /** Reads until there is some of it, then restarts the server at its port. */
  async function restarted(drainMs: number) {
    const first = await startServer()
    const options = { ...ASKED, maxTokens: 300 }
    const expected = await alone(first, PROMPT, options)
    const restarts: Restart[] = []
    const client = open(first.url)
    const generation = client.generate(PROMPT, {
      ...options,
      highWaterMark: 8,
      onRestart: (restart) => restarts.push(restart),
    })
    const chunks = generation[Symbol.asyncIterator]()
    let text = ''
    for (let i = 0; i < 10; i++) text += (await chunks.next()).value?.text ?? ''
    const closing = first.close({ drainMs })
    const goOn = (async () => {
      for await (const chunk of { [Symbol.asyncIterator]: () => chunks }) text += chunk.text
    })()
    await closing
    const second = await startServer({ port: first.port })
    await goOn
    expect(text).toBe(expected.text)
    return { client, second, restarts }
  }

  it('at once is followed by one that goes on where it was', async () => {
    const { client, second, restarts } = await restarted(0)
    expect(restarts).toHaveLength(1)
    expect(restarts[0]?.tokens).toBeGreaterThan(0)
    const { text } = await client.generate(PROMPT, ASKED)
    expect(text).toBe((await alone(second, PROMPT, ASKED)).text)
  })

  it('in good order ends what it runs first', async () => {
    const { client, restarts } = await restarted(60_000)
    expect(restarts).toEqual([])
    await client.ready()
    expect(client.state).toBe('open')
  })
})

describe('aborting', () => {
  const LONG = { maxTokens: 10_000, ignoreEos: true } as const

  it('in the queue, in the prompt and in the answer frees everything', async () => {
    const running = await startServer()
    const { engine } = running
    const client = open(running.url)
    const busy = Array.from({ length: 4 }, () => client.generate(PROMPT, LONG))
    await until(() => engine.stats().decoding === 4)
    const controller = new AbortController()
    const positions: number[] = []
    const queued = client.generate(PROMPT, {
      ...LONG,
      signal: controller.signal,
      onQueue: ({ position }) => positions.push(position),
    })
    const rejected = expect(queued).rejects.toMatchObject({ name: 'AbortError' })
    await until(() => positions.length > 0)
    controller.abort()
    await rejected
    await until(() => engine.stats().queued === 0)
    for (const generation of busy) {
      generation.abort(new Error('enough'))
      await expect(generation).rejects.toThrow('enough')
    }
    await until(() => engine.stats().running === 0)

    const long = client.generate('const x = 1\n'.repeat(2000), { ...LONG, onPrefill: () => long.abort() })
    await expect(long).rejects.toMatchObject({ name: 'AbortError' })
    await until(() => engine.stats().running === 0)
    expect(engine.stats().memory.kv).toBe(0)
  })

  it('returns what there is, which is how the whole begins', async () => {
    const running = await startServer()
    const generation = open(running.url).generate(PROMPT, { ...ASKED, maxTokens: 400, onAbort: 'return' })
    let count = 0
    for await (const _ of generation) if (++count === 5) generation.abort()
    const { text, finish } = await generation
    expect(finish).toBe('aborted')
    expect(text).not.toBe('')
    expect((await alone(running, PROMPT, { ...ASKED, maxTokens: 400 })).text.startsWith(text)).toBe(true)
  })

  it('by leaving the loop, or the client, frees everything', async () => {
    const running = await startServer()
    const client = open(running.url)
    for await (const _ of client.generate(PROMPT, LONG)) break
    await until(() => running.engine.stats().running === 0)
    const generation = client.generate(PROMPT, LONG)
    const rejected = expect(generation).rejects.toMatchObject({ name: 'AbortError' })
    await until(() => running.engine.stats().decoding === 1)
    await client.close({ drainMs: 0 })
    await rejected
    await until(() => running.engine.stats().running === 0)
  })
})

describe('a session', () => {
  const TURNS = ['Once upon a time', ' and then', ' until']

  async function turnsAlone({ engine }: RunningServer) {
    await using session = engine.session()
    const texts: string[] = []
    for (const turn of TURNS) texts.push((await session.send(turn, ASKED)).text)
    return texts
  }

  it('is the library’s, over a connection that breaks at any message', async () => {
    // A session of which the client never heard is kept for so long.
    const running = await startServer({ limits: { resumeMs: 5000 } })
    const expected = await turnsAlone(running)
    for (let at = 1; at < 40; at += 3) {
      const sockets = breakingSockets((connection) => (connection === 0 ? at : Number.POSITIVE_INFINITY))
      const client = open(running.url, { WebSocket: sockets.WebSocket })
      const session = client.session()
      const texts: string[] = []
      for (const turn of TURNS) texts.push((await session.send(turn, ASKED)).text)
      // A turn that may have begun unseen is asked in another session: its words are the same, but not its cache.
      expect(texts[0]).toBe(expected[0])
      expect(texts).toHaveLength(TURNS.length)
      await client.close()
    }
    await until(() => running.engine.stats().sessions === 0)
  })

  it('keeps its cache from turn to turn', async () => {
    const running = await startServer()
    const expected = await turnsAlone(running)
    const session = open(running.url).session()
    for (const [i, turn] of TURNS.entries()) {
      const { text, usage } = await session.send(turn, ASKED)
      expect(text).toBe(expected[i])
      expect(usage.cached > 0).toBe(i > 0)
    }
    await session.close()
    await until(() => running.engine.stats().sessions === 0)
  })

  it('outlives a server: the turn that ran fails, and the next goes on with what was said', async () => {
    const first = await startServer()
    const session = open(first.url).session()
    const messages = [{ role: 'user', content: 'Tell me of the sea.' }]
    const { text } = await session.send(messages, ASKED)
    const turn = session.send({ role: 'user', content: 'More.' }, { ...ASKED, maxTokens: 3000 })
    const chunks = turn[Symbol.asyncIterator]()
    await chunks.next()
    await first.close({ drainMs: 0 })
    const second = await startServer({ port: first.port })
    const lost = await rejection(turn)
    expect(lost).toMatchObject({ code: 'ERR_SESSION_LOST', retryable: true })
    const again = await session.send({ role: 'user', content: 'More.' }, ASKED)
    const whole = [...messages, { role: 'assistant', content: text }, { role: 'user', content: 'More.' }]
    expect(again.text).toBe((await second.engine.generate(whole, ASKED)).text)
    expect(session.messages).toHaveLength(4)
  })
})

describe('a key', () => {
  it('opens the server, in the handshake and in the first message', async () => {
    const running = await startServer({ keys: ['a-secret-key'] })
    for (const options of [{}, { WebSocket: breakingSockets(() => Number.POSITIVE_INFINITY).WebSocket }]) {
      expect((await open(running.url, { key: 'a-secret-key', ...options }).generate(PROMPT, ASKED)).text).not.toBe('')
      for (const key of ['another-key', undefined]) {
        const wrong = open(running.url, { ...(key && { key }), ...options })
        expect(await rejection(wrong.generate(PROMPT))).toMatchObject({ code: 'ERR_UNAUTHORIZED', retryable: false })
      }
    }
  })
})

it('a thousand generations on one connection leave nothing behind', async () => {
  const running = await startServer()
  const client = open(running.url)
  const many = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const generation = client.generate([5, 6, 7], { maxTokens: 1, seed: i, speculation: { mode: 'off' } })
      for await (const _ of generation);
      await generation
    }
  }
  await many(200)
  const before = heapBytes()
  await many(1000)
  expect(heapBytes() - before).toBeLessThan(1024 * 1024)
})
