// The attention study: hit rates of windows and recall of policies, over all layers as tables, layer by layer as plots.
import { basename } from 'node:path'
import { type LineChart, lineChart } from '../../src/charts.js'
import { measurementsOf, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable } from '../support/table.js'
import { titleOf } from './arms.js'
import { StudyMeasurement, shareOfAll, sharesByLayer } from './study.js'

type Hit = Extract<StudyMeasurement, { measure: 'hit rate' }>
type Recall = Extract<StudyMeasurement, { measure: 'recall' }>

interface Study {
  readonly result: BenchResult
  readonly hits: readonly Hit[]
  readonly recalls: readonly Recall[]
  readonly lengths: readonly number[]
  readonly depths: readonly number[]
}

const sorted = (values: readonly number[]): number[] => [...new Set(values)].sort((a, b) => a - b)
const percent = (share: number): string => fixed(100 * share, 1)

/** Other models stand beside each other. */
export function variantOf({ options }: BenchResult): string {
  return basename(String((options as { model?: unknown }).model))
}

function studyOf(result: BenchResult): Study {
  const all = measurementsOf(result, StudyMeasurement)
  return {
    result,
    hits: all.filter((one) => one.measure === 'hit rate'),
    recalls: all.filter((one) => one.measure === 'recall'),
    lengths: sorted(all.map(({ length }) => length)),
    depths: sorted(all.map(({ depth }) => depth)),
  }
}

const depthName = (depth: number): string => (depth === 0 ? 'at once' : `after ${depth} tokens`)

/** Hit rates by threshold, window, length and depth. */
function hitTable({ hits, lengths, depths }: Study): string {
  const head = ['attention above', 'window', 'prompt', ...depths.map(depthName), 'all']
  const rows = sorted(hits.map(({ threshold }) => threshold))
    .reverse()
    .flatMap((threshold) =>
      sorted(hits.map(({ window }) => window)).flatMap((window) =>
        lengths.map((length) => {
          const own = hits.filter(
            (one) => one.threshold === threshold && one.window === window && one.length === length,
          )
          return [
            String(threshold),
            String(window),
            String(length),
            ...depths.map((depth) => percent(shareOfAll(own.filter((one) => one.depth === depth)))),
            percent(shareOfAll(own)),
          ]
        }),
      ),
    )
  return markdownTable([head, ...rows])
}

/** Recall by arm, length and depth. */
function recallTable({ recalls, lengths, depths }: Study): string {
  const head = ['rows kept by', ...lengths.map((length) => `${length} tokens`), ...depths.map(depthName)]
  const rows = [...new Set(recalls.map(({ arm }) => arm))].map((arm) => {
    const own = recalls.filter((one) => one.arm === arm)
    return [
      titleOf(own[0]!),
      ...lengths.map((length) => percent(shareOfAll(own.filter((one) => one.length === length)))),
      ...depths.map((depth) => percent(shareOfAll(own.filter((one) => one.depth === depth)))),
    ]
  })
  return markdownTable([head, ...rows])
}

/** A line per series over the layers; layers where nothing was important have no point. */
function byLayer(
  title: string,
  label: string,
  series: readonly { name: string; of: readonly StudyMeasurement[] }[],
): LineChart {
  const layers = Math.max(0, ...series.map(({ of }) => sharesByLayer(of).length))
  return {
    title,
    x: { label: 'layer', ticks: Array.from({ length: layers }, (_, layer) => layer) },
    y: { label, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1] },
    series: series.map(({ name, of }) => ({
      name,
      points: sharesByLayer(of).flatMap((y, x) => (Number.isNaN(y) ? [] : [{ x, y }])),
    })),
  }
}

function plotsOf({ hits, recalls, depths }: Study): Record<string, LineChart> {
  const windows = sorted(hits.map(({ window }) => window))
  const [threshold = 0] = sorted(hits.map((one) => one.threshold)).reverse()
  const strict = hits.filter((one) => one.threshold === threshold)
  const middle = windows.includes(32) ? 32 : windows[0]
  const arms = [...new Set(recalls.map(({ arm }) => arm))].map((arm) => recalls.filter((one) => one.arm === arm))
  const named = (own: readonly Recall[]) => ({ name: titleOf(own[0]!), of: own })
  const others = arms.filter(([first]) => first!.kind !== 'full' && first!.kind !== 'snapkv')
  const budget = others.flat()[0]?.budget
  const atBudget = arms.filter(([first]) => first!.budget === budget)
  return {
    'quality-hit-rate-windows': byLayer(
      `Hit rate of windows (attention above ${threshold})`,
      'hit rate',
      windows.map((window) => ({ name: `window of ${window}`, of: strict.filter((one) => one.window === window) })),
    ),
    'quality-hit-rate-depths': byLayer(
      `Hit rate of a window of ${middle}, by depth of the generation`,
      'hit rate',
      depths.map((depth) => ({
        name: depthName(depth),
        of: strict.filter((one) => one.window === middle && one.depth === depth),
      })),
    ),
    'quality-recall-budgets': byLayer(
      'Attention to the prompt that falls on rows SnapKV keeps',
      'share',
      arms.filter(([first]) => first!.kind === 'snapkv').map(named),
    ),
    ...(others.length > 0 && {
      'quality-recall-policies': byLayer(
        `Attention to the prompt that falls on ${budget} rows kept`,
        'share',
        atBudget.map(named),
      ),
    }),
  }
}

function markdownOf(study: Study): string {
  const { texts, share, temperature, rows } = study.result.options as {
    readonly texts: number
    readonly share: number
    readonly temperature: number
    readonly rows: number
  }
  return `${texts} ${texts === 1 ? 'prompt' : 'prompts'} of each length; ${rows} tokens looked at from each depth on, generated at temperature ${temperature}.

Hit rate: of the prompt's rows that a generated token attends to above a threshold, % that are among the ${100 * share} % the window's queries voted for most:

${hitTable(study)}
Recall: % of the attention paid to the prompt that falls on the rows kept:

${recallTable(study)}`
}

export function report(results: readonly BenchResult[]): Rendered {
  // Instruction sets change no attention: one result per model, that of most texts.
  const texts = (result: BenchResult): number => (result.options as { readonly texts: number }).texts
  const best = new Map<string, BenchResult>()
  for (const result of results) {
    const known = best.get(variantOf(result))
    if (!known || texts(result) > texts(known)) best.set(variantOf(result), result)
  }
  const studies = [...best.values()].map(studyOf)
  const plots = plotsOf(studies[0]!)
  const images = Object.entries(plots).map(([name, { title }]) => `![${title}](bench/plots/${name}.svg)`)
  const tables = studies.map((study) => section(study.result, markdownOf(study))).join('\n')
  return {
    tables: { 'quality-hit-rate': `${tables}\n${images.join('\n')}\n` },
    plots: Object.fromEntries(Object.entries(plots).map(([name, chart]) => [name, lineChart(chart)])),
  }
}
