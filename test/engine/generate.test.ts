// The algorithm: what it emits, for any tree, any stop, any limit, and what it reports.
import { describe, expect, it } from 'vitest'
import { CHOICES } from '../../src/decode/choices.js'
import type { Chunk } from '../../src/result.js'
import { TOY_EOS, toyEngines } from '../support/toy-engine.js'

const PROMPT = [10, 20, 30, 40, 50]
const TREES = [
  'auto',
  1,
  2,
  5,
  16,
  64,
  'chain:1',
  'chain:4',
  'mc_sim_7b_63',
  'vicuna_33b_stage1',
  { paths: [[1], [1, 1], [0]] },
]

const open = toyEngines()

async function chunksOf(generation: AsyncIterable<Chunk>): Promise<Chunk[]> {
  const chunks: Chunk[] = []
  for await (const chunk of generation) chunks.push(chunk)
  return chunks
}

describe('speculation changes speed and nothing else', () => {
  for (const tree of TREES) {
    for (const headAccuracy of [0, 0.5, 1]) {
      it(`tree ${JSON.stringify(tree)}, heads right ${headAccuracy * 100} % of the time`, async () => {
        const { engine, native } = open({ toy: { headAccuracy } })
        for (let seed = 0; seed < 12; seed++) {
          const prompt = [...PROMPT, seed]
          const sampling = seed % 2 === 0 ? {} : { temperature: 0.8, seed }
          const maxTokens = 20 + seed
          const plain = await engine.generate(prompt, { maxTokens, ...sampling, speculation: { mode: 'off' } })
          const drafted = await engine.generate(prompt, {
            maxTokens,
            ...sampling,
            speculation: { mode: 'medusa', tree },
          })
          expect([...drafted.tokens]).toEqual([...plain.tokens])
          expect([...plain.tokens]).toEqual(
            native.continuation(prompt, plain.tokens.length, BigInt(seed % 2 ? seed : 0)),
          )
          expect(drafted.finish).toBe(plain.finish)
          expect(drafted.text).toBe(plain.text)
        }
      })
    }
  }

  it('takes fewer steps when heads are right', async () => {
    const { engine } = open({ toy: { headAccuracy: 1 } })
    const { speculation } = await engine.generate(PROMPT, { maxTokens: 100, speculation: { tree: 'mc_sim_7b_63' } })
    expect(speculation.tokensPerStep).toBeGreaterThan(2)
    expect(speculation).toMatchObject({ used: true, tree: 'mc_sim_7b_63', nodes: 64 })
  })

  it('runs no heads when it is off', async () => {
    const { engine, native } = open()
    const { speculation } = await engine.generate(PROMPT, { maxTokens: 30, speculation: { mode: 'off' } })
    expect(native.turns[0]).toMatchObject({ medusaHeads: 0, topK: 0 })
    expect(speculation).toMatchObject({ used: false, tree: 'plain', nodes: 1, steps: 30, drafted: 0, tokensPerStep: 1 })
  })

  it('asks only for the heads and drafts that the tree uses', async () => {
    const { engine, native } = open()
    await engine.generate(PROMPT, { speculation: { tree: { paths: [[0], [4], [4, 1]] } } })
    expect(native.turns[0]).toMatchObject({ medusaHeads: 2, topK: 5 })
  })

  it('accepts typical drafts, deterministically', async () => {
    const { engine } = open()
    const options = {
      maxTokens: 60,
      temperature: 1,
      seed: 3,
      speculation: { accept: { rule: 'typical', epsilon: 0.3, delta: 1 } },
    } as const
    const first = await engine.generate(PROMPT, options)
    const second = await engine.generate(PROMPT, options)
    expect([...second.tokens]).toEqual([...first.tokens])
    expect(first.speculation.accepted).toBeGreaterThan(0)
  })
})

describe('where a text ends', () => {
  it('ends exactly at maxTokens, at every remainder of a step', async () => {
    const { engine, native } = open({ toy: { headAccuracy: 1 } })
    for (let maxTokens = 1; maxTokens <= 20; maxTokens++) {
      const result = await engine.generate(PROMPT, { maxTokens, speculation: { tree: 'chain:4' } })
      expect([...result.tokens]).toEqual(native.continuation(PROMPT, maxTokens))
      expect(result).toMatchObject({ finish: 'length', usage: { prompt: 5, cached: 0, completion: maxTokens } })
    }
  })

  it('verifies nothing after the last token', async () => {
    const { engine, native } = open()
    const result = await engine.generate(PROMPT, { maxTokens: 1 })
    expect(result.tokens).toHaveLength(1)
    expect(native.calls.map((call) => call.phase)).not.toContain('verify')
    expect(native.turns[0]).toMatchObject({ medusaHeads: 0 })
    expect(result.speculation).toMatchObject({ steps: 1, tokensPerStep: 1, drafted: 0 })
  })

  it('stops at an end-of-sequence token, at every depth of a tree', async () => {
    const lengths = new Set<number>()
    for (let prompt = 0; prompt < 40; prompt++) {
      const { engine, native } = open({ toy: { headAccuracy: 1, stopEvery: 12 } })
      const chunks = await chunksOf(engine.generate([prompt], { maxTokens: 200, speculation: { tree: 'chain:4' } }))
      const tokens = chunks.flatMap((chunk) => [...chunk.tokens])
      expect(tokens).toEqual(native.continuation([prompt], tokens.length))
      expect(tokens.indexOf(TOY_EOS)).toBe(tokens.length - 1)
      lengths.add(chunks.at(-1)!.tokens.length)
    }
    expect([...lengths].sort()).toEqual([1, 2, 3, 4, 5])
  })

  it('cuts tokens, text, log-probabilities and usage together at a stop string', async () => {
    const { engine, native, tokenizer } = open({ toy: { headAccuracy: 1 } })
    for (let length = 1; length <= 12; length++) {
      const all = native.continuation(PROMPT, 40)
      const text = tokenizer!.decode(all)
      const stop = text.slice(10, 10 + length)
      const at = text.indexOf(stop)
      const options = { stop, logprobs: 2, speculation: { tree: 'chain:4' } } as const
      const result = await engine.generate(PROMPT, options)
      const taken = all.findIndex((_, i) => tokenizer!.decode(all.slice(0, i + 1)).includes(stop)) + 1
      expect(result).toMatchObject({ finish: 'stop', stopString: stop, text: text.slice(0, at) })
      expect([...result.tokens]).toEqual(all.slice(0, taken))
      expect(result.logprobs).toHaveLength(taken)
      expect(result.usage.completion).toBe(taken)
    }
  })

  it('stops at a stop id of the caller', async () => {
    const { engine, native } = open({ toy: { headAccuracy: 1 } })
    const all = native.continuation(PROMPT, 30)
    for (const id of all) {
      const result = await engine.generate(PROMPT, { stopTokenIds: [id] })
      expect([...result.tokens]).toEqual(all.slice(0, all.indexOf(id) + 1))
      expect(result.finish).toBe('stop')
    }
  })

  it('goes on past the end of sequence with ignoreEos', async () => {
    const { engine, native } = open({ toy: { stopEvery: 3 } })
    const result = await engine.generate(PROMPT, { maxTokens: 60, ignoreEos: true })
    expect(result.finish).toBe('length')
    expect([...result.tokens]).toEqual(native.continuation(PROMPT, 60))
    expect([...result.tokens]).toContain(TOY_EOS)
  })

  it('makes minTokens before it may end, with and without speculation', async () => {
    const { engine } = open({ toy: { stopEvery: 3, headAccuracy: 1 } })
    for (const mode of ['off', 'medusa'] as const) {
      const result = await engine.generate(PROMPT, { minTokens: 17, speculation: { mode } })
      expect(result.tokens.indexOf(TOY_EOS)).toBeGreaterThanOrEqual(17)
    }
  })

  it('is clipped to the room left in the context', async () => {
    const { engine, native } = open({ toy: { maxPositions: 64, headAccuracy: 1 } })
    for (const length of [1, 50, 60, 63]) {
      const prompt = Array.from({ length }, (_, i) => i)
      const result = await engine.generate(prompt, { maxTokens: 1000, speculation: { tree: 'mc_sim_7b_63' } })
      expect(result.finish).toBe('length')
      expect([...result.tokens]).toEqual(native.continuation(prompt, 64 - length))
    }
  })
})

describe('chunks', () => {
  it('carry one step each and join to the result', async () => {
    const { engine } = open()
    const generation = engine.generate('hello', { maxTokens: 50 })
    const chunks = await chunksOf(generation)
    const result = await generation
    expect(chunks.map((chunk) => chunk.text).join('')).toBe(result.text)
    expect(chunks.flatMap((chunk) => [...chunk.tokens])).toEqual([...result.tokens])
    expect(chunks.map((chunk) => chunk.index)).toEqual(chunks.map((_, i) => i))
    expect(chunks.map((chunk) => chunk.step)).toEqual(chunks.map((_, i) => i))
    expect(chunks).toHaveLength(result.speculation.steps)
    for (const { text, pieces, tokens, drafted } of chunks) {
      expect(drafted).toBe(tokens.length - 1)
      expect(pieces).toHaveLength(tokens.length)
      expect(pieces.join('')).toBe(text)
    }
    const times = chunks.map((chunk) => chunk.atMs)
    expect(times).toEqual([...times].sort((a, b) => a - b))
  })
})

describe('log-probabilities', () => {
  it('are those of plain decoding', async () => {
    const { engine, tokenizer } = open()
    for (const logprobs of [0, 3]) {
      const options = { maxTokens: 40, logprobs }
      const plain = await engine.generate(PROMPT, { ...options, speculation: { mode: 'off' } })
      const drafted = await engine.generate(PROMPT, { ...options, speculation: { tree: 'mc_sim_7b_63' } })
      expect(drafted.speculation.accepted).toBeGreaterThan(0)
      expect(drafted.logprobs).toEqual(plain.logprobs)
      expect(plain.logprobs!.map((entry) => entry.id)).toEqual([...plain.tokens])
      for (const entry of plain.logprobs!) {
        expect(entry.token).toBe(tokenizer!.tokenText(entry.id))
        expect(entry.top).toHaveLength(logprobs)
      }
    }
  })

  it('are absent unless asked for', async () => {
    const { engine } = open()
    expect(await engine.generate(PROMPT)).not.toHaveProperty('logprobs')
  })
})

describe('the cache report', () => {
  const long = Array.from({ length: 50 }, (_, i) => i)

  it('names what was kept and what the whole would take', async () => {
    const { engine, native } = open()
    const { kv } = await engine.generate(long, { kv: { policy: 'snapkv', budget: 20, window: 4 } })
    expect(kv).toEqual({ policy: 'snapkv', promptTokens: 50, keptTokens: 20, bytes: 20 * 32, fullBytes: 50 * 32 })
    expect(native.turns[0]!.compression).toMatchObject({ policy: 'snapkv', budget: 20, window: 4 })
  })

  it('lists kept positions without the window, per layer and KV head', async () => {
    const { engine } = open()
    const { kv } = await engine.generate(long, { kv: { policy: 'snapkv', budget: 8, window: 3, reportKept: true } })
    const kept = [0, 2, 4, 6, 8]
    expect(kv.kept).toEqual([
      [kept, kept],
      [kept, kept],
    ])
  })

  it('leaves a prompt within the budget whole', async () => {
    const { engine, native } = open()
    const { kv } = await engine.generate(long, { kv: { policy: 'snapkv', budget: 50, reportKept: true } })
    expect(kv).toEqual({ policy: 'snapkv', promptTokens: 50, keptTokens: 50, bytes: 1600, fullBytes: 1600 })
    expect(native.turns[0]!.compression).toBeNull()
  })
})

describe('the seed', () => {
  it('is named in the result and reproduces it', async () => {
    const { engine } = open()
    const first = await engine.generate(PROMPT, { temperature: 1 })
    const second = await engine.generate(PROMPT, { temperature: 1, seed: first.seed! })
    expect([...second.tokens]).toEqual([...first.tokens])
    expect(typeof first.seed).toBe('number')
    expect((await engine.generate(PROMPT, { temperature: 1, seed: 2n ** 64n - 1n })).seed).toBe(2n ** 64n - 1n)
    expect((await engine.generate(PROMPT)).seed).toBeNull()
  })
})

it('knows every named tree', async () => {
  const { engine, native } = open()
  const expected = native.continuation(PROMPT, 40)
  for (const tree of Object.keys(CHOICES)) {
    const { tokens } = await engine.generate(PROMPT, { maxTokens: 40, speculation: { tree } })
    expect([...tokens]).toEqual(expected)
  }
})

it('reports prefill from the first chunk to the last', async () => {
  const { engine } = open({ toy: { chunk: 10 } })
  const seen: number[] = []
  await engine.generate(
    Array.from({ length: 35 }, () => 1),
    {
      onPrefill: ({ done, total, cached }) => {
        expect([total, cached]).toEqual([70, 0])
        seen.push(done)
      },
    },
  )
  expect(seen).toHaveLength(8)
  expect(seen.at(-1)).toBe(70)
  expect(seen).toEqual([...seen].sort((a, b) => a - b))
})
