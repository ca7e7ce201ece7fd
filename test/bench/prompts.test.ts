// Prompts of exactly so many tokens.
import { describe, expect, test } from 'vitest'
import { promptsFor } from '../../src/bench/prompts.js'
import { failure } from '../support/errors.js'

/** One token per word, begun by token 0; remembers how much text it was given. */
function wordEngine() {
  const given: number[] = []
  return {
    given,
    info: { hasTokenizer: true, vocab: 1000 },
    async tokenize(text: string) {
      given.push(text.length)
      return Int32Array.from([0, ...(text.match(/\w+/g) ?? []).map((word) => word.length)])
    },
  }
}

test('a text is cut, or gone round, to exactly the tokens asked for', async () => {
  const prompts = await promptsFor(wordEngine(), { text: 'one three\nseven\n', count: 1 })
  expect(prompts.kind).toBe('text')
  for (const tokenCount of [1, 2, 3, 4, 5, 50, 333]) expect(await prompts.take(0, tokenCount)).toHaveLength(tokenCount)
  expect([...(await prompts.take(0, 8))]).toEqual([0, 3, 5, 5, 3, 5, 5, 3])
})

test('a shorter prompt begins a longer one, whichever was asked for first', async () => {
  const prompts = await promptsFor(wordEngine(), { text: 'a bb ccc dddd '.repeat(100), count: 1 })
  const short = await prompts.take(0, 10)
  const long = await prompts.take(0, 300)
  expect([...long.subarray(0, 10)]).toEqual([...short])
})

test('prompts of several indices begin at different places, at the beginning of a line', async () => {
  const text = Array.from({ length: 40 }, (_, i) => `${'x'.repeat(i + 1)} end\n`).join('')
  const prompts = await promptsFor(wordEngine(), { text, count: 3 })
  const firstWords = await Promise.all([0, 1, 2, 3].map(async (index) => (await prompts.take(index, 2))[1]!))
  expect(firstWords[0]).toBe(1)
  expect(new Set(firstWords.slice(0, 3)).size).toBe(3)
  expect(firstWords[3]).toBe(firstWords[0])
})

test('no more text is encoded than the prompt needs', async () => {
  const engine = wordEngine()
  await (await promptsFor(engine, { text: 'word '.repeat(1e5), count: 1 })).take(0, 100)
  expect(Math.max(...engine.given)).toBeLessThan(2000)
})

test('without a text the sources of this package are used, each after its path', async () => {
  let seen = ''
  const engine = {
    info: { hasTokenizer: true, vocab: 9 },
    async tokenize(text: string) {
      seen = text
      return new Int32Array(text.length)
    },
  }
  const prompts = await promptsFor(engine, { count: 2 })
  expect(prompts.kind).toBe('sources')
  await prompts.take(0, 500)
  expect(seen).toMatch(/^\/\/ path: src\/[\w/-]+\.ts\n/)
  await prompts.take(1, 500)
  expect(seen).toMatch(/^\/\/ path: src\/[\w/-]+\.ts\n/)
})

describe('without a tokenizer', () => {
  const engine = { ...wordEngine(), info: { hasTokenizer: false, vocab: 50 } }

  test('prompts are random ids of the vocabulary, the same in every run', async () => {
    const [one, again] = [await promptsFor(engine, { count: 2 }), await promptsFor(engine, { count: 2 })]
    expect(one.kind).toBe('random')
    const ids = await one.take(0, 2000)
    expect(ids).toHaveLength(2000)
    expect(ids.every((id) => id >= 0 && id < 50)).toBe(true)
    expect(new Set(ids).size).toBe(50)
    expect(await again.take(0, 2000)).toEqual(ids)
    expect(await one.take(1, 2000)).not.toEqual(ids)
  })
})

test.each(['', ' \n \n'])('a text without tokens is refused: %j', async (text) => {
  const prompts = await promptsFor(wordEngine(), { text, count: 1 })
  await failure(() => prompts.take(0, 5), 'ERR_EMPTY_PROMPT')
})
