// Markdown tables and the numbers in them.
import { expect, test } from 'vitest'
import { summaryOf } from '../../bench/support/statistics.js'
import { fixed, markdownTable, percent, short, spread } from '../../bench/support/table.js'

test('a table has a head, a rule, and cells of one line each', () => {
  expect(
    markdownTable([
      ['arm', 'ms'],
      ['a|b', '1'],
      ['two\nlines', '2'],
    ]),
  ).toBe('| arm | ms |\n| --- | ---: |\n| a\\|b | 1 |\n| two lines | 2 |\n')
})

test('numbers are set to the right, words to the left', () => {
  const rule = (...cells: string[]) => markdownTable([cells.map(() => 'x'), cells]).split('\n')[1]
  expect(rule('8', '1.5 (1–2)', 'word', '–', '-3', '**4 (−1)**')).toBe('| --- | ---: | --- | ---: | ---: | ---: |')
})

test.each([
  [0.12345, '0.123'],
  [1.2345, '1.23'],
  [12.345, '12.3'],
  [1234.5, '1235'],
  [-0.5, '-0.500'],
  [null, '–'],
  [Number.NaN, '–'],
])('%d is %s in short', (value, text) => {
  expect(short(value)).toBe(text)
})

test('a spread shows p10 and p90 where there are several samples', () => {
  expect(spread(summaryOf([10, 20, 30]))).toBe('20.0 (12.0–28.0)')
  expect(spread(summaryOf([7]), (value) => `${value} ms`)).toBe('7 ms')
  expect(spread(summaryOf([]))).toBe('–')
})

test('shares are whole per cents; of nothing there are none', () => {
  expect([percent(1, 3), percent(0, 5), percent(0, 0)]).toEqual(['33%', '0%', '–'])
  expect(fixed(2.345, 1)).toBe('2.3')
})
