// Tables and a plot of the memory-bound model: steps, prompts, products.

import { barChart } from '../../src/charts.js'
import { plotName, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent, short, spread } from '../support/table.js'
import type {
  MemoryBoundMeasurement,
  MemoryBoundOptions,
  PrefillRecord,
  ProductRecord,
  StepRecord,
} from './memory-bound.bench.js'

type MemoryBoundResult = BenchResult<MemoryBoundOptions, MemoryBoundMeasurement>

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]
const isStep = (m: MemoryBoundMeasurement): m is StepRecord => m.kind === 'step'
const isPrefill = (m: MemoryBoundMeasurement): m is PrefillRecord => m.kind === 'prefill'
const isProduct = (m: MemoryBoundMeasurement): m is ProductRecord => m.kind === 'product'
const FORMS = { full: 'bf16', int8: 'int8' } as const

function stepsTable(steps: readonly StepRecord[]): string {
  const head = ['weights, instruction set', 'nodes', 'ms', 'x T = 1', 'GB/s read', 'of the bandwidth', 'x bf16']
  const body = steps.map(({ weights, isa, nodes, ms, ratio, bytes, bytesPerSecond, timesFull }) => {
    const rate = bytes / (ms.median * 1e-3)
    return [
      `${FORMS[weights]}, ${isa}`,
      fixed(nodes),
      spread(ms),
      fixed(ratio.median, 2),
      short(rate * 1e-9),
      percent(rate, bytesPerSecond),
      fixed(timesFull?.median, 2),
    ]
  })
  return markdownTable([head, ...body])
}

function prefillTable(prefills: readonly PrefillRecord[]): string {
  const head = ['weights, instruction set', 'prompt', 'ms', 'tokens/s', 'TFLOP/s', 'of the peak']
  const body = prefills.map(({ weights, isa, tokens, ms, flops, flopsPerSecond }) => {
    const rate = flops / (ms.median * 1e-3)
    return [
      `${FORMS[weights]}, ${isa}`,
      fixed(tokens),
      spread(ms),
      fixed(tokens / (ms.median * 1e-3)),
      short(rate * 1e-12),
      percent(rate, flopsPerSecond),
    ]
  })
  return markdownTable([head, ...body])
}

/** Few rows beside the bandwidth, many beside the peak. */
function productsTable(products: readonly ProductRecord[]): string {
  const rows = unique(products.map((p) => p.rows))
  const keyOf = (p: ProductRecord): string => `${p.product} ${p.columns} x ${p.depth}, ${FORMS[p.weights]}, ${p.isa}`
  const head = ['product, weights, instruction set', ...rows.map((count) => `M = ${count}`)]
  const body = unique(products.map(keyOf)).map((key) => [
    key,
    ...rows.map((count) => {
      const found = products.find((p) => p.rows === count && keyOf(p) === key)
      if (!found || found.ns === null) return '–'
      const seconds = found.ns.median * 1e-9
      return found.bound === 'memory'
        ? `${short((found.bytes / seconds) * 1e-9)} GB/s (${percent(found.floorNs, found.ns.median)})`
        : `${short((found.flops / seconds) * 1e-12)} TFLOP/s (${percent(found.floorNs, found.ns.median)})`
    }),
  ])
  return markdownTable([head, ...body])
}

export function memoryBoundTables({ measurements }: Pick<MemoryBoundResult, 'measurements'>): Record<string, string> {
  const products = measurements.filter(isProduct)
  return {
    'memory-bound': `${stepsTable(measurements.filter(isStep))}\n${prefillTable(measurements.filter(isPrefill))}`,
    ...(products.length > 0 ? { 'memory-bound-products': productsTable(products) } : {}),
  }
}

/** Milliseconds of a step, bf16 beside int8, for each number of nodes. */
function stepsPlot({ measurements, machine }: MemoryBoundResult): string {
  const steps = measurements.filter(isStep).filter(({ isa }) => isa === machine.isa)
  const plain = steps.filter(({ nodes }) => nodes === 1)
  return barChart({
    title: `A decode step of a memory-bound model, ${machine.isa}`,
    y: { label: 'ms' },
    groups: unique(steps.map(({ nodes }) => nodes)).map((nodes) => ({
      name: `T = ${nodes}`,
      bars: steps
        .filter((step) => step.nodes === nodes)
        .map(({ weights, ms }) => ({ series: FORMS[weights], value: ms.median, low: ms.p10, high: ms.p90 })),
    })),
    guides: plain.map(({ weights, bytes, bytesPerSecond }) => ({
      y: (1e3 * bytes) / bytesPerSecond,
      label: `${FORMS[weights]}: bytes over bandwidth`,
    })),
  })
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results as readonly MemoryBoundResult[]
  const withProducts = known.filter(({ measurements }) => measurements.some(isProduct))
  const plotOf = (result: Pick<MemoryBoundResult, 'machine'>): string => plotName('memory-bound', result)
  const link = (plot: string): string => `![A decode step of a memory-bound model](bench/plots/${plot}.svg)`
  return {
    tables: {
      'memory-bound': sections(
        known,
        (result) => `${memoryBoundTables(result)['memory-bound']!}\n${link(plotOf(result))}`,
      ),
      'memory-bound-products': sections(withProducts, (result) => memoryBoundTables(result)['memory-bound-products']!),
    },
    plots: Object.fromEntries(known.map((result) => [plotOf(result), stepsPlot(result)])),
  }
}
