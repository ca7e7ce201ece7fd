// What a reader sees of quality/int8.
import { describe, expect, test } from 'vitest'
import type { Int8Measurement } from '../../../bench/quality/int8.bench.js'
import { int8Table, report, variantOf } from '../../../bench/quality/int8.report.js'
import type { BenchResult } from '../../../bench/support/results.js'
import { sampleResult } from '../sample.js'

const text = (
  name: string,
  rows: number,
  [error, divergence, agreements, loss]: [number, number, number, number],
  [tokens, same, tokensPerStep]: [number, number, number],
) => ({ text: name, logits: { rows, error, divergence, agreements, loss }, greedy: { tokens, same, tokensPerStep } })

// Losses weigh by tokens that have a next one: 10 and 30.
const MEASUREMENTS: Int8Measurement[] = [
  {
    arm: 'f32',
    weightBytes: 4 * 2 ** 20,
    headsBytes: 2 ** 20,
    texts: [text('a.ts', 11, [0, 0, 11, 2], [8, 8, 2]), text('b.ts', 31, [0, 0, 31, 3], [8, 8, 3])],
  },
  {
    arm: 'int8',
    weightBytes: 2 ** 20,
    headsBytes: 2 ** 18,
    texts: [text('a.ts', 11, [0.01, 0.1, 10, 2.2], [8, 8, 1]), text('b.ts', 31, [0.03, 0.2, 29, 2.8], [8, 2, 3])],
  },
]

type Result = Parameters<typeof int8Table>[0]
const result = (model: string, date: string): Result =>
  sampleResult({
    bench: 'quality/int8',
    date,
    options: { model, texts: 2, tokens: 31, greedy: 8, tree: '16' },
    measurements: MEASUREMENTS,
  }) as BenchResult as Result

describe('the table', () => {
  test('compares every form of the weights with the first', () => {
    const [, , f32, int8] = int8Table(result('demo', '2026-01-02T00:00:00Z'))
      .split('\n')
      .map((line) => line.split('|').map((cell) => cell.trim()))
    expect(f32).toEqual(['', 'f32', '5.0', '', '', '', '2.7500', '', '', '', '2.40', ''])
    // Losses of 2.2 and 2.8 are 2.65: a perplexity of e^-0.1 of f32's. One text of two is the same; the other parts after 2 tokens.
    const expected = ['int8', '1.3', '2.00 (1.20–2.80)', '0.17', '92.86%', '2.6500', '-9.52%', '50%', '5 (3–7)', '1.50']
    expect(int8).toEqual(['', ...expected, ''])
  })

  test('is shown once for each model, the newest', () => {
    const results = [
      result('demo', '2026-01-03T00:00:00Z'),
      result('other', '2026-01-02T00:00:00Z'),
      result('demo', '2026-01-01T00:00:00Z'),
    ]
    const { int8 } = report(results).tables
    expect(int8.match(/2026-01-0\d/g)).toEqual(['2026-01-03', '2026-01-02'])
    expect(int8).toContain('2 texts of at most 31 tokens, each continued greedily by 8 with a tree of 16;')
    expect(variantOf(results[1]!)).toBe('other')
  })
})
