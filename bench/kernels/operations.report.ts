// One table of operations: microseconds on each instruction set, and the share of the roofline the best one reaches.
import { type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { markdownTable, percent, short, spread } from '../support/table.js'
import type { OperationsMeasurement, OperationsOptions } from './operations.bench.js'

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]

export function operationsTable(measurements: readonly OperationsMeasurement[]): string {
  const isas = unique(measurements.map(({ isa }) => isa))
  const keyOf = (m: OperationsMeasurement): string => `${m.operation}: ${m.case}`
  const head = ['operation, µs', ...isas, 'floor', 'of the floor', 'bound by']
  const body = unique(measurements.map(keyOf)).map((key) => {
    const own = measurements.filter((m) => keyOf(m) === key)
    const cells = isas.map((isa) => {
      const found = own.find((m) => m.isa === isa)
      return found?.ns ? spread(found.ns, (ns) => short(ns / 1e3)) : '–'
    })
    // The last instruction set is the best one; its floor is the lowest.
    const best = own.at(-1)!
    return [key, ...cells, short(best.floorNs / 1e3), best.ns ? percent(best.floorNs, best.ns.median) : '–', best.bound]
  })
  return markdownTable([head, ...body])
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results as readonly BenchResult<OperationsOptions, OperationsMeasurement>[]
  return {
    tables: { 'kernels-operations': sections(known, ({ measurements }) => operationsTable(measurements)) },
    plots: {},
  }
}
