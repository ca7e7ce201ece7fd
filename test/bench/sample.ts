// Results as benchmarks write them, of a machine that does not exist.

import type { BenchResult } from '../../bench/support/results.js'
import type { Arm, DecodeRun } from '../../src/bench/decode.js'

interface Sample extends Partial<Omit<BenchResult, 'machine'>> {
  readonly date?: string
  readonly machine?: Partial<BenchResult['machine']>
}

export function sampleResult({
  bench = 'area/name',
  command = `npm run bench -- ${bench}`,
  date = '2026-01-02T03:04:05.678Z',
  options = {},
  measurements = [],
  machine = {},
}: Sample = {}): BenchResult {
  return {
    schema: 1,
    bench,
    command,
    machine: {
      cpu: 'Fast(R) CPU @ 9.99GHz',
      cores: 4,
      threads: 2,
      isa: 'avx512',
      gpu: null,
      memoryBytes: 2 ** 34,
      os: 'linux 6.0 x64',
      node: 'v20.0.0',
      commit: '0123456789abcdef',
      dirty: false,
      date,
      ...machine,
    },
    options,
    measurements,
  }
}

/** A run of the decode benchmark with the numbers that matter to a test. */
export function decodeRun(arm: Arm, round: number, of: Partial<DecodeRun> = {}): DecodeRun {
  return {
    arm,
    round,
    promptTokens: 512,
    tokens: 101,
    ttftMs: 100,
    prefillMs: 90,
    decodeMs: 1000,
    tpotMs: 10,
    tokensPerSecond: 100,
    gapMs: { p50: 1, p90: 2, p99: 3, max: 4 },
    tree: 'auto',
    nodes: 8,
    gate: 'speculated',
    plainSteps: 0,
    steps: 101,
    tokensPerStep: 1,
    byDepth: [],
    keptTokens: 512,
    cacheBytes: 2 ** 20,
    fullCacheBytes: 2 ** 20,
    peakRssBytes: 2 ** 27,
    ...of,
  }
}
