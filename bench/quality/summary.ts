// One table of all three questions, for whoever wants to know what a budget costs before reading further.
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable } from '../support/table.js'
import { titleOf } from './arms.js'
import { longOnes, lossAt, representatives, rowOf, type ScoreTable, scoresOf, verdict } from './score-tables.js'
import { pointsOf } from './scores.js'

/** The benchmarks, and what a row of the table calls them. */
const QUESTIONS = {
  'quality/longeval': 'LongEval-lines, % right',
  'quality/needle': 'needle in a haystack, % right',
  'quality/completion': 'next line of code, edit similarity',
} as const

const COLUMNS = [
  ['full', null],
  ['snapkv', 2048],
  ['snapkv', 1024],
  ['snapkv', 512],
  ['snapkv', 256],
  ['snapkv', 128],
  ['h2o', 1024],
  ['streaming', 1024],
] as const

/** @param resultsOf newest first, of a benchmark */
export function summaryTable(resultsOf: (bench: string) => readonly BenchResult[]): string {
  const found = Object.entries(QUESTIONS).flatMap(([bench, question]): { question: string; table: ScoreTable }[] => {
    const [table] = representatives(resultsOf(bench))
    return table && longOnes(table).length > 0 ? [{ question, table }] : []
  })
  const rows = found.map(({ question, table }) => [
    question,
    ...COLUMNS.map(([kind, budget]) => {
      const row = rowOf(table, kind, budget)
      const long = longOnes(table)
      if (!row || scoresOf(row, long).length === 0) return '–'
      const text = fixed(pointsOf(scoresOf(row, long)), 1)
      return (lossAt(table, row, long)?.points ?? 0) > 2 ? `**${text}**` : text
    }),
  ])
  const commands = found.map(({ table }) => `\`${table.result.command}\``).join(', ')
  const head = ['', ...COLUMNS.map(([kind, budget]) => titleOf({ kind, budget }))]
  const verdicts = found.map(({ question, table }) => `- ${question.split(',')[0]}: ${verdict(table)}`).join('')
  return `${commands}; prompts of 4K tokens and more\n\n${markdownTable([head, ...rows])}\nBold: more than 2 points below the full cache.\n\n${verdicts}`
}
