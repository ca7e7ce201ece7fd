// Tables and plots of the kernel, step and memory-bound benchmarks, from results that do not change.
import { describe, expect, it } from 'vitest'
import type { LinearMeasurement } from '../../../bench/kernels/linear.bench.js'
import { report as reportLinear } from '../../../bench/kernels/linear.report.js'
import type { OperationsMeasurement } from '../../../bench/kernels/operations.bench.js'
import { report as reportOperations } from '../../../bench/kernels/operations.report.js'
import type { MemoryBoundMeasurement } from '../../../bench/memory-bound/memory-bound.bench.js'
import { report as reportMemoryBound } from '../../../bench/memory-bound/memory-bound.report.js'
import type { StepMeasurement } from '../../../bench/step/step.bench.js'
import { report as reportStep } from '../../../bench/step/step.report.js'
import { plotName } from '../../../bench/support/report.js'
import { sampleResult } from '../sample.js'

const at = (median: number) => ({ n: 3, median, p10: median * 0.9, p90: median * 1.1 })

describe('the report of the packed product', () => {
  const linear = (rows: number, isa: string, ns: number | null): LinearMeasurement => ({
    shape: 'demo',
    product: 'down',
    columns: 384,
    depth: 1024,
    dtype: 'bf16',
    cache: 'cold',
    rows,
    isa,
    ns: ns === null ? null : at(ns),
    bytes: 1e6,
    flops: rows * 1e6,
    bytesPerSecond: 20e9,
    flopsPerSecond: 1e12,
    floorNs: 50_000,
    bound: 'memory',
  })
  const measurements = [
    linear(1, 'portable', 1e6),
    linear(1, 'amx', 62_500),
    linear(64, 'portable', null),
    linear(64, 'amx', 80_000),
  ]
  const sample = sampleResult({ bench: 'kernels/linear', measurements })
  const { tables, plots } = reportLinear([sample])
  const name = plotName('kernels-linear', sample)

  it('has the bandwidth of one row beside what can be read', () => {
    expect(tables['kernels-linear-bandwidth']).toContain('| demo down bf16 | 1.0 | 20.0 | 1.00 (5%) | 16.0 (80%) |')
  })
  it('has the cost of rows over that of one, and nothing where nothing was measured', () => {
    expect(tables['kernels-linear-rows']).toContain('| demo bf16 cold, portable | 1.00 | – |')
    expect(tables['kernels-linear-rows']).toContain('| demo bf16 cold, amx | 1.00 | 1.28 |')
  })
  it('has the operations of many rows beside the peak', () => {
    expect(tables['kernels-linear-peak']).toContain('| demo down bf16 | – | 0.800 (80%) |')
    expect(tables['kernels-linear-peak']).toContain('| multiply-adds in registers | 1.00 | 1.00 |')
  })
  it('draws a line for each instruction set', () => {
    expect(tables['kernels-linear-rows']).toContain(`](bench/plots/${name}.svg)`)
    expect(plots[name]?.match(/<polyline/g)).toHaveLength(2)
    expect(plots[name]).not.toContain('NaN')
  })
  it('draws no plot where nothing was beyond the caches', () => {
    const hot = measurements.map((m) => ({ ...m, cache: 'hot' as const }))
    const rendered = reportLinear([sampleResult({ bench: 'kernels/linear', measurements: hot })])
    expect(rendered.plots).toEqual({})
    expect(rendered.tables['kernels-linear-rows']).not.toContain('.svg')
  })
})

describe('the report of operations', () => {
  const time = (isa: string, ns: number | null, floorNs: number): OperationsMeasurement => ({
    operation: 'topK',
    case: 'demo, 10 of 4096, 4 heads',
    isa,
    ns: ns === null ? null : at(ns),
    bytes: 65536,
    flops: 16384,
    floorNs,
    bound: 'memory',
  })

  it('has microseconds of each instruction set, and the floor of the best', () => {
    const measurements = [time('portable', null, 3000), time('avx2', 4000, 2000), time('amx', 2500, 2000)]
    const { tables } = reportOperations([sampleResult({ bench: 'kernels/operations', measurements })])
    expect(tables['kernels-operations']).toContain(
      '| topK: demo, 10 of 4096, 4 heads | – | 4.00 (3.60–4.40) | 2.50 (2.25–2.75) | 2.00 | 80% | memory |',
    )
  })
})

describe('the report of the step', () => {
  const step = (isa: string, nodes: number, ms: number): StepMeasurement => ({
    isa,
    rows: 512,
    nodes,
    ms: at(ms),
    verifyMs: at(ms * 0.8),
    commitMs: at(ms * 0.1),
    ratio: at(ms / 2),
    bytes: 4e7,
    bytesPerSecond: 4e10,
    floorMs: 1,
  })
  const measurements = [step('avx2', 1, 2), step('avx2', 16, 9), step('amx', 1, 2), step('amx', 16, 2.4)]
  const sample = sampleResult({ bench: 'step/step', measurements })
  const { tables, plots } = reportStep([sample])
  const name = plotName('step-512', sample)

  it('has the plain step beside its floor, and what more nodes cost', () => {
    expect(tables['step']).toContain('| 512, amx | 2.00 (1.80–2.20) | 1.00 | 50% | 1.20x |')
    expect(tables['step']).toContain('| 512, avx2 | 2.00 (1.80–2.20) | 1.00 | 50% | 4.50x |')
    expect(tables['step']).toContain(`](bench/plots/${name}.svg)`)
  })
  it('draws a line for each instruction set, and the floor', () => {
    expect(plots[name]?.match(/<polyline/g)).toHaveLength(2)
    expect(plots[name]).toContain('bytes of T = 1 over measured bandwidth')
  })
  it('has a plot of its own for each machine', () => {
    const other = sampleResult({ bench: 'step/step', measurements, machine: { cpu: 'Slow CPU' } })
    const both = reportStep([sample, other])
    expect(Object.keys(both.plots)).toEqual([name, plotName('step-512', other)])
    for (const plot of Object.keys(both.plots)) expect(both.tables['step']).toContain(`](bench/plots/${plot}.svg)`)
  })
})

describe('the report of the memory-bound model', () => {
  const measurements: MemoryBoundMeasurement[] = [
    {
      kind: 'step',
      isa: 'amx',
      weights: 'full',
      nodes: 1,
      ms: at(100),
      timesFull: at(1),
      ratio: at(1),
      bytes: 2e9,
      bytesPerSecond: 25e9,
    },
    {
      kind: 'step',
      isa: 'amx',
      weights: 'int8',
      nodes: 1,
      ms: at(50),
      timesFull: at(2),
      ratio: at(1),
      bytes: 1e9,
      bytesPerSecond: 25e9,
    },
    {
      kind: 'prefill',
      isa: 'amx',
      weights: 'full',
      tokens: 1000,
      ms: at(1000),
      flops: 2e12,
      flopsPerSecond: 4e12,
    },
    {
      kind: 'product',
      product: 'down',
      columns: 2048,
      depth: 5632,
      weights: 'full',
      rows: 1,
      isa: 'amx',
      ns: at(1e6),
      bytes: 2e7,
      flops: 2e7,
      bytesPerSecond: 25e9,
      flopsPerSecond: 4e12,
      floorNs: 8e5,
      bound: 'memory',
    },
    {
      kind: 'product',
      product: 'down',
      columns: 2048,
      depth: 5632,
      weights: 'full',
      rows: 512,
      isa: 'amx',
      ns: at(4e6),
      bytes: 2e7,
      flops: 1.2e10,
      bytesPerSecond: 25e9,
      flopsPerSecond: 4e12,
      floorNs: 3e6,
      bound: 'compute',
    },
  ]
  const bench = 'memory-bound/memory-bound'
  const machine = { isa: 'amx' }
  const sample = sampleResult({ bench, measurements, machine })
  const { tables, plots } = reportMemoryBound([sample])
  const name = plotName('memory-bound', sample)

  it('has steps beside the bandwidth and int8 beside bf16', () => {
    expect(tables['memory-bound']).toContain('| bf16, amx | 1 | 100 (90.0–110) | 1.00 | 20.0 | 80% | 1.00 |')
    expect(tables['memory-bound']).toContain('| int8, amx | 1 | 50.0 (45.0–55.0) | 1.00 | 20.0 | 80% | 2.00 |')
  })
  it('has the prompt beside the peak', () => {
    expect(tables['memory-bound']).toContain('| bf16, amx | 1000 | 1000 (900–1100) | 1000 | 2.00 | 50% |')
  })
  it('has each product beside the limit that binds it', () => {
    expect(tables['memory-bound-products']).toContain(
      '| down 2048 x 5632, bf16, amx | 20.0 GB/s (80%) | 3.00 TFLOP/s (75%) |',
    )
  })
  it('draws a bar for each form of the weights', () => {
    expect(plots[name]).toContain('int8')
    expect(plots[name]).not.toContain('NaN')
  })
  it('does without products where they were left out', () => {
    const steps = measurements.filter(({ kind }) => kind !== 'product')
    const { tables: fewer } = reportMemoryBound([sampleResult({ bench, measurements: steps, machine })])
    expect(fewer['memory-bound-products']).toBe('')
  })
})
