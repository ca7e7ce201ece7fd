// The tables of peers/node-llama-cpp.

import { lineChart } from '../../src/charts.js'
import type { Rendered } from '../support/report.js'
import { sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { medianOf, summaryOf } from '../support/statistics.js'
import { fixed, markdownTable, short, spread } from '../support/table.js'
import type { GorgonInfo } from './gorgon-arm.js'
import type { NodeLlamaCppInfo, NodeLlamaCppSetup } from './node-llama-cpp-arm.js'

/** Who was measured, and with which settings. */
export type Peer =
  | ({ readonly engine: 'gorgon'; readonly name: string } & GorgonInfo)
  | ({ readonly engine: 'node-llama-cpp'; readonly name: string } & NodeLlamaCppInfo &
      Omit<NodeLlamaCppSetup, 'dir' | 'gguf'>)

export interface PeerOptions {
  readonly model: string
  readonly dtype: string
  readonly promptTokens: readonly number[]
  readonly tokens: number
  readonly rounds: number
  readonly warmup: number
  readonly threads: number
  readonly tree: string
  readonly budget: number
}

export type PeerMeasurement =
  | {
      readonly kind: 'speed'
      readonly peer: Peer
      readonly promptTokens: number
      /** One per round, as the next. */
      readonly ttftMs: readonly number[]
      readonly tokensPerSecond: readonly number[]
      readonly tokensPerStep: readonly number[]
      readonly peakRssBytes: number
      /** Tokens before the first that differs from our plain decoding, over all rounds, of how many. */
      readonly equal: number
      readonly of: number
    }
  | {
      readonly kind: 'goldens'
      readonly peer: Peer
      /** As above, compared with the golden texts. */
      readonly equal: number
      readonly of: number
    }

type Speed = Extract<PeerMeasurement, { kind: 'speed' }>
type Result = BenchResult<PeerOptions, PeerMeasurement>

/** How many tokens two texts have in common before they part. */
export function matching(a: readonly number[], b: readonly number[]): number {
  const parting = a.findIndex((token, i) => token !== b[i])
  return parting < 0 ? Math.min(a.length, b.length) : parting
}

export function variantOf({ options }: BenchResult): string {
  return JSON.stringify([(options as PeerOptions).model, (options as PeerOptions).threads])
}

export function report(results: readonly BenchResult[]): Rendered {
  const own = results as readonly Result[]
  return {
    tables: { peers: sections(own, tableOf), 'peers-plots': own.map((_, i) => picturesOf(suffixOf(i))).join('\n') },
    plots: Object.fromEntries(own.flatMap((result, i) => plotsOf(result, suffixOf(i)))),
  }
}

/** Of the plots of a result, newest first. */
const suffixOf = (index: number): string => (index === 0 ? '' : `-${index + 1}`)

const PLOTS = { rate: 'peers-tokens-per-second', first: 'peers-first-token' } as const

const picturesOf = (suffix: string): string =>
  `![Tokens per second by prompt length](bench/plots/${PLOTS.rate}${suffix}.svg)\n\n![Time to the first token by prompt length](bench/plots/${PLOTS.first}${suffix}.svg)\n`

/** What an arm is measured against: the better of node-llama-cpp's, figure by figure. */
function bestOf(rivals: readonly Speed[]): { ttftMs: number; tokensPerSecond: number } {
  return {
    ttftMs: Math.min(...rivals.map((rival) => medianOf(rival.ttftMs))),
    tokensPerSecond: Math.max(...rivals.map((rival) => medianOf(rival.tokensPerSecond))),
  }
}

function tableOf(result: Result): string {
  const speeds = result.measurements.filter((m) => m.kind === 'speed')
  const head = ['prompt', 'engine', 'first token, s', 'x', 'tokens/s', 'x', 'tokens/step', 'same tokens', 'memory, MiB']
  const rows = speeds.map((speed) => {
    const { peer, promptTokens, ttftMs, tokensPerSecond, tokensPerStep, peakRssBytes, equal, of } = speed
    const best = bestOf(speeds.filter((m) => m.promptTokens === promptTokens && m.peer.engine === 'node-llama-cpp'))
    const isOwn = peer.engine === 'gorgon'
    return [
      String(promptTokens),
      nameOf(peer),
      spread(summaryOf(ttftMs.map((ms) => ms / 1000))),
      isOwn ? fixed(best.ttftMs / medianOf(ttftMs), 2) : '',
      spread(summaryOf(tokensPerSecond)),
      isOwn ? fixed(medianOf(tokensPerSecond) / best.tokensPerSecond, 2) : '',
      fixed(medianOf(tokensPerStep), 2),
      `${equal} of ${of}`,
      short(peakRssBytes / 2 ** 20),
    ]
  })
  return `${markdownTable([head, ...rows])}\n${notesOf(result)}`
}

/** What the columns are, and what ran. */
function notesOf({ options, measurements }: Result): string {
  const { dtype, threads, tokens, rounds } = options
  const peers = measurements.map(({ peer }) => peer)
  const rival = peers.find((peer) => peer.engine === 'node-llama-cpp')
  const lines = [
    `${dtype} weights, ${threads} ${threads === 1 ? 'thread' : 'threads'}, greedy, ${tokens} tokens after each prompt; medians with p10–p90 of n = ${rounds}, another prompt each time. x: against the better of node-llama-cpp's rows, figure by figure.`,
    'Same tokens: before the first that differs from our plain decoding. Memory: most the process held during the generation, Node and weights included.',
  ]
  if (rival) {
    const { version, llamaCpp, library } = rival
    const kv = [...new Set(peers.flatMap((peer) => (peer.engine === 'node-llama-cpp' ? [peer.kv] : [])))]
    const batch = [...new Set(peers.flatMap((peer) => (peer.engine === 'node-llama-cpp' ? [peer.batchSize] : [])))]
    lines.push(
      `node-llama-cpp ${version}: llama.cpp ${llamaCpp}, prebuilt${library === null ? '' : `, ${library}`}; batches of ${batch.join(', ')}, ${kv.join(', ')} KV cache, nothing quantised, no context shift.`,
    )
  }
  const goldens = measurements.filter((m) => m.kind === 'goldens')
  if (goldens.length > 0) {
    const said = goldens.map(({ peer, equal, of }) => `${nameOf(peer)}: ${equal} of ${of}`)
    lines.push(`Tokens of the golden texts: ${said.join('; ')}.`)
  }
  return lines.join('\n')
}

function plotsOf(result: Result, suffix: string): [string, string][] {
  const speeds = result.measurements.filter((m) => m.kind === 'speed')
  const names = [...new Set(speeds.map(({ peer }) => nameOf(peer)))]
  const lengths = [...new Set(speeds.map(({ promptTokens }) => promptTokens))].sort((a, b) => a - b)
  const chart = (title: string, label: string, samplesOf: (speed: Speed) => readonly number[]): string =>
    lineChart({
      title: `${title}: ${result.machine.cpu}, threads: ${result.options.threads}`,
      x: { label: 'tokens of prompt', scale: 'log', ticks: lengths },
      y: { label, scale: 'log' },
      series: names.map((name) => ({
        name,
        points: speeds
          .filter(({ peer }) => nameOf(peer) === name)
          .map((speed) => {
            const { median, p10, p90 } = summaryOf(samplesOf(speed))
            return { x: speed.promptTokens, y: median, low: p10, high: p90 }
          }),
      })),
    })
  return [
    [`${PLOTS.rate}${suffix}`, chart('Decoding', 'tokens/s', (speed) => speed.tokensPerSecond)],
    [`${PLOTS.first}${suffix}`, chart('To the first token', 's', (speed) => speed.ttftMs.map((ms) => ms / 1000))],
  ]
}

const nameOf = ({ engine, name }: Peer): string => `${engine}, ${name}`
