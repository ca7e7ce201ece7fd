// Needles found by arm and prompt length, and a heat map of depth and length for each arm.

import { heatMap } from '../../src/charts.js'
import { measurementsOf, type Rendered } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { titleOf } from './arms.js'
import { representatives, type ScoreRow, type ScoreTable, scoreSections } from './score-tables.js'
import { ArmScores, decodeScores, pointsOf } from './scores.js'
import { summaryTable } from './summary.js'

export { variantOf } from './score-tables.js'

const plotOf = (arm: string): string => `quality-needle-${arm}`

/** [depth][length]: % found; null where nobody looked. Cases stand in the order of their depths, once for every time all were asked. */
export function foundByDepth({ result, lengths }: ScoreTable, { arm }: ScoreRow): (number | null)[][] {
  const { depths } = result.options as { readonly depths: number }
  const own = measurementsOf(result, ArmScores).filter((one) => one.arm === arm)
  return Array.from({ length: depths }, (_, depth) =>
    lengths.map(({ length }) => {
      const scores = decodeScores(own.find((one) => one.length === length)?.scores ?? '-')
      const asked = scores.filter((score, i): score is number => score !== null && i % depths === depth)
      return asked.length === 0 ? null : pointsOf(asked)
    }),
  )
}

function depthMap(table: ScoreTable, row: ScoreRow): string {
  const { depths } = table.result.options as { readonly depths: number }
  const nameOf = (depth: number): string => `${depths === 1 ? 50 : Math.round((100 * depth) / (depths - 1))}%`
  return heatMap({
    title: `Needle in a haystack, % found: ${titleOf(row)}`,
    x: { label: 'prompt tokens', names: table.lengths.map(({ length }) => String(length)) },
    y: { label: 'depth', names: Array.from({ length: depths }, (_, depth) => nameOf(depth)) },
    values: foundByDepth(table, row),
    from: 0,
    to: 100,
    format: (value) => String(Math.round(value)),
  })
}

/** Two side by side. */
function gallery(rows: readonly ScoreRow[]): string {
  const images = rows.map((row) => `![${titleOf(row)}](bench/plots/${plotOf(row.arm)}.svg)`)
  const lines = Array.from(
    { length: Math.ceil(images.length / 2) },
    (_, i) => `| ${images[2 * i]} | ${images[2 * i + 1] ?? ''} |`,
  )
  return ['| | |', '| --- | --- |', ...lines].join('\n')
}

export function report(
  results: readonly BenchResult[],
  resultsOf: (bench: string) => readonly BenchResult[],
): Rendered {
  const tables = representatives(results)
  const first = tables[0]!
  return {
    tables: {
      quality: summaryTable(resultsOf),
      'quality-needle': `${scoreSections(tables, (length) => `${length} tokens`)}\n${gallery(first.rows)}\n`,
    },
    plots: Object.fromEntries(first.rows.map((row) => [plotOf(row.arm), depthMap(first, row)])),
  }
}
