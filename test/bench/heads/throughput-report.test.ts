// Tables of training heads on a GPU: what is divided by what, and what happens where something was not measured.
import { describe, expect, it, test } from 'vitest'
import { report, type TrainingMeasurement, throughputTables } from '../../../bench/heads/throughput.report.js'
import { summaryOf } from '../../../bench/support/statistics.js'
import { sampleResult } from '../sample.js'

const options = {
  shapes: ['mistral-7b'],
  projections: ['shared', 'private'],
  texts: 2,
  tokens: 2000,
  medusaHeads: 4,
  blocks: 1,
  rounds: 1,
  seconds: 1,
  backend: 'cuda',
  isa: 'auto',
  quick: false,
  peers: { torch: '2.11', transformers: '5.17' },
} as const

const own: TrainingMeasurement = {
  kind: 'gorgon',
  shape: 'mistral-7b',
  projection: 'shared',
  frozenMs: summaryOf([100]),
  headsMs: summaryOf([20]),
  bothMs: summaryOf([120]),
  updateMs: summaryOf([5]),
  stepMs: summaryOf([125]),
  frozenFlops: 50e12,
  headsFlops: 10e12,
  updateBytes: 3e9,
  packBytes: 1e9,
  flopsPerSecond: 1000e12,
  bytesPerSecond: 4e12,
  modelBytes: 14.5e9,
  trainerBytes: 2e9,
  peakBytes: 0,
}
const theirs: TrainingMeasurement = {
  kind: 'pytorch',
  way: 'eager',
  shape: 'mistral-7b',
  projection: 'shared',
  headsMs: 45,
  updateMs: 5,
  peakBytes: 3e9,
}

/** The cells of the rows that begin with some text. */
const rows = (table: string, begin: string): string[][] =>
  table
    .split('\n')
    .filter((line) => line.startsWith(`| ${begin} |`))
    .map((line) =>
      line
        .split('|')
        .slice(2, -1)
        .map((cell) => cell.trim()),
    )

describe('training heads', () => {
  test('steps stand beside the frozen pass and their floors, in tokens per second', () => {
    const table = throughputTables({ options, measurements: [own] })['heads-throughput']!
    const [rates, parts] = rows(table, 'mistral-7b, shared')
    // 4000 tokens; floors of 50 ms, and of 60 ms and 1 ms for bytes.
    expect(rates).toEqual(['32000', '40000', '80000', '65574', '49%', '14.5', '2.0', '–'])
    expect(parts).toEqual(['100', '500', '20.0', '500', '120', '5.00', '0.600'])
    expect(table).toContain(
      'products at 1000 TFLOP/s, bytes of updates and of laying out what they changed at 4.00 TB/s',
    )
  })

  test("whole steps stand beside PyTorch's of the same shape and projection", () => {
    const frozen = { kind: 'pytorch-frozen', shape: 'mistral-7b', ms: 200 } as const
    const measurements = [own, { ...own, projection: 'private' } as const, frozen, theirs]
    const table = throughputTables({ options, measurements })['heads-throughput-pytorch']!
    expect(rows(table, 'mistral-7b, shared')).toEqual([
      ['125', '120 + 5.00', '250', '200 + 45.0 + 5.00', '2.00', '3.0'],
    ])
    expect(rows(table, 'mistral-7b, private')).toEqual([['125', '120 + 5.00', '–', '–', '–', '–']])
    expect(table).toContain('torch 2.11, transformers 5.17')
    expect(table).not.toContain('Not measured')
  })

  test('what failed there is said', () => {
    const failure = { kind: 'failure', what: 'mistral-7b, shared, compiled', why: 'no compiler' } as const
    const table = throughputTables({ options, measurements: [own, failure] })['heads-throughput-pytorch']!
    expect(table).toContain('Not measured:\n- mistral-7b, shared, compiled: no compiler\n')
  })

  it('is not compared where nothing else ran', () => {
    const result = sampleResult({
      bench: 'heads/throughput',
      options: { ...options, peers: null },
      measurements: [own],
    })
    expect(report([result]).tables['heads-throughput-pytorch']).toBe('')
    expect(report([result]).tables['heads-throughput']).toContain('| mistral-7b, shared | 32000 |')
  })

  it('refuses measurements of another version', () => {
    const result = sampleResult({ bench: 'heads/throughput', options, measurements: [{ ...own, stepMs: 5 }] })
    expect(() => report([result])).toThrow(/stepMs/)
  })
})
