// What a training run tells in the end: accuracies for growing trees, curves, and a table of the heads.

import { type LineChart, lineChart, type Point, stackedCharts } from '../../src/charts.js'
import { fixed, percent } from '../../src/numbers.js'
import type { HeadsAccuracy } from '../format/accuracy.js'
import type { HeadScores } from './loss.js'

/** Of one head: positions it was asked at, and at how many of them its draft of a rank was right, [rank]. */
export interface RankCounts {
  readonly positions: number
  readonly hits: readonly number[]
}

/** What a run saw at one step: in the step itself, or in held-out texts after it. */
export interface CurvePoint {
  readonly step: number
  readonly loss: number
  readonly heads: readonly Pick<HeadScores, 'top1'>[]
}

/** Of a step of the run, which read so many tokens. */
export interface StepPoint extends CurvePoint {
  readonly tokens: number
}

/** accuracy.json of heads; null when nothing was held out to measure it. */
export function accuracyOf(heads: readonly RankCounts[]): HeadsAccuracy | null {
  if (heads.length === 0 || heads.some(({ positions }) => positions === 0)) return null
  return {
    rank_accuracy: heads.map(({ positions, hits }) => hits.map((count) => count / positions)),
    counts: heads.map(({ positions }) => positions),
  }
}

/** A head, then a row per Medusa head. */
export function headsTable(heads: readonly HeadScores[]): string[][] {
  return [
    ['head', 'positions', 'loss', 'top-1', 'top-5', 'top-10'],
    ...heads.map(({ positions, loss, top1, top5, top10 }, head) => [
      `${head + 1}`,
      String(positions),
      fixed(loss, 3),
      ...[top1, top5, top10].map((share) => percent(share * positions, positions)),
    ]),
  ]
}

/** Steps are drawn as means of neighbours, no more than this many: single batches differ more than the run progresses. */
const MOST_POINTS = 48

/** An SVG: losses and each head's first guesses, over the tokens read. */
export function trainingCurves({
  title,
  steps,
  heldOut,
}: {
  readonly title: string
  readonly steps: readonly StepPoint[]
  readonly heldOut: readonly CurvePoint[]
}): string {
  const read = tokensByStep(steps)
  const means = meansOf(steps)
  const x: LineChart['x'] = { label: 'tokens read, in thousands' }
  const points = (of: readonly CurvePoint[], y: (point: CurvePoint) => number | undefined): Point[] =>
    of.flatMap((point) => {
      const value = y(point)
      return value !== undefined && Number.isFinite(value) ? [{ x: (read.get(point.step) ?? 0) / 1000, y: value }] : []
    })
  const medusaHeads = Math.max(0, ...[...steps, ...heldOut].map(({ heads }) => heads.length))
  // Without texts held out, what was learnt is all there is to show.
  const judged = heldOut.length > 0 ? heldOut : means
  return stackedCharts([
    lineChart({
      title: `${title}: loss`,
      x,
      y: { label: 'cross entropy, nats per token' },
      series: [
        { name: 'training', points: points(means, ({ loss }) => loss) },
        ...(heldOut.length > 0 ? [{ name: 'held out', points: points(heldOut, ({ loss }) => loss) }] : []),
      ],
    }),
    lineChart({
      title: `${title}: right first guesses${heldOut.length > 0 ? ', held out' : ' in training'}`,
      x,
      y: { label: 'share of positions' },
      series: Array.from({ length: medusaHeads }, (_, head) => ({
        name: `head ${head + 1}`,
        points: points(judged, ({ heads }) => heads[head]?.top1),
      })),
    }),
  ])
}

/** Tokens read when a step was done. */
function tokensByStep(steps: readonly StepPoint[]): ReadonlyMap<number, number> {
  let read = 0
  return new Map(
    steps.map(({ step, tokens }) => {
      read += tokens
      return [step, read]
    }),
  )
}

/** Runs of neighbours as one point each, where the last of them stands. */
function meansOf(steps: readonly StepPoint[]): CurvePoint[] {
  const size = Math.max(1, Math.ceil(steps.length / MOST_POINTS))
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
  return Array.from({ length: Math.ceil(steps.length / size) }, (_, i) => {
    const own = steps.slice(i * size, (i + 1) * size)
    const last = own.at(-1)!
    return {
      step: last.step,
      loss: mean(own.map(({ loss }) => loss)),
      heads: last.heads.map((_, head) => ({ top1: mean(own.map(({ heads }) => heads[head]?.top1 ?? 0)) })),
    }
  })
}
