// Every benchmark is one that a reader can find, run and see the results of.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

const ENDING = '.bench.ts'
const benches = readdirSync('bench', { recursive: true })
  .map(String)
  .filter((path) => path.endsWith(ENDING))
  .map((path) => path.slice(0, -ENDING.length))
const read = (path: string) => readFileSync(path, 'utf8')

describe.each(benches)('%s', (bench) => {
  test('opens with its question, and says how it is run', () => {
    const text = read(join('bench', `${bench}${ENDING}`))
    expect(text).toMatch(/^\/\/ Question: /)
    expect(text).toContain(`npm run bench -- ${bench}`)
  })

  test('has a report beside it, and is named in bench/README.md', () => {
    expect(existsSync(join('bench', `${bench}.report.ts`))).toBe(true)
    expect(read('bench/README.md')).toContain(`npm run bench -- ${bench}`)
  })
})

test.each(['README.md', 'bench/README.md'])('%s has each table once', (path) => {
  const names = [...read(path).matchAll(/<!-- bench:([a-z0-9-]+) -->/g)].map(([, name]) => name)
  expect(names).toEqual([...new Set(names)])
})
