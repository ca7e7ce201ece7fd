// Tables of benchmarks on a GPU: what is divided by what, and what happens where something was not measured.
import { describe, expect, it, test } from 'vitest'
import type { LatencyMeasurement } from '../../../bench/device/latency.bench.js'
import { latencyTables, lineThrough } from '../../../bench/device/latency.report.js'
import type { DevicePrefillMeasurement } from '../../../bench/device/prefill.bench.js'
import { report as prefillReport, prefillTable } from '../../../bench/device/prefill.report.js'
import type { DeviceStepMeasurement } from '../../../bench/device/step.bench.js'
import { report as stepReport, stepTables } from '../../../bench/device/step.report.js'
import type { ThroughputMeasurement } from '../../../bench/device/throughput.bench.js'
import { report as throughputReport, throughputTables } from '../../../bench/device/throughput.report.js'
import { report as transformersReport } from '../../../bench/peers/transformers.report.js'
import { summaryOf } from '../../../bench/support/statistics.js'
import { sampleResult } from '../sample.js'

const gpu = { name: 'Fast GPU', driver: '580.1', cuda: '13.0', memoryBytes: 2 ** 37, clockMHz: 1980 }

/** The cells of the row that begins with some text. */
function row(table: string, begin: string): string[] {
  const line = table.split('\n').find((text) => text.startsWith(`| ${begin} |`))
  return (line ?? '')
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim())
}

function step(of: Partial<DeviceStepMeasurement>, ms: number): DeviceStepMeasurement {
  return {
    shape: 'mistral-7b',
    weights: 'full',
    rows: 2048,
    nodes: 1,
    drafts: false,
    ms: summaryOf([ms]),
    verifyMs: summaryOf([ms]),
    commitMs: summaryOf([0]),
    ratio: summaryOf([ms / 4]),
    bytes: 14.4e9,
    bytesPerSecond: 4.5e12,
    floorMs: 3.2,
    ...of,
  }
}

describe('steps', () => {
  const measurements = [
    step({}, 4),
    step({ nodes: 64 }, 4.4),
    step({ drafts: true, floorMs: 3.3 }, 4.2),
    step({ nodes: 64, drafts: true, floorMs: 3.3 }, 4.6),
    step({ rows: 1024 }, 3.9),
  ]

  it('stand beside their floor, larger trees beside the plain step', () => {
    const table = stepTables(measurements)['device-step']!
    expect(row(table, 'mistral-7b, bf16, 2048')).toEqual([
      'mistral-7b, bf16, 2048',
      ...['4000', '4000', '3200', '80%', '3.60', '250', '4400 (1.10x)'],
    ])
    expect(row(table, 'mistral-7b, bf16, 1024').at(-1)).toBe('–')
  })

  it('tell drafting apart', () => {
    const table = stepTables(measurements)['device-step-drafts']!
    expect(row(table, 'mistral-7b, bf16, 2048').slice(1)).toEqual(['200', '5.0%', '100', '1.150'])
    expect(stepTables([step({}, 4)])).not.toHaveProperty('device-step-drafts')
  })

  it('are drawn by rows in the cache', () => {
    const result = sampleResult({ bench: 'device/step', measurements, machine: { isa: 'sm_90a', gpu } })
    const { plots, tables } = stepReport([result])
    expect(Object.keys(plots)).toEqual(['device-step-fast-gpu-sm-90a-mistral-7b-bf16'])
    expect(tables['device-step']).toContain('Fast GPU (driver 580.1, CUDA 13.0), sm_90a')
    expect(tables['device-step']).toContain('device-step-fast-gpu-sm-90a-mistral-7b-bf16.svg')
  })
})

describe('prompts', () => {
  const measurement: DevicePrefillMeasurement = {
    shape: 'mistral-7b',
    weights: 'full',
    kv: 'snapkv',
    tokens: 4096,
    ms: summaryOf([100]),
    compressionMs: summaryOf([0.5]),
    rows: 2048,
    productFlops: 5.7e13,
    attentionFlops: 0.3e13,
    peakBytes: 20e9,
    weightBytes: 14.5e9,
  }

  it('have a rate, and a share of compression', () => {
    const full = { ...measurement, kv: 'full' as const, compressionMs: null, peakBytes: 0 }
    const table = prefillTable([measurement, full])
    expect(row(table, '4096, SnapKV').slice(1)).toEqual([
      ...['0.100', '40960', '600', '5%', '0.500', '0.50%', '2048', '20.0', '14.5'],
    ])
    expect(row(table, '4096, full cache').slice(5, 9)).toEqual(['–', '–', '2048', '–'])
  })

  it('of one length are not drawn', () => {
    const options = { shape: 'mistral-7b', weights: 'full', tokens: [4096], kv: ['snapkv'] }
    const result = sampleResult({ bench: 'device/prefill', options, measurements: [measurement] })
    expect(prefillReport([result]).plots).toEqual({})
    const two = { ...result, options: { ...options, tokens: [4096, 8192] } }
    expect(Object.keys(prefillReport([two]).plots)).toHaveLength(1)
  })
})

const generations: ThroughputMeasurement[] = (
  [
    ['full', false, 1000, 250],
    ['full', true, 500, 90],
    ['snapkv', false, 800, 250],
    ['snapkv', true, 400, 90],
  ] as const
).map(([kv, speculates, generationMs, steps]) => ({
  promptTokens: 4096,
  kv,
  speculates,
  promptMs: 1000,
  compressionMs: kv === 'snapkv' ? 2 : null,
  generationMs,
  tokens: 250,
  steps,
  stepMs: summaryOf([generationMs / steps]),
  rows: kv === 'snapkv' ? 2048 : 4096,
  floorMs: 2,
}))

const throughput = sampleResult({
  bench: 'device/throughput',
  options: {
    shape: 'mistral-7b',
    weights: 'full',
    tokens: 250,
    nodes: 64,
    medusaHeads: 4,
    acceptance: 2.8,
    budget: 2048,
  },
  measurements: generations,
  machine: { isa: 'sm_90a', gpu },
})

describe('generation', () => {
  it('is compared with plain decoding over the full cache', () => {
    const rates = throughputTables(generations)['device-throughput']!
    expect(row(rates, '4096, plain').slice(1, 4)).toEqual(['250', '1.00', '4.00'])
    expect(row(rates, '4096, Medusa + SnapKV').slice(1, 4)).toEqual(['625', '2.50', '1.60'])
  })

  it('is split from its prompt', () => {
    const parts = throughputTables(generations)['device-throughput-parts']!
    expect(row(parts, '4096, plain').slice(1)).toEqual(['1.00', '1.00', '2.00', '50%', '–', '1.00'])
    expect(row(parts, '4096, Medusa + SnapKV').slice(1)).toEqual(['1.00', '0.400', '1.40', '29%', '2.00', '1.43'])
  })

  it('says what was assumed', () => {
    const { tables, plots } = throughputReport([throughput])
    expect(tables['device-throughput']).toContain('2.8 tokens in the mean')
    expect(Object.keys(plots)).toHaveLength(2)
  })
})

describe('small models', () => {
  test('a line goes through its points', () => {
    const { slope, intercept } = lineThrough([1, 6, 12, 24].map((x) => ({ x, y: 30 + 5 * x })))
    expect(slope).toBeCloseTo(5, 9)
    expect(intercept).toBeCloseTo(30, 9)
  })

  it('say what is left without layers', () => {
    const own = (model: 'demo' | 'random', layers: number, ms: number): LatencyMeasurement => ({
      ...{ model, layers, nodes: 1, drafts: false, rows: 512 },
      ...{ ms: summaryOf([ms]), verifyMs: summaryOf([ms]), commitMs: summaryOf([0]) },
    })
    const tables = latencyTables([own('random', 1, 0.035), own('random', 6, 0.06), own('demo', 6, 0.08)])
    expect(row(tables['device-latency-layers']!, 'T = 1').slice(1)).toEqual(['35.0', '60.0', '5.0', '30.0', '50%'])
    expect(row(tables['device-latency']!, 'T = 1')[1]).toBe('80.0')
    expect(latencyTables([own('demo', 6, 0.08)])).not.toHaveProperty('device-latency-layers')
  })
})

describe('PyTorch', () => {
  const result = sampleResult({
    bench: 'peers/transformers',
    options: { torch: '2.11', transformers: '5.17' },
    measurements: [
      { kind: 'copy', bytes: 4e9, ms: 1 },
      { kind: 'product', product: 'o', columns: 4096, depth: 4096, rows: 1, ms: 0.01 },
      { kind: 'product', product: 'o', columns: 4096, depth: 4096, rows: 4096, ms: 0.2 },
      { kind: 'decode', attention: 'sdpa', cache: 'static', way: 'graph', prompt: 4096, ms: 5 },
      { kind: 'prefill', prompt: 4096, ms: 120 },
      { kind: 'failure', what: 'compiling', why: 'took longer than 90 s' },
    ],
    machine: { isa: 'sm_90', gpu },
  })

  it('stands beside generation of the same shape on the same GPU', () => {
    const tables = transformersReport([result], (bench) => (bench === 'device/throughput' ? [throughput] : [])).tables
    const table = tables['peers-transformers']!
    expect(row(table, 'transformers: sdpa, static cache, CUDA graph')[1]).toBe('200.0 (5.00 ms)')
    expect(row(table, 'gorgon: Medusa + SnapKV')[1]).toBe('625.0 (1.60 ms)')
    expect(row(table, '4096')).toEqual(['4096', '0.120', '1.00'])
    expect(table).toContain('compiling: took longer than 90 s')
    expect(row(tables['peers-transformers-libraries']!, 'o 4096 x 4096: cuBLAS, bf16')[1]).toBe('10.0 µs (84%)')
  })

  it('has our products beside the library, of one bandwidth', () => {
    const product = { columns: 4096, depth: 4096, dtype: 'bf16', cache: 'cold', isa: 'sm_90a', bytesPerSecond: 4.5e12 }
    const linear = sampleResult({
      bench: 'kernels/linear',
      measurements: [{ ...product, rows: 1, ns: summaryOf([8e3]), bytes: 2 ** 25 }],
      machine: { isa: 'sm_90a', gpu },
    })
    const { tables } = transformersReport([result], (bench) => (bench === 'kernels/linear' ? [linear] : []))
    const table = tables['peers-transformers-libraries']!
    expect(row(table, 'o 4096 x 4096: cuBLAS, bf16')[1]).toBe('10.0 µs (75%)')
    expect(row(table, 'o 4096 x 4096: gorgon, bf16').slice(1)).toEqual(['8.0 µs (93%)', '–'])
    expect(table).toContain('4.50 TB/s')
  })

  it('stands alone where nothing else was measured', () => {
    const other = { ...throughput, machine: { ...throughput.machine, gpu: { ...gpu, name: 'Other GPU' } } }
    const table = transformersReport([result], (bench) => (bench === 'device/throughput' ? [other] : [])).tables[
      'peers-transformers'
    ]!
    expect(table).not.toContain('gorgon: plain')
    expect(row(table, '4096')[2]).toBe('–')
  })
})
