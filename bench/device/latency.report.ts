// Tables of small models on a GPU: the line through their layers, and the demo model's steps.
import { type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent } from '../support/table.js'
import type { LatencyMeasurement, LatencyOptions } from './latency.bench.js'

type LatencyResult = BenchResult<LatencyOptions, LatencyMeasurement>

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]
const micros = (ms: number): string => fixed(1e3 * ms, 1)

/** Of y over x, by least squares. */
export function lineThrough(points: readonly { readonly x: number; readonly y: number }[]): {
  readonly slope: number
  readonly intercept: number
} {
  const mean = (of: (p: { x: number; y: number }) => number): number =>
    points.reduce((sum, p) => sum + of(p), 0) / points.length
  const [x, y] = [mean((p) => p.x), mean((p) => p.y)]
  const slope = mean((p) => (p.x - x) * (p.y - y)) / mean((p) => (p.x - x) ** 2)
  return { slope, intercept: y - slope * x }
}

function layersTable(random: readonly LatencyMeasurement[]): string {
  const layers = unique(random.map((m) => m.layers))
  const head = [
    'nodes',
    ...layers.map((count) => `${count} layers, µs`),
    'a layer, µs',
    'without layers, µs',
    'of six layers',
  ]
  const body = unique(random.map((m) => m.nodes)).map((nodes) => {
    const own = random.filter((m) => m.nodes === nodes)
    const { slope, intercept } = lineThrough(own.map((m) => ({ x: m.layers, y: m.ms.median })))
    return [
      `T = ${nodes}`,
      ...layers.map((count) => micros(own.find((m) => m.layers === count)?.ms.median ?? Number.NaN)),
      micros(slope),
      micros(intercept),
      percent(intercept, intercept + 6 * slope),
    ]
  })
  return markdownTable([head, ...body])
}

function demoTable(demo: readonly LatencyMeasurement[]): string {
  const plain = demo.find((m) => m.nodes === 1 && !m.drafts)
  const head = ['step of the demo model', 'µs', 'p10–p90', 'verify, µs', 'commit, µs', 'x plain', 'steps/s']
  const body = demo.map((m) => [
    `T = ${m.nodes}${m.drafts ? ', heads' : ''}`,
    micros(m.ms.median),
    `${micros(m.ms.p10)}–${micros(m.ms.p90)}`,
    micros(m.verifyMs.median),
    micros(m.commitMs.median),
    fixed(m.ms.median / (plain?.ms.median ?? Number.NaN), 2),
    fixed(1e3 / m.ms.median),
  ])
  return markdownTable([head, ...body])
}

/** By the name of the marker each stands between. */
export function latencyTables(measurements: readonly LatencyMeasurement[]): Record<string, string> {
  const random = measurements.filter(({ model }) => model === 'random')
  const demo = { 'device-latency': demoTable(measurements.filter(({ model }) => model === 'demo')) }
  return random.length > 0 ? { ...demo, 'device-latency-layers': layersTable(random) } : demo
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results as readonly LatencyResult[]
  const withLayers = known.filter(({ options }) => options.synthetic)
  return {
    tables: {
      'device-latency': sections(known, ({ measurements }) => latencyTables(measurements)['device-latency']!),
      'device-latency-layers': sections(
        withLayers,
        ({ measurements }) => latencyTables(measurements)['device-latency-layers']!,
      ),
    },
    plots: {},
  }
}
