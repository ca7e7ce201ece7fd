// Next-line completion by arm and prompt length.

import { lineChart } from '../../src/charts.js'
import type { Rendered } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { byBudget, byKind, pointsPlot, representatives, scoreSections } from './score-tables.js'
import { summaryTable } from './summary.js'

export { variantOf } from './score-tables.js'

const TITLE = 'Next-line completion'

export function report(
  results: readonly BenchResult[],
  resultsOf: (bench: string) => readonly BenchResult[],
): Rendered {
  const tables = representatives(results)
  const [first] = tables
  const kinds = byKind(first!)
  const images = [
    `![similarity by budget](bench/plots/quality-completion-budgets.svg)`,
    ...(kinds ? [`![similarity by policy](bench/plots/quality-completion-policies.svg)`] : []),
  ]
  return {
    tables: {
      quality: summaryTable(resultsOf),
      'quality-completion': `${scoreSections(tables, (length) => `${length} tokens`)}\n${images.join('\n')}\n`,
    },
    plots: {
      'quality-completion-budgets': lineChart(
        pointsPlot(first!, `${TITLE}: SnapKV by budget`, byBudget(first!), 'edit similarity'),
      ),
      ...(kinds && {
        'quality-completion-policies': lineChart(
          pointsPlot(first!, `${TITLE}: policies that keep ${kinds.budget} rows`, kinds.rows, 'edit similarity'),
        ),
      }),
    },
  }
}
