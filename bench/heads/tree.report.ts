// What the tree benchmark found: tokens per step that calibration promised, and those that the engine made, tree by tree.
import { basename } from 'node:path'
import { z } from 'zod'
import { barChart } from '../../src/charts.js'
import { measurementsOf, plotName, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable } from '../support/table.js'

const Rate = z.object({ tokensPerStep: z.number(), standardError: z.number().nullable() })

/** One tree at one temperature, on one kind of text. */
export const TreeMeasurement = z.object({
  /** The texts, by their path. */
  data: z.string(),
  /** Grown from, and checked on. */
  texts: z.int(),
  heldOut: z.int(),
  temperature: z.number(),
  /**
   * `grown` from these texts; `independent`: from the accuracies of the same texts, as if heads were right independently of each other; `shipped`:
   * what `auto` takes with the heads as they are.
   */
  tree: z.enum(['grown', 'independent', 'shipped', 'mc_sim_7b_63']),
  /** Root included. */
  nodes: z.int(),
  promised: Rate,
  measured: Rate,
})
export type TreeMeasurement = Readonly<z.infer<typeof TreeMeasurement>>

export interface TreeBenchOptions {
  readonly model: string
  readonly promptTokens: number
  readonly tokens: number
  readonly seed: number
  readonly kv: string
}

const optionsOf = ({ options }: Pick<BenchResult, 'options'>): TreeBenchOptions => options as TreeBenchOptions

/** Models stand beside each other. */
export function variantOf(result: BenchResult): string {
  return basename(optionsOf(result).model)
}

const nameOf = ({ data, temperature }: TreeMeasurement): string =>
  `${basename(data)}, ${temperature === 0 ? 'greedy' : `temperature ${temperature}`}`

const TREES = TreeMeasurement.shape.tree.options

/** A head, then a row per kind of text, temperature and size: what was promised of the grown tree, and what was measured of each. */
export function treeTable(measurements: readonly TreeMeasurement[]): string[][] {
  const [, ...others] = TREES
  const head = ['texts', 'nodes', 'promised', 'measured', 'promise off by', ...others, 'grown / mc_sim_7b_63']
  const grown = measurements
    .filter(({ tree }) => tree === 'grown')
    .sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : nameOf(a) > nameOf(b) ? 1 : a.nodes - b.nodes))
  return [
    head,
    ...grown.map((one) => {
      const rateOf = (tree: TreeMeasurement['tree']): number | undefined =>
        measurements.find((other) => other.tree === tree && nameOf(other) === nameOf(one) && other.nodes === one.nodes)
          ?.measured.tokensPerStep
      const { promised, measured } = one
      const error = 100 * (promised.tokensPerStep / measured.tokensPerStep - 1)
      return [
        nameOf(one),
        String(one.nodes),
        shown(promised),
        shown(measured),
        `${error > 0 ? '+' : ''}${fixed(error, 1)}%`,
        ...others.map((tree) => fixed(rateOf(tree), 2)),
        fixed(measured.tokensPerStep / (rateOf('mc_sim_7b_63') ?? Number.NaN), 3),
      ]
    }),
  ]
}

const shown = ({ tokensPerStep, standardError }: TreeMeasurement['measured']): string =>
  `${fixed(tokensPerStep, 2)}${standardError === null ? '' : ` ± ${fixed(standardError, 2)}`}`

export function report(results: readonly BenchResult[]): Rendered {
  const plots = new Map<string, string>()
  const text = sections(results, (result) => {
    const measurements = measurementsOf(result, TreeMeasurement)
    const { model } = optionsOf(result)
    const plot = plotName('tree', result, model === 'demo' ? '' : basename(model))
    plots.set(plot, plotOf(model, measurements))
    const image = `![tokens per step of trees of each size](bench/plots/${plot}.svg)`
    return [conditionsOf(result, measurements), markdownTable(treeTable(measurements)).trim(), image].join('\n\n')
  })
  return { tables: { tree: text }, plots: Object.fromEntries(plots) }
}

function conditionsOf(result: BenchResult, measurements: readonly TreeMeasurement[]): string {
  const { model, promptTokens, tokens, kv } = optionsOf(result)
  const kinds = [...new Map(measurements.map((one) => [one.data, one])).values()].map(
    ({ data, texts, heldOut }) => `${basename(data)} (${texts} texts, and ${heldOut} held out)`,
  )
  return [
    `${basename(model)}, ${kv} cache; trees grown from ${kinds.join(' and ')}: at most ${promptTokens} tokens of each as the prompt, ${tokens} after it.`,
    'Tokens/step: promised of the grown tree by the texts it was grown from, ± one standard error; on the held-out texts measured, of it and of as many',
    'nodes of others: grown as if heads were independent; what `auto` takes with the `accuracy.json` of the heads; mc_sim_7b_63. The engine decoded with',
    'the grown tree and with mc_sim_7b_63, and took the steps that a walk over the texts takes, to the number; the others are by the walk.',
  ].join('\n')
}

function plotOf(model: string, measurements: readonly TreeMeasurement[]): string {
  const kinds = [...new Set(measurements.map(nameOf))].sort()
  const largest = Math.max(...measurements.map(({ nodes }) => nodes))
  return barChart({
    title: `Tokens per step of trees of ${largest} nodes: ${basename(model)}`,
    y: { label: 'tokens per step' },
    groups: kinds.map((name) => {
      const own = measurements.filter((one) => nameOf(one) === name && one.nodes === largest)
      const promised = own.find(({ tree }) => tree === 'grown')?.promised
      return {
        name,
        bars: [
          ...(promised ? [{ series: 'promised', ...barOf(promised) }] : []),
          ...own.map(({ tree, measured }) => ({ series: tree, ...barOf(measured) })),
        ],
      }
    }),
    guides: [{ y: 1, label: 'plain' }],
  })
}

function barOf({ tokensPerStep: value, standardError }: TreeMeasurement['measured']) {
  return { value, ...(standardError !== null && { low: value - standardError, high: value + standardError }) }
}
