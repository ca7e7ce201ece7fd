// What is taken as text to learn from, what is refused with file, line and value, and what is held out.
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { dataDigest, type Encoder, readTrainingData, splitDocuments } from '../../../heads/train/data.js'
import { demoModel } from '../../../src/index.js'
import { loadTokenizer, type Tokenizer } from '../../../src/text/tokenizer.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'

const dir = temporaryFolder()
const VOCAB = 4096
const BOS = 0
const END = 1
let tokenizer: Tokenizer
let encoder: Encoder

beforeAll(async () => {
  tokenizer = (await loadTokenizer(demoModel()))!
  encoder = { tokenizer, vocab: VOCAB, endIds: [END] }
})
afterAll(() => tokenizer.close())

let count = 0
/** A new folder with these files. */
async function folderOf(files: Readonly<Record<string, string | Uint8Array>>): Promise<string> {
  const folder = join(dir, String(count++))
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name)
    await mkdir(join(path, '..'), { recursive: true })
    await writeFile(path, content)
  }
  return folder
}

async function fileOf(name: string, content: string | Uint8Array): Promise<string> {
  return join(await folderOf({ [name]: content }), name)
}

const read = (paths: string | readonly string[], field = 'text') =>
  readTrainingData(typeof paths === 'string' ? [paths] : paths, encoder, { field })

/** The texts of documents, without what encoding puts around them. */
async function texts(paths: string | readonly string[], field = 'text'): Promise<string[]> {
  const { documents } = await read(paths, field)
  return documents.map(({ tokens }) => tokenizer.decode(tokens))
}

interface Ends {
  readonly endIds?: readonly number[]
  /** By the tokenizer. */
  readonly added?: string
}

/** Of long texts, encoded letter by letter: they are about where files are cut. */
async function longTexts(path: string, { endIds = [], added = '' }: Ends = {}): Promise<string[]> {
  const letters = {
    encode: async (text: string) => Int32Array.from(`${text}${added}`.split(''), (letter) => letter.charCodeAt(0)),
  }
  const spelling = { tokenizer: letters as unknown as Tokenizer, vocab: 1 << 16, endIds }
  const { documents } = await readTrainingData([path], spelling, { field: 'text' })
  return documents.map(({ tokens }) => Array.from(tokens, (code) => String.fromCharCode(code)).join(''))
}

describe('text', () => {
  test('gets what the tokenizer adds, and the end token', async () => {
    const { documents } = await read(await fileOf('a.txt', 'const x = 1'))
    expect(documents).toHaveLength(1)
    const [first, ...rest] = documents[0]!.tokens
    expect(first).toBe(BOS)
    expect(rest.at(-1)).toBe(END)
    expect(tokenizer.decode(rest)).toBe('const x = 1')
    expect(documents[0]!.from).toBe(0)
  })

  test('has no end token where the model has none', async () => {
    const path = await fileOf('a.txt', 'const x = 1')
    const { documents } = await readTrainingData([path], { ...encoder, endIds: [] }, { field: 'text' })
    expect(documents[0]!.tokens.at(-1)).not.toBe(END)
  })

  test('gets none where the tokenizer puts another of the ends that the model has', async () => {
    const path = await fileOf('a.txt', 'const x = 1')
    const own = (await read(path)).documents[0]!.tokens.at(-2)!
    const { documents } = await readTrainingData([path], { ...encoder, endIds: [END, own] }, { field: 'text' })
    expect(documents[0]!.tokens.at(-1)).toBe(own)
  })

  test('may have any name, and a byte order mark', async () => {
    expect(await texts(await fileOf('README', '\uFEFFhello'))).toEqual(['hello'])
  })

  test('that is long becomes several, cut at ends of lines, and loses nothing', async () => {
    const text = Array.from({ length: 60_000 }, (_, i) => `line ${i} of a long file é\n`).join('')
    const found = await longTexts(await fileOf('long.txt', text))
    expect(found.length).toBeGreaterThan(1)
    expect(found.join('')).toBe(text)
    for (const one of found) expect(one.endsWith('\n')).toBe(true)
  })

  test.each(['', '$'])('that is long ends once, whatever the tokenizer adds (%j)', async (added) => {
    const path = await fileOf('long.txt', 'some words\n'.repeat(200_000))
    const found = await longTexts(path, { endIds: [0x23, 0x24], added })
    expect(found.length).toBeGreaterThan(1)
    expect(found.map((text) => text.at(-1))).toEqual([...found.slice(1).map(() => '\n'), added || '#'])
  })

  test('without line ends is cut between characters', async () => {
    const text = `x${'é'.repeat(1_048_574)}🙂🙂`
    const found = await longTexts(await fileOf('long.txt', text))
    expect(found.length).toBeGreaterThan(1)
    expect(found.join('') === text).toBe(true)
  })
})

describe('lines of JSON', () => {
  test('have text in a field, or ids', async () => {
    const path = await fileOf('a.jsonl', '{"text":"one"}\n\n[5,6,7]\n{"tokens":[8,9,10,11],"from":2}\n{"text":[12]}')
    const { documents } = await read(path)
    expect(documents.map(({ from }) => from)).toEqual([0, 0, 2, 0])
    expect(documents.slice(1).map(({ tokens }) => [...tokens])).toEqual([[5, 6, 7], [8, 9, 10, 11], [12]])
  })

  test('are cut at line feeds alone', async () => {
    expect(await texts(await fileOf('a.jsonl', '{"text":"one\u2028two"}\r\n{"text":"three"}\r\n'))).toEqual([
      'one\u2028two',
      'three',
    ])
  })

  test('have another field if it is named', async () => {
    const path = await fileOf('a.jsonl', '{"text":"no","body":"yes"}')
    expect(await texts(path, 'body')).toEqual(['yes'])
  })

  test('may be longer than what is read at once', async () => {
    const long = 'word '.repeat(500_000)
    const found = await longTexts(await fileOf('a.jsonl', `${JSON.stringify({ text: long })}\n{"text":"short"}\n`))
    expect(found.map(({ length }) => length)).toEqual([long.length, 5])
  })
})

describe('ids in JSON', () => {
  test('are one document, or one for each array', async () => {
    const { documents } = await read([await fileOf('a.json', '[1,2,3]'), await fileOf('b.json', '[[4,5],[6]]')])
    expect(documents.map(({ tokens }) => [...tokens])).toEqual([[1, 2, 3], [4, 5], [6]])
  })
})

describe('a folder', () => {
  test('is read in the order of names, without hidden files, node_modules and binaries', async () => {
    const folder = await folderOf({
      'b.ts': 'second',
      'a/z.ts': 'first',
      'c.json': '{"name":"third"}',
      'd.json': '[40,41]',
      'f.json': '[[1.5,2],[3]]',
      '.git/config': 'hidden',
      'node_modules/x/index.js': 'foreign',
      'image.png': Uint8Array.of(0x89, 0x50, 0, 1),
      'latin.txt': Uint8Array.of(0x63, 0x61, 0x66, 0xe9, 0x20),
      'empty.txt': '',
      'blank.txt': ' \n',
    })
    await symlink('/', join(folder, 'everything'))
    await symlink('/nowhere', join(folder, 'nothing'))
    await symlink(join(folder, 'b.ts'), join(folder, 'e.ts'))
    const { documents, files, skipped } = await read(folder)
    expect(documents.slice(0, 3).map(({ tokens }) => tokenizer.decode(tokens))).toEqual([
      'first',
      'second',
      '{"name":"third"}',
    ])
    expect([...documents[3]!.tokens]).toEqual([40, 41])
    expect(documents.slice(4).map(({ tokens }) => tokenizer.decode(tokens))).toEqual(['[[1.5,2],[3]]'])
    // A link to a file that is there besides is not read again.
    expect(files).toBe(9)
    expect(skipped).toEqual({ hidden: 2, binary: 2, empty: 2, output: 0 })
  })

  test('and a file in it that is named as well are read once', async () => {
    const folder = await folderOf({ 'a.ts': 'first', 'b.ts': 'second' })
    const { documents, files } = await read([folder, join(folder, 'b.ts'), join(folder, '..', `${count - 1}`)])
    expect(files).toBe(2)
    expect(documents.map(({ tokens }) => tokenizer.decode(tokens))).toEqual(['first', 'second'])
  })
})

test('a folder to leave out is not looked into, wherever it is', async () => {
  const folder = await folderOf({ 'a.txt': 'text', 'deep/out/training.jsonl': '{"step":1}' })
  const except = join(folder, 'a', '..', 'deep', 'out')
  const { documents, skipped } = await readTrainingData([folder], encoder, { field: 'text', except })
  expect(documents).toHaveLength(1)
  expect(skipped.output).toBe(1)
  await failure(
    () => readTrainingData([except], encoder, { field: 'text', except }),
    'ERR_DATA',
    /There is no text in .*out \(0 files; left out: .* hidden, and the folder .*out, which is written to\)/,
  )
})

describe('is refused:', () => {
  test.each([
    ['a.jsonl', '{"text":"one"}\n{"txt":"two"}', /a\.jsonl:2: it has no field "text"\. It has txt/],
    ['a.jsonl', '{"text":"one"}\n{"text":', /a\.jsonl:2: it is not JSON/],
    ['a.jsonl', '{"text":5}', /a\.jsonl:1: its field "text" is neither text nor/],
    ['a.jsonl', '"text"', /a\.jsonl:1: it is neither an object nor/],
    ['a.jsonl', `{"text":${'['.repeat(100)}`, /a\.jsonl:1: its JSON is nested too deep/],
    ['a.jsonl', '[1,2]\n[3,4096]', /a\.jsonl:2: token 1 is 4096, but the model has tokens 0 to 4095/],
    ['a.jsonl', '[1,2.5]', /a\.jsonl:1: item 1 is 2\.5, which is no token id/],
    ['a.jsonl', '[1,-1]', /a\.jsonl:1: item 1 is -1, which is no token id/],
    ['a.jsonl', '[1,3000000000]', /a\.jsonl:1: item 1 is 3000000000, which is no token id/],
    ['a.jsonl', '{"tokens":[1,2,3],"from":4}', /a\.jsonl:1: "from" is 4: use a whole number, at most the 3/],
    ['a.json', '{"name":"x"}', /a\.json: it holds no array of token ids/],
    ['a.json', '[]', /a\.json: it holds no array of token ids/],
    ['a.json', '[[1],[2,"x"]]', /a\.json\[1\]: item 1 is "x", which is no token id/],
    ['a.txt', '', /There is no text in .*a\.txt \(1 file; left out: 1 empty/],
    ['a.txt', ' \n ', /There is no text in/],
    ['a.png', Uint8Array.of(1, 2, 0, 3), /a\.png: it is not UTF-8 text/],
  ])('%s with %j', async (name, content, says) => {
    const path = await fileOf(name, content)
    await failure(() => read(path), 'ERR_DATA', says)
  })

  test('a text that stops being one further on', async () => {
    const bytes = new Uint8Array(3 << 20).fill(0x61)
    bytes[(2 << 20) + 5] = 0xff
    const path = await fileOf('a.txt', bytes)
    await failure(() => longTexts(path), 'ERR_DATA', /a\.txt: bytes 2097152 to 3145728 are not UTF-8/)
  })

  test('what is not there', async () => {
    await failure(() => read(join(dir, 'nowhere')), 'ERR_FILE', /nowhere/)
    await failure(() => read('/dev/null'), 'ERR_DATA', /\/dev\/null: it is neither a file nor a folder/)
  })

  test('text for a model without a tokenizer', async () => {
    const path = await fileOf('a.txt', 'text')
    const without = { ...encoder, tokenizer: null }
    await failure(() => readTrainingData([path], without, { field: 'text' }), 'ERR_TOKENIZER')
    const ids = await readTrainingData([await fileOf('a.json', '[1,2,3]')], without, { field: 'text' })
    expect(ids.documents).toHaveLength(1)
  })

  test('a tokenizer that knows more tokens than the model', async () => {
    const path = await fileOf('a.txt', 'text')
    await failure(
      () => readTrainingData([path], { ...encoder, vocab: 3 }, { field: 'text' }),
      'ERR_DATA',
      /a\.txt: token 1 is \d+, but the model has tokens 0 to 2\. tokenizer\.json is of another model/,
    )
  })
})

test('reading tells how far it is, and stops when it is told to', async () => {
  const folder = await folderOf({
    'a.txt': 'one',
    'b.png': Uint8Array.of(0, 1),
    'c.txt': 'two'.repeat(1000),
    'd.txt': '',
  })
  const told: [number, number][] = []
  const onProgress = (done: number, total: number) => void told.push([done, total])
  await readTrainingData([folder], encoder, { field: 'text', onProgress })
  expect(told.at(-1)).toEqual([3005, 3005])
  const signal = AbortSignal.abort(new Error('enough'))
  await expect(readTrainingData([folder], encoder, { field: 'text', signal })).rejects.toThrow('enough')
  await rm(folder, { recursive: true })
})

describe('holding out', () => {
  const document = (...tokens: number[]) => ({ tokens: Int32Array.from(tokens), from: 0 })
  const documents = Array.from({ length: 2000 }, (_, i) => document(i, i * 7, 3))

  test('takes about the share, and every document once', () => {
    const { training, heldOut } = splitDocuments(documents, 0.1, 1)
    expect(new Set([...training, ...heldOut])).toEqual(new Set(documents))
    expect(training.length + heldOut.length).toBe(documents.length)
    // Five standard deviations of a count of 200.
    expect(Math.abs(heldOut.length - 200)).toBeLessThan(5 * Math.sqrt(180))
  })

  test('moves no document when data are added, and keeps copies together', () => {
    const { heldOut } = splitDocuments(documents, 0.1, 1)
    const more = [...documents, ...Array.from({ length: 500 }, (_, i) => document(9, i)), ...heldOut.slice(0, 5)]
    const { training: later, heldOut: laterOut } = splitDocuments(more, 0.1, 1)
    expect(heldOut.every((one) => laterOut.includes(one))).toBe(true)
    expect(later.some((one) => heldOut.includes(one))).toBe(false)
  })

  test('keeps those of a group together, as lines of JSON say by their prompts', async () => {
    const lines = documents.map(({ tokens }, i) =>
      JSON.stringify({ tokens: [...tokens.subarray(2), i % 40], prompt: `${i % 40}` }),
    )
    const { documents: found } = await read(await fileOf('a.jsonl', lines.join('\n')))
    const { training, heldOut } = splitDocuments(found, 0.2, 1)
    const groups = new Set(heldOut.map(({ group }) => group))
    expect(groups.size).toBeGreaterThan(1)
    expect(heldOut).toHaveLength(groups.size * 50)
    expect(training.filter(({ group }) => groups.has(group))).toEqual([])
  })

  test('depends on the seed', () => {
    expect(splitDocuments(documents, 0.1, 2).heldOut).not.toEqual(splitDocuments(documents, 0.1, 1).heldOut)
  })

  test('leaves one document at least to each side', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 6 }), fc.nat(50), fc.double({ min: 0.001, max: 0.5 }), (n, seed, share) => {
        const { training, heldOut } = splitDocuments(documents.slice(0, n), share, seed)
        expect(training.length).toBeGreaterThan(0)
        expect(heldOut.length).toBeGreaterThan(0)
      }),
    )
  })

  test('nothing is holding nothing out', () => {
    expect(splitDocuments([document(1)], 0, 1)).toEqual({ training: [document(1)], heldOut: [], isByEnds: false })
  })

  test('of a single document, or copies of one, takes the end, with the rest as its context', () => {
    const tokens = Int32Array.from({ length: 100 }, (_, i) => i)
    const split = {
      training: [{ tokens: tokens.subarray(0, 90), from: 0 }],
      heldOut: [{ tokens, from: 90 }],
      isByEnds: true,
    }
    expect(splitDocuments([{ tokens, from: 0 }], 0.1, 1)).toEqual(split)
    const copies = splitDocuments(
      [
        { tokens, from: 0 },
        { tokens: tokens.slice(), from: 0 },
      ],
      0.1,
      1,
    )
    expect(copies).toEqual({
      ...split,
      training: [0, 1].map(() => split.training[0]),
      heldOut: [0, 1].map(() => split.heldOut[0]),
    })
  })

  test('of one group takes the end of each of its documents, of what is to be learnt', () => {
    const tokens = Int32Array.from({ length: 50 }, (_, i) => i)
    const texts = [10, 20].map((from) => ({ tokens, from, group: 'one' }))
    const { training, heldOut, isByEnds } = splitDocuments(texts, 0.5, 1)
    expect(isByEnds).toBe(true)
    expect(training.map((one) => [one.tokens.length, one.from])).toEqual([
      [30, 10],
      [35, 20],
    ])
    expect(heldOut.map((one) => [one.tokens.length, one.from])).toEqual([
      [50, 30],
      [50, 35],
    ])
  })

  test('of a single document that is short takes nothing', () => {
    const short = document(1, 2, 3)
    expect(splitDocuments([short], 0.1, 1)).toEqual({ training: [short], heldOut: [], isByEnds: true })
  })
})

test('a digest tells tokens, order and context apart', () => {
  const one = { tokens: Int32Array.of(1, 2), from: 0 }
  const two = { tokens: Int32Array.of(3), from: 0 }
  const digests = [
    dataDigest([one, two]),
    dataDigest([two, one]),
    dataDigest([{ ...one, from: 1 }, two]),
    dataDigest([{ tokens: Int32Array.of(1, 2, 3), from: 0 }]),
  ]
  expect(new Set(digests).size).toBe(4)
  expect(dataDigest([one, two])).toBe(digests[0])
})
