// What the concurrency benchmark found: total speed and each stream's, by number of generations at once.
import { basename } from 'node:path'
import { z } from 'zod'
import { lineChart } from '../../src/charts.js'
import { measurementsOf, plotName, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { harmonicMeanOf, medianOf, quantileOf, type Summary, summaryOf } from '../support/statistics.js'
import { fixed, markdownTable, short, spread } from '../support/table.js'
import { fairnessOf, Together } from './together.js'

export const MODES = { plain: 'plain', medusa: 'Medusa' } as const
export type Mode = keyof typeof MODES
export const MODE_NAMES = Object.keys(MODES) as readonly Mode[]

/** A number of generations in one round. Of one alone there is a measurement for each length of prompt. */
export const ConcurrencyMeasurement = Together.extend({
  mode: z.enum(MODE_NAMES),
  /** Generations at once. */
  concurrency: z.int(),
  round: z.int(),
})
export type ConcurrencyMeasurement = Readonly<z.infer<typeof ConcurrencyMeasurement>>

export interface ConcurrencyOptions {
  readonly model: string
  readonly promptLengths: readonly number[]
  readonly tokens: number
  readonly rounds: number
  readonly tree: string
  readonly temperature: number
  readonly kv: string
}

/** All rounds of one mode at one concurrency. */
export interface ConcurrencySummary {
  readonly mode: Mode
  readonly concurrency: number
  /** Of all streams, while all were decoding. */
  readonly tokensPerSecond: Summary
  /** The same over one generation alone, its prompts of the same lengths, in the same round. */
  readonly xAlone: Summary
  /** Prompts included: all tokens over the time from the first request to the last token. */
  readonly endToEnd: Summary
  /** Of all streams of all rounds. */
  readonly tpotMs: { readonly p50: number; readonly p90: number }
  readonly ttftMs: { readonly p50: number; readonly p90: number }
  readonly fairness: number
}

const sharedRate = ({ sharedTokens, sharedMs }: ConcurrencyMeasurement): number =>
  sharedMs > 0 ? (1000 * sharedTokens) / sharedMs : Number.NaN

export function summariseConcurrency(measurements: readonly ConcurrencyMeasurement[]): ConcurrencySummary[] {
  const counts = [...new Set(measurements.map((one) => one.concurrency))].sort((a, b) => a - b)
  return MODE_NAMES.flatMap((mode) =>
    counts.flatMap((concurrency) => {
      const own = measurements.filter((one) => one.mode === mode && one.concurrency === concurrency)
      const alone = measurements.filter((one) => one.mode === mode && one.concurrency === 1)
      return own.length === 0 ? [] : [summaryFor(own, alone)]
    }),
  )
}

function summaryFor(
  own: readonly ConcurrencyMeasurement[],
  alone: readonly ConcurrencyMeasurement[],
): ConcurrencySummary {
  const { mode, concurrency } = own[0]!
  const rounds = [...new Set(own.map((one) => one.round))]
  const perRound = (value: (measurements: readonly ConcurrencyMeasurement[]) => number): Summary =>
    summaryOf(rounds.map((round) => value(own.filter((one) => one.round === round))).filter(Number.isFinite))
  const rateOf = (measurements: readonly ConcurrencyMeasurement[]): number =>
    harmonicMeanOf(measurements.map(sharedRate))
  const streams = own.flatMap((one) => one.streams)
  const latencies = (key: 'tpotMs' | 'ttftMs'): { p50: number; p90: number } => {
    const values = streams.map((stream) => stream[key])
    return { p50: medianOf(values), p90: quantileOf(values, 0.9) }
  }
  return {
    mode,
    concurrency,
    tokensPerSecond: perRound(rateOf),
    xAlone: perRound((measurements) => rateOf(measurements) / rateAlone(measurements, alone)),
    endToEnd: perRound((measurements) => {
      const tokens = measurements.flatMap((one) => one.streams).reduce((sum, stream) => sum + stream.tokens, 0)
      return (1000 * tokens) / measurements.reduce((sum, one) => sum + one.wallMs, 0)
    }),
    tpotMs: latencies('tpotMs'),
    ttftMs: latencies('ttftMs'),
    fairness: Math.min(...own.map((one) => fairnessOf(one.streams))),
  }
}

/** What one generation does alone, prompts being of the lengths of these, in the same round. */
function rateAlone(measurements: readonly ConcurrencyMeasurement[], alone: readonly ConcurrencyMeasurement[]): number {
  const { round } = measurements[0]!
  const rates = measurements
    .flatMap((one) => one.streams)
    .map(({ promptTokens }) =>
      alone.find((one) => one.round === round && one.streams[0]?.promptTokens === promptTokens),
    )
  return harmonicMeanOf(rates.map((one) => (one ? sharedRate(one) : Number.NaN)))
}

/** A head, then a row per mode and concurrency. */
export function concurrencyTable(summaries: readonly ConcurrencySummary[]): string[][] {
  return [
    [
      'at once',
      'decoding',
      'tokens/s, all',
      'x alone',
      'with prompts',
      'TPOT p50 / p90 ms',
      'TTFT p50 / p90 ms',
      'fairness',
    ],
    ...summaries.map((one) => [
      String(one.concurrency),
      MODES[one.mode],
      spread(one.tokensPerSecond),
      spread(one.xAlone, (ratio) => fixed(ratio, 2)),
      spread(one.endToEnd),
      `${short(one.tpotMs.p50)} / ${short(one.tpotMs.p90)}`,
      `${short(one.ttftMs.p50)} / ${short(one.ttftMs.p90)}`,
      fixed(one.fairness, 2),
    ]),
  ]
}

/** What the columns mean. */
export const LEGEND =
  'tokens/s, all: of all streams, while all were decoding; x alone: over one generation alone on prompts of the same lengths; with prompts: from the first request to the last token; fairness: Jain’s index of the streams’ speeds, the lowest of any round.'

const optionsOf = ({ options }: BenchResult): ConcurrencyOptions => options as ConcurrencyOptions

export function variantOf(result: BenchResult): string {
  const { model, tree, temperature, kv } = optionsOf(result)
  return JSON.stringify([basename(model), tree, temperature, kv])
}

export function report(results: readonly BenchResult[]): Rendered {
  const found = results.map((result) => {
    const { model, tree } = optionsOf(result)
    const variant = [model !== 'demo' && basename(model), tree !== 'auto' && `tree ${tree}`].filter(Boolean).join(' ')
    const measurements = measurementsOf(result, ConcurrencyMeasurement)
    return { result, summaries: summariseConcurrency(measurements), plot: plotName('concurrency', result, variant) }
  })
  const tables = found.map(({ result, summaries, plot }) => {
    const { model, tokens, tree, temperature, promptLengths, rounds } = optionsOf(result)
    const how = temperature === 0 ? 'greedy' : `temperature ${temperature}`
    const conditions = `${basename(model)}, ${how}, tree \`${tree}\`; prompts of ${promptLengths.join(', ')} tokens in turn, ${tokens} tokens after each, ${rounds} rounds. Every stream's tokens equal those it gets alone.`
    const image = `![tokens per second by generations at once](bench/plots/${plot}.svg)`
    return section(result, `${conditions}\n\n${markdownTable(concurrencyTable(summaries))}\n${LEGEND}\n\n${image}`)
  })
  return {
    tables: { concurrency: tables.join('\n') },
    plots: Object.fromEntries(found.map(({ result, summaries, plot }) => [plot, plotOf(result, summaries)])),
  }
}

function plotOf(result: BenchResult, summaries: readonly ConcurrencySummary[]): string {
  return lineChart({
    title: `All streams together: ${basename(optionsOf(result).model)}, ${result.machine.cpu}, ${result.machine.isa}`,
    x: { label: 'generations at once', scale: 'log', ticks: [...new Set(summaries.map((one) => one.concurrency))] },
    y: { label: 'tokens per second' },
    series: MODE_NAMES.map((mode) => ({
      name: MODES[mode],
      points: summaries
        .filter((one) => one.mode === mode && one.tokensPerSecond.n > 0)
        .map(({ concurrency, tokensPerSecond: { median, p10, p90 } }) => ({
          x: concurrency,
          y: median,
          low: p10,
          high: p90,
        })),
    })),
  })
}
