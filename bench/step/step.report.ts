// Table and plots of step costs: a line for each instruction set.

import { lineChart } from '../../src/charts.js'
import { plotName, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent, short, spread } from '../support/table.js'
import type { StepMeasurement, StepOptions } from './step.bench.js'

type StepResult = BenchResult<StepOptions, StepMeasurement>

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]

/** Milliseconds of the plain step beside its floor, then what more nodes cost beside it. */
export function stepTable(measurements: readonly StepMeasurement[]): string {
  const nodes = unique(measurements.map((m) => m.nodes)).filter((count) => count > 1)
  const head = [
    'rows, instruction set',
    'T = 1, ms',
    'floor, ms',
    'floor / T = 1',
    ...nodes.map((count) => `T = ${count}`),
  ]
  const body = unique(measurements.map(({ rows }) => rows)).flatMap((rows) =>
    unique(measurements.map(({ isa }) => isa)).flatMap((isa) => {
      const own = measurements.filter((m) => m.rows === rows && m.isa === isa)
      const plain = own.find((m) => m.nodes === 1)
      if (!plain) return []
      const ratios = nodes.map((count) => {
        const found = own.find((m) => m.nodes === count)
        return found ? `${fixed(found.ratio.median, 2)}x` : '–'
      })
      return [
        [`${rows}, ${isa}`, spread(plain.ms), short(plain.floorMs), percent(plain.floorMs, plain.ms.median), ...ratios],
      ]
    }),
  )
  return markdownTable([head, ...body])
}

/** Milliseconds over T with a line for each instruction set, and the floor of a plain step across. */
function stepPlot(measurements: readonly StepMeasurement[], rows: number): string {
  const own = measurements.filter((m) => m.rows === rows)
  return lineChart({
    title: `A decode step over ${rows} cached rows`,
    x: { label: 'tree nodes (T), root included', scale: 'log', ticks: unique(own.map(({ nodes }) => nodes)) },
    y: { label: 'ms', scale: 'log' },
    series: unique(own.map(({ isa }) => isa)).map((isa) => ({
      name: isa,
      points: own
        .filter((m) => m.isa === isa)
        .map(({ nodes, ms }) => ({ x: nodes, y: ms.median, low: ms.p10, high: ms.p90 })),
    })),
    guides: own.slice(0, 1).map(({ floorMs }) => ({ y: floorMs, label: 'bytes of T = 1 over measured bandwidth' })),
  })
}

export function report(results: readonly BenchResult[]): Rendered {
  const plots: Record<string, string> = {}
  const tables = sections(results as readonly StepResult[], ({ machine, measurements }) => {
    const links = unique(measurements.map((m) => m.rows)).map((rows) => {
      const name = plotName(`step-${rows}`, { machine })
      plots[name] = stepPlot(measurements, rows)
      return `![A decode step over ${rows} cached rows](bench/plots/${name}.svg)`
    })
    return `${stepTable(measurements)}\n${links.join('\n')}`
  })
  return { tables: { step: tables }, plots }
}
