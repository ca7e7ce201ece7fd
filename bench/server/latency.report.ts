// What the latency benchmark found: what a client waits for, beside what a caller of the library waits for.
import { basename } from 'node:path'
import { z } from 'zod'
import { lineChart } from '../../src/charts.js'
import { measurementsOf, plotName, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { medianOf, type Summary, summaryOf } from '../support/statistics.js'
import { fixed, markdownTable, short, spread } from '../support/table.js'
import { TRANSPORT_NAMES, TRANSPORTS, type Transport } from './askers.js'
import type { LoadRun } from './load.js'
import { Digest, digestOf, gapsOf, tpotOf, ttftOf } from './times.js'

/** One run of one way to ask, under one load. */
export const LatencyMeasurement = z.object({
  transport: z.enum(TRANSPORT_NAMES),
  round: z.int(),
  load: z.union([
    z.object({ loop: z.literal('closed'), clients: z.int() }),
    /** `share` of what the library can do. */
    z.object({ loop: z.literal('open'), share: z.number(), perSecond: z.number() }),
  ]),
  requests: z.int(),
  tokens: z.int(),
  wallMs: z.number(),
  /** Requests that kept all limits. */
  good: z.int(),
  /** Until anything came back. */
  firstByteMs: Digest,
  ttftMs: Digest,
  tpotMs: Digest,
  gapMs: Digest,
  e2eMs: Digest,
  /** From a chunk's making to its arrival. */
  lagMs: Digest,
  chunks: z.int(),
  /** In which the engine's JavaScript thread was not waiting. */
  busyMs: z.number(),
})
export type LatencyMeasurement = Readonly<z.infer<typeof LatencyMeasurement>>

export interface LatencyOptions {
  readonly model: string
  readonly speculation: string
  readonly promptLengths: readonly number[]
  readonly tokens: number
  readonly clients: readonly number[]
  readonly requestsEach: number
  /** Percent of the library's capacity. */
  readonly loads: readonly number[]
  readonly openRequests: number
  readonly rounds: number
  readonly limits: Limits
  readonly quick: boolean
}

/** A request within all of them counts as good. */
export interface Limits {
  readonly ttftMs: number
  readonly tpotMs: number
}

/** What a run meant for the engine's process. */
export interface HostSide {
  /** In which its JavaScript thread was not waiting. */
  readonly busyMs: number
  /** Of all chunks: from their making to their readers. */
  readonly lagsMs: readonly number[]
}

export function measurementOf(
  { answers, wallMs, busyMs, lagsMs }: LoadRun & HostSide,
  { limits, ...of }: Pick<LatencyMeasurement, 'transport' | 'round' | 'load'> & { readonly limits: Limits },
): LatencyMeasurement {
  const known = (values: readonly (number | null)[]): number[] => values.filter((value) => value !== null)
  return {
    ...of,
    requests: answers.length,
    tokens: answers.reduce((sum, { tokens }) => sum + tokens, 0),
    wallMs,
    good: answers.filter((answer) => ttftOf(answer) <= limits.ttftMs && !(tpotOf(answer) > limits.tpotMs)).length,
    firstByteMs: digestOf(known(answers.map(({ firstByteMs, dueMs }) => firstByteMs && firstByteMs - dueMs))),
    ttftMs: digestOf(answers.map(ttftOf)),
    tpotMs: digestOf(answers.map(tpotOf).filter(Number.isFinite)),
    gapMs: digestOf(answers.flatMap(gapsOf)),
    e2eMs: digestOf(answers.map(({ endMs, dueMs }) => endMs - dueMs)),
    lagMs: digestOf(lagsMs),
    busyMs,
    chunks: answers.reduce((sum, { arrivals }) => sum + arrivals.length, 0),
  }
}

type Quantile = 'p50' | 'p95' | 'p99'
type Time = 'firstByteMs' | 'ttftMs' | 'tpotMs' | 'gapMs' | 'lagMs'

/** All rounds of one transport under one load: the median over rounds of each quantile. */
export interface LatencySummary {
  readonly transport: Transport
  readonly load: LatencyMeasurement['load']
  readonly times: Readonly<Record<Time, Readonly<Record<Quantile, number>>>>
  readonly tokensPerSecond: Summary
  readonly goodput: Summary
  /**
   * What a step costs more than in the library, in the same round: the difference of the median gaps between chunks, which is what streaming
   * takes from the engine, and of the median times from a chunk's making to its arrival, which is what a reader waits longer.
   */
  readonly added: { readonly gapMs: Summary; readonly lagMs: Summary; readonly firstTextMs: Summary }
  /** Microseconds of the engine's JavaScript thread per chunk. */
  readonly busyUs: Summary
}

const sameLoad = (a: LatencyMeasurement, b: LatencyMeasurement): boolean =>
  JSON.stringify(loadKey(a.load)) === JSON.stringify(loadKey(b.load))

/** The rate follows from the share, round by round. */
const loadKey = (load: LatencyMeasurement['load']): readonly (string | number)[] =>
  load.loop === 'closed' ? [load.loop, load.clients] : [load.loop, load.share]

export function summariseLatency(measurements: readonly LatencyMeasurement[]): LatencySummary[] {
  const loads = measurements.filter((one, i) => measurements.findIndex((other) => sameLoad(one, other)) === i)
  return loads
    .toSorted((a, b) => Number(loadKey(a.load)[1]) - Number(loadKey(b.load)[1]))
    .toSorted((a, b) => a.load.loop.localeCompare(b.load.loop))
    .flatMap((load) =>
      TRANSPORT_NAMES.flatMap((transport) => {
        const under = measurements.filter((one) => sameLoad(one, load))
        const own = under.filter((one) => one.transport === transport)
        return own.length === 0 ? [] : [summaryFor(own, under)]
      }),
    )
}

function summaryFor(own: readonly LatencyMeasurement[], under: readonly LatencyMeasurement[]): LatencySummary {
  const { transport, load } = own[0]!
  const median = (time: Time, quantile: Quantile): number => medianOf(own.flatMap((one) => one[time][quantile] ?? []))
  const quantiles = (time: Time) => ({
    p50: median(time, 'p50'),
    p95: median(time, 'p95'),
    p99: median(time, 'p99'),
  })
  const added = (time: Time): Summary =>
    summaryOf(
      own.flatMap((one) => {
        const library = under.find((other) => other.transport === 'library' && other.round === one.round)
        const here = one[time].p50
        const there = library?.[time].p50
        return here === null || there === null || there === undefined ? [] : [here - there]
      }),
    )
  return {
    transport,
    load,
    times: {
      firstByteMs: quantiles('firstByteMs'),
      ttftMs: quantiles('ttftMs'),
      tpotMs: quantiles('tpotMs'),
      gapMs: quantiles('gapMs'),
      lagMs: quantiles('lagMs'),
    },
    tokensPerSecond: summaryOf(own.map(({ tokens, wallMs }) => (1000 * tokens) / wallMs)),
    goodput: summaryOf(own.map(({ good, wallMs }) => (1000 * good) / wallMs)),
    added: { gapMs: added('gapMs'), lagMs: added('lagMs'), firstTextMs: added('ttftMs') },
    busyUs: summaryOf(own.map(({ busyMs, chunks }) => (1000 * busyMs) / chunks)),
  }
}

const three = ({ p50, p95, p99 }: Readonly<Record<Quantile, number>>): string =>
  Number.isFinite(p50) ? `${short(p50)} / ${short(p95)} / ${short(p99)}` : '–'

const signed = (value: number): string => `${value < 0 ? '−' : '+'}${fixed(Math.abs(value), 2)}`

const addedCell = (transport: Transport, summary: Summary): string =>
  transport === 'library' || summary.n === 0 ? '–' : spread(summary, signed)

const loadName = (load: LatencyMeasurement['load']): string =>
  load.loop === 'closed'
    ? `${load.clients} ${load.clients === 1 ? 'client' : 'clients'}`
    : `${Math.round(100 * load.share)}% of capacity`

/** A head, then a row per load and transport. */
export function latencyTable(summaries: readonly LatencySummary[]): string[][] {
  return [
    [
      'load',
      'asked over',
      'first byte ms',
      'TTFT ms',
      'TPOT ms',
      'chunk gap ms',
      'step, added ms',
      'arrival, added ms',
      'tokens/s',
      'goodput, requests/s',
      'µs of JavaScript per chunk',
    ],
    ...summaries.map(({ load, transport, times, tokensPerSecond, goodput, added, busyUs }) => [
      loadName(load),
      TRANSPORTS[transport],
      three(times.firstByteMs),
      three(times.ttftMs),
      three(times.tpotMs),
      three(times.gapMs),
      addedCell(transport, added.gapMs),
      addedCell(transport, added.lagMs),
      spread(tokensPerSecond),
      spread(goodput),
      spread(busyUs),
    ]),
  ]
}

/** Of a few loads, what a reader asks first. */
export function briefTable(summaries: readonly LatencySummary[]): string[][] {
  const [head = [], ...rows] = [0, 1, 2, 3, 6, 7, 8].map((column) => latencyTable(summaries).map((row) => row[column]!))
  return head.map((cell, row) => [cell, ...rows.map((column) => column[row]!)])
}

/** What the columns mean. */
export const LEGEND =
  'Times are p50 / p95 / p99, each the median of the rounds. First byte, TTFT: from when a request was made or, at a rate, was due. Step, added: the median gap between chunks less the library’s in the same round: what streaming takes from the engine. Arrival, added: from a chunk’s making to its reader, less the same in the library. Goodput: requests that kept the limits. JavaScript: time in which the engine’s main thread was not waiting, over chunks.'

const optionsOf = ({ options }: BenchResult): LatencyOptions => options as LatencyOptions

export function variantOf(result: BenchResult): string {
  const { model, speculation } = optionsOf(result)
  return JSON.stringify([basename(model), speculation])
}

export function report(results: readonly BenchResult[]): Rendered {
  const found = results.map((result) => {
    const { model, speculation } = optionsOf(result)
    const variant = [model !== 'demo' && basename(model), speculation !== 'off' && speculation]
      .filter(Boolean)
      .join(' ')
    const summaries = summariseLatency(measurementsOf(result, LatencyMeasurement))
    return { result, summaries, plot: plotName('server-latency', result, variant) }
  })
  const tables = found.map(({ result, summaries, plot }) => {
    const image = `![what a client waits longer than a caller of the library](bench/plots/${plot}.svg)`
    return section(
      result,
      `${conditionsOf(optionsOf(result))}\n\n${markdownTable(latencyTable(summaries))}\n${LEGEND}\n\n${image}`,
    )
  })
  const [newest] = found
  const brief = `${conditionsOf(optionsOf(newest!.result))}\n\n${markdownTable(briefTable(newest!.summaries))}\n${LEGEND}`
  return {
    tables: { server: section(newest!.result, brief), 'server-latency': tables.join('\n') },
    plots: Object.fromEntries(found.map(({ summaries, plot }) => [plot, plotOf(summaries)])),
  }
}

function conditionsOf(options: LatencyOptions): string {
  const { model, speculation, promptLengths, tokens, limits, rounds } = options
  const steps = speculation === 'off' ? 'plain decoding, a token in each chunk' : 'Medusa where it pays'
  return `${basename(model)}, greedy, ${steps}; prompts of ${promptLengths.join(', ')} tokens in turn, ${tokens} tokens after each, ${rounds} rounds. The engine and its server are one process, the clients another; the library is called in the first. Good: first text within ${limits.ttftMs} ms and at most ${limits.tpotMs} ms per token. Every answer equals the library’s, token by token over the WebSocket, by its text over SSE.`
}

function plotOf(summaries: readonly LatencySummary[]): string {
  const closed = summaries.filter(({ load }) => load.loop === 'closed')
  const pointsOf = (transport: Transport, time: 'gapMs' | 'lagMs') =>
    closed
      .filter((one) => one.transport === transport && one.added[time].n > 0)
      .map(({ load, added }) => {
        const { median, p10, p90 } = added[time]
        return { x: load.loop === 'closed' ? load.clients : Number.NaN, y: median, low: p10, high: p90 }
      })
  const series = [
    { name: 'WebSocket: step', points: pointsOf('websocket', 'gapMs') },
    { name: 'WebSocket: arrival', points: pointsOf('websocket', 'lagMs') },
    { name: 'SSE: step', points: pointsOf('sse', 'gapMs') },
    { name: 'SSE: arrival', points: pointsOf('sse', 'lagMs') },
  ]
  return lineChart({
    title: 'What a client waits longer than a caller of the library',
    x: {
      label: 'clients',
      scale: 'log',
      ticks: [...new Set(series.flatMap(({ points }) => points.map(({ x }) => x)))],
    },
    y: { label: 'milliseconds added, p50' },
    series: series.filter(({ points }) => points.length > 0),
  })
}
