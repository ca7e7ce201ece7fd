// LongEval-lines by arm and number of lines.

import { lineChart } from '../../src/charts.js'
import type { Rendered } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { byBudget, byKind, pointsPlot, representatives, type ScoreTable, scoreSections } from './score-tables.js'
import { summaryTable } from './summary.js'

export { variantOf } from './score-tables.js'

const TITLE = 'LongEval-lines'

/** Cases the model has no room for, if any. */
function tooLong({ result }: ScoreTable): string {
  const { tooLong = {} } = result.options as { tooLong?: Readonly<Record<string, number>> }
  const left = Object.entries(tooLong).map(([lines, count]) => `${count} of ${lines} lines`)
  return left.length === 0 ? '' : `Left out, for they do not fit the model's context: ${left.join(', ')}.\n`
}

export function report(
  results: readonly BenchResult[],
  resultsOf: (bench: string) => readonly BenchResult[],
): Rendered {
  const tables = representatives(results)
  const [first] = tables
  const kinds = byKind(first!)
  const nameOf = (lines: number, tokens: number) => `${lines} lines, ${(tokens / 1000).toFixed(1)}K tokens`
  const images = [
    `![accuracy by budget](bench/plots/quality-longeval-budgets.svg)`,
    ...(kinds ? [`![accuracy by policy](bench/plots/quality-longeval-policies.svg)`] : []),
  ]
  return {
    tables: {
      quality: summaryTable(resultsOf),
      'quality-longeval': `${scoreSections(tables, nameOf, tooLong)}\n${images.join('\n')}\n`,
    },
    plots: {
      'quality-longeval-budgets': lineChart(
        pointsPlot(first!, `${TITLE}: SnapKV by budget`, byBudget(first!), '% right'),
      ),
      ...(kinds && {
        'quality-longeval-policies': lineChart(
          pointsPlot(first!, `${TITLE}: policies that keep ${kinds.budget} rows`, kinds.rows, '% right'),
        ),
      }),
    },
  }
}
