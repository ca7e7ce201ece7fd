// Markdown tables, and numbers for them.
export { spread } from '../../src/bench/statistics.js'
export * from '../../src/numbers.js'

/** The first row is the head. Columns of numbers are set to the right, others to the left. Cells are one line; pipes in them are escaped. */
export function markdownTable(rows: readonly (readonly string[])[]): string {
  const [head = [], ...body] = rows
  const line = (cells: readonly string[]): string => `| ${cells.map(escaped).join(' | ')} |\n`
  const isNumbers = (column: number): boolean =>
    column > 0 && body.every((row) => /^(\*\*)?([-+−±]?\d|–|$)/.test(row[column] ?? ''))
  const rule = `|${head.map((_, column) => (isNumbers(column) ? ' ---: |' : ' --- |')).join('')}\n`
  return line(head) + rule + body.map(line).join('')
}

const escaped = (cell: string): string => cell.replaceAll('\n', ' ').replaceAll('|', '\\|')
