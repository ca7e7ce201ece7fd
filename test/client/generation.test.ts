// One generation over whatever becomes of its connections, frame by frame: read, slowed, resumed, made again, aborted.
import { describe, expect, it, vi } from 'vitest'
import type { Chunk, Generation, Restart } from '../../src/client/browser.js'
import type { ServerFrame } from '../../src/server/protocol.js'
import { LONG_MS, rejection, useFakeNetwork } from '../support/client.js'

const { network, open } = useFakeNetwork()

async function textsOf(chunks: AsyncIterable<Chunk>): Promise<string[]> {
  const texts: string[] = []
  for await (const { text } of chunks) texts.push(text)
  return texts
}

/** Lets promises settle that need no time. */
const settle = () => vi.advanceTimersByTimeAsync(0)

/** Breaks the connection, and has the client welcomed on the next. */
async function reconnect(code = 1006) {
  network.latest.end(code)
  await vi.advanceTimersByTimeAsync(LONG_MS)
  return network.latest.welcome()
}

const refusal = (id: string, code: string, retryAfterMs?: number): ServerFrame => ({
  type: 'error',
  id,
  code,
  message: `${code}.`,
  retryable: retryAfterMs !== undefined,
  ...(retryAfterMs !== undefined && { retryAfterMs }),
})

describe('a request', () => {
  it('is written as the protocol has it', () => {
    const client = open()
    const socket = network.latest.welcome()
    client.generate('text', { maxTokens: 5, stop: ['x'], seed: 3, model: 'demo', minIntervalMs: 20, provenance: false })
    expect(socket.next('generate')).toEqual({
      type: 'generate',
      id: 'r1',
      model: 'demo',
      input: 'text',
      options: { maxTokens: 5, stop: ['x'], seed: 3 },
      minIntervalMs: 20,
      provenance: false,
      ids: false,
      resumable: true,
      credit: 64,
    })
    for (const [input, written] of [
      [
        [1, 2],
        [1, 2],
      ],
      [Int32Array.of(3, 4), [3, 4]],
      [[{ role: 'user', content: 'hi' }], [{ role: 'user', content: 'hi' }]],
    ] as const) {
      client.generate(input)
      expect(socket.next('generate').input).toEqual(written)
    }
    for (const [seed, written] of [
      [2n ** 53n - 1n, Number.MAX_SAFE_INTEGER],
      [2n ** 64n - 1n, '18446744073709551615'],
      ['7', '7'],
    ] as const) {
      client.generate('x', { seed })
      expect(socket.next('generate').options?.seed).toBe(written)
    }
  })

  it('does not begin with options the client itself cannot follow', async () => {
    const client = open()
    expect((await rejection(client.generate('x', { highWaterMark: 0 }))).details).toMatchObject({
      path: 'highWaterMark',
    })
    const onAbort = 'ignore' as 'throw'
    expect((await rejection(client.generate('x', { onAbort }))).code).toBe('ERR_OPTION')
  })

  it('leaves all other options to the server', async () => {
    const client = open()
    const generation = client.generate('x')
    const socket = network.latest.welcome()
    const { id } = socket.next('generate')
    socket.say({ ...refusal(id, 'ERR_OPTION'), message: 'budgt is not an option here.' } as ServerFrame)
    expect(await rejection(generation)).toMatchObject({ code: 'ERR_OPTION', message: 'budgt is not an option here.' })
  })

  it('tells of its place in the queue and of its prompt', async () => {
    const client = open()
    const told: unknown[] = []
    const generation = client.generate('x', {
      onQueue: (progress) => told.push(progress),
      onPrefill: (progress) => told.push(progress),
    })
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    socket.say({ type: 'queued', id, position: 2 })
    socket.say({ type: 'prefill', id, done: 1, total: 4, tokens: 2, cached: 0 })
    socket.done(id, 1)
    await generation
    expect(told).toEqual([{ position: 2 }, { done: 1, total: 4, tokens: 2, cached: 0 }])
  })

  it('rejects with what a callback of its own throws, and the server goes on with nothing', async () => {
    const client = open()
    const mistake = new Error('in the callback')
    const generation = client.generate('x', {
      onPrefill: () => {
        throw mistake
      },
    })
    const other = client.generate('y')
    const rejected = expect(generation).rejects.toBe(mistake)
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    socket.say({ type: 'prefill', id, done: 1, total: 4, tokens: 2, cached: 0 })
    await rejected
    const { id: otherId } = socket.accept()
    expect(socket.next('cancel').id).toBe(id)
    socket.done(otherId, 1)
    await other
  })
})

describe('reading', () => {
  it('gives chunks as they come, and a result of all of them', async () => {
    const client = open()
    const generation = client.generate('x', { ids: true, logprobs: 0 })
    const read = textsOf(generation)
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    socket.deltas(id, ['ab', 'c'])
    const logprobs = [{ id: 100, token: 'd', logprob: -1, top: [] }]
    socket.say({ type: 'delta', id, seq: 3, text: 'd', n: 1, drafted: 0, at: 9, ids: [100], logprobs })
    socket.done(id, 4)
    expect(await read).toEqual(['ab', 'c', 'd'])
    const result = await generation
    expect(result).toMatchObject({
      text: 'abcd',
      model: 'demo',
      ids: [97, 98, 99, 100],
      logprobs,
      finish: 'length',
      seed: 7,
    })
    expect(await generation.result()).toBe(result)
  })

  it('gives chunks with what is known of them', async () => {
    const client = open()
    const chunks = client.generate('x')[Symbol.asyncIterator]()
    const socket = network.latest.welcome()
    socket.deltas(socket.accept().id, ['ab'])
    expect((await chunks.next()).value).toEqual({
      text: 'ab',
      n: 2,
      drafted: 1,
      at: 0,
      spans: [{ step: 0, chars: [1, 1] }],
    })
  })

  it('gives text alone, without what has none, and streams', async () => {
    const client = open()
    const [text, stream] = [client.generate('x').text, client.generate('x').toReadableStream()]
    const socket = network.latest.welcome()
    socket.answer('a', '', 'b')
    socket.answer('c')
    const pieces: string[] = []
    for await (const piece of text) pieces.push(piece)
    expect(pieces).toEqual(['a', 'b'])
    const chunks: string[] = []
    for await (const chunk of stream as unknown as AsyncIterable<Chunk>) chunks.push(chunk.text)
    expect(chunks).toEqual(['c'])
  })

  it('has one reader, who must come in time', async () => {
    const client = open()
    const [read, awaited] = [client.generate('x'), client.generate('x')]
    const socket = network.latest.welcome()
    socket.answer('a')
    socket.answer('b')
    await textsOf(read)
    await awaited
    for (const generation of [read, awaited]) {
      expect(() => generation[Symbol.asyncIterator]()).toThrow(expect.objectContaining({ code: 'ERR_CONSUMED' }))
    }
  })

  it('cancels when its reader leaves, and the reader need not wait for the server', async () => {
    const client = open()
    const generation = client.generate('x')
    const reading = (async () => {
      for await (const { text } of generation) if (text === 'a') break
    })()
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    socket.deltas(id, ['a'])
    await reading
    expect(socket.next('cancel').id).toBe(id)
    socket.deltas(id, ['late'], 2)
    socket.done(id, 3, { finish: 'aborted' })
    await expect(generation).rejects.toMatchObject({ name: 'AbortError' })
  })

  it('rejects nothing that nobody handles, when nobody looks at it', async () => {
    const client = open()
    client.generate('x')
    const socket = network.latest.welcome()
    socket.say(refusal(socket.accept().id, 'ERR_CONTEXT_OVERFLOW'))
    await settle()
  })
})

describe('credit', () => {
  it('is granted as chunks are read, some at a time, and never beyond what is held', async () => {
    const client = open()
    const chunks = client.generate('x', { highWaterMark: 4 })[Symbol.asyncIterator]()
    const socket = network.latest.welcome()
    const { id, credit = 0 } = socket.accept()
    let [allowed, said, read] = [credit, 0, 0]
    for (let i = 0; i < 100; i++) {
      for (; said < allowed; said++) socket.deltas(id, ['x'], said + 1)
      expect(allowed - read).toBeLessThanOrEqual(4)
      await chunks.next()
      read++
      const granted = socket.sent.splice(0)
      expect(granted.length).toBeLessThanOrEqual(1)
      for (const frame of granted) allowed += (frame as { chunks: number }).chunks
    }
    expect(allowed).toBeGreaterThan(100)
  })

  it('is not granted to a reader who has stopped reading', async () => {
    const client = open()
    const generation = client.generate('x', { highWaterMark: 4 })
    const chunks = generation[Symbol.asyncIterator]()
    const socket = network.latest.welcome()
    socket.deltas(socket.accept().id, ['a', 'b', 'c', 'd'])
    await chunks.next()
    await settle()
    expect(socket.sent).toEqual([])
  })

  it('is not held up by who only awaits', async () => {
    const client = open()
    const generation = client.generate('x', { highWaterMark: 4 })
    const result = generation.result()
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    socket.deltas(id, ['a', 'b', 'c', 'd'])
    expect(socket.sent.map((frame) => (frame as { chunks: number }).chunks)).toEqual([2, 2])
    socket.deltas(id, ['e'], 5)
    socket.done(id, 6)
    expect((await result).text).toBe('abcde')
  })

  it('is granted when somebody begins to await what nobody reads', async () => {
    const client = open()
    const generation = client.generate('x', { highWaterMark: 2 })
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    socket.deltas(id, ['a', 'b'])
    expect(socket.sent).toEqual([])
    const result = generation.result()
    expect(socket.next('credit').chunks).toBe(2)
    socket.done(id, 3)
    expect((await result).text).toBe('ab')
  })

  it('is not held up by who only awaits what is made again either', async () => {
    const client = open()
    const result = client.generate('x', { highWaterMark: 4 }).result()
    const socket = network.latest.welcome()
    socket.deltas(socket.accept({ token: 'secret' }).id, ['a'])
    const again = await reconnect()
    again.say(refusal(again.next('resume').id, 'ERR_RESPONSE_NOT_FOUND'))
    const { id, credit } = again.accept()
    expect(credit).toBe(3)
    again.deltas(id, ['a', 'b', 'c'])
    expect(again.next('credit').chunks).toBeGreaterThan(0)
    again.deltas(id, ['d'], 4)
    again.done(id, 5)
    expect((await result).text).toBe('abcd')
  })

  it('is said anew on a new connection, for what is not held already', async () => {
    const client = open()
    const chunks = client.generate('x', { highWaterMark: 4 })[Symbol.asyncIterator]()
    const socket = network.latest.welcome()
    const { id } = socket.accept({ token: 'secret' })
    socket.deltas(id, ['a', 'b', 'c'])
    await chunks.next()
    const again = await reconnect()
    expect(again.next('resume')).toEqual({ type: 'resume', id, token: 'secret', afterSeq: 3, credit: 2 })
    again.say({ type: 'accepted', id, model: 'demo', seed: 7, token: 'secret' })
    for (let i = 0; i < 2; i++) await chunks.next()
    expect(again.next('credit').chunks).toBe(2)
  })
})

describe('a server without room', () => {
  it('is asked again when it said, with the same request', async () => {
    const client = open()
    const generation = client.generate('x')
    const socket = network.latest.welcome()
    const first = socket.next('generate')
    socket.say(refusal(first.id, 'ERR_QUEUE_FULL', 2000))
    await vi.advanceTimersByTimeAsync(1999)
    expect(socket.sent).toEqual([])
    await vi.advanceTimersByTimeAsync(1)
    expect(socket.answer('ok')).toEqual(first)
    expect((await generation).text).toBe('ok')
  })

  it('is asked so many times and no more', async () => {
    const client = open({ retries: 2 })
    const generation = rejection(client.generate('x'))
    const socket = network.latest.welcome()
    for (let i = 0; i < 3; i++) {
      socket.say(refusal(socket.next('generate').id, 'ERR_LOADING', 1000))
      await vi.advanceTimersByTimeAsync(LONG_MS)
    }
    expect(await generation).toMatchObject({ code: 'ERR_LOADING', retryable: true, retryAfterMs: 1000 })
    expect(socket.sent).toEqual([])
  })

  it('is not waited for longer than for a connection: the caller is told when', async () => {
    const client = open({ reconnect: { maxDelayMs: 3000 } })
    const generation = rejection(client.generate('x'))
    const socket = network.latest.welcome()
    socket.say(refusal(socket.next('generate').id, 'ERR_RATE_LIMIT', 60_000))
    expect(await generation).toMatchObject({ code: 'ERR_RATE_LIMIT', retryAfterMs: 60_000 })
  })

  it('is left alone when the caller has aborted', async () => {
    const client = open()
    const generation = client.generate('x')
    const socket = network.latest.welcome()
    socket.say(refusal(socket.next('generate').id, 'ERR_QUEUE_FULL', 100))
    generation.abort()
    await expect(generation).rejects.toMatchObject({ name: 'AbortError' })
    await vi.advanceTimersByTimeAsync(LONG_MS)
    expect(socket.sent).toEqual([])
  })
})

describe('a broken connection', () => {
  it('is made again, and the response goes on after the last chunk', async () => {
    const client = open()
    const generation = client.generate('x', { onRestart: () => expect.unreachable() })
    const chunks: Chunk[] = []
    const read = (async () => {
      for await (const chunk of generation) chunks.push(chunk)
    })()
    const socket = network.latest.welcome()
    const { id } = socket.accept({ token: 'secret' })
    socket.deltas(id, ['a', 'b'])
    const again = await reconnect()
    expect(again.next('resume')).toMatchObject({ id, token: 'secret', afterSeq: 2 })
    again.say({ type: 'accepted', id, model: 'demo', seed: 7, token: 'secret' })
    // Once more than was asked for.
    again.deltas(id, ['b', 'c'], 2)
    again.done(id, 4)
    await read
    // The server's clock went on, so it is the client's still.
    expect(chunks.map(({ text, at }) => ({ text, at }))).toEqual([
      { text: 'a', at: 0 },
      { text: 'b', at: 1 },
      { text: 'c', at: 1 },
    ])
    expect((await generation).text).toBe('abc')
  })

  it('before the server took the request costs nothing', async () => {
    const client = open()
    const generation = client.generate('x')
    const first = network.latest.welcome().next('generate')
    const again = await reconnect()
    expect(again.answer('ok')).toEqual(first)
    expect((await generation).text).toBe('ok')
  })

  it('fails what ran when it shall not be made again', async () => {
    const client = open({ reconnect: false })
    const generation = rejection(client.generate('x'))
    const queued = rejection(client.generate('y'))
    const socket = network.latest.welcome({ perConnection: 1 })
    socket.accept({ token: 'secret' })
    socket.end(1006)
    expect((await generation).code).toBe('ERR_DISCONNECTED')
    expect((await queued).code).toBe('ERR_DISCONNECTED')
    await vi.advanceTimersByTimeAsync(LONG_MS)
    expect(network.sockets).toHaveLength(1)
  })

  it('fails a response under which connections break without any progress', async () => {
    const client = open({ retries: 2 })
    const generation = rejection(client.generate('x'))
    const { id } = network.latest.welcome().accept({ token: 'secret' })
    for (let i = 0; i < 2; i++) {
      expect((await reconnect(4499)).next('resume').id).toBe(id)
    }
    network.latest.end(4499)
    expect(await generation).toMatchObject({ code: 'ERR_SLOW_CONSUMER', retryable: true })
  })

  it('goes on as long as there is progress', async () => {
    const client = open({ retries: 1 })
    const generation = client.generate('x')
    let socket = network.latest.welcome()
    const { id } = socket.accept({ token: 'secret' })
    for (let seq = 1; seq <= 10; seq++) {
      socket.deltas(id, ['x'], seq)
      socket = await reconnect()
      expect(socket.next('resume').afterSeq).toBe(seq)
      socket.say({ type: 'accepted', id, model: 'demo', seed: 7, token: 'secret' })
    }
    socket.done(id, 11)
    expect((await generation).text).toBe('x'.repeat(10))
  })

  it.each([4400, 1009])('closed with %i fails what ran, which would only do it again', async (code) => {
    const client = open()
    const generation = rejection(client.generate('x'))
    network.latest.welcome().accept({ token: 'secret' })
    network.latest.end(code)
    expect((await generation).retryable).toBe(false)
  })
})

describe('a response that no server has any more', () => {
  /** Delivers `ab` and `c`, breaks, and is asked again. */
  async function forgotten(options: Parameters<ReturnType<typeof open>['generate']>[1] = {}) {
    const client = open()
    const restarts: Restart[] = []
    const generation = client.generate('x', { onRestart: (restart) => restarts.push(restart), ...options })
    const chunks: Chunk[] = []
    const read = (async () => {
      for await (const chunk of generation) chunks.push(chunk)
    })()
    read.catch(() => undefined)
    const socket = network.latest.welcome()
    const first = socket.accept({ token: 'secret' })
    socket.deltas(first.id, ['ab', 'c'])
    const again = await reconnect()
    again.say(refusal(again.next('resume').id, 'ERR_RESPONSE_NOT_FOUND'))
    return { generation, chunks, read, first, again, restarts }
  }

  it('is made again with its seed and its model, and nothing is delivered twice', async () => {
    const { generation, chunks, read, first, again, restarts } = await forgotten({ temperature: 1 })
    expect(restarts).toMatchObject([{ tokens: 3, error: { code: 'ERR_RESPONSE_NOT_FOUND' } }])
    const second = again.accept({ token: 'other' })
    expect(second).toEqual({ ...first, model: 'demo', options: { temperature: 1, seed: 7 } })
    again.deltas(second.id, ['a', 'bcde', 'f'])
    again.done(second.id, 4)
    await read
    expect(chunks.map(({ text, n, drafted, spans }) => ({ text, n, drafted, spans }))).toEqual([
      { text: 'ab', n: 2, drafted: 1, spans: [{ step: 0, chars: [1, 1] }] },
      { text: 'c', n: 1, drafted: 0, spans: [{ step: 1, chars: [1] }] },
      { text: 'de', n: 2, drafted: 2, spans: [{ step: 1, chars: [0, 0, 1, 1] }] },
      { text: 'f', n: 1, drafted: 0, spans: [{ step: 2, chars: [1] }] },
    ])
    expect((await generation).text).toBe('abcdef')
  })

  it('goes on with its clock', async () => {
    const { chunks, read, again } = await forgotten()
    const { id } = again.accept()
    again.deltas(id, ['abc', 'd'])
    again.done(id, 3)
    await read
    expect(chunks.at(-1)?.at).toBeGreaterThan(chunks[1]?.at ?? Number.NaN)
    expect(chunks.at(-1)?.at).toBeGreaterThanOrEqual(LONG_MS)
  })

  it('has the rest of its time', async () => {
    const { again } = await forgotten({ timeoutMs: LONG_MS + 1000 })
    expect(again.next('generate').options?.timeoutMs).toBe(1000)
  })

  it('fails when it comes out differently, and the server goes on with nothing', async () => {
    const { generation, again } = await forgotten()
    const { id } = again.accept()
    again.deltas(id, ['ab', 'X'])
    expect(await rejection(generation)).toMatchObject({ code: 'ERR_NOT_REPRODUCED', retryable: true })
    expect(again.next('cancel').id).toBe(id)
  })

  it('fails when its ids come out differently under the same text', async () => {
    const { generation, again } = await forgotten({ ids: true })
    const { id } = again.accept()
    again.say({ type: 'delta', id, seq: 1, text: 'ab', n: 2, drafted: 0, at: 0, ids: [97, 99] })
    expect((await rejection(generation)).code).toBe('ERR_NOT_REPRODUCED')
  })

  it('fails when it ends before it came as far', async () => {
    const { generation, again } = await forgotten()
    const { id } = again.accept()
    again.deltas(id, ['ab'])
    again.done(id, 2)
    expect((await rejection(generation)).code).toBe('ERR_NOT_REPRODUCED')
  })

  it('is what was delivered when its time is over before it came as far', async () => {
    const { generation, again } = await forgotten()
    const { id } = again.accept()
    again.deltas(id, ['ab'])
    again.done(id, 2, { finish: 'timeout' })
    expect(await generation).toMatchObject({ text: 'abc', finish: 'timeout' })
  })

  it('fails when another model answers', async () => {
    const { generation, again } = await forgotten()
    again.accept({ model: 'other' })
    const { message, code } = await rejection(generation)
    expect(code).toBe('ERR_NOT_REPRODUCED')
    expect(message).toContain('began with model "demo", and now "other"')
  })

  it('is not made again where tokens depend on the draft', async () => {
    const { generation } = await forgotten({ speculation: { accept: { rule: 'typical' } } })
    expect((await rejection(generation)).code).toBe('ERR_NOT_REPRODUCED')
  })

  it('survives further breaks while it is made again', async () => {
    const { generation, again } = await forgotten()
    const { id } = again.accept({ token: 'other' })
    again.deltas(id, ['a'])
    const third = await reconnect()
    expect(third.next('resume')).toMatchObject({ token: 'other', afterSeq: 1 })
    third.say(refusal(id, 'ERR_RESPONSE_NOT_FOUND'))
    const last = third.accept()
    third.deltas(last.id, ['abc', 'd'])
    third.done(last.id, 3)
    expect((await generation).text).toBe('abcd')
  })

  it('is made again too when it was not resumable, and when the server ended it', async () => {
    const client = open()
    const restarts: Restart[] = []
    const options = { onRestart: (restart: Restart) => restarts.push(restart) }
    const [first, second] = [client.generate('x', { ...options, resumable: false }), client.generate('y', options)]
    const socket = network.latest.welcome()
    const { id, resumable } = socket.accept()
    expect(resumable).toBe(false)
    const { id: other } = socket.accept({ token: 'secret' })
    socket.deltas(id, ['a'])
    socket.deltas(other, ['b'])
    socket.say({ type: 'draining', deadlineMs: 0 })
    socket.done(other, 2, { finish: 'aborted' })
    socket.end(1001)
    await vi.advanceTimersByTimeAsync(LONG_MS)
    const again = network.latest.welcome()
    const answers = { x: 'ac', y: 'bd' }
    for (let i = 0; i < 2; i++) {
      const frame = again.accept()
      again.deltas(frame.id, [answers[frame.input as 'x' | 'y']])
      again.done(frame.id, 2)
    }
    expect([(await first).text, (await second).text]).toEqual(['ac', 'bd'])
    expect(restarts).toHaveLength(2)
  })
})

describe('aborting', () => {
  const aborted = (generation: Generation) => expect(generation).rejects.toMatchObject({ name: 'AbortError' })

  it('before, by a signal that was aborted already, asks nobody', async () => {
    const client = open()
    const reason = new Error('too late')
    await expect(client.generate('x', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(network.latest.welcome().sent).toEqual([])
  })

  it('by a signal rejects with its reason, and leaves no listener behind', async () => {
    const client = open()
    const controller = new AbortController()
    const removed = vi.spyOn(controller.signal, 'removeEventListener')
    const [first, second] = [1, 2].map(() => client.generate('x', { signal: controller.signal }))
    const socket = network.latest.welcome()
    socket.answer('a')
    await first
    expect(removed).toHaveBeenCalledTimes(1)
    const reason = new Error('enough')
    const rejected = expect(second).rejects.toBe(reason)
    const { id } = socket.accept()
    controller.abort(reason)
    await rejected
    expect(socket.next('cancel').id).toBe(id)
  })

  it('holds the place until the server has confirmed it', async () => {
    const client = open()
    const [first, second] = [client.generate('x'), client.generate('y')]
    const socket = network.latest.welcome({ perConnection: 1 })
    const { id } = socket.accept()
    first.abort()
    await aborted(first)
    socket.next('cancel')
    expect(socket.sent).toEqual([])
    socket.done(id, 1, { finish: 'aborted' })
    socket.answer('ok')
    expect((await second).text).toBe('ok')
  })

  it('returns what there is, if that was asked for', async () => {
    const client = open()
    const generation = client.generate('x', { onAbort: 'return' })
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    socket.deltas(id, ['a'])
    generation.abort()
    socket.next('cancel')
    socket.done(id, 2, { finish: 'aborted' })
    expect(await generation).toMatchObject({ text: 'a', finish: 'aborted' })
  })

  it('while disconnected reaches the server that may still be at it', async () => {
    const client = open()
    const [thrown, returned] = [client.generate('x'), client.generate('y', { onAbort: 'return' })]
    const socket = network.latest.welcome()
    for (let i = 0; i < 2; i++) socket.accept({ token: `secret${i}` })
    socket.end(1006)
    thrown.abort()
    returned.abort()
    await aborted(thrown)
    await vi.advanceTimersByTimeAsync(LONG_MS)
    const again = network.latest.welcome()
    for (let i = 0; i < 2; i++) {
      const { id } = again.next('resume')
      expect(again.next('cancel').id).toBe(id)
      again.say({ type: 'accepted', id, model: 'demo', seed: 7, token: 'secret' })
      again.done(id, 1, { finish: 'aborted' })
    }
    expect((await returned).finish).toBe('aborted')
  })

  it('while disconnected rejects where the server has forgotten it', async () => {
    const client = open()
    const generation = client.generate('x', { onAbort: 'return' })
    network.latest.welcome().accept({ token: 'secret' })
    network.latest.end(1006)
    generation.abort()
    const rejected = aborted(generation)
    await vi.advanceTimersByTimeAsync(LONG_MS)
    const again = network.latest.welcome()
    const { id } = again.next('resume')
    again.next('cancel')
    again.say(refusal(id, 'ERR_RESPONSE_NOT_FOUND'))
    await rejected
    expect(again.sent).toEqual([])
  })

  it('at its end changes nothing', async () => {
    const client = open()
    const generation = client.generate('x')
    const socket = network.latest.welcome()
    socket.answer('a')
    await generation
    generation.abort()
    expect((await generation).text).toBe('a')
    expect(socket.sent).toEqual([])
  })
})
