// Scores as readers see them: points by arm and length, what is lost against the full cache, and a sentence on what that means.
import { basename } from 'node:path'
import type { LineChart } from '../../src/charts.js'
import { measurementsOf, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable } from '../support/table.js'
import { type Arm, titleOf } from './arms.js'
import { ArmScores, decodeScores, intervalOf, type Loss, lossOf, pointsOf } from './scores.js'

/** Points that may be lost at `BUDGET` for long prompts. */
const ALLOWED = 2
const BUDGET = 1024
/** From which mean prompt length on a prompt is long. */
const LONG_TOKENS = 4000

export interface ScoreRow extends Pick<Arm, 'kind' | 'budget'> {
  readonly arm: string
  /** Of cases that were asked, in their order. */
  readonly byLength: ReadonlyMap<number, readonly number[]>
}

export interface ScoreTable {
  readonly result: BenchResult
  readonly rows: readonly ScoreRow[]
  /** With the mean length of their prompts. */
  readonly lengths: readonly { readonly length: number; readonly promptTokens: number }[]
}

export function scoreTable(result: BenchResult): ScoreTable {
  const rows = new Map<string, ScoreRow & { readonly byLength: Map<number, readonly number[]> }>()
  const lengths = new Map<number, number>()
  for (const { arm, kind, budget, length, promptTokens, scores } of measurementsOf(result, ArmScores)) {
    if (!rows.has(arm)) rows.set(arm, { arm, kind, budget, byLength: new Map() })
    rows.get(arm)!.byLength.set(
      length,
      decodeScores(scores).filter((score) => score !== null),
    )
    lengths.set(length, promptTokens)
  }
  return {
    result,
    rows: [...rows.values()],
    lengths: [...lengths]
      .map(([length, promptTokens]) => ({ length, promptTokens }))
      .sort((a, b) => a.length - b.length),
  }
}

/** The scores of some lengths, one after the other. */
export function scoresOf(row: ScoreRow, lengths: ScoreTable['lengths']): number[] {
  return lengths.flatMap(({ length }) => row.byLength.get(length) ?? [])
}

export function rowOf(table: ScoreTable, kind: Arm['kind'], budget: number | null): ScoreRow | undefined {
  return table.rows.find((row) => row.kind === kind && row.budget === budget)
}

/** What an arm loses against the full cache on the same cases; null without a full cache to compare with. */
export function lossAt(table: ScoreTable, row: ScoreRow, lengths: ScoreTable['lengths']): Loss | null {
  const full = rowOf(table, 'full', null)
  if (!full || full === row) return null
  const own = scoresOf(row, lengths)
  return own.length === 0 ? null : lossOf(scoresOf(full, lengths), own)
}

export const longOnes = ({ lengths }: ScoreTable): ScoreTable['lengths'] =>
  lengths.filter(({ promptTokens }) => promptTokens >= LONG_TOKENS)

const points = (value: number): string => fixed(value, 1).replace(/^-/, '−')

/** What is lost as what changed: `−1.3`, `+0.4`, `±0.0`. */
function change(lost: number): string {
  const text = fixed(Math.abs(lost), 1)
  return `${Number(text) === 0 ? '±' : lost > 0 ? '−' : '+'}${text}`
}

/** `91.2 (−1.3)`, bold where more is lost than may be. */
function cell(table: ScoreTable, row: ScoreRow, lengths: ScoreTable['lengths']): string {
  const scores = scoresOf(row, lengths)
  if (scores.length === 0) return '–'
  const loss = lossAt(table, row, lengths)
  if (!loss) return points(pointsOf(scores))
  const text = `${points(pointsOf(scores))} (${change(loss.points)})`
  return loss.points > ALLOWED ? `**${text}**` : text
}

/** Points by arm and length. */
export function pointsTable(table: ScoreTable, nameOf: (length: number, promptTokens: number) => string): string {
  const head = [
    '',
    ...table.lengths.map(({ length, promptTokens }) => nameOf(length, promptTokens)),
    'all',
    '95 % of all',
  ]
  const body = table.rows.map((row) => {
    const { low, high } = intervalOf(scoresOf(row, table.lengths))
    return [
      titleOf(row),
      ...table.lengths.map((one) => cell(table, row, [one])),
      cell(table, row, table.lengths),
      `${fixed(low)}–${fixed(high)}`,
    ]
  })
  const counts = table.lengths.map((one) => String(Math.max(...table.rows.map((row) => scoresOf(row, [one]).length))))
  const all = counts.reduce((sum, count) => sum + Number(count), 0)
  return markdownTable([head, ...body, ['cases', ...counts, String(all), '']])
}

/** Whether long prompts lose more than they may at the budget in question, said so that nobody can overlook it. */
export function verdict(table: ScoreTable): string {
  const row = rowOf(table, 'snapkv', BUDGET)
  const long = longOnes(table)
  const loss = row && lossAt(table, row, long)
  if (!row || !loss) return ''
  const tokens = long.map(({ promptTokens }) => `${(promptTokens / 1000).toFixed(1)}K`)
  const span = tokens.length === 1 ? tokens[0]! : `${tokens[0]} to ${tokens.at(-1)}`
  const loses =
    loss.points > 0
      ? `loses ${points(loss.points)} points`
      : loss.points < 0
        ? `gains ${points(-loss.points)} points`
        : 'loses nothing'
  const interval = `95 % interval of the loss ${points(loss.low)} to ${points(loss.high)}; worse in ${loss.worse} and better in ${loss.better} of ${scoresOf(row, long).length} cases`
  const over = long.filter((one) => lossAt(table, row, [one])!.points > ALLOWED)
  const where = over.map(
    (one) => `${points(lossAt(table, row, [one])!.points)} at ${(one.promptTokens / 1000).toFixed(1)}K`,
  )
  const judged =
    loss.points > ALLOWED
      ? `**more than the ${ALLOWED} it should stay within**`
      : where.length > 0
        ? `within ${ALLOWED} points over all, **but not at every length**`
        : `within ${ALLOWED} points at every length`
  const details = where.length > 0 ? ` Lost: ${where.join(', ')}.` : ''
  return `SnapKV ${BUDGET} ${loses} against the full cache, over prompts of ${span} tokens: ${judged}. (${interval}.)${details}\n`
}

/** How to read `pointsTable`. */
export const LEGEND = `In brackets: points gained or lost against the full cache on the same cases; bold where more than ${ALLOWED} are lost.`

const modelOf = ({ options }: BenchResult): string => basename(String((options as { model?: unknown }).model))

/** Other models stand beside each other. */
export const variantOf = modelOf

/**
 * One result per model: instruction sets and threads change no score, so the one with the most answers speaks for every machine.
 *
 * @param results newest first
 */
export function representatives(results: readonly BenchResult[]): ScoreTable[] {
  const best = new Map<string, ScoreTable>()
  const answers = (table: ScoreTable) => table.rows.reduce((sum, row) => sum + scoresOf(row, table.lengths).length, 0)
  for (const result of results) {
    const table = scoreTable(result)
    const known = best.get(modelOf(result))
    if (!known || answers(table) > answers(known)) best.set(modelOf(result), table)
  }
  return [...best.values()]
}

/** A section per table: points, legend, verdict. */
export function scoreSections(
  tables: readonly ScoreTable[],
  nameOf: (length: number, promptTokens: number) => string,
  more: (table: ScoreTable) => string = () => '',
): string {
  return tables
    .map((table) =>
      section(
        table.result,
        [pointsTable(table, nameOf), `${LEGEND}\n`, verdict(table), more(table)].filter(Boolean).join('\n'),
      ),
    )
    .join('\n')
}

/** Points over prompt length of some arms. */
export function pointsPlot(table: ScoreTable, title: string, rows: readonly ScoreRow[], label: string): LineChart {
  return {
    title,
    x: { label: 'prompt tokens', ticks: table.lengths.map(({ promptTokens }) => promptTokens) },
    y: { label, ticks: [0, 20, 40, 60, 80, 100] },
    series: rows.map((row) => ({
      name: titleOf(row),
      points: table.lengths.flatMap((one) => {
        const scores = scoresOf(row, [one])
        return scores.length === 0 ? [] : [{ x: one.promptTokens, y: pointsOf(scores) }]
      }),
    })),
  }
}

/** Full cache and SnapKV at its budgets. */
export const byBudget = ({ rows }: ScoreTable): ScoreRow[] =>
  rows.filter(({ kind }) => kind === 'full' || kind === 'snapkv')

/** Everything there is at the budget most kinds were asked at. */
export function byKind({ rows }: ScoreTable): { readonly budget: number; readonly rows: ScoreRow[] } | null {
  const others = rows.filter(({ kind }) => kind !== 'full' && kind !== 'snapkv')
  const budget = others.find((row) => row.budget === BUDGET)?.budget ?? others.at(-1)?.budget
  if (typeof budget !== 'number') return null
  return { budget, rows: rows.filter((row) => row.kind === 'full' || row.budget === budget) }
}
