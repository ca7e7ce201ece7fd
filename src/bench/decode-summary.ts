// What the runs of the decode benchmark come to: medians, ratios of pairs, and the rows of its tables.

import { fixed, mebibytes, percent, short } from '../numbers.js'
import { ARM_NAMES, ARMS, type Arm, type DecodeRun } from './decode.js'
import { harmonicMeanOf, pairedRatiosOf, type Summary, spread, summaryOf } from './statistics.js'

/** All runs of one arm on prompts of one length. */
export interface DecodeSummary {
  readonly arm: Arm
  readonly promptTokens: number
  readonly n: number
  readonly tree: string
  /** Of the tree, in the middle run. */
  readonly nodes: number
  /** What the gate decided, each decision once. */
  readonly gates: readonly string[]
  readonly steps: number
  readonly plainSteps: number
  readonly ttftMs: Summary
  readonly prefillTokensPerSecond: Summary
  readonly tpotMs: Summary
  readonly tokensPerSecond: Summary
  /** Decoding speed over plain decoding's on the same prompt in the same round. */
  readonly xPlain: Summary
  /** Of each run's gaps between chunks: p50, p90 and p99. */
  readonly gapMs: { readonly p50: Summary; readonly p90: Summary; readonly p99: Summary }
  /** All tokens over all steps. */
  readonly tokensPerStep: number
  /** Over all runs. */
  readonly byDepth: readonly { readonly offered: number; readonly accepted: number }[]
  readonly cacheBytes: number
  readonly peakRssBytes: number
}

/** By length, then arm, in the order of the arms; rounds that an arm did not get to are left out of its ratios. */
export function summariseDecode(runs: readonly DecodeRun[]): DecodeSummary[] {
  const lengths = [...new Set(runs.map((run) => run.promptTokens))].sort((a, b) => a - b)
  return lengths.flatMap((promptTokens) =>
    ARM_NAMES.flatMap((arm) => {
      const own = runs.filter((run) => run.promptTokens === promptTokens && run.arm === arm)
      return own.length === 0 ? [] : [summaryFor(own, runs)]
    }),
  )
}

function summaryFor(own: readonly DecodeRun[], all: readonly DecodeRun[]): DecodeSummary {
  const { arm, promptTokens, tree } = own[0]!
  const of = (value: (run: DecodeRun) => number): Summary => summaryOf(own.map(value))
  const plainOf = (run: DecodeRun): DecodeRun | undefined =>
    all.find((one) => one.arm === 'plain' && one.promptTokens === promptTokens && one.round === run.round)
  const paired = own.filter(plainOf)
  const speed = (run: DecodeRun): number => run.tokensPerSecond
  const depth = Math.max(...own.map((run) => run.byDepth.length))
  return {
    arm,
    promptTokens,
    n: own.length,
    tree,
    nodes: of((run) => run.nodes).median,
    gates: [...new Set(own.map((run) => run.gate))].sort(),
    steps: sum(own, (run) => run.steps),
    plainSteps: sum(own, (run) => run.plainSteps),
    ttftMs: of((run) => run.ttftMs),
    prefillTokensPerSecond: of((run) => (1000 * run.promptTokens) / run.prefillMs),
    tpotMs: of((run) => run.tpotMs),
    tokensPerSecond: of(speed),
    xPlain: summaryOf(
      pairedRatiosOf(
        paired.map(speed),
        paired.map((run) => speed(plainOf(run)!)),
      ),
    ),
    gapMs: { p50: of((run) => run.gapMs.p50), p90: of((run) => run.gapMs.p90), p99: of((run) => run.gapMs.p99) },
    tokensPerStep: harmonicMeanOf(own.map((run) => run.tokensPerStep)),
    byDepth: Array.from({ length: depth }, (_, d) => ({
      offered: sum(own, (run) => run.byDepth[d]?.offered ?? 0),
      accepted: sum(own, (run) => run.byDepth[d]?.accepted ?? 0),
    })),
    cacheBytes: of((run) => run.cacheBytes).median,
    peakRssBytes: Math.max(...own.map((run) => run.peakRssBytes)),
  }
}

const sum = (runs: readonly DecodeRun[], value: (run: DecodeRun) => number): number =>
  runs.reduce((total, run) => total + value(run), 0)

/** Speed, latency and memory: a head, then a row per summary. */
export function speedRows(summaries: readonly DecodeSummary[]): string[][] {
  return [
    [
      'prompt',
      'arm',
      'tokens/s',
      'x plain',
      'tokens/step',
      'TTFT ms',
      'TPOT ms',
      'chunk gap p50 / p90 / p99 ms',
      'prefill tokens/s',
      'KV cache MiB',
      'peak RSS MiB',
    ],
    ...summaries.map((one) => [
      String(one.promptTokens),
      ARMS[one.arm].name,
      spread(one.tokensPerSecond),
      spread(one.xPlain, (ratio) => fixed(ratio, 2)),
      fixed(one.tokensPerStep, 2),
      spread(one.ttftMs),
      spread(one.tpotMs),
      [one.gapMs.p50, one.gapMs.p90, one.gapMs.p99].map(({ median }) => short(median)).join(' / '),
      spread(one.prefillTokensPerSecond, (rate) => fixed(rate)),
      mebibytes(one.cacheBytes),
      mebibytes(one.peakRssBytes, 0),
    ]),
  ]
}

/** What the arms that speculate did: their trees, the gate's decision, acceptance by depth. Empty without any. */
export function acceptanceRows(summaries: readonly DecodeSummary[]): string[][] {
  const speculating = summaries.filter((one) => ARMS[one.arm].speculates)
  const depth = Math.max(0, ...speculating.map((one) => one.byDepth.length))
  if (depth === 0) return []
  return [
    [
      'prompt',
      'arm',
      'tree',
      'nodes',
      'gate',
      'plain steps',
      ...Array.from({ length: depth }, (_, d) => `depth ${d + 1}`),
    ],
    ...speculating.map((one) => [
      String(one.promptTokens),
      ARMS[one.arm].name,
      one.tree,
      fixed(one.nodes),
      one.gates.join(', '),
      percent(one.plainSteps, one.steps),
      ...Array.from({ length: depth }, (_, d) => {
        const { offered = 0, accepted = 0 } = one.byDepth[d] ?? {}
        return percent(accepted, offered)
      }),
    ]),
  ]
}
