// Prompts of the quality benchmarks and what counts as a right answer.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type Encoder, isRightNumber, needleOf, needlePrompt, readHaystack } from '../../../bench/quality/haystack.js'
import { isRightLine, parseLines, readLines } from '../../../bench/quality/lines.js'
import { Choices } from '../../../bench/quality/random.js'
import {
  chooseCompletions,
  completionPrompt,
  completionsOf,
  fileText,
  readSources,
} from '../../../bench/quality/sources.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { orSkipped, sharedPath } from '../../support/shared.js'

/** A token is a character; a prompt begins with a 1. */
const characters: Encoder = {
  encode: async (text) => Int32Array.from(text, (character) => character.codePointAt(0)!),
  decode: (ids) => String.fromCodePoint(...ids),
  prefix: Int32Array.of(1),
}
const textOf = (tokens: Int32Array) => characters.decode(tokens)

const CASE = {
  random_idx: ['torpid-kid', 7],
  expected_number: 2416,
  num_lines: 200,
  prompt: 'line torpid-kid: REGISTER_CONTENT is <2416>\nTell me.',
}

describe('LongEval lines', () => {
  const dir = temporaryFolder()
  const parse = (text: string) => parseLines(text, { path: '200.jsonl', lines: 200 })

  it('a prompt ends where the number begins', () => {
    const [first, second] = parse(`${JSON.stringify(CASE)}\n\n${JSON.stringify(CASE)}\n`)
    expect(first).toEqual({
      lines: 200,
      index: 0,
      expected: 2416,
      prompt: `${CASE.prompt}\nThe <REGISTER_CONTENT> in line torpid-kid is <`,
    })
    expect(second!.index).toBe(2)
  })

  it('refuses what is no case, naming the line', async () => {
    const good = JSON.stringify(CASE)
    await failure(() => parse(`${good}\n{`), 'ERR_FILE', /line 2 is not JSON/)
    await failure(() => parse('[]'), 'ERR_FILE', /line 1 is not a LongEval case/)
    const { expected_number: _, ...incomplete } = CASE
    await failure(() => parse(JSON.stringify(incomplete)), 'ERR_FILE', /expected_number/)
    await failure(() => parse(JSON.stringify({ ...CASE, num_lines: 300 })), 'ERR_FILE', /300 lines, not the 200/)
  })

  it('reads a folder under both kinds of name, fewest lines first', async () => {
    const folder = join(dir, 'cases')
    await mkdir(folder)
    await writeFile(join(folder, '1000_lines.jsonl'), JSON.stringify({ ...CASE, num_lines: 1000 }))
    await writeFile(join(folder, '200.jsonl'), JSON.stringify(CASE))
    await writeFile(join(folder, 'README.md'), 'not cases')
    expect([...(await readLines(folder)).keys()]).toEqual([200, 1000])
  })

  it('says where cases are published when there are none', async () => {
    await failure(() => readLines(undefined), 'ERR_OPTION', /--data is missing.*github\.com\/DachengLi1/)
    await failure(() => readLines(join(dir, 'absent')), 'ERR_FILE', /no LongEval cases at .*github\.com\/DachengLi1/)
    await mkdir(join(dir, 'empty'))
    await failure(() => readLines(join(dir, 'empty')), 'ERR_FILE', /no file like 200\.jsonl/)
  })

  const published = sharedPath('eval', 'longeval-lines')
  it.skipIf(published === null)(`the published cases hold their answers${orSkipped(published)}`, async () => {
    for (const [lines, cases] of await readLines(published!)) {
      expect(cases.length).toBeGreaterThan(0)
      for (const { prompt, expected, index } of cases) {
        const key = / in line (.+) is <$/.exec(prompt)![1]
        expect(prompt, `${lines}, case ${index}`).toContain(`line ${key}: REGISTER_CONTENT is <${expected}>`)
      }
    }
  })

  it('the last whole number decides', () => {
    expect(isRightLine('2416', 2416)).toBe(true)
    expect(isRightLine('12 no, 2416>', 2416)).toBe(true)
    expect(isRightLine('2416, line 3', 2416)).toBe(false)
    expect(isRightLine('24167', 2416)).toBe(false)
    expect(isRightLine('', 2416)).toBe(false)
  })
})

describe('a needle in a haystack', () => {
  const dir = temporaryFolder()
  const haystack = 'The pond is deep. It is cold! Who goes there? Nobody does.\n'.repeat(400)
  const place = { length: 900, depth: 0.5, seed: 's' }
  const needle = needleOf(new Choices('s'))

  it('is any file, and without one the message says where texts are', async () => {
    const file = join(dir, 'haystack.txt')
    await writeFile(file, haystack)
    expect(await readHaystack(file)).toBe(haystack)
    await failure(() => readHaystack(undefined), 'ERR_OPTION', /--data is missing.*gutenberg\.org/)
    await failure(() => readHaystack(join(dir, 'no.txt')), 'ERR_FILE', /no haystack at .*gutenberg\.org/)
  })

  it('the prompt has the length, the needle once, and the question at the end', async () => {
    for (const depth of [0, 0.25, 0.5, 1]) {
      const { tokens, expected } = await needlePrompt(haystack, { ...place, depth }, characters)
      const text = textOf(tokens)
      expect(tokens.length).toBe(900)
      expect(tokens[0]).toBe(1)
      expect(text.split(needle.sentence).length).toBe(2)
      expect(text.endsWith(needle.question)).toBe(true)
      expect(needle.sentence).toContain(`for ${needle.word} is ${expected}.`)
    }
  })

  it('the needle stands after a sentence or line, at its depth or just before', async () => {
    for (const depth of [0, 0.11, 0.5, 0.99, 1]) {
      const { tokens, at } = await needlePrompt(haystack, { ...place, depth }, characters)
      const room = 900 - 1 - needle.sentence.length - needle.question.length
      const wanted = 1 + Math.round(depth * room)
      expect(at).toBeLessThanOrEqual(wanted)
      // No sentence of the haystack is longer than 18 characters.
      expect(at).toBeGreaterThan(wanted - 19)
      const text = textOf(tokens)
      expect(text.slice(at, at + needle.sentence.length)).toBe(needle.sentence)
      if (at > 1) expect(text[at - 1]).toMatch(/[.!?\n]/)
    }
  })

  it('another seed hides another needle, the same seed the same', async () => {
    const first = await needlePrompt(haystack, place, characters)
    expect(await needlePrompt(haystack, place, characters)).toEqual(first)
    const others = await Promise.all(
      ['t', 'u', 'v'].map((seed) => needlePrompt(haystack, { ...place, seed }, characters)),
    )
    expect(new Set([first, ...others].map(({ expected }) => expected)).size).toBe(4)
  })

  it('refuses a haystack that is too short and a prompt that holds no question', async () => {
    await failure(() => needlePrompt('Short.', place, characters), 'ERR_FILE', /6 tokens/)
    await failure(() => needlePrompt(haystack, { ...place, length: 20 }, characters), 'ERR_OPTION', /20 tokens/)
  })

  it('the first number decides', () => {
    expect(isRightNumber(' 48213', 48213)).toBe(true)
    expect(isRightNumber(' 4821', 48213)).toBe(false)
    expect(isRightNumber(' 1 or 48213', 48213)).toBe(false)
    expect(isRightNumber(' none', 48213)).toBe(false)
  })
})

describe('next-line completion', () => {
  const files = [
    { path: 'src/a.ts', text: '// one\n2\n3\n4\n5\nexport const six = 6\n}\nconst eight = `8`\n' },
    { path: 'src/b.ts', text: `${'const line = 1\n'.repeat(8)}` },
    { path: 'test/c.ts', text: '1\n2\n3\n4\n5\n  return something\n/** what it is */\n * more of it' },
  ]
  const lookups = (asked: number[] = []) => ({
    prefix: characters.prefix,
    encode: characters.encode,
    idsOf: (file: number) => {
      asked.push(file)
      return characters.encode(fileText(files[file]!))
    },
  })

  it('asks about code that says something, with some lines before it', () => {
    const all = completionsOf(files)
    expect(all.map(({ file, line }) => [file, line])).toEqual([
      [0, 6],
      [1, 6],
      [1, 7],
      [1, 8],
      [2, 6],
    ])
    expect(all[0]).toMatchObject({
      before: '// path: src/a.ts\n// one\n2\n3\n4\n5\n',
      expected: 'export const six = 6',
    })
  })

  it('keeps empty lines before a line', () => {
    const [only] = completionsOf([{ path: 'a.ts', text: '1\n2\n3\n4\n\nexport const six = 6\n' }])
    expect(only).toMatchObject({ line: 6, before: '// path: a.ts\n1\n2\n3\n4\n\n' })
  })

  it('draws the same lines for the same seed', () => {
    const all = completionsOf(files)
    expect(chooseCompletions(all, 3, 1)).toEqual(chooseCompletions(all, 3, 1))
    expect(chooseCompletions(all, 99, 2).length).toBe(all.length)
    expect(new Set(chooseCompletions(all, 5, 2)).size).toBe(5)
  })

  it('a prompt is what stands before the line: its file, then those before it, as far as it reaches', async () => {
    const all = completionsOf(files)
    const last = all.at(-1)!
    const everything = `${fileText(files[0]!)}${fileText(files[1]!)}${last.before}`
    for (const length of [10, 60, 150, everything.length]) {
      const asked: number[] = []
      const prompt = await completionPrompt(files, last, length, lookups(asked))
      expect(textOf(prompt)).toBe(`\u0001${everything.slice(everything.length - length + 1)}`)
      expect(asked).toEqual(length <= last.before.length ? [] : length < 180 ? [1] : [1, 0])
    }
  })

  it('goes on with the last files before the first', async () => {
    const [first] = completionsOf(files)
    const prompt = textOf(await completionPrompt(files, first!, 60, lookups()))
    expect(prompt.endsWith(` * more of it\n${first!.before}`)).toBe(true)
  })

  it('refuses more than there is, and folders without sources', async () => {
    const [first] = completionsOf(files)
    await failure(() => completionPrompt(files, first!, 5000, lookups()), 'ERR_FILE', /before src\/a\.ts, 5000/)
    await failure(() => readSources('/absent', ['src']), 'ERR_FILE', /--data/)
  })

  it('reads folders in path order, TypeScript only', async () => {
    const root = temporaryRoot
    await mkdir(join(root, 'src', 'deep'), { recursive: true })
    for (const name of ['src/b.ts', 'src/deep/a.ts', 'src/a.ts', 'src/a.md']) await writeFile(join(root, name), name)
    expect((await readSources(root, ['src'])).map(({ path }) => path)).toEqual([
      'src/a.ts',
      'src/b.ts',
      'src/deep/a.ts',
    ])
    await mkdir(join(root, 'docs'))
    await failure(() => readSources(root, ['docs']), 'ERR_FILE', /no TypeScript in docs/)
  })
  const temporaryRoot = temporaryFolder()
})

describe('choices', () => {
  it('repeat by name, stay in range, and leave nothing out', () => {
    const draw = (name: string) => Array.from({ length: 200 }, () => new Choices(name).integer(3, 7))[0]
    expect(draw('x')).toBe(draw('x'))
    const choices = new Choices('range')
    const drawn = Array.from({ length: 500 }, () => choices.integer(3, 7))
    expect([...new Set(drawn)].sort()).toEqual([3, 4, 5, 6, 7])
    expect(choices.shuffle([1, 2, 3, 4, 5]).sort()).toEqual([1, 2, 3, 4, 5])
  })
})
