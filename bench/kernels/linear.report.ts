// Tables and a plot of the packed product: bandwidth of one row, cost of several, peak of many.

import { lineChart } from '../../src/charts.js'
import { plotName, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { medianOf } from '../support/statistics.js'
import { fixed, markdownTable, percent, short } from '../support/table.js'
import type { LinearMeasurement, LinearOptions } from './linear.bench.js'

export type LinearResult = Pick<BenchResult<LinearOptions, LinearMeasurement>, 'measurements'>

const secondsOf = ({ ns }: LinearMeasurement): number => (ns === null ? Number.NaN : ns.median * 1e-9)
const caseOf = ({ shape, product, dtype }: LinearMeasurement): string => `${shape} ${product} ${dtype}`
const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]

/** One row of a weight that no cache holds. */
function bandwidthTable(measurements: readonly LinearMeasurement[]): string {
  const single = measurements.filter(({ rows, cache }) => rows === 1 && cache === 'cold')
  const isas = unique(single.map(({ isa }) => isa))
  const head = ['M = 1, beyond the caches', 'MiB', 'GB/s that can be read', ...isas.map((isa) => `${isa} GB/s`)]
  const body = unique(single.map(caseOf)).map((name) => {
    const own = single.filter((m) => caseOf(m) === name)
    const { bytes, bytesPerSecond } = own[0]!
    const cells = isas.map((isa) => {
      const rate = bytes / secondsOf(own.find((m) => m.isa === isa)!)
      return Number.isNaN(rate) ? '–' : `${short(rate * 1e-9)} (${percent(rate, bytesPerSecond)})`
    })
    return [name, fixed(bytes / 2 ** 20, 1), short(bytesPerSecond * 1e-9), ...cells]
  })
  return markdownTable([head, ...body])
}

/** Time of M rows over time of one, the median over a shape's products. */
function rowCosts(
  measurements: readonly LinearMeasurement[],
): { readonly name: string; readonly isa: string; readonly ratios: ReadonlyMap<number, number> }[] {
  const key = (m: LinearMeasurement): string => `${m.shape} ${m.dtype} ${m.cache}`
  return unique(measurements.map(key)).flatMap((name) => {
    const own = measurements.filter((m) => key(m) === name)
    return unique(own.map(({ isa }) => isa)).map((isa) => {
      const mine = own.filter((m) => m.isa === isa)
      const ratio = (rows: number): number =>
        medianOf(
          unique(mine.map(({ product }) => product))
            .map((product) => {
              const at = (count: number): number => {
                const found = mine.find((m) => m.product === product && m.rows === count)
                return found ? secondsOf(found) : Number.NaN
              }
              return at(rows) / at(1)
            })
            .filter(Number.isFinite),
        )
      return { name, isa, ratios: new Map(unique(mine.map(({ rows }) => rows)).map((rows) => [rows, ratio(rows)])) }
    })
  })
}

function rowsTable(measurements: readonly LinearMeasurement[]): string {
  const rows = unique(measurements.map((m) => m.rows)).sort((a, b) => a - b)
  const body = rowCosts(measurements)
    .filter(({ ratios }) => [...ratios.values()].some(Number.isFinite))
    .map(({ name, isa, ratios }) => [`${name}, ${isa}`, ...rows.map((count) => fixed(ratios.get(count), 2))])
  return markdownTable([['time over that of M = 1', ...rows.map((count) => `M = ${count}`)], ...body])
}

/** As many rows as a prompt's chunk has. */
function peakTable(measurements: readonly LinearMeasurement[]): string {
  const most = Math.max(...measurements.map(({ rows }) => rows))
  const many = measurements.filter(({ rows, cache }) => rows === most && cache === 'cold')
  const isas = unique(many.map(({ isa }) => isa))
  const body = unique(many.map(caseOf)).map((name) => [
    name,
    ...isas.map((isa) => {
      const found = many.find((m) => caseOf(m) === name && m.isa === isa)!
      const rate = found.flops / secondsOf(found)
      return Number.isNaN(rate) ? '–' : `${short(rate * 1e-12)} (${percent(rate, found.flopsPerSecond)})`
    }),
  ])
  const peaks = isas.map((isa) => short(many.find((m) => m.isa === isa)!.flopsPerSecond * 1e-12))
  return markdownTable([
    [`M = ${most}`, ...isas.map((isa) => `${isa} TFLOP/s`)],
    ['multiply-adds in registers', ...peaks],
    ...body,
  ])
}

export function linearTables({ measurements }: LinearResult): Record<string, string> {
  return {
    'kernels-linear-bandwidth': bandwidthTable(measurements),
    'kernels-linear-rows': rowsTable(measurements),
    'kernels-linear-peak': peakTable(measurements),
  }
}

/** One line per instruction set: what rows cost on the largest shape measured, beyond the caches; null when nothing was. */
function rowsPlot({ measurements }: LinearResult): string | null {
  const cold = measurements.filter((m) => m.cache === 'cold' && m.dtype === measurements[0]!.dtype)
  if (cold.length === 0) return null
  const shape = cold.reduce((a, b) => (b.bytes > a.bytes ? b : a)).shape
  const series = rowCosts(cold.filter((m) => m.shape === shape)).map(({ isa, ratios }) => ({
    name: isa,
    points: [...ratios].filter(([, ratio]) => Number.isFinite(ratio)).map(([x, y]) => ({ x, y })),
  }))
  return lineChart({
    title: `Packed product, ${shape}: time of M rows over that of one`,
    x: { label: 'rows (M)', scale: 'log', ticks: unique(cold.map(({ rows }) => rows)) },
    y: { label: 'x time of one row', scale: 'log' },
    series: series.filter(({ points }) => points.length > 0),
  })
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results as readonly BenchResult<LinearOptions, LinearMeasurement>[]
  const names = ['kernels-linear-bandwidth', 'kernels-linear-rows', 'kernels-linear-peak'] as const
  const drawn = known.flatMap((result) => {
    const plot = rowsPlot(result)
    return plot === null ? [] : [{ result, name: plotName('kernels-linear', result), plot }]
  })
  const tableOf = (name: string, result: (typeof known)[number]): string => {
    const table = linearTables(result)[name]!
    const plot = name === 'kernels-linear-rows' && drawn.find((one) => one.result === result)
    return plot ? `${table}\n![time of M rows over that of one](bench/plots/${plot.name}.svg)` : table
  }
  return {
    tables: Object.fromEntries(
      names.map((name) => [name, known.map((result) => section(result, tableOf(name, result))).join('\n')]),
    ),
    plots: Object.fromEntries(drawn.map(({ name, plot }) => [name, plot])),
  }
}
