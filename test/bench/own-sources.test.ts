// Which of the project's sources benchmarks read.
import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { ownSources, ownTests, sourceText, spreadEvenly } from '../../bench/support/own-sources.js'

test('spreadEvenly takes the first, and others at equal distances', () => {
  expect(spreadEvenly([0, 1, 2, 3, 4, 5, 6, 7], 4)).toEqual([0, 2, 4, 6])
  expect(spreadEvenly([0, 1, 2, 3, 4, 5, 6], 3)).toEqual([0, 3, 5])
  expect(spreadEvenly([0, 1, 2], 1)).toEqual([0])
})

test('spreadEvenly of no more than there are takes all', () => {
  expect(spreadEvenly(['a', 'b'], 2)).toEqual(['a', 'b'])
  expect(spreadEvenly(['a', 'b'], 9)).toEqual(['a', 'b'])
  expect(spreadEvenly([], 3)).toEqual([])
})

test('ownSources are files of this package, each once', async () => {
  const files = await ownSources(5)
  expect(new Set(files).size).toBe(5)
  for (const file of files) expect(await readFile(file, 'utf8')).not.toBe('')
})

test('ownTests are others, and a text begins with the path of its file', async () => {
  const tests = await ownTests()
  expect(tests.filter((file) => /\.(test|bench)\.ts$/.test(file)).length).toBeGreaterThan(100)
  const sources = await ownSources(1000)
  expect(tests.filter((file) => sources.includes(file))).toEqual([])
  const file = tests.find((name) => name.endsWith('own-sources.test.ts'))!
  expect(await sourceText(file)).toBe(`// path: test/bench/own-sources.test.ts\n${await readFile(file, 'utf8')}`)
})
