// What the concurrency benchmark's measurements come to.
import { describe, expect, test } from 'vitest'
import {
  type ConcurrencyMeasurement,
  concurrencyTable,
  report,
  summariseConcurrency,
  variantOf,
} from '../../bench/decode/concurrency.report.js'
import { sampleResult } from './sample.js'

/** Streams with prompts of these lengths that together make `rate` tokens a second for a second. */
function together(
  lengths: readonly number[],
  rate: number,
  of: Partial<ConcurrencyMeasurement> = {},
): ConcurrencyMeasurement {
  return {
    mode: 'plain',
    concurrency: lengths.length,
    round: 0,
    streams: lengths.map((promptTokens) => ({
      promptTokens,
      tokens: 100,
      ttftMs: promptTokens,
      tpotMs: 10,
      tokensPerStep: 1,
    })),
    wallMs: 2000,
    sharedMs: 1000,
    sharedTokens: rate,
    ...of,
  }
}

describe('the summary', () => {
  test('compares with one alone on prompts of the same lengths, in the same round', () => {
    const [alone, four] = summariseConcurrency([
      together([100], 60),
      together([1000], 30),
      together([100, 1000, 100, 1000], 120),
      // The second round met a machine twice as fast.
      together([100], 120, { round: 1 }),
      together([1000], 60, { round: 1 }),
      together([100, 1000, 100, 1000], 240, { round: 1 }),
    ])
    // Half the tokens at 60 and half at 30 a second: 40.
    expect(alone).toMatchObject({ concurrency: 1, xAlone: { n: 2, median: 1 } })
    expect(alone!.tokensPerSecond.median).toBeCloseTo(60, 9)
    expect(four!.xAlone.p10).toBeCloseTo(3, 9)
    expect(four!.xAlone.p90).toBeCloseTo(3, 9)
    expect(four!.endToEnd.median).toBeCloseTo(200, 9)
    expect(four!.ttftMs).toEqual({ p50: 550, p90: 1000 })
  })

  test('modes are kept apart, plain first', () => {
    const summaries = summariseConcurrency([together([9], 50, { mode: 'medusa' }), together([9], 20)])
    expect(summaries.map((one) => [one.mode, one.tokensPerSecond.median])).toEqual([
      ['plain', 20],
      ['medusa', 50],
    ])
  })

  test('rounds in which the streams never all decoded have no rate, and are not counted', () => {
    const [summary] = summariseConcurrency([together([9, 9], 0, { sharedMs: 0 }), together([9, 9], 80, { round: 1 })])
    expect(summary!.tokensPerSecond).toMatchObject({ n: 1, median: 80 })
    expect(summary!.xAlone.n).toBe(0)
    expect(concurrencyTable([summary!])[1]!.slice(0, 4)).toEqual(['2', 'plain', '80.0', '–'])
  })
})

test('the report has a table, a legend and a plot', () => {
  const options = {
    model: 'demo',
    promptLengths: [9],
    tokens: 100,
    rounds: 1,
    tree: 'auto',
    temperature: 0,
    kv: 'full',
  }
  const measurements = [together([9], 50), together([9, 9], 90), together([9], 80, { mode: 'medusa' })]
  const result = sampleResult({ bench: 'decode/concurrency', options, measurements })
  const { tables, plots } = report([result])
  expect(tables['concurrency']).toContain('| 2 | plain | 90.0 | 1.80 | 100 | 10.0 / 10.0 | 9.00 / 9.00 | 1.00 |')
  expect(tables['concurrency']).toContain(
    '![tokens per second by generations at once](bench/plots/concurrency-fast-avx512-2t.svg)',
  )
  expect(plots['concurrency-fast-avx512-2t']).toContain('>generations at once</text>')
  expect(variantOf(result)).not.toBe(variantOf({ ...result, options: { ...options, tree: '8' } }))
})
