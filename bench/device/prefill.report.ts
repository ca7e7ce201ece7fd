// Table and plot of prompts on a GPU: seconds, rate, memory, and what compression takes of it.

import { lineChart } from '../../src/charts.js'
import { plotName, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent, short, spread } from '../support/table.js'
import { POLICY_NAMES } from './policies.js'
import type { DevicePrefillMeasurement, DevicePrefillOptions } from './prefill.bench.js'

type DevicePrefillResult = BenchResult<DevicePrefillOptions, DevicePrefillMeasurement>

const gigabytes = (bytes: number): string => (bytes > 0 ? fixed(bytes / 1e9, 1) : '–')

export function prefillTable(measurements: readonly DevicePrefillMeasurement[]): string {
  const head = [
    'prompt, cache',
    'seconds',
    'tokens/s',
    'TFLOP/s',
    'attention, of the FLOP',
    'compression, ms',
    'of the time',
    'rows kept',
    'peak memory, GB',
    'of it weights, GB',
  ]
  const body = measurements.map((m) => {
    const flops = m.productFlops + m.attentionFlops
    return [
      `${m.tokens}, ${POLICY_NAMES[m.kv]}`,
      spread(m.ms, (ms) => short(ms / 1e3)),
      fixed(m.tokens / (m.ms.median * 1e-3)),
      fixed(flops / (m.ms.median * 1e-3) / 1e12),
      percent(m.attentionFlops, flops),
      m.compressionMs ? short(m.compressionMs.median) : '–',
      m.compressionMs ? `${fixed((100 * m.compressionMs.median) / m.ms.median, 2)}%` : '–',
      fixed(m.rows),
      gigabytes(m.peakBytes),
      gigabytes(m.weightBytes),
    ]
  })
  return markdownTable([head, ...body])
}

function rates({ measurements, machine, options }: DevicePrefillResult): string {
  const of = (kv: DevicePrefillMeasurement['kv']) =>
    measurements
      .filter((m) => m.kv === kv)
      .map((m) => ({ x: m.tokens, y: (m.productFlops + m.attentionFlops) / (m.ms.median * 1e-3) / 1e12 }))
  return lineChart({
    title: `Prompts of ${options.shape} on ${machine.gpu?.name ?? machine.cpu}`,
    x: { label: 'tokens', scale: 'log', ticks: [...new Set(measurements.map(({ tokens }) => tokens))] },
    y: { label: 'TFLOP/s' },
    series: options.kv.map((kv) => ({ name: POLICY_NAMES[kv], points: of(kv) })),
  })
}

/** Of one machine and model: a run of the longest prompt alone stands beside the others. */
export function variantOf({ options }: BenchResult): string {
  const { shape, weights, tokens } = options as DevicePrefillOptions
  return `${shape} ${weights} ${tokens.join(',')}`
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results as readonly DevicePrefillResult[]
  const drawn = known.filter(({ options }) => options.tokens.length > 1)
  const nameOf = (result: DevicePrefillResult): string => plotName('device-prefill', result, variantOf(result))
  const plotOf = (result: DevicePrefillResult): string =>
    drawn.includes(result) ? `\n![TFLOP/s by length of the prompt](bench/plots/${nameOf(result)}.svg)` : ''
  return {
    tables: {
      'device-prefill': sections(known, (result) => `${prefillTable(result.measurements)}${plotOf(result)}`),
    },
    plots: Object.fromEntries(drawn.map((result) => [nameOf(result), rates(result)])),
  }
}
