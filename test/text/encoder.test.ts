import { Tokenizer as Library } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { openEncoder } from '../../src/text/encoder.js'
import { sentencePiece } from './vocabularies.js'

const SEPARATOR_TEXT = fc.string({
  unit: fc.constantFrom(' ', 'a', 'b', 'c', '.', '\n', 'é', '🎉', '▁', '<s>'),
  maxLength: 40,
})

function encoderOf(file: unknown) {
  return openEncoder(JSON.stringify(file))
}

/** Ids by the library alone, with the file as it is. */
function libraryIds(file: object, text: string): number[] {
  return new Library(file, {}).encode(text).ids
}

describe('a vocabulary without a pre-tokenizer is encoded word by word', () => {
  const variants: Record<string, object> = {
    'with the separators put in by the normalizer': sentencePiece(),
    'with a Metaspace that does not split': sentencePiece({
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
    }),
    'unless a merge crosses words': sentencePiece(
      {},
      {
        merges: [
          ['b', '▁'],
          ['a', 'b'],
          ['▁', 'a'],
        ],
      },
    ),
    'unless a token taken whole crosses words': sentencePiece(
      {},
      { ignore_merges: true, vocab: { ...sentencePiece().model.vocab, '▁a▁b': 999 } },
    ),
  }
  for (const [name, file] of Object.entries(variants)) {
    test(`${name}: same ids`, () => {
      const encoder = encoderOf(file)
      fc.assert(
        fc.property(SEPARATOR_TEXT, (text) => {
          expect([...encoder.encode(text, true)]).toEqual(libraryIds(file, text))
        }),
      )
    })
  }

  test('a text that is one token stays one', () => {
    const vocab = { ...sentencePiece().model.vocab, '▁a▁b': 999 }
    expect([...encoderOf(sentencePiece({}, { ignore_merges: true, vocab })).encode('a b', false)]).toEqual([999])
  })
})

describe('settings the library reads otherwise than they are meant', () => {
  const byteLevel = (preTokenizers: unknown) => {
    const letters = ['Ġ', 'a', '1', '2', 'Ù', '£', '¤', 'ï', '»', '¿', '12', 'Ġa', 'Ù£', 'Ù£Ù¤', 'ï»¿', 'Ġï»¿', 'ĠĠ']
    return {
      pre_tokenizer: preTokenizers,
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(letters.map((letter, id) => [letter, id])),
        merges: ['Ġ a', '1 2', 'Ù £', 'Ù ¤', 'Ù£ Ù¤', 'ï »', 'ï» ¿', 'Ġ ï»¿', 'Ġ Ġ'],
      },
    }
  }
  const tokens = (file: ReturnType<typeof byteLevel>, text: string) => {
    const { vocabulary, encode } = encoderOf(file)
    return [...encode(text, false)].map((id) => vocabulary.tokens[id])
  }

  test('Digits means every number character, one by one or in runs', () => {
    const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }
    const digits = (individual_digits: boolean) =>
      byteLevel({ type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits }, bytes] })
    expect(tokens(digits(true), '12')).toEqual(['1', '2'])
    expect(tokens(digits(false), '12')).toEqual(['12'])
    expect(tokens(digits(true), '٣')).toEqual(['Ù£'])
    expect(tokens(digits(false), 'a12')).toEqual(['a', '12'])
  })

  test('ByteLevel splits at white space, which a byte order mark is not', () => {
    const file = byteLevel({ type: 'ByteLevel', add_prefix_space: false, use_regex: true })
    expect(tokens(file, ' \uFEFF')).toEqual(['Ġï»¿'])
    expect(tokens(file, '  a')).toEqual(['Ġ', 'Ġa'])
  })

  test('ByteLevel puts a space before a text that has none, and by default', () => {
    expect(tokens(byteLevel({ type: 'ByteLevel', add_prefix_space: true }), 'a')).toEqual(['Ġa'])
    expect(tokens(byteLevel({ type: 'ByteLevel' }), ' a')).toEqual(['Ġa'])
    expect(tokens(byteLevel({ type: 'ByteLevel', add_prefix_space: false }), 'a')).toEqual(['a'])
  })

  test('Metaspace splits unless told not to, and knows its older setting', () => {
    const metaspace = (settings: object) =>
      sentencePiece({ normalizer: null, pre_tokenizer: { type: 'Metaspace', replacement: '▁', ...settings } })
    const spell = (settings: object, text: string) => {
      const { vocabulary, encode } = encoderOf(metaspace(settings))
      return [...encode(text, false)].map((id) => vocabulary.tokens[id])
    }
    // Split, no piece has two separators.
    expect(spell({}, 'a  a')).toEqual(['▁a', '▁', '▁a'])
    expect(spell({ split: false }, 'a  a')).toEqual(['▁a', '▁▁', 'a'])
    expect(spell({ add_prefix_space: false }, 'a')).toEqual(['a'])
    expect(spell({ add_prefix_space: true }, 'a')).toEqual(['▁a'])
  })
})

describe('a file is refused, with the reason', () => {
  const base = sentencePiece()
  const cases: [name: string, file: unknown, reason: RegExp][] = [
    ['that is a list', [], /the file is not an object/],
    ['without a model', { ...base, model: undefined }, /model is not an object/],
    [
      'with an unknown model',
      { ...base, model: { type: 'WordLevel', vocab: {} } },
      /model "WordLevel" is not supported.*BPE/,
    ],
    ['with a list for a vocabulary', sentencePiece({}, { vocab: [] }), /model\.vocab is not an object/],
    ['with an id that is a text', sentencePiece({}, { vocab: { a: '1' } }), /token "a" has the id "1"/],
    ['with a huge id', sentencePiece({}, { vocab: { a: 1e12 } }), /token "a" has the id 1000000000000/],
    ['with a negative id', sentencePiece({}, { vocab: { a: -1 } }), /token "a" has the id -1/],
    ['without merges', sentencePiece({}, { merges: null }), /model\.merges is not a list/],
    ['with a merge of one', sentencePiece({}, { merges: ['ab'] }), /model\.merges has the entry "ab"/],
    ['with a merge of numbers', sentencePiece({}, { merges: [[1, 2]] }), /model\.merges has the entry \[1,2\]/],
    ['with a subword prefix', sentencePiece({}, { continuing_subword_prefix: '##' }), /continuing_subword_prefix/],
    ['with a piece without a score', { ...base, model: { type: 'Unigram', vocab: [['a']] } }, /entry \["a"\]/],
    ['with no pieces', { ...base, model: { type: 'Unigram', vocab: [] } }, /not a list of pieces/],
    [
      'with Unigram byte fallback',
      { ...base, model: { type: 'Unigram', vocab: [['a', 0]], byte_fallback: true } },
      /byte_fallback/,
    ],
    ['with added tokens that are no list', { ...base, added_tokens: {} }, /added_tokens is not a list/],
    ['with an added token without text', { ...base, added_tokens: [{ id: 1 }] }, /content undefined/],
    ['with an added token without id', { ...base, added_tokens: [{ content: 'x' }] }, /token "x" has the id undefined/],
    [
      'with an added token of whole words',
      { ...base, added_tokens: [{ id: 1, content: 'x', single_word: true }] },
      /single_word/,
    ],
    [
      'with an unknown normalizer',
      { ...base, normalizer: { type: 'Precompiled' } },
      /normalizer "Precompiled" is not supported/,
    ],
    ['with an unknown pre-tokenizer', { ...base, pre_tokenizer: { type: 'Whitespace' } }, /pre_tokenizer "Whitespace"/],
    [
      'with one inside a sequence',
      { ...base, pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Punctuation' }] } },
      /pre_tokenizer "Punctuation"/,
    ],
    [
      'with a sequence of nothing',
      { ...base, normalizer: { type: 'Sequence' } },
      /normalizer\.normalizers is not a list/,
    ],
    [
      'with a split that keeps delimiters with a neighbour',
      {
        ...base,
        pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithNext', invert: false },
      },
      /Split with behavior "MergedWithNext"/,
    ],
    ['with an odd separator', { ...base, pre_tokenizer: { type: 'Metaspace', replacement: '__' } }, /replacement "__"/],
    [
      'with a regular expression that is none',
      { ...base, pre_tokenizer: { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated', invert: false } },
      /regular expression/,
    ],
    ['with an unknown post-processor', { ...base, post_processor: { type: 'Mystery' } }, /post_processor "Mystery"/],
    [
      'with a template token that stands for another',
      {
        ...base,
        post_processor: { ...(base.post_processor as object), special_tokens: { '<s>': { tokens: ['</s>'] } } },
      },
      /special token "<s>" stands for \["<\/s>"\]/,
    ],
  ]
  for (const [name, file, reason] of cases) {
    test(name, () => expect(() => encoderOf(file)).toThrow(reason))
  }

  test('that is not JSON', () => {
    expect(() => openEncoder('{"model": {')).toThrow(/not JSON/)
    expect(() => openEncoder('')).toThrow(/not JSON/)
  })
})

test('the optional parts of a file may be absent', () => {
  const { model } = sentencePiece()
  const encoder = encoderOf({ model })
  expect(encoder.decoder).toBeNull()
  expect([...encoder.encode('ab', true)].map((id) => encoder.vocabulary.tokens[id])).toEqual(['ab'])
})

test('text without an id is an error where the vocabulary has no unknown token', () => {
  const encoder = encoderOf({ model: { type: 'Unigram', unk_id: null, vocab: [['a', -1]] } })
  expect([...encoder.encode('aa', false)]).toEqual([0, 0])
  expect(() => encoder.encode('ab', false)).toThrow(/no token id/)
})
