import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Tokenizer as Library } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Detokenizer, type DetokenizerOptions, Pieces, type VocabularyEntry } from '../../src/text/detokenizer.js'
import { loadTokenizer, type Tokenizer } from '../../src/text/tokenizer.js'
import { byteToken, DEMO, folderWith, LLAMA_DECODER, sentencePiece } from './vocabularies.js'

const demo = (await loadTokenizer(DEMO))!
const demoFile = JSON.parse(readFileSync(join(DEMO, 'tokenizer.json'), 'utf8')) as object
const llama = await tokenizerOf(sentencePiece())
const metaspace = await tokenizerOf(
  sentencePiece({
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace' },
    decoder: { type: 'Metaspace', replacement: '▁' },
  }),
)

async function tokenizerOf(file: object): Promise<Tokenizer> {
  return (await loadTokenizer(await folderWith({ 'tokenizer.json': file })))!
}

/** What the library makes of all tokens at once. */
function libraryText(file: object, ids: readonly number[], skipSpecial: boolean): string {
  if (ids.length === 0) return ''
  return new Library(file, {}).decode([...ids], {
    skip_special_tokens: skipSpecial,
    clean_up_tokenization_spaces: false,
  })
}

function piecesOf(tokenizer: Tokenizer, ids: readonly number[], options?: DetokenizerOptions): string[] {
  const detokenizer = tokenizer.detokenizer(options)
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()]
}

/** Ids of the demo vocabulary, with the tokens of single bytes as likely as all the others together. */
const demoByteIds = Array.from({ length: 4096 }, (_, id) => id).filter(
  (id) => [...(demo.tokenText(id) ?? '')][0] === '\uFFFD',
)
const demoIds = fc.array(fc.oneof(fc.nat(4095), fc.constantFrom(...demoByteIds), fc.constantFrom(0, 1, 4096, 99_999)), {
  maxLength: 60,
})

/** Bytes that begin, continue and break characters; no byte order mark, which the library's decoder drops. */
const BYTES = [
  0x41, 0x20, 0xc3, 0xa9, 0xe2, 0x96, 0x81, 0xf0, 0x9f, 0x8e, 0x89, 0x80, 0xc0, 0xff, 0xed, 0xa0, 0xf4, 0x90, 0xe0,
]
const WORDS = ['<s>', '</s>', '▁', 'a', 'ab', '▁a', '▁▁', '▁▁▁▁', '.']
const llamaIds = fc.array(
  fc.constantFrom(...[...BYTES.map(byteToken), ...WORDS].map((token) => llama.tokenId(token)!)),
  { maxLength: 40 },
)

describe('pieces joined equal the text decoded at once', () => {
  test('of a byte-level vocabulary, broken UTF-8 included, as the library decodes it', () => {
    expect(demoByteIds.length).toBeGreaterThanOrEqual(128)
    fc.assert(
      fc.property(demoIds, fc.boolean(), (ids, skipSpecial) => {
        const text = piecesOf(demo, ids, { skipSpecial }).join('')
        expect(text).toBe(demo.decode(ids, { skipSpecial }))
        const known = ids.filter((id) => id < 4096)
        expect(text).toBe(libraryText(demoFile, known, skipSpecial))
      }),
      { numRuns: 300 },
    )
  })

  test('of SentencePiece-style vocabularies, byte tokens included', () => {
    const file = sentencePiece()
    fc.assert(
      fc.property(llamaIds, fc.boolean(), (ids, skipSpecial) => {
        const text = piecesOf(llama, ids, { skipSpecial }).join('')
        expect(text).toBe(llama.decode(ids, { skipSpecial }))
        expect(text).toBe(libraryText(file, ids, skipSpecial))
        for (const continuation of [true, false]) {
          expect(piecesOf(metaspace, ids, { skipSpecial, continuation }).join('')).toBe(
            metaspace.decode(ids, { skipSpecial, continuation }),
          )
        }
      }),
      { numRuns: 300 },
    )
  })

  test('of any bytes, one token per byte', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 30 }), fc.constantFrom(...BYTES), (bytes, more) => {
        const all = [...bytes, more, ...bytes]
        const text = llama.decode(
          all.map((byte) => llama.tokenId(byteToken(byte))!),
          { continuation: true },
        )
        expect(text).toBe(new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(all)))
      }),
      { numRuns: 500 },
    )
  })

  test('and no piece ends inside a character', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 20 }), (text) => {
        fc.pre(!text.includes('\uFFFD'))
        const ids = [...Buffer.from(text, 'utf8')].map((byte) => llama.tokenId(byteToken(byte))!)
        const pieces = piecesOf(llama, ids, { continuation: true })
        for (const piece of pieces) expect(piece).not.toMatch(/\p{Surrogate}|\uFFFD/u)
        expect(pieces.join('')).toBe(text)
        expect(pieces.at(-1)).toBe('')
      }),
    )
  })
})

describe('incomplete characters', () => {
  const bytes = (...values: number[]) => values.map((byte) => llama.tokenId(byteToken(byte))!)

  test('are held back until they are complete', () => {
    expect(piecesOf(llama, bytes(0xf0, 0x9f, 0x8e, 0x89))).toEqual(['', '', '', '🎉', ''])
  })

  test('become U+FFFD when the text ends', () => {
    expect(piecesOf(llama, bytes(0xf0, 0x9f, 0x8e))).toEqual(['', '', '', '\uFFFD'])
    const detokenizer = llama.detokenizer()
    detokenizer.push(bytes(0xe2)[0]!)
    expect([detokenizer.flush(), detokenizer.flush()]).toEqual(['\uFFFD', ''])
  })

  test('become U+FFFD as soon as they cannot be completed', () => {
    expect(piecesOf(llama, bytes(0xf0, 0x9f, 0x41))).toEqual(['', '', '\uFFFDA', ''])
    // A surrogate, an overlong form and a code point past the last are broken at their second byte.
    expect(piecesOf(llama, bytes(0xed, 0xa0))).toEqual(['', '\uFFFD\uFFFD', ''])
    expect(piecesOf(llama, bytes(0xe0, 0x80))).toEqual(['', '\uFFFD\uFFFD', ''])
    expect(piecesOf(llama, bytes(0xf4, 0x90))).toEqual(['', '\uFFFD\uFFFD', ''])
    expect(piecesOf(llama, bytes(0xff))).toEqual(['\uFFFD', ''])
  })

  test('go on across a special token that the text leaves out', () => {
    const [first, second] = bytes(0xc3, 0xa9)
    expect(llama.decode([first!, 2, second!])).toBe('é')
    expect(llama.decode([first!, 2, second!], { skipSpecial: false })).toBe('\uFFFD</s>\uFFFD')
  })
})

describe('the space before the first word', () => {
  const ids = async (tokenizer: Tokenizer, text: string) => [...(await tokenizer.encode(text))]

  test('is not in a text, and is in a continuation', async () => {
    const tokens = await ids(llama, 'ab a')
    expect(llama.decode(tokens)).toBe('ab a')
    expect(llama.decode(tokens, { continuation: true })).toBe(' ab a')
    expect(piecesOf(llama, tokens)[1]).toBe('ab')
    expect(metaspace.decode(await ids(metaspace, 'ab a'))).toBe('ab a')
    expect(metaspace.decode(await ids(metaspace, 'ab a'), { continuation: true })).toBe(' ab a')
  })

  test('is only one: spaces of the text stay', async () => {
    expect(llama.decode(await ids(llama, '  ab'))).toBe('  ab')
  })

  test('stays where the vocabulary puts none', async () => {
    const never = await tokenizerOf(
      sentencePiece({ decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'never' } }),
    )
    expect(never.decode([never.tokenId('▁a')!])).toBe(' a')
    expect(demo.decode(await demo.encode(' ab', { addSpecial: false }))).toBe(' ab')
  })
})

describe('decoder steps', () => {
  const text = (decoder: unknown, tokens: readonly string[], entry: Partial<VocabularyEntry> = {}) => {
    const pieces = new Pieces((id) => ({ token: tokens[id]!, added: false, special: false, ...entry }), decoder)
    const detokenizer = new Detokenizer(pieces)
    return [...tokens.map((_, id) => detokenizer.push(id)), detokenizer.flush()].join('')
  }
  const sequence = (...decoders: object[]) => ({ type: 'Sequence', decoders })

  test('without any, tokens are words', () => expect(text(null, ['a', 'b'])).toBe('a b'))
  test('Fuse joins', () => expect(text({ type: 'Fuse' }, ['a', 'b'])).toBe('ab'))
  test('Replace replaces in each token, literally', () => {
    expect(text({ type: 'Replace', pattern: { String: '.' }, content: '$&' }, ['a.', '.b'])).toBe('a$&$&b')
  })
  test('Strip strips each token before Fuse, the text after it', () => {
    const strip = { type: 'Strip', content: '_', start: 2, stop: 1 }
    expect(text(strip, ['___a__', '_b', '_', ''])).toBe('_a_b')
    expect(text(sequence({ type: 'Fuse' }, { ...strip, stop: 0 }), ['_', '__a_', '_b'])).toBe('_a__b')
    expect(text(sequence({ type: 'Fuse' }, { ...strip, stop: 0 }), ['_', 'a', '_'])).toBe('a_')
  })
  test('ByteLevel turns characters into bytes, but leaves added tokens alone', () => {
    expect(text({ type: 'ByteLevel' }, ['Ã', '©', 'Ġx'])).toBe('é x')
    expect(text({ type: 'ByteLevel' }, ['Ã©'], { added: true })).toBe('Ã©')
    expect(text({ type: 'ByteLevel' }, ['a b'])).toBe('a b')
  })
  test('sequences may be nested', () => {
    expect(text(sequence(sequence({ type: 'ByteFallback' }), { type: 'Fuse' }), ['<0x41>', '<0x4g>'])).toBe('A<0x4g>')
  })

  const refused: [decoder: unknown, reason: RegExp][] = [
    [{ type: 'WordPiece' }, /decoder "WordPiece" is not supported.*ByteLevel/],
    [{}, /decoder undefined is not supported/],
    [sequence({ type: 'Fuse' }, { type: 'CTC' }), /decoder "CTC"/],
    [{ type: 'Sequence' }, /decoder\.decoders is not a list/],
    [{ type: 'Sequence', decoders: [null] }, /not supported/],
    [{ type: 'Replace', pattern: { Regex: 'a' }, content: '' }, /decoder Replace of the pattern/],
    [{ type: 'Strip', content: 'ab', start: 1, stop: 0 }, /decoder Strip has the settings/],
    [{ type: 'Strip', content: 'a', start: -1, stop: 0 }, /decoder Strip has the settings/],
    [sequence({ type: 'Fuse' }, { type: 'Strip', content: ' ', start: 0, stop: 1 }), /at the end of a text/],
    [sequence(LLAMA_DECODER, { type: 'Strip', content: ' ', start: 1, stop: 0 }), /Strip twice/],
    [sequence({ type: 'Fuse' }, { type: 'Metaspace' }), /decoder Metaspace after Fuse/],
    [sequence({ type: 'ByteLevel' }, { type: 'Metaspace' }), /decoder Metaspace after ByteLevel/],
  ]
  test.each(refused)('%j is refused', (decoder, reason) =>
    expect(() => new Pieces(() => null, decoder)).toThrow(reason),
  )
})

test('time grows with the number of tokens, not faster', () => {
  const ids = Array.from({ length: 1_000_000 }, (_, index) => demoByteIds[index % demoByteIds.length]!)
  const timeOf = (count: number) => {
    const start = performance.now()
    demo.decode(ids.slice(0, count))
    return performance.now() - start
  }
  timeOf(100_000)
  // Ten times the tokens; quadratic work would take a hundred times as long.
  expect(timeOf(1_000_000)).toBeLessThan(40 * Math.max(timeOf(100_000), 5))
})
