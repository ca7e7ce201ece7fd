// Tables and plots of steps on a GPU: microseconds beside the floor, the cost of trees, the cost of drafting.

import { lineChart } from '../../src/charts.js'
import { plotName, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent, short } from '../support/table.js'
import type { DeviceStepMeasurement, DeviceStepOptions } from './step.bench.js'

type DeviceStepResult = BenchResult<DeviceStepOptions, DeviceStepMeasurement>

const FORMS = { full: 'bf16', int8: 'int8' } as const

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]
const micros = (ms: number): string => fixed(1e3 * ms)
const modelOf = ({ shape, weights }: DeviceStepMeasurement): string => `${shape}, ${FORMS[weights]}`

/** The plain step beside its bytes, then what larger trees cost beside it. */
function stepsTable(measurements: readonly DeviceStepMeasurement[]): string {
  const steps = measurements.filter(({ drafts }) => !drafts)
  const nodes = unique(steps.map((m) => m.nodes)).filter((count) => count > 1)
  const head = ['model, weights, rows', 'T = 1, µs', 'p90', 'floor, µs', 'of the floor', 'TB/s read', 'tokens/s']
  const body = steps
    .filter((m) => m.nodes === 1)
    .map((plain) => {
      const same = steps.filter((m) => modelOf(m) === modelOf(plain) && m.rows === plain.rows)
      const trees = nodes.map((count) => {
        const found = same.find((m) => m.nodes === count)
        return found ? `${micros(found.ms.median)} (${fixed(found.ratio.median, 2)}x)` : '–'
      })
      return [
        `${modelOf(plain)}, ${plain.rows}`,
        micros(plain.ms.median),
        micros(plain.ms.p90),
        micros(plain.floorMs),
        percent(plain.floorMs, plain.ms.median),
        short(plain.bytes / plain.ms.median / 1e9),
        fixed(1e3 / plain.ms.median),
        ...trees,
      ]
    })
  return markdownTable([[...head, ...nodes.map((count) => `T = ${count}, µs`)], ...body])
}

/** Whose bandwidth the floors are of. */
function floorNote(measurements: readonly DeviceStepMeasurement[]): string {
  const rates = unique(measurements.map((m) => short(m.bytesPerSecond / 1e12)))
  return `Floor: bytes over ${rates.join(' or ')} TB/s, at which a kernel that only reads goes through 2 GiB of the device's memory; in the same run. A copy, bytes read plus bytes written, is slower.\n`
}

/** What running the Medusa heads adds, and a whole speculative step beside the plain one. */
function draftsTable(measurements: readonly DeviceStepMeasurement[]): string {
  const drafting = measurements.filter(({ drafts }) => drafts)
  const nodes = unique(drafting.map((m) => m.nodes)).filter((count) => count > 1)
  const head = ['model, weights, rows', 'heads, µs', 'of the plain step', 'floor of the heads, µs']
  const body = drafting
    .filter((m) => m.nodes === 1)
    .map((own) => {
      const plain = measurements.find(
        (m) => !m.drafts && m.nodes === 1 && m.rows === own.rows && modelOf(m) === modelOf(own),
      )!
      const added = own.ms.median - plain.ms.median
      const trees = nodes.map((count) => {
        const found = drafting.find((m) => m.nodes === count && modelOf(m) === modelOf(own))
        return fixed(found?.ratio.median, 3)
      })
      return [
        `${modelOf(own)}, ${own.rows}`,
        micros(added),
        `${fixed((100 * added) / plain.ms.median, 1)}%`,
        micros(own.floorMs - plain.floorMs),
        ...trees,
      ]
    })
  return markdownTable([[...head, ...nodes.map((count) => `whole step, T = ${count}, x plain`)], ...body])
}

/** By the name of the marker each stands between. */
export function stepTables(measurements: readonly DeviceStepMeasurement[]): Record<string, string> {
  const steps = { 'device-step': `${stepsTable(measurements)}\n${floorNote(measurements)}` }
  return measurements.some(({ drafts }) => drafts)
    ? { ...steps, 'device-step-drafts': draftsTable(measurements) }
    : steps
}

/** A line for each tree: what a step costs as the cache grows. */
function stepPlots(result: DeviceStepResult): Record<string, string> {
  const steps = result.measurements.filter(({ drafts }) => !drafts)
  const plots = unique(steps.map(modelOf)).flatMap((model) => {
    const own = steps.filter((m) => modelOf(m) === model)
    const rows = unique(own.map((m) => m.rows))
    if (rows.length < 2) return []
    const line = (name: string, of: (m: DeviceStepMeasurement) => number, nodes: number) => ({
      name,
      points: own.filter((m) => m.nodes === nodes).map((m) => ({ x: m.rows, y: of(m) })),
    })
    const chart = lineChart({
      title: `A decode step of ${model} on ${result.machine.gpu?.name ?? result.machine.cpu}`,
      x: { label: 'rows in the cache', scale: 'log', ticks: rows },
      y: { label: 'ms' },
      series: [
        ...unique(own.map((m) => m.nodes)).map((nodes) => line(`T = ${nodes}`, (m) => m.ms.median, nodes)),
        line('bytes over bandwidth', (m) => m.floorMs, 1),
      ],
    })
    return [[plotName('device-step', result, model), chart] as const]
  })
  return Object.fromEntries(plots)
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results as readonly DeviceStepResult[]
  const drafting = known.filter(({ measurements }) => measurements.some(({ drafts }) => drafts))
  const links = (result: DeviceStepResult): string =>
    Object.keys(stepPlots(result))
      .map((name) => `![A decode step by rows in the cache](bench/plots/${name}.svg)`)
      .join('\n')
  return {
    tables: {
      'device-step': sections(
        known,
        (result) => `${stepTables(result.measurements)['device-step']!}\n${links(result)}`,
      ),
      'device-step-drafts': sections(drafting, (result) => stepTables(result.measurements)['device-step-drafts']!),
    },
    plots: Object.assign({}, ...known.map(stepPlots)),
  }
}
