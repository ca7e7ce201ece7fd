// gorgon demo, which is npm start: it runs through, and what it says was measured holds together.
import { expect, test } from 'vitest'
import { gorgon } from './command.js'

test('compares plain decoding with Medusa and SnapKV on a short and a long prompt', async () => {
  const { exitCode, stdout, stderr } = await gorgon(['demo'])
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  expect(stdout.match(/^── (short|long) prompt/gm)).toHaveLength(2)
  expect(stdout.match(/over the same cache: yes$/gm)).toHaveLength(2)

  const rows = stdout.split('\n').filter((line) => /^(plain|Medusa), /.test(line))
  const columns = rows.map((row) => row.split(/ {2,}/))
  const variants = ['plain, full cache', 'plain, SnapKV', 'Medusa, SnapKV']
  expect(columns.map(([name]) => name)).toEqual([...variants, ...variants])
  const tokensPerStep = columns.map((row) => Number(row[4]))
  expect(tokensPerStep.filter((value) => value === 1)).toHaveLength(4)
  expect(tokensPerStep[2]).toBeGreaterThan(1)
  expect(tokensPerStep[5]).toBeGreaterThan(1)

  const [longFull, longKept] = columns.slice(3)
  expect(Number(longFull![1])).toBeGreaterThan(6000)
  expect(Number(longFull![1])).toBeLessThanOrEqual(8000)
  expect(longFull![5]).toMatch(/^([\d.]+ MiB) of \1$/)
  expect(longKept![5]).toMatch(/^6\.0 MiB of 2[\d.]+ MiB$/)
})
