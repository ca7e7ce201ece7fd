// Tables and plots of generation behind prompts of growing length: rates of the four ways, and prompt beside generation.

import { barChart, lineChart } from '../../src/charts.js'
import { plotName, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent, short } from '../support/table.js'
import type { ThroughputMeasurement, ThroughputOptions } from './throughput.bench.js'

type ThroughputResult = BenchResult<ThroughputOptions, ThroughputMeasurement>

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]

const NAMES = { full: ['plain', 'Medusa'], snapkv: ['SnapKV', 'Medusa + SnapKV'] } as const

/** `plain`, `Medusa`, `SnapKV`, `Medusa + SnapKV`. */
const armOf = ({ kv, speculates }: ThroughputMeasurement): string => NAMES[kv][speculates ? 1 : 0]

/** Of generation alone. */
const rateOf = ({ tokens, generationMs }: ThroughputMeasurement): number => tokens / (generationMs * 1e-3)

function plainOf(measurements: readonly ThroughputMeasurement[], of: ThroughputMeasurement): ThroughputMeasurement {
  return measurements.find((m) => m.promptTokens === of.promptTokens && m.kv === 'full' && !m.speculates)!
}

function ratesTable(measurements: readonly ThroughputMeasurement[]): string {
  const head = [
    'prompt, arm',
    'tokens/s',
    'x plain',
    'ms/token',
    'tokens/step',
    'ms/step',
    'x floor of a plain step',
    'rows',
  ]
  const body = measurements.map((m) => [
    `${m.promptTokens}, ${armOf(m)}`,
    fixed(rateOf(m)),
    fixed(rateOf(m) / rateOf(plainOf(measurements, m)), 2),
    fixed(1e3 / rateOf(m), 2),
    fixed(m.tokens / m.steps, 2),
    fixed(m.stepMs.median, 2),
    fixed(m.stepMs.median / m.floorMs, 2),
    fixed(m.rows),
  ])
  return markdownTable([head, ...body])
}

/** Prompt and generation together, for each token made. */
function partsTable(measurements: readonly ThroughputMeasurement[]): string {
  const head = [
    'prompt, arm',
    'prompt, s',
    'generation, s',
    'both, s',
    'generation, of both',
    'compression, ms',
    'x plain, both',
  ]
  const both = ({ promptMs, generationMs }: ThroughputMeasurement): number => promptMs + generationMs
  const body = measurements.map((m) => [
    `${m.promptTokens}, ${armOf(m)}`,
    short(m.promptMs / 1e3),
    short(m.generationMs / 1e3),
    short(both(m) / 1e3),
    percent(m.generationMs, both(m)),
    m.compressionMs === null ? '–' : short(m.compressionMs),
    fixed(both(plainOf(measurements, m)) / both(m), 2),
  ])
  return markdownTable([head, ...body])
}

export function throughputTables(measurements: readonly ThroughputMeasurement[]): Record<string, string> {
  return { 'device-throughput': ratesTable(measurements), 'device-throughput-parts': partsTable(measurements) }
}

function plotsOf(result: ThroughputResult): { readonly rates: string; readonly parts: string } {
  const { measurements, options, machine } = result
  const on = `${options.shape} on ${machine.gpu?.name ?? machine.cpu}`
  const lengths = unique(measurements.map((m) => m.promptTokens))
  const rates = lineChart({
    title: `Generation behind a prompt, ${on}`,
    x: { label: 'tokens of the prompt', scale: 'log', ticks: lengths },
    y: { label: 'ms per token' },
    series: unique(measurements.map(armOf)).map((name) => ({
      name,
      points: measurements.filter((m) => armOf(m) === name).map((m) => ({ x: m.promptTokens, y: 1e3 / rateOf(m) })),
    })),
  })
  const parts = barChart({
    title: `Prompt, and ${options.tokens} tokens behind it, ${on}`,
    y: { label: 'seconds' },
    groups: lengths.map((length) => {
      const own = measurements.filter((m) => m.promptTokens === length)
      const prompt = own.find((m) => m.kv === 'snapkv')!
      return {
        name: `${length}`,
        bars: [
          { series: 'prompt', value: prompt.promptMs / 1e3 },
          ...own.map((m) => ({ series: `${armOf(m)}: generation`, value: m.generationMs / 1e3 })),
        ],
      }
    }),
  })
  return { rates, parts }
}

export function variantOf({ options }: BenchResult): string {
  const { shape, weights } = options as ThroughputOptions
  return `${shape} ${weights}`
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results as readonly ThroughputResult[]
  const nameOf = (result: ThroughputResult, what: string): string =>
    plotName(`device-throughput-${what}`, result, variantOf(result))
  const stated = ({ options }: ThroughputResult): string =>
    `${options.shape}, ${options.tokens} tokens generated; trees of ${options.nodes} nodes, ${options.medusaHeads} heads; ` +
    `accepted as if a step committed ${options.acceptance} tokens in the mean (random weights accept nothing); SnapKV keeps ${options.budget} rows.`
  const withPlot = (result: ThroughputResult, name: string, what: string, alt: string): string =>
    `${stated(result)}\n\n${throughputTables(result.measurements)[name]!}\n![${alt}](bench/plots/${nameOf(result, what)}.svg)`
  return {
    tables: {
      'device-throughput': sections(known, (result) =>
        withPlot(result, 'device-throughput', 'rates', 'Milliseconds per token by prompt length'),
      ),
      'device-throughput-parts': sections(known, (result) =>
        withPlot(result, 'device-throughput-parts', 'parts', 'Seconds of prompt and generation by prompt length'),
      ),
    },
    plots: Object.assign(
      {},
      ...known.map((result) => {
        const { rates, parts } = plotsOf(result)
        return { [nameOf(result, 'rates')]: rates, [nameOf(result, 'parts')]: parts }
      }),
    ),
  }
}
