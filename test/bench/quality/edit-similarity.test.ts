// Edit similarity: LongBench's choice of a line, and the ratio of thefuzz.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  completedLine,
  editSimilarity,
  fuzzRatio,
  isCodeLine,
  isLineComplete,
} from '../../../bench/quality/edit-similarity.js'

/** Every subsequence tried. */
function longestCommon(a: string, b: string): number {
  if (a === '' || b === '') return 0
  if (a[0] === b[0]) return 1 + longestCommon(a.slice(1), b.slice(1))
  return Math.max(longestCommon(a.slice(1), b), longestCommon(a, b.slice(1)))
}

describe('fuzzRatio', () => {
  it('gives the values thefuzz documents', () => {
    expect(fuzzRatio('this is a test', 'this is a test!')).toBe(97)
    expect(fuzzRatio('fuzzy wuzzy was a bear', 'wuzzy fuzzy was a bear')).toBe(91)
    expect(fuzzRatio('fuzzy was a bear', 'fuzzy fuzzy was a bear')).toBe(84)
  })

  it('counts an insertion and a deletion for a replacement', () => {
    expect(fuzzRatio('kitten', 'sitting')).toBe(62) // i t t n: 8 of 13
    expect(fuzzRatio('ab', 'cd')).toBe(0)
  })

  it('rounds halves to the even number', () => {
    expect(fuzzRatio('a', `a${'b'.repeat(14)}`)).toBe(12) // 12.5
    expect(fuzzRatio('aaa', `aaa${'b'.repeat(10)}`)).toBe(38) // 37.5
  })

  it('is 0 with nothing, and 100 between two of it', () => {
    expect([fuzzRatio('', 'a'), fuzzRatio('a', ''), fuzzRatio('', '')]).toEqual([0, 0, 100])
  })

  it('counts characters, not their halves', () => {
    expect(fuzzRatio('\u{1f600}', '\u{1f601}')).toBe(0)
  })

  it('is twice the longest common subsequence over both lengths, whichever comes first', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 7 })
    fc.assert(
      fc.property(text, text, (a, b) => {
        const ratio = fuzzRatio(a, b)
        expect(ratio).toBe(fuzzRatio(b, a))
        if (a === b || a === '' || b === '') return
        expect(Math.abs(ratio - (200 * longestCommon(a, b)) / (a.length + b.length))).toBeLessThanOrEqual(0.5)
      }),
    )
  })
})

describe('the line that is scored', () => {
  it('is the first one of code', () => {
    expect(completedLine('\n\n  return x\nmore')).toBe('  return x')
    expect(completedLine('// why\n# what\n```ts\nreturn x')).toBe('return x')
    expect(completedLine('a // why\nb')).toBe('b')
    expect(completedLine('// only\n`this`')).toBe('')
    expect(completedLine('')).toBe('')
  })

  it('keeps its indentation', () => {
    expect(editSimilarity('    x\n', 'x')).toBe(0.33)
    expect(editSimilarity('  let a = 1\nlet b', '  let a = 1')).toBe(1)
  })

  it('is complete when nothing that follows can change it', () => {
    expect(isLineComplete('return x')).toBe(false)
    expect(isLineComplete('return x\n')).toBe(true)
    expect(isLineComplete('\n\n')).toBe(false)
    expect(isLineComplete('// why\n')).toBe(false)
    expect(isLineComplete('// why\nreturn x\n')).toBe(true)
    fc.assert(
      fc.property(fc.string(), fc.string(), (text, more) => {
        if (isLineComplete(text)) expect(completedLine(text + more)).toBe(completedLine(text))
      }),
    )
  })

  it('has no back-tick, # or //', () => {
    expect(['a', 'a / b', 'a `b`', '#a', 'a // b'].map(isCodeLine)).toEqual([true, true, false, false, false])
  })
})
