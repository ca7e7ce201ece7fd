// Text that a model makes by itself to learn from.
import { describe, expect, test } from 'vitest'
import { type SelfDistilledText, selfDistill } from '../../../heads/train/self-distill.js'
import { loadEngine } from '../../../src/index.js'
import { failure } from '../../support/errors.js'
import { TOY_BOS, TOY_EOS, ToyTokenizer, toyEngines } from '../../support/toy-engine.js'

const toyEngine = toyEngines()

/** Prompts that tell each other apart, of 40 tokens. */
const PROMPTS = [10, 20, 30].map((id) => new Int32Array(40).fill(id))

describe('what is made', () => {
  test('continues beginnings of prompts, until there is enough and no further', async () => {
    const { engine } = toyEngine()
    const texts = await selfDistill({ engine, prompts: PROMPTS, tokens: 700, seed: 1, textTokens: 100 })
    for (const { tokens, from } of texts) {
      const prompt = PROMPTS.find(([id]) => id === tokens[0])!
      expect(tokens.subarray(0, from)).toEqual(prompt.subarray(0, from))
      expect(from).toBeGreaterThanOrEqual(16)
      expect(from).toBeLessThanOrEqual(20)
      expect(tokens.length - from).toBeLessThanOrEqual(100)
      // Short of the limit, it is the model that ended the text.
      if (tokens.length - from < 100) expect(tokens.at(-1)).toBe(TOY_EOS)
    }
    const lengths = texts.map(({ tokens, from }) => tokens.length - from)
    const made = lengths.reduce((sum, length) => sum + length, 0)
    expect(made).toBeGreaterThanOrEqual(700)
    expect(made - lengths.at(-1)!).toBeLessThan(700)
  })

  test('takes every prompt once before any comes again, then in another order, and never the same text twice', async () => {
    const { engine } = toyEngine()
    const texts = await selfDistill({ engine, prompts: PROMPTS, tokens: 3000, seed: 3, textTokens: 100 })
    const begun = texts.map(({ tokens }) => tokens[0])
    expect(texts.length).toBeGreaterThanOrEqual(30)
    const rounds = Array.from({ length: 10 }, (_, round) => begun.slice(3 * round, 3 * round + 3))
    for (const round of rounds) expect(round.toSorted()).toEqual([10, 20, 30])
    expect(new Set(rounds.map(String)).size).toBeGreaterThan(1)
    expect(new Set(texts.map(({ tokens }) => String(tokens))).size).toBe(texts.length)
  })

  test('is the same for the same seed, however many are made at once, and another for another', async () => {
    const made = async (maxSequences: number, seed: number) => {
      const { engine } = toyEngine({ limits: { maxSequences } })
      return selfDistill({ engine, prompts: PROMPTS, tokens: 900, seed })
    }
    const alone = await made(1, 1)
    expect(await made(7, 1)).toEqual(alone)
    expect(await made(7, 2)).not.toEqual(alone)
  })

  test('begins with what the tokenizer puts before each text when there are no prompts', async () => {
    const { engine } = toyEngine()
    const [text] = await selfDistill({ engine, prompts: [], tokens: 10, seed: 1 })
    expect(text!.tokens[0]).toBe(TOY_BOS)
    expect(text!.from).toBe(1)
  })

  test('names the prompt, by its content', async () => {
    const { engine } = toyEngine()
    const prompts = [...PROMPTS, PROMPTS[0]!.slice()]
    const texts = await selfDistill({ engine, prompts, tokens: 2000, seed: 1, textTokens: 100 })
    const names = new Set(texts.map(({ tokens, prompt }) => `${tokens[0]} ${prompt}`))
    expect(names.size).toBe(PROMPTS.length)
    expect(new Set(texts.map(({ prompt }) => prompt)).size).toBe(PROMPTS.length)
    const [alone] = await selfDistill({ engine, prompts: [], tokens: 10, seed: 1 })
    expect(alone!.prompt).toBeNull()
  })

  test('of a prompt half is shown at most, and of a single token all', async () => {
    const { engine } = toyEngine()
    const fromOf = async (length: number) => {
      const prompts = [new Int32Array(length).fill(5)]
      return (await selfDistill({ engine, prompts, tokens: 1, seed: 1 }))[0]!.from
    }
    expect(await Promise.all([1, 2, 3, 12].map(fromOf))).toEqual([1, 1, 1, 6])
    expect(await fromOf(3000)).toBeLessThanOrEqual(512)
  })

  test('leaves room in a small context', async () => {
    const { engine } = toyEngine({ limits: { maxContext: 50 } })
    const prompts = [new Int32Array(500).fill(5)]
    for (const { tokens, from } of await selfDistill({ engine, prompts, tokens: 300, seed: 1 })) {
      expect(from).toBeLessThanOrEqual(25)
      expect(tokens.length).toBeLessThanOrEqual(50)
    }
  })
})

test('progress rises to what was asked for', async () => {
  const { engine } = toyEngine()
  const seen: number[] = []
  const onProgress = ({ tokens, total }: { tokens: number; total: number }) => {
    expect(total).toBe(500)
    seen.push(tokens)
  }
  await selfDistill({ engine, prompts: PROMPTS, tokens: 500, seed: 1, onProgress })
  expect(seen).toEqual(seen.toSorted((a, b) => a - b))
  expect(seen.at(-1)).toBe(500)
})

describe('it ends early', () => {
  test('by its signal, with that reason, and nothing left running', async () => {
    const { engine } = toyEngine()
    const abort = new AbortController()
    const reason = new Error('enough')
    const onProgress = () => abort.abort(reason)
    const options = { engine, prompts: PROMPTS, tokens: 1e6, seed: 1, signal: abort.signal, onProgress }
    await expect(selfDistill(options)).rejects.toBe(reason)
    expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })

  test('giving whole texts alone, of which another go makes the same as one that was not stopped', async () => {
    const options = { prompts: PROMPTS, tokens: 3000, seed: 1, textTokens: 100 }
    const whole = await selfDistill({ ...options, engine: toyEngine({ limits: { maxSequences: 3 } }).engine })
    const { engine } = toyEngine({ limits: { maxSequences: 3 } })
    const known = new Map<number, SelfDistilledText>()
    const stop = new AbortController()
    const run = selfDistill({
      ...options,
      engine,
      signal: stop.signal,
      onText: async (index, text) => void known.set(index, text),
      onProgress: ({ tokens }) => tokens > 700 && stop.abort(new Error('enough')),
    })
    await expect(run).rejects.toThrow('enough')
    expect(known.size).toBeGreaterThan(1)
    for (const [index, text] of known) expect(text).toEqual(whole[index])
    const fresh: number[] = []
    const onText = async (index: number) => void fresh.push(index)
    expect(await selfDistill({ ...options, engine, known, onText })).toEqual(whole)
    expect(fresh.filter((index) => known.has(index))).toEqual([])
  })

  test('by the failure of one text, and stops the others', async () => {
    const { engine } = toyEngine()
    const prompts = [...PROMPTS, new Int32Array(40).fill(1000)]
    await failure(() => selfDistill({ engine, prompts, tokens: 1e6, seed: 1 }), 'ERR_TOKEN_RANGE')
    expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })

  test('before it began when there is nothing to begin with', async () => {
    const { engine } = toyEngine()
    const prompts = [...PROMPTS, new Int32Array(0)]
    await failure(() => selfDistill({ engine, prompts, tokens: 10, seed: 1 }), 'ERR_DATA', /empty/)

    class Bare extends ToyTokenizer {
      override encode = (text: string) => super.encode(text, { addSpecial: false })
    }
    const bare = toyEngine({ tokenizer: new Bare() })
    await failure(
      () => selfDistill({ engine: bare.engine, prompts: [], tokens: 10, seed: 1 }),
      'ERR_DATA',
      /Give texts as data/,
    )
  })
})

test('the demo model goes on with code', async () => {
  await using engine = await loadEngine({ model: 'demo', heads: false, threads: 1 })
  const prompts = [
    await engine.tokenize(`// path: src/sum.ts\nexport function sum(values: number[]): number {\n`.repeat(2)),
  ]
  const options = { engine, prompts, tokens: 60, seed: 1, textTokens: 20, temperature: 0.3 }
  const texts = await selfDistill(options)
  expect(texts.length).toBeGreaterThanOrEqual(3)
  expect(await selfDistill(options)).toEqual(texts)
  const words = texts.map(({ tokens, from }) => engine.detokenize(tokens.subarray(from))).join(' ')
  expect(words).toMatch(/[a-z]{3}/)
})
