// Result files: written beside each other, read newest first, and never trusted.
import { mkdtemp, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { cpuSlug, readResults, scanResults, writeResult } from '../../bench/support/results.js'
import { failure } from '../support/errors.js'
import { temporaryFolder } from '../support/folder.js'
import { sampleResult } from './sample.js'

const root = temporaryFolder()
const newFolder = () => mkdtemp(join(root, 'results-'))

test.each([
  ['Intel(R) Xeon(R) Platinum 8581C CPU @ 2.10GHz', 'intel-xeon-platinum-8581c'],
  ['AMD EPYC', 'amd-epyc'],
  ['AMD EPYC 9B45 128-Core Processor', 'amd-epyc-9b45'],
  ['Apple M3 Pro', 'apple-m3-pro'],
  ['  ', 'unknown'],
])('%s is %s', (cpu, slug) => {
  expect(cpuSlug(cpu)).toBe(slug)
})

test('a file is named by benchmark, machine, instruction set, day and commit, and none is replaced', async () => {
  const folder = join(await newFolder(), 'not', 'there', 'yet')
  const result = sampleResult({ bench: 'decode/decode' })
  const paths = [await writeResult(result, folder), await writeResult(result, folder)]
  expect(paths.map((path) => basename(path))).toEqual([
    'decode-decode-fast-avx512-20260102-0123456.json',
    'decode-decode-fast-avx512-20260102-0123456-2.json',
  ])
  expect(await readResults('decode/decode', folder)).toEqual([result, result])
})

test('results of one benchmark come newest first', async () => {
  const folder = await newFolder()
  for (const day of ['02', '09', '05']) {
    await writeResult(sampleResult({ date: `2026-01-${day}T00:00:00.000Z` }), folder)
  }
  await writeResult(sampleResult({ bench: 'other' }), folder)
  const days = (await readResults('area/name', folder)).map((result) => result.machine.date.slice(8, 10))
  expect(days).toEqual(['09', '05', '02'])
})

describe('what is no result is told, and nothing else is lost', () => {
  test.each([
    ['not JSON', 'is not JSON'],
    ['[]', 'is not a result of schema 1'],
    [JSON.stringify({ ...sampleResult(), schema: 2 }), 'schema'],
    [JSON.stringify({ ...sampleResult(), machine: { cpu: 'x' } }), 'machine.cores'],
    [JSON.stringify({ ...sampleResult(), extra: 1 }), 'is not a result of schema 1'],
  ])('%.30s', async (text, problem) => {
    const folder = await newFolder()
    await writeResult(sampleResult(), folder)
    await writeFile(join(folder, 'foreign.json'), text)
    await writeFile(join(folder, 'notes.txt'), 'not looked at')
    const { results, foreign } = await scanResults(folder)
    expect(results).toEqual([sampleResult()])
    expect(foreign).toEqual([{ file: 'foreign.json', problem: expect.stringContaining(problem) }])
  })
})

test('without a folder there are no results', async () => {
  expect(await scanResults(join(await newFolder(), 'nothing'))).toEqual({ results: [], foreign: [] })
})

test('a folder that cannot be made is an error that names it', async () => {
  const file = join(await newFolder(), 'file')
  await writeFile(file, '')
  await failure(() => writeResult(sampleResult(), join(file, 'below')), 'ERR_FILE', /below.*--out/s)
})

test('what was made with --quick is no figure to publish', async () => {
  const folder = await newFolder()
  await writeResult({ ...sampleResult({}), options: { quick: true } }, folder)
  const { results, foreign } = await scanResults(folder)
  expect(results).toEqual([])
  expect(foreign).toEqual([{ file: expect.any(String), problem: expect.stringContaining('--quick') }])
})
