// What the auto benchmark found: the tree chosen by measurement beside fixed ones and plain decoding, by instruction set, heads and prompt.
import { basename } from 'node:path'
import { z } from 'zod'
import { barChart } from '../../src/charts.js'
import { measurementsOf, plotName, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { harmonicMeanOf, medianOf, type Summary, summaryOf } from '../support/statistics.js'
import { fixed, markdownTable, short, spread } from '../support/table.js'

/** The arm that all others are compared with, and the one this is about. */
export const PLAIN = 'plain'
export const AUTO = 'auto'

/** One generation of one arm. */
export const AutoMeasurement = z.object({
  isa: z.string(),
  /** Which drafts: the model's own heads, or some whose drafts are never right. */
  heads: z.enum(['own', 'useless']),
  promptTokens: z.int(),
  /** `plain`, `auto`, or a fixed tree as it was asked for. */
  arm: z.string(),
  /** Arms are paired by it. */
  round: z.int(),
  /** Of decoding. */
  tokensPerSecond: z.number(),
  tokensPerStep: z.number(),
  /** Of the tree it ended with, root included; 1 for plain decoding. */
  nodes: z.int(),
  /** What the gate decided; null where there was none. */
  gate: z.string().nullable(),
})
export type AutoMeasurement = Readonly<z.infer<typeof AutoMeasurement>>

export interface AutoOptions {
  readonly model: string
  readonly tokens: number
  readonly rounds: number
}

/** One instruction set, one kind of heads, prompts of one length. */
export interface AutoSummary {
  readonly isa: string
  readonly heads: AutoMeasurement['heads']
  readonly promptTokens: number
  readonly plainTokensPerSecond: Summary
  /** Speed over plain decoding's in the same round, of every other arm, in the order they were measured. */
  readonly xPlain: ReadonlyMap<string, Summary>
  /** The fixed tree with the highest median. */
  readonly best: string | null
  /** Speed over that tree's, round by round. */
  readonly autoOverBest: Summary
  readonly autoNodes: number
  readonly autoTokensPerStep: number
}

export function summariseAuto(measurements: readonly AutoMeasurement[]): AutoSummary[] {
  const keyOf = ({ isa, heads, promptTokens }: AutoMeasurement): string => `${isa} ${heads} ${promptTokens}`
  const keys = [...new Set(measurements.map(keyOf))]
  return keys.map((key) => summaryFor(measurements.filter((one) => keyOf(one) === key)))
}

function summaryFor(own: readonly AutoMeasurement[]): AutoSummary {
  const { isa, heads, promptTokens } = own[0]!
  const of = (arm: string): AutoMeasurement[] => own.filter((one) => one.arm === arm)
  const over = (arm: string, base: string): Summary =>
    summaryOf(
      of(arm).flatMap(({ round, tokensPerSecond }) => {
        const other = of(base).find((one) => one.round === round)
        return other ? [tokensPerSecond / other.tokensPerSecond] : []
      }),
    )
  const arms = [...new Set(own.map((one) => one.arm))].filter((arm) => arm !== PLAIN)
  const xPlain = new Map(arms.map((arm) => [arm, over(arm, PLAIN)]))
  const fixedTrees = arms.filter((arm) => arm !== AUTO)
  const best = fixedTrees.reduce<string | null>(
    (sofar, arm) => (sofar === null || xPlain.get(arm)!.median > xPlain.get(sofar)!.median ? arm : sofar),
    null,
  )
  return {
    isa,
    heads,
    promptTokens,
    plainTokensPerSecond: summaryOf(of(PLAIN).map((one) => one.tokensPerSecond)),
    xPlain,
    best,
    autoOverBest: best === null ? summaryOf([]) : over(AUTO, best),
    autoNodes: medianOf(of(AUTO).map((one) => one.nodes)),
    autoTokensPerStep: harmonicMeanOf(of(AUTO).map((one) => one.tokensPerStep)),
  }
}

/** A head, then a row per instruction set, heads and length. */
export function autoTable(summaries: readonly AutoSummary[]): string[][] {
  const trees = [...new Set(summaries.flatMap((one) => [...one.xPlain.keys()]))].filter((arm) => arm !== AUTO)
  const ratio = (value: number): string => fixed(value, 2)
  return [
    ['isa', 'heads', 'prompt', 'plain tokens/s', ...trees, AUTO, 'auto / best fixed', 'auto nodes', 'auto tokens/step'],
    ...summaries.map((one) => [
      one.isa,
      one.heads,
      String(one.promptTokens),
      short(one.plainTokensPerSecond.median),
      ...trees.map((tree) => mark(ratio(one.xPlain.get(tree)?.median ?? Number.NaN), tree === one.best)),
      spread(one.xPlain.get(AUTO) ?? summaryOf([]), ratio),
      spread(one.autoOverBest, ratio),
      fixed(one.autoNodes),
      fixed(one.autoTokensPerStep, 2),
    ]),
  ]
}

const mark = (text: string, isBest: boolean): string => (isBest ? `**${text}**` : text)

const optionsOf = ({ options }: BenchResult): AutoOptions => options as AutoOptions

export function variantOf(result: BenchResult): string {
  return basename(optionsOf(result).model)
}

export function report(results: readonly BenchResult[]): Rendered {
  const found = results.map((result) => {
    const { model } = optionsOf(result)
    const summaries = summariseAuto(measurementsOf(result, AutoMeasurement))
    return { result, summaries, plot: plotName('auto', result, model === 'demo' ? '' : basename(model)) }
  })
  const tables = found.map(({ result, summaries, plot }) => {
    const { model, tokens, rounds } = optionsOf(result)
    const conditions = `${basename(model)}, greedy, ${tokens} tokens after each prompt, ${rounds} rounds. Trees: decoding speed over plain decoding's in the same round, the best fixed one in bold. Useless heads: their drafts are never right.`
    const image = `![decoding speed by tree](bench/plots/${plot}.svg)`
    return section(result, `${conditions}\n\n${markdownTable(autoTable(summaries))}\n${image}`)
  })
  return {
    tables: { auto: tables.join('\n') },
    plots: Object.fromEntries(found.map(({ result, summaries, plot }) => [plot, plotOf(result, summaries)])),
  }
}

/** With the model's own heads; what useless ones cost is in the table. */
function plotOf(result: BenchResult, all: readonly AutoSummary[]): string {
  const summaries = all.filter((one) => one.heads === 'own')
  return barChart({
    title: `Decoding speed by tree: ${basename(optionsOf(result).model)}, ${result.machine.cpu}`,
    y: { label: 'times plain speed' },
    groups: summaries.map(({ isa, promptTokens, xPlain }) => ({
      name: `${isa}, ${promptTokens} tokens`,
      bars: [...xPlain].map(([series, { median, p10, p90 }]) => ({ series, value: median, low: p10, high: p90 })),
    })),
    guides: [{ y: 1, label: 'plain' }],
  })
}
