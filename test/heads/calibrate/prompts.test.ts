// Which beginnings are continued: as many as asked for, each once, the same whatever the files are called.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type PromptOptions, readPrompts } from '../../../heads/calibrate/prompts.js'
import { demoModel } from '../../../src/index.js'
import { loadTokenizer, type Tokenizer } from '../../../src/text/tokenizer.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'

const dir = temporaryFolder()
const VOCAB = 4096
let tokenizer: Tokenizer

beforeAll(async () => {
  tokenizer = (await loadTokenizer(demoModel()))!
})
afterAll(() => tokenizer.close())

let count = 0
const file = (name: string, text: string): string => {
  const path = join(dir, `${count++}-${name}`)
  writeFileSync(path, text)
  return path
}
const jsonl = (texts: readonly unknown[]): string =>
  file('data.jsonl', texts.map((text) => `${JSON.stringify(text)}\n`).join(''))

const read = (paths: readonly string[], options: Partial<PromptOptions> = {}) =>
  readPrompts(paths, { tokenizer, vocab: VOCAB }, { count: 8, promptTokens: 16, field: 'text', seed: 1, ...options })

const sentence = (i: number): string =>
  `Number ${i} of many texts, each of which says who it is and goes on for a while.`
const TEXTS = Array.from({ length: 20 }, (_, i) => ({ text: sentence(i) }))

describe('readPrompts', () => {
  test('takes beginnings of texts, as the model reads them, half of a text at most', async () => {
    const prompts = await read([jsonl(TEXTS)], { promptTokens: 200 })
    expect(prompts).toHaveLength(8)
    const whole = await Promise.all(TEXTS.map(({ text }) => tokenizer.encode(text)))
    for (const prompt of prompts) {
      const text = whole.find((ids) => prompt.every((id, i) => id === ids[i]))!
      expect(prompt).toHaveLength(text.length >> 1)
    }
  })

  test('cuts them to the length asked for', async () => {
    for (const prompt of await read([jsonl(TEXTS)], { promptTokens: 5 })) expect(prompt).toHaveLength(5)
    for (const prompt of await read([jsonl(TEXTS)], { promptTokens: 1 })) expect(prompt).toHaveLength(1)
  })

  test('chooses by content and seed, not by the order or number of files', async () => {
    const whole = await read([jsonl(TEXTS)])
    const parts = [jsonl(TEXTS.slice(13).toReversed()), jsonl(TEXTS.slice(0, 13))]
    expect(await read(parts)).toEqual(whole)
    const others = await read(parts, { seed: 2 })
    expect(others).toHaveLength(8)
    expect(others).not.toEqual(whole)
  })

  test('takes copies once', async () => {
    const texts = TEXTS.slice(0, 3)
    expect(await read([jsonl([...texts, ...texts, ...texts])])).toHaveLength(3)
  })

  test('of few long texts begins inside them too, at the beginning of a line', async () => {
    const lines = Array.from({ length: 400 }, (_, i) => `${sentence(i)}\n`)
    const prompts = await read([file('book.txt', lines.join(''))], { count: 12 })
    expect(prompts).toHaveLength(12)
    const texts = prompts.map((prompt) => tokenizer.decode(prompt))
    expect(texts[0]).toMatch(/^Number 0 of/)
    for (const text of texts) expect(text).toMatch(/^Number \d+ of/)
    expect(new Set(texts).size).toBe(12)
  })

  test('of one endless line cuts between characters', async () => {
    const prompts = await read([file('line.txt', Array.from({ length: 2000 }, (_, i) => `😀é${i}`).join(''))], {
      count: 10,
      promptTokens: 17,
    })
    expect(prompts).toHaveLength(10)
    for (const prompt of prompts) expect(tokenizer.decode(prompt)).toMatch(/^[😀é\d]*\uFFFD?$/u)
  })

  test('of self-distilled texts takes what they were made from', async () => {
    const tokens = Array.from({ length: 40 }, (_, i) => i + 5)
    const prompts = await read([jsonl([{ tokens, from: 7 }])])
    expect(prompts.map((prompt) => [...prompt])).toEqual([tokens.slice(0, 7)])
  })

  test('takes token ids as they are', async () => {
    const ids = Array.from({ length: 32 }, (_, i) => i + 5)
    const prompts = await read([file('ids.json', JSON.stringify(ids))])
    expect(prompts.map((prompt) => [...prompt])).toEqual([ids.slice(0, 16)])
  })

  test('leaves out texts that are too short, and takes others', async () => {
    const short = Array.from({ length: 6 }, (_, i) => ({ text: `${i}` }))
    expect(await read([jsonl([...short, ...TEXTS])])).toHaveLength(8)
  })

  test('holds few of many texts', async () => {
    const many = Array.from({ length: 3000 }, (_, i) => ({ text: sentence(i) }))
    const [few, all] = [await read([jsonl(many)], { count: 2 }), await read([jsonl(many)], { count: 40 })]
    expect(few).toEqual(all.slice(0, 2))
    expect(all).toHaveLength(40)
  })

  test('says how far it is', async () => {
    const seen: number[][] = []
    await read([jsonl(TEXTS)], { onProgress: (done, total) => seen.push([done, total]) })
    expect(seen.at(-1)![0]).toBe(seen.at(-1)![1])
  })

  test.each([
    ['nothing but short texts', () => [jsonl([{ text: 'a' }])], /8 tokens or more/],
    ['an empty file', () => [file('empty.txt', '')], /8 tokens or more/],
    ['ids of another model', () => [file('ids.json', `[${new Array(30).fill(4096).join()}]`)], /token 0 is 4096/],
    ['a line that is no JSON', () => [file('bad.jsonl', '{"text": ')], /bad\.jsonl:1/],
  ])('refuses %s', async (_, paths, message) => {
    await failure(() => read(paths()), 'ERR_DATA', message)
  })

  test('needs a tokenizer for text', async () => {
    await failure(
      () =>
        readPrompts(
          [jsonl(TEXTS)],
          { tokenizer: null, vocab: VOCAB },
          { count: 4, promptTokens: 8, field: 'text', seed: 1 },
        ),
      'ERR_TOKENIZER',
    )
  })
})
