// Generations on the real addon that do not run to their end: aborted, out of time, or with the engine closed under them.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Chunk, type Engine, type GenerateOptions, loadEngine, type Result } from '../../src/index.js'
import { PROMPT_ROWS } from '../support/backend.js'
import { refused } from '../support/native-calls.js'

const PROMPT = 'export function area(width: number, height: number): number {\n'
/** More than any test waits for. */
const ENDLESS: GenerateOptions = { maxTokens: 15_000, ignoreEos: true }
const LONG = Int32Array.from({ length: 8000 }, (_, i) => 3 + ((i * 131) % 4000))
/** Of LONG, through the 6 layers of the demo model. */
const CHUNKS = 6 * Math.ceil(LONG.length / PROMPT_ROWS)

let engine: Engine
let expected: number[]

beforeAll(async () => {
  engine = await loadEngine({ model: 'demo', limits: { maxSequences: 4 } })
  expected = [...(await engine.generate(PROMPT, { maxTokens: 400, ignoreEos: true })).tokens]
})
afterAll(() => engine.close())

/** Nothing runs any more, and the next generation is as the first. */
async function expectAllIsWell(on: Engine = engine): Promise<void> {
  expect(on.stats()).toMatchObject({ running: 0, queued: 0 })
  const { tokens } = await on.generate(PROMPT, { maxTokens: 20, ignoreEos: true })
  expect([...tokens]).toEqual(expected.slice(0, 20))
}

function expectPrefix(tokens: Int32Array): void {
  expect([...tokens]).toEqual(expected.slice(0, tokens.length))
}

describe('abort', () => {
  it('before the start', async () => {
    const reason = new Error('never mind')
    let prefilled = 0
    const signal = AbortSignal.abort(reason)
    await expect(engine.generate(LONG, { signal, onPrefill: () => prefilled++ })).rejects.toBe(reason)
    const partial = await engine.generate(LONG, { signal, onAbort: 'return' })
    expect(partial).toMatchObject({ finish: 'aborted', text: '', usage: { prompt: 0, completion: 0 } })
    expect(prefilled).toBe(0)
    await expectAllIsWell()
  })

  it('while waiting for a place', async () => {
    const controller = new AbortController()
    const { signal } = controller
    const running = [1, 2, 3, 4].map(() => engine.generate(PROMPT, { ...ENDLESS, signal, onAbort: 'return' }))
    const waiting = engine.generate(PROMPT, { signal })
    await running[0]!.text[Symbol.asyncIterator]().next()
    expect(engine.stats()).toMatchObject({ running: 4, queued: 1 })
    controller.abort()
    await expect(waiting).rejects.toThrow(/abort/i)
    for (const { finish, tokens } of await Promise.all(running)) {
      expect(finish).toBe('aborted')
      expectPrefix(tokens.subarray(0, 400))
    }
    await expectAllIsWell()
  })

  it.each([1, 2, Math.min(20, CHUNKS - 2)])('in prefill, at chunk %i of a long prompt', async (chunk) => {
    const controller = new AbortController()
    let seen = 0
    const onPrefill = () => {
      if (++seen === chunk) controller.abort()
    }
    const { signal } = controller
    const generation = engine.generate(LONG, { signal, onPrefill })
    await expect(generation).rejects.toMatchObject({ name: 'AbortError' })
    // Within a chunk.
    expect(seen).toBe(chunk)
    await expectAllIsWell()
  })

  it('in prefill, among others that go on', async () => {
    const controller = new AbortController()
    const onPrefill = ({ done }: { done: number }) => {
      if (done > 3000) controller.abort()
    }
    const others = [1, 2].map(() => engine.generate(PROMPT, { maxTokens: 60, ignoreEos: true }))
    await expect(engine.generate(LONG, { signal: controller.signal, onPrefill })).rejects.toThrow(/abort/i)
    for (const { tokens } of await Promise.all(others)) expect([...tokens]).toEqual(expected.slice(0, 60))
    await expectAllIsWell()
  })

  it('in decode, by signal, by method, and by leaving the loop', async () => {
    const collect = async (generation: AsyncIterable<Chunk>, stop: () => void) => {
      const chunks: Chunk[] = []
      for await (const chunk of generation) {
        chunks.push(chunk)
        if (chunks.length === 4) stop()
      }
      return chunks.flatMap((chunk) => [...chunk.tokens])
    }
    const controller = new AbortController()
    const bySignal = engine.generate(PROMPT, { ...ENDLESS, signal: controller.signal, onAbort: 'return' })
    const tokens = await collect(bySignal, () => controller.abort())
    const result = await bySignal.result()
    expect(result.finish).toBe('aborted')
    expect([...result.tokens]).toEqual(tokens)
    expectPrefix(result.tokens)

    const byMethod = engine.generate(PROMPT, ENDLESS)
    const reason = new Error('enough')
    await expect(collect(byMethod, () => byMethod.abort(reason))).rejects.toBe(reason)
    await expect(byMethod).rejects.toBe(reason)

    const left = engine.generate(PROMPT, { ...ENDLESS, onAbort: 'return' })
    for await (const _ of left) break
    expect((await left.result()).finish).toBe('aborted')
    await expectAllIsWell()
  })

  it('at any moment of many generations at once', async () => {
    const aborted = await Promise.all(
      Array.from({ length: 12 }, async (_, i) => {
        const generation = engine.generate(i % 3 === 0 ? LONG : PROMPT, { ...ENDLESS, onAbort: 'return' })
        setTimeout(() => generation.abort(), 5 + 23 * i)
        return generation
      }),
    )
    expect(aborted.map((result: Result) => result.finish)).toEqual(aborted.map(() => 'aborted'))
    for (const [i, { tokens }] of aborted.entries()) if (i % 3 !== 0) expectPrefix(tokens.subarray(0, 400))
    await expectAllIsWell()
  })
})

describe('time', () => {
  it('runs out in prefill, in decode, and while waiting: there is a result', async () => {
    const inPrefill = engine.generate(LONG, { timeoutMs: 1 })
    expect(await inPrefill).toMatchObject({ finish: 'timeout', text: '', usage: { completion: 0 } })
    const inDecode = await engine.generate(PROMPT, { ...ENDLESS, timeoutMs: 300 })
    expect(inDecode.finish).toBe('timeout')
    expectPrefix(inDecode.tokens.subarray(0, 400))
    const queue = Array.from({ length: 6 }, () => engine.generate(PROMPT, { ...ENDLESS, timeoutMs: 50 }))
    for (const { finish } of await Promise.all(queue)) expect(finish).toBe('timeout')
    await expectAllIsWell()
  })

  it('does not matter to who is done before', async () => {
    const { finish } = await engine.generate(PROMPT, { maxTokens: 3, timeoutMs: 600_000 })
    expect(finish).toBe('length')
  })
})

describe('close', () => {
  const load = () => loadEngine({ model: 'demo', limits: { maxSequences: 2 } })

  it('waits for what runs and what waits', async () => {
    const own = await load()
    const running = [1, 2, 3].map(() => own.generate(PROMPT, { maxTokens: 50, ignoreEos: true }))
    const session = own.session()
    const turn = session.send(PROMPT, { maxTokens: 50, ignoreEos: true })
    const closing = own.close()
    await refused(() => own.generate(PROMPT), 'ERR_CLOSED')
    await refused(() => session.send(PROMPT), 'ERR_CLOSED')
    await closing
    for (const { tokens } of await Promise.all([...running, turn])) expect([...tokens]).toEqual(expected.slice(0, 50))
    for (const call of [
      () => own.generate(PROMPT),
      () => own.session(),
      () => own.tokenize('x'),
      () => own.detokenize([5]),
    ]) {
      await refused(call, 'ERR_CLOSED')
    }
    await own.close()
  })

  it.each([0, 40])('ends what runs after drainMs: %i', async (drainMs) => {
    const own = await load()
    const prefilling = own.generate(LONG, { ...ENDLESS })
    const decoding = own.generate(PROMPT, { ...ENDLESS, onAbort: 'return' })
    const waiting = own.generate(PROMPT, ENDLESS)
    await decoding.text[Symbol.asyncIterator]().next()
    const closing = own.close({ drainMs })
    await Promise.all([closing, own.close(), expect(prefilling).rejects.toMatchObject({ name: 'AbortError' })])
    await expect(waiting).rejects.toMatchObject({ name: 'AbortError' })
    const { finish, tokens } = await decoding
    expect(finish).toBe('aborted')
    expectPrefix(tokens.subarray(0, 400))
  })

  it('may be brought forward', async () => {
    const own = await load()
    const endless = own.generate(PROMPT, ENDLESS)
    const closing = own.close()
    await own.close({ drainMs: 0 })
    await closing
    await expect(endless).rejects.toMatchObject({ name: 'AbortError' })
  })

  it('is what leaving a block does', async () => {
    let own: Engine
    {
      await using inner = await load()
      own = inner
      await using session = own.session()
      await session.send(PROMPT, { maxTokens: 5 })
    }
    await refused(() => own.generate(PROMPT), 'ERR_CLOSED')
  })
})

describe('loading', () => {
  it('is aborted before it starts, and while weights are mapped', async () => {
    const reason = new Error('changed my mind')
    await expect(loadEngine({ model: 'demo', signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    for (const at of ['read', 'map'] as const) {
      const controller = new AbortController()
      const onProgress = ({ phase }: { phase: string }) => {
        if (phase === at) controller.abort(reason)
      }
      await expect(loadEngine({ model: 'demo', signal: controller.signal, onProgress })).rejects.toBe(reason)
    }
  })

  it('tells how far it is, up to the end', async () => {
    const events: { phase: string; done: number; total: number }[] = []
    const own = await loadEngine({ model: 'demo', onProgress: (event) => events.push(event) })
    await own.close()
    expect(events[0]).toMatchObject({ phase: 'read', done: 0 })
    expect(events.at(-1)).toEqual({ phase: 'ready', done: 1, total: 1 })
    const mapped = events.filter(({ phase }) => phase === 'map')
    expect(mapped.map(({ done }) => done)).toEqual(mapped.map(({ done }) => done).toSorted((a, b) => a - b))
    expect(mapped.at(-1)!.done).toBe(mapped.at(-1)!.total)
  })
})
