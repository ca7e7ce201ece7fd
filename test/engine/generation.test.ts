// The generation object: awaited, iterated, both, neither; abandoned, slow, aborted, out of time.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Chunk } from '../../src/result.js'
import type { FakeNative } from '../support/fake-native.js'
import { type ToyTokenizer, toyEngine } from '../support/toy-engine.js'

const PROMPT = [1, 2, 3]

let toy: ReturnType<typeof toyEngine>
const unhandled = vi.fn()

beforeEach(() => {
  toy = toyEngine({ toy: { chunk: 1, headAccuracy: 0.5, stopId: -1 } })
  process.on('unhandledRejection', unhandled)
})

afterEach(async () => {
  await toy.engine.close()
  await turn(3)
  process.off('unhandledRejection', unhandled)
  expect(unhandled).not.toHaveBeenCalled()
  expect(toy.native.breaches).toEqual([])
  expect(toy.native.openSessions).toBe(0)
})

async function turn(count = 1): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}

async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; !holds(); i++) {
    if (i === 10_000) throw new Error('waited in vain')
    await turn()
  }
}

const count = (native: FakeNative, phase: string) => native.calls.filter((call) => call.phase === phase).length

describe('awaiting and iterating', () => {
  it('begins before anybody asks', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 5 })
    await until(() => count(toy.native, 'verify') > 0)
    expect((await generation).tokens).toHaveLength(5)
  })

  it('gives the same result to all who await', async () => {
    const generation = toy.engine.generate(PROMPT)
    const [awaited, asked] = await Promise.all([generation, generation.result()])
    expect(awaited).toBe(asked)
    expect(await generation).toBe(awaited)
  })

  it('does both at once, whichever comes first', async () => {
    for (const order of ['iterate', 'await']) {
      const generation = toy.engine.generate(PROMPT, { maxTokens: 300, ignoreEos: true })
      const asked = order === 'await' ? generation.result() : null
      const tokens: number[] = []
      for await (const chunk of generation) tokens.push(...chunk.tokens)
      expect(tokens).toEqual([...(await (asked ?? generation)).tokens])
      expect(tokens).toHaveLength(300)
    }
  })

  it('lets a reader begin after the end, when nobody awaited', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 10 })
    await until(() => toy.engine.stats().running === 0)
    const chunks: Chunk[] = []
    for await (const chunk of generation) chunks.push(chunk)
    expect(chunks.flatMap((chunk) => [...chunk.tokens])).toHaveLength(10)
  })

  it('has one reader', async () => {
    const generation = toy.engine.generate(PROMPT)
    const consumed = expect.objectContaining({ code: 'ERR_CONSUMED' })
    const iterator = generation[Symbol.asyncIterator]()
    expect(() => generation[Symbol.asyncIterator]()).toThrow(consumed)
    expect(() => generation.text[Symbol.asyncIterator]()).toThrow(consumed)
    expect(() => generation.toReadableStream()).toThrow(consumed)
    expect((await iterator.next()).done).toBe(false)
    await iterator.return?.()
  })

  it('keeps no chunks for after an await', async () => {
    const generation = toy.engine.generate(PROMPT)
    await generation
    expect(() => generation[Symbol.asyncIterator]()).toThrow(expect.objectContaining({ code: 'ERR_CONSUMED' }))
  })

  it('is not held up by chunks nobody reads once it is awaited', async () => {
    const long = { maxTokens: 500, ignoreEos: true, highWaterMark: 2, speculation: { mode: 'off' } } as const
    expect((await toy.engine.generate(PROMPT, long)).tokens).toHaveLength(500)
    const late = toy.engine.generate(PROMPT, long)
    await turn(50)
    expect((await late).tokens).toHaveLength(500)
  })

  it('gives text alone, without empty pieces', async () => {
    const generation = toy.engine.generate('abc', { maxTokens: 80, stop: 'never to be seen' })
    const pieces: string[] = []
    for await (const piece of generation.text) pieces.push(piece)
    expect(pieces).not.toContain('')
    expect(pieces.join('')).toBe((await generation).text)
  })

  it('is a web stream', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 30 })
    const tokens: number[] = []
    for await (const chunk of generation.toReadableStream()) tokens.push(...chunk.tokens)
    expect(tokens).toEqual([...(await generation).tokens])
  })

  it('aborts when its web stream is cancelled', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 4000 })
    const reader = generation.toReadableStream().getReader()
    await reader.read()
    await reader.cancel('seen enough')
    expect(toy.native.openSessions).toBe(0)
    await expect(generation).rejects.toBe('seen enough')
  })

  it('has an id of its own', () => {
    const ids = [1, 2, 3].map(() => toy.engine.generate(PROMPT, { maxTokens: 1 }).id)
    expect(new Set(ids).size).toBe(3)
  })
})

describe('backpressure', () => {
  const options = { maxTokens: 100, ignoreEos: true, highWaterMark: 8, speculation: { mode: 'off' } } as const

  it('pauses at the mark, resumes below half of it, and lets others go on', async () => {
    const generation = toy.engine.generate(PROMPT, options)
    const reader = generation[Symbol.asyncIterator]()
    await turn(100)
    expect(count(toy.native, 'verify')).toBe(8)

    await toy.engine.generate(PROMPT, { maxTokens: 20, ignoreEos: true })
    const paused = count(toy.native, 'verify')
    for (let i = 0; i < 4; i++) await reader.next()
    await turn(20)
    expect(count(toy.native, 'verify')).toBe(paused)
    await reader.next()
    await turn(100)
    expect(count(toy.native, 'verify')).toBe(paused + 5)

    const rest: unknown[] = []
    for (let next = await reader.next(); !next.done; next = await reader.next()) rest.push(next.value)
    expect(rest).toHaveLength(95)
  })

  it('works at a mark of one', async () => {
    let chunks = 0
    for await (const _ of toy.engine.generate(PROMPT, { ...options, highWaterMark: 1 })) {
      chunks++
      await turn(2)
    }
    expect(chunks).toBe(100)
  })

  it('does not keep the engine from closing', async () => {
    const generation = toy.engine.generate(PROMPT, options)
    await turn(100)
    await toy.engine.close()
    const chunks: Chunk[] = []
    for await (const chunk of generation) chunks.push(chunk)
    expect(chunks).toHaveLength(100)
  })
})

describe('abort', () => {
  const aborted = expect.objectContaining({ name: 'AbortError' })

  it('before the start uses no sequence', async () => {
    const signal = AbortSignal.abort()
    await expect(toy.engine.generate(PROMPT, { signal })).rejects.toBe(signal.reason)
    const partial = await toy.engine.generate(PROMPT, { signal, onAbort: 'return' })
    expect(partial).toMatchObject({ finish: 'aborted', text: '', usage: { prompt: 0, completion: 0 } })
    expect(toy.native.peakSessions).toBe(0)
  })

  it('while the prompt is being encoded', async () => {
    const tokenizer = toy.tokenizer as ToyTokenizer
    let open = () => {}
    tokenizer.gate = new Promise((resolve) => {
      open = resolve
    })
    const generation = toy.engine.generate('long text')
    generation.abort()
    open()
    await expect(generation).rejects.toEqual(aborted)
    expect(toy.engine.stats().running).toBe(0)
  })

  it('while it waits for a place leaves the queue', async () => {
    const { engine } = toyEngine({ limits: { maxSequences: 1 } })
    const first = engine.generate(PROMPT, { maxTokens: 50 })
    const second = engine.generate(PROMPT, { maxTokens: 50 })
    second.abort()
    await expect(second).rejects.toEqual(aborted)
    expect(engine.stats()).toMatchObject({ running: 1, queued: 0 })
    expect((await first).tokens).toHaveLength(50)
    await engine.close()
  })

  it('in prefill ends between chunks', async () => {
    const generation = toy.engine.generate(Array.from({ length: 200 }, () => 1))
    await until(() => count(toy.native, 'prefill') === 5)
    generation.abort()
    await expect(generation).rejects.toEqual(aborted)
    expect(count(toy.native, 'prefill')).toBeLessThanOrEqual(6)
    expect(toy.native.openSessions).toBe(0)
  })

  for (const phase of ['verify', 'commit'] as const) {
    it(`in ${phase} ends within a step`, async () => {
      const controller = new AbortController()
      const generation = toy.engine.generate(PROMPT, { maxTokens: 4000, signal: controller.signal })
      toy.native.onCall = (call) => {
        if (call.phase === phase && count(toy.native, phase) === 5) controller.abort(new Error('changed my mind'))
      }
      await expect(generation).rejects.toThrow('changed my mind')
      const calls = toy.native.calls.length
      await turn(20)
      expect(toy.native.calls).toHaveLength(calls)
      expect(count(toy.native, phase)).toBe(5)
      expect(toy.native.openSessions).toBe(0)
    })
  }

  it('returns what there is when asked to', async () => {
    const generation = toy.engine.generate('abc', { maxTokens: 4000, onAbort: 'return', stop: 'zzzz' })
    const pieces: string[] = []
    const tokens: number[] = []
    for await (const chunk of generation) {
      pieces.push(chunk.text)
      tokens.push(...chunk.tokens)
      if (tokens.length > 40) generation.abort()
    }
    const result = await generation
    expect(result.finish).toBe('aborted')
    expect([...result.tokens]).toEqual(tokens)
    expect(result.text).toBe(pieces.join(''))
    expect(result.text).toBe(toy.tokenizer!.decode(tokens))
    expect(tokens).toEqual(toy.native.continuation([95, ...[...'abc'].map((c) => c.charCodeAt(0) - 32)], tokens.length))
  })

  it('throws to the reader after what was made', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 4000 })
    let chunks = 0
    const read = async () => {
      for await (const _ of generation) if (++chunks === 3) generation.abort('stop it')
    }
    await expect(read()).rejects.toBe('stop it')
    await expect(generation).rejects.toBe('stop it')
  })

  it('is what leaving the loop does, and the loop waits until all is free', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 4000 })
    for await (const _ of generation) break
    expect(toy.native.openSessions).toBe(0)
    await expect(generation).rejects.toEqual(aborted)
  })

  it('while paused ends it', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 4000, highWaterMark: 2 })
    await turn(50)
    generation.abort()
    await until(() => toy.native.openSessions === 0)
    await expect(generation).rejects.toEqual(aborted)
  })

  it('after the end changes nothing', async () => {
    const generation = toy.engine.generate(PROMPT, { maxTokens: 5 })
    const result = await generation
    generation.abort()
    expect(await generation).toBe(result)
  })

  it('can come from one signal for many, without a warning', async () => {
    const warned = vi.fn()
    process.on('warning', warned)
    const controller = new AbortController()
    const all = Array.from({ length: 15 }, () =>
      toy.engine.generate(PROMPT, { maxTokens: 4000, signal: controller.signal }),
    )
    await turn(20)
    controller.abort()
    for (const outcome of await Promise.allSettled(all)) expect(outcome.status).toBe('rejected')
    await turn(3)
    process.off('warning', warned)
    expect(warned).not.toHaveBeenCalled()
  })
})

describe('timeout', () => {
  it('returns what there is', async () => {
    toy.native.onCall = () => new Promise((resolve) => setTimeout(resolve, 5))
    const result = await toy.engine.generate([1], { maxTokens: 4000, timeoutMs: 100 })
    expect(result.finish).toBe('timeout')
    expect(result.tokens.length).toBeGreaterThan(0)
    expect(result.tokens.length).toBeLessThan(4000)
    expect(toy.native.openSessions).toBe(0)
  })

  it('counts the time in the queue', async () => {
    const { engine, native } = toyEngine({ limits: { maxSequences: 1 } })
    native.onCall = () => new Promise((resolve) => setTimeout(resolve, 5))
    const first = engine.generate(PROMPT, { maxTokens: 20, speculation: { mode: 'off' } })
    const second = await engine.generate(PROMPT, { timeoutMs: 10 })
    expect(second).toMatchObject({ finish: 'timeout', usage: { completion: 0 } })
    await first
    await engine.close()
  })

  it('does not fire after the end', async () => {
    const result = await toy.engine.generate(PROMPT, { maxTokens: 3, timeoutMs: 60_000 })
    expect(result.finish).toBe('length')
  })
})

describe('a request that cannot be served', () => {
  const cases = [
    ['an unknown option', PROMPT, { maxTokenz: 3 }, 'ERR_OPTION'],
    ['json', PROMPT, { json: {} }, 'ERR_OPTION'],
    ['no tokens', [], {}, 'ERR_EMPTY_PROMPT'],
    ['an empty array of ids', new Int32Array(0), {}, 'ERR_EMPTY_PROMPT'],
    ['an id too large', [1, 2, 97], {}, 'ERR_TOKEN_RANGE'],
    ['a negative id', [1, -2], {}, 'ERR_TOKEN_RANGE'],
    ['an id that is no whole number', [1.5], {}, 'ERR_TOKEN_RANGE'],
    ['a prompt that fills the context', new Int32Array(4096), {}, 'ERR_CONTEXT_OVERFLOW'],
    ['nothing', null, {}, 'ERR_OPTION'],
    ['a number', 7, {}, 'ERR_OPTION'],
    ['a malformed message', [{ role: 'user' }], {}, 'ERR_OPTION'],
    ['a tree deeper than the heads', PROMPT, { speculation: { tree: 'chain:5' } }, 'ERR_TREE'],
    ['a stop id too large', PROMPT, { stopTokenIds: [97] }, 'ERR_TOKEN_RANGE'],
    ['a budget within the window', PROMPT, { kv: { policy: 'snapkv', budget: 16 } }, 'ERR_OPTION'],
  ] as const

  for (const [what, prompt, options, code] of cases) {
    it(`rejects: ${what}`, async () => {
      const generation = toy.engine.generate(prompt as never, options as never)
      await expect(generation).rejects.toMatchObject({ name: 'GorgonError', code })
      await expect(
        toy.engine
          .generate(prompt as never, options as never)
          [Symbol.asyncIterator]()
          .next(),
      ).rejects.toBeDefined()
      expect(toy.engine.stats().running).toBe(0)
    })
  }

  it('never throws, and is no unhandled rejection when nobody looks', async () => {
    for (const [, prompt, options] of cases) toy.engine.generate(prompt as never, options as never)
    toy.engine.generate(PROMPT, { signal: AbortSignal.abort() })
    const forgotten = toy.engine.generate(PROMPT, { maxTokens: 4000 })
    await turn(10)
    forgotten.abort()
    await turn(10)
  })

  it('names the numbers', async () => {
    await expect(toy.engine.generate([5, 200])).rejects.toMatchObject({ details: { index: 1, id: 200, vocab: 97 } })
    await expect(toy.engine.generate(new Int32Array(5000))).rejects.toMatchObject({
      details: { promptTokens: 5000, context: 4096 },
    })
  })

  it('without a tokenizer takes ids and nothing else', async () => {
    const { engine } = toyEngine({ tokenizer: null })
    await expect(engine.generate('text')).rejects.toMatchObject({ code: 'ERR_TOKENIZER' })
    await expect(engine.generate([{ role: 'user', content: 'hi' }])).rejects.toMatchObject({ code: 'ERR_TOKENIZER' })
    await expect(engine.generate(PROMPT, { stop: 'x' })).rejects.toMatchObject({ code: 'ERR_TOKENIZER' })
    const { text, tokens } = await engine.generate(PROMPT, { maxTokens: 7, logprobs: 1 })
    expect(text).toBe('')
    expect(tokens).toHaveLength(7)
    await engine.close()
  })

  it('without a template takes no messages', async () => {
    const { engine } = toyEngine({ template: null })
    await expect(engine.generate([{ role: 'user', content: 'hi' }])).rejects.toMatchObject({
      code: 'ERR_CHAT_TEMPLATE',
    })
    await engine.close()
  })

  it('fails with what a callback throws', async () => {
    const onPrefill = () => {
      throw new Error('mine')
    }
    await expect(toy.engine.generate(PROMPT, { onPrefill })).rejects.toThrow('mine')
    expect(toy.native.openSessions).toBe(0)
  })
})
