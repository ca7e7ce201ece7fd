import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Detokenizer, Pieces } from '../../src/text/detokenizer.js'
import { TextStream, type TextStreamOptions } from '../../src/text/text-stream.js'
import { loadTokenizer } from '../../src/text/tokenizer.js'
import { failure } from '../support/errors.js'
import { byteToken, DEMO } from './vocabularies.js'

/** Token id: text. Bytes too, so that characters come in parts. */
const VOCABULARY = [
  'a',
  'b',
  'c',
  'ab',
  'ba',
  'aab',
  'abc',
  '\n',
  '\n\n',
  '🎉',
  '',
  ...[0xf0, 0x9f, 0x8e, 0x89, 0xc3, 0xa9].map(byteToken),
]
const pieces = new Pieces(
  (id) => (id in VOCABULARY ? { token: VOCABULARY[id]!, added: false, special: false } : null),
  {
    type: 'Sequence',
    decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }],
  },
)
const ids = (...texts: string[]) => texts.map((text) => VOCABULARY.indexOf(text))

function streamOf(options: Partial<TextStreamOptions> = {}): TextStream {
  return new TextStream({
    detokenizer: new Detokenizer(pieces),
    stopStrings: [],
    stopIds: new Set(),
    maxTokens: 1000,
    ...options,
  })
}

interface Outcome {
  readonly text: string
  readonly count: number
  readonly finish: string | null
  readonly stopString: string | null
}

/** The whole stream, tokens pushed in runs of the given lengths, then flushed. */
function run(
  stream: TextStream,
  tokens: readonly number[],
  lengths: readonly number[],
): Outcome & { readonly texts: string[] } {
  const texts: string[] = []
  let count = 0
  for (let at = 0, turn = 0; at < tokens.length; turn++) {
    const length = lengths[turn % lengths.length]!
    const pieces = stream.push(tokens.slice(at, at + length))
    texts.push(...pieces)
    count += pieces.length
    at += length
  }
  texts.push(stream.flush())
  return { texts, text: texts.join(''), count, finish: stream.finish, stopString: stream.stopString }
}

/** The same by definition: token by token, the text so far decoded anew and searched at every character. */
function oracle(
  tokens: readonly number[],
  stops: readonly string[],
  stopIds: ReadonlySet<number>,
  maxTokens: number,
): Outcome {
  const decode = (run: readonly number[], end: boolean) => {
    const detokenizer = new Detokenizer(pieces)
    const text = run.map((id) => detokenizer.push(id)).join('')
    return end ? text + detokenizer.flush() : text
  }
  const cut = (text: string) => {
    const characters = [...text]
    for (let end = 1; end <= characters.length; end++) {
      const read = characters.slice(0, end).join('')
      const [stop] = stops.filter((each) => read.endsWith(each)).sort((one, other) => other.length - one.length)
      if (stop !== undefined) return { text: read.slice(0, read.length - stop.length), stopString: stop }
    }
    return null
  }
  const ended = (count: number, taken: readonly number[], finish: string | null): Outcome => {
    const text = decode(taken, true)
    const match = cut(text)
    return match === null ? { text, count, finish, stopString: null } : { ...match, count, finish: 'stop' }
  }
  for (let count = 1; count <= tokens.length; count++) {
    const taken = tokens.slice(0, count)
    if (stopIds.has(taken.at(-1)!)) return ended(count, taken.slice(0, -1), 'stop')
    const match = cut(decode(taken, false))
    if (match !== null) return { ...match, count, finish: 'stop' }
    if (count === maxTokens) return ended(count, taken, 'length')
  }
  return ended(tokens.length, tokens, null)
}

const tokenRuns = fc.array(fc.nat(VOCABULARY.length), { maxLength: 25 })
const stopLists = fc.array(
  fc.string({ unit: fc.constantFrom('a', 'b', 'c', '\n', '🎉', 'é', '\uFFFD'), minLength: 1, maxLength: 5 }),
  { maxLength: 3 },
)
const runLengths = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 })

describe('for any tokens, stops and runs', () => {
  test('the outcome is the one of the definition, however tokens are grouped', () => {
    fc.assert(
      fc.property(
        tokenRuns,
        stopLists,
        fc.uniqueArray(fc.nat(5), { maxLength: 1 }),
        fc.integer({ min: 1, max: 30 }),
        runLengths,
        (tokens, stopStrings, stopIds, maxTokens, lengths) => {
          const stream = streamOf({ stopStrings, stopIds: new Set(stopIds), maxTokens })
          const { texts: _, ...outcome } = run(stream, tokens, lengths)
          expect(outcome).toEqual(oracle(tokens, stopStrings, new Set(stopIds), maxTokens))
          expect(stream.finished).toBe(true)
        },
      ),
      { numRuns: 2000 },
    )
  })

  test('nothing of a stop string is emitted, and what is emitted is never taken back', () => {
    fc.assert(
      fc.property(tokenRuns, stopLists, runLengths, (tokens, stopStrings, lengths) => {
        const { text, texts } = run(streamOf({ stopStrings }), tokens, lengths)
        for (const stop of stopStrings) expect(text).not.toContain(stop)
        for (const each of texts) expect(each).not.toMatch(/\p{Surrogate}/u)
      }),
      { numRuns: 1000 },
    )
  })
})

describe('stop strings', () => {
  test('are found across tokens, and only what could begin one is held back', () => {
    const stream = streamOf({ stopStrings: ['abc'] })
    expect(stream.push(ids('b', 'a'))).toEqual(['b', ''])
    expect(stream.push(ids('a'))).toEqual(['a'])
    expect(stream.push(ids('b'))).toEqual([''])
    expect(stream.push(ids('a'))).toEqual(['ab'])
    expect(stream.push(ids('b'))).toEqual([''])
    expect(stream.push(ids('c'))).toEqual([''])
    expect([stream.finished, stream.finish, stream.stopString]).toEqual([true, 'stop', 'abc'])
    expect(stream.flush()).toBe('')
  })

  test('that complete in the middle of a run leave the rest of it untaken', () => {
    const stream = streamOf({ stopStrings: ['\n\n'] })
    expect(stream.push(ids('a', '\n', '\n\n', 'b', 'c'))).toEqual(['a', '', ''])
    expect(stream.push(ids('a'))).toEqual([])
  })

  test('that complete inside a token end the text before it, and the token is taken', () => {
    expect(streamOf({ stopStrings: ['b'] }).push(ids('aab', 'c'))).toEqual(['aa'])
  })

  test('may share beginnings and ends: the first to complete wins, then the longest', () => {
    const outcome = (stopStrings: string[], text: string[]) => {
      const stream = streamOf({ stopStrings })
      return [stream.push(ids(...text)).join(''), stream.stopString]
    }
    expect(outcome(['abc', 'ab'], ['abc'])).toEqual(['', 'ab'])
    expect(outcome(['b', 'ab'], ['c', 'ab'])).toEqual(['c', 'ab'])
    expect(outcome(['aba', 'bac'], ['a', 'b', 'b', 'a', 'c'])).toEqual(['ab', 'bac'])
    expect(outcome(['abab', 'ba'], ['a', 'b', 'ab'])).toEqual(['a', 'ba'])
    expect(outcome(['ab', 'ab'], ['ab'])).toEqual(['', 'ab'])
  })

  test('that never complete are text after all', () => {
    const stream = streamOf({ stopStrings: ['abc'] })
    expect(stream.push(ids('ab'))).toEqual([''])
    expect([stream.flush(), stream.finished, stream.finish]).toEqual(['ab', true, null])
    expect([stream.flush(), stream.push(ids('a'))]).toEqual(['', []])
  })

  test('match whole characters only', () => {
    const stream = streamOf({ stopStrings: ['\uDF89', '\uD83C'] })
    expect(stream.push(ids('🎉')).join('') + stream.flush()).toBe('🎉')
  })

  test('may be spelled in bytes', () => {
    const stream = streamOf({ stopStrings: ['é'] })
    expect(stream.push(ids('a', byteToken(0xc3), byteToken(0xa9), 'b'))).toEqual(['a', '', ''])
  })
})

describe('the end of the text', () => {
  test('a stop id is taken but adds no text, and what was held back comes out', () => {
    const stream = streamOf({ stopStrings: ['abc'], stopIds: new Set([2]) })
    expect(stream.push(ids('ab', byteToken(0xf0), 'c', 'a'))).toEqual(['', '', 'ab\uFFFD'])
    expect([stream.finish, stream.stopString, stream.flush()]).toEqual(['stop', null, ''])
  })

  test('the token limit ends it, held text included', () => {
    const stream = streamOf({ stopStrings: ['abc'], maxTokens: 3 })
    expect(stream.push(ids('c', 'a', 'b', 'c'))).toEqual(['c', '', 'ab'])
    expect(stream.finish).toBe('length')
  })

  test('a stop at the limit is a stop', () => {
    const byId = streamOf({ stopIds: new Set([1]), maxTokens: 2 })
    byId.push(ids('a', 'b'))
    const byString = streamOf({ stopStrings: ['ab'], maxTokens: 2 })
    byString.push(ids('a', 'b'))
    expect([byId.finish, byString.finish]).toEqual(['stop', 'stop'])
  })

  test('no tokens are taken for a limit of none', () => {
    const stream = streamOf({ maxTokens: 0 })
    expect([stream.finished, stream.finish, stream.push([0])]).toEqual([true, 'length', []])
  })
})

describe('without a tokenizer', () => {
  test('texts are empty, and stop ids and the limit work', () => {
    const stream = streamOf({ detokenizer: null, stopIds: new Set([7]) })
    expect(stream.push(Int32Array.of(5, 6))).toEqual(['', ''])
    expect(stream.push(Int32Array.of(7, 8))).toEqual([''])
    expect([stream.finish, stream.flush()]).toEqual(['stop', ''])
  })

  test('stop strings are ERR_OPTION', () =>
    failure(() => streamOf({ detokenizer: null, stopStrings: ['a'] }), 'ERR_OPTION', /no tokenizer/))
})

test('an empty stop string is ERR_OPTION', () =>
  failure(() => streamOf({ stopStrings: ['a', ''] }), 'ERR_OPTION', /empty string/))

test('real text streams out as it was', async () => {
  const demo = (await loadTokenizer(DEMO))!
  const text = 'const π = 3.14 // naïve café 🎉\n'.repeat(20)
  const tokens = await demo.encode(text, { addSpecial: false })
  const stream = streamOf({ detokenizer: demo.detokenizer(), stopStrings: ['never\n'] })
  const streamed = [...tokens].flatMap((token) => stream.push([token]))
  expect(streamed.join('') + stream.flush()).toBe(text)
  await demo.close()
})
