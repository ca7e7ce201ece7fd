// A result as a benchmark writes it, of a machine that does not exist.
import type { BenchResult } from '../../bench/support/results.js'

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
