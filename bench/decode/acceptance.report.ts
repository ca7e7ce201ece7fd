// What the acceptance benchmark found: tokens per step and acceptance by depth, tree by tree.
import { basename } from 'node:path'
import { z } from 'zod'
import { barChart } from '../../src/charts.js'
import { measurementsOf, plotName, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { harmonicMeanOf, medianOf, pairedRatiosOf, summaryOf } from '../support/statistics.js'
import { fixed, markdownTable, percent, spread } from '../support/table.js'

/** What one tree did on one prompt. */
export const AcceptanceMeasurement = z.object({
  /** The file, from the folder the benchmark was run in. */
  prompt: z.string(),
  /** As it was asked for. */
  tree: z.string(),
  /** Of the tree it became, root included. */
  nodes: z.int(),
  tokensPerStep: z.number(),
  byDepth: z.array(z.object({ offered: z.int(), accepted: z.int() })),
  /** Decoding time per token, round by round, and plain decoding's beside it. */
  msPerToken: z.array(z.number()),
  plainMsPerToken: z.array(z.number()),
})
export type AcceptanceMeasurement = Readonly<z.infer<typeof AcceptanceMeasurement>>

export interface AcceptanceOptions {
  readonly model: string
  readonly promptTokens: number
  readonly tokens: number
  readonly kv: string
  readonly budget: number
  readonly temperature: number
}

const optionsOf = ({ options }: BenchResult): AcceptanceOptions => options as AcceptanceOptions

/** Models, temperatures and caches stand beside each other. */
export function variantOf(result: BenchResult): string {
  const { model, kv, temperature } = optionsOf(result)
  return JSON.stringify([basename(model), kv, temperature])
}

/** A head, then a row per tree in the order they were given. */
export function acceptanceTable(measurements: readonly AcceptanceMeasurement[]): string[][] {
  const depth = Math.max(0, ...measurements.map((one) => one.byDepth.length))
  const depths = Array.from({ length: depth }, (_, d) => d)
  const head = ['tree', 'nodes', 'prompts', 'tokens/step', 'lowest', 'highest', ...depths.map((d) => `depth ${d + 1}`)]
  return [
    [...head, 'x plain'],
    ...treesOf(measurements).map((own) => {
      const rates = own.map((one) => one.tokensPerStep)
      const sum = (key: 'offered' | 'accepted', d: number): number =>
        own.reduce((total, one) => total + (one.byDepth[d]?.[key] ?? 0), 0)
      return [
        own[0]!.tree,
        String(own[0]!.nodes),
        String(own.length),
        // Texts are equally long: all tokens over all steps.
        fixed(harmonicMeanOf(rates), 2),
        fixed(Math.min(...rates), 2),
        fixed(Math.max(...rates), 2),
        ...depths.map((d) => percent(sum('accepted', d), sum('offered', d))),
        spread(summaryOf(own.map(speedup)), (ratio) => fixed(ratio, 2)),
      ]
    }),
  ]
}

/** Plain decoding's time per token over this tree's, of one prompt. */
function speedup({ msPerToken, plainMsPerToken }: AcceptanceMeasurement): number {
  return medianOf(pairedRatiosOf(plainMsPerToken, msPerToken))
}

function treesOf(measurements: readonly AcceptanceMeasurement[]): AcceptanceMeasurement[][] {
  const trees = [...new Set(measurements.map((one) => one.tree))]
  return trees.map((tree) => measurements.filter((one) => one.tree === tree))
}

export function report(results: readonly BenchResult[]): Rendered {
  const found = results.map((result) => {
    const { model, temperature, kv } = optionsOf(result)
    const variant = [
      model !== 'demo' && basename(model),
      kv !== 'full' && kv,
      temperature !== 0 && `temperature ${temperature}`,
    ]
    return {
      result,
      measurements: measurementsOf(result, AcceptanceMeasurement),
      plot: plotName('acceptance', result, variant.filter(Boolean).join(' ')),
    }
  })
  return {
    tables: {
      acceptance: found
        .map(({ result, measurements, plot }) => section(result, tableOf(result, measurements, plot)))
        .join('\n'),
    },
    plots: Object.fromEntries(
      found.map(({ result, measurements, plot }) => [plot, plotOf(optionsOf(result), measurements)]),
    ),
  }
}

function tableOf(result: BenchResult, measurements: readonly AcceptanceMeasurement[], plot: string): string {
  const { model, promptTokens, tokens, kv, temperature } = optionsOf(result)
  const how = temperature === 0 ? 'greedy' : `temperature ${temperature}`
  const conditions = `${basename(model)}, ${how}, ${kv} cache; at most ${promptTokens} tokens of each prompt, ${tokens} after it. Depth d: drafts accepted, of those offered there.`
  const image = `![tokens per step and speed by tree](bench/plots/${plot}.svg)`
  return `${conditions}\n\n${markdownTable(acceptanceTable(measurements))}\n${image}`
}

function plotOf({ model }: AcceptanceOptions, measurements: readonly AcceptanceMeasurement[]): string {
  return barChart({
    title: `Tokens per step and decoding speed by tree: ${basename(model)}`,
    y: { label: 'tokens per step; times plain speed' },
    groups: treesOf(measurements).map((own) => {
      const { median, p10, p90 } = summaryOf(own.map(speedup))
      return {
        name: own[0]!.tree,
        bars: [
          { series: 'tokens per step', value: harmonicMeanOf(own.map((one) => one.tokensPerStep)) },
          { series: 'x plain', value: median, low: p10, high: p90 },
        ],
      }
    }),
    guides: [{ y: 1, label: 'plain' }],
  })
}
