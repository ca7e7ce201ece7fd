// Tables and plots get from results into documents, the same way every time.
import { mkdir, mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { newestOf, type ReportModule, renderDocument, section, writeReports } from '../../bench/support/report.js'
import { type BenchResult, writeResult } from '../../bench/support/results.js'
import { markdownTable } from '../../bench/support/table.js'
import { lineChart } from '../../src/charts.js'
import { failure } from '../support/errors.js'
import { temporaryFolder } from '../support/folder.js'
import { sampleResult } from './sample.js'

const root = temporaryFolder()

const README = `# A package

Before.

<!-- bench:speed -->
old numbers
<!-- /bench:speed -->

Between.

<!-- bench:size -->
<!-- /bench:size -->
`

/** A package with one result. */
async function packageWith(...results: BenchResult[]): Promise<string> {
  const folder = await mkdtemp(join(root, 'package-'))
  await mkdir(join(folder, 'bench'))
  await writeFile(join(folder, 'README.md'), README)
  await writeFile(join(folder, 'bench', 'README.md'), '<!-- bench:speed --><!-- /bench:speed -->\n')
  for (const result of results) await writeResult(result, join(folder, 'bench', 'results'))
  return folder
}

interface Speed {
  readonly arm: string
  readonly tokensPerSecond: number
}

const speedReport: ReportModule = {
  report(results) {
    const [newest] = results
    const measurements = newest!.measurements as readonly Speed[]
    const rows = measurements.map(({ arm, tokensPerSecond }) => [arm, tokensPerSecond.toFixed(1)])
    const points = measurements.map(({ tokensPerSecond }, x) => ({ x, y: tokensPerSecond }))
    return {
      tables: {
        speed: section(newest!, `${markdownTable([['arm', 'tokens/s'], ...rows])}\n![speed](bench/plots/speed.svg)`),
      },
      plots: {
        speed: lineChart({
          title: 'Speed',
          x: { label: 'arm' },
          y: { label: 'tokens/s' },
          series: [{ name: 'a', points }],
        }),
      },
    }
  },
}

const speeds = sampleResult({
  bench: 'decode/speed',
  command: 'npm run bench -- decode/speed --rounds 3',
  measurements: [
    { arm: 'plain', tokensPerSecond: 100 },
    { arm: 'medusa', tokensPerSecond: 251.26 },
  ],
})

/** Every file below a folder, by path. */
async function contentsOf(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile())
  const paths = names.map((entry) => join(entry.parentPath, entry.name)).sort()
  return Object.fromEntries(await Promise.all(paths.map(async (path) => [path, await readFile(path, 'utf8')])))
}

test('what stands between markers is replaced, under its command; links start where the document lies', async () => {
  const folder = await packageWith(speeds)
  const remarks = await writeReports(folder, new Map([['decode/speed', speedReport]]))
  const table = (link: string) => `<!-- bench:speed -->

\`npm run bench -- decode/speed --rounds 3\`
(Fast(R) CPU @ 9.99GHz, 2 of 4 cores, avx512; 2026-01-02, commit 0123456)

| arm | tokens/s |
| --- | ---: |
| plain | 100.0 |
| medusa | 251.3 |

![speed](${link})

<!-- /bench:speed -->`
  expect(await readFile(join(folder, 'README.md'), 'utf8')).toBe(`# A package

Before.

${table('bench/plots/speed.svg')}

Between.

<!-- bench:size -->

*Not measured yet.*

<!-- /bench:size -->
`)
  expect(await readFile(join(folder, 'bench', 'README.md'), 'utf8')).toBe(`${table('../bench/plots/speed.svg')}\n`)
  expect(await readFile(join(folder, 'bench', 'plots', 'speed.svg'), 'utf8')).toContain('aria-label="Speed"')
  expect(remarks).toEqual(['README.md: no result makes "size"'])
})

test('running it twice changes nothing', async () => {
  const folder = await packageWith(speeds)
  const modules = new Map([['decode/speed', speedReport]])
  await writeReports(folder, modules)
  const once = await contentsOf(folder)
  await writeReports(folder, modules)
  expect(await contentsOf(folder)).toEqual(once)
})

test('foreign files, results without a report and reports without a result are told', async () => {
  const folder = await packageWith(speeds, sampleResult({ bench: 'lost/bench' }))
  await writeFile(join(folder, 'bench', 'results', 'old.json'), '{"schema":0}')
  const remarks = await writeReports(
    folder,
    new Map([
      ['decode/speed', speedReport],
      ['decode/new', speedReport],
    ]),
  )
  expect(remarks).toEqual([
    expect.stringMatching(/^bench\/results\/old\.json is not a result of schema 1/),
    'decode/new: no results',
    'lost/bench: results, but no report',
    'README.md: no result makes "size"',
  ])
})

test('results that cannot be rendered fail it, after everything else is written', async () => {
  const stale = sampleResult({ bench: 'decode/stale', measurements: [{ arm: 'no number here' }] })
  const folder = await packageWith(speeds, stale)
  const modules = new Map([
    ['decode/stale', speedReport],
    ['decode/speed', speedReport],
  ])
  await failure(() => writeReports(folder, modules), 'ERR_FILE', /decode\/stale/)
  expect(await readFile(join(folder, 'README.md'), 'utf8')).toContain('| medusa | 251.3 |')
})

describe('markers', () => {
  test.each([
    'text <!-- bench:speed --> more',
    '<!-- bench:speed --><!-- bench:size --><!-- /bench:speed --><!-- /bench:size -->',
  ])('%s is refused', async (text) => {
    await failure(() => renderDocument(text, new Map(), { path: 'README.md' }), 'ERR_FILE', /README\.md.*is not closed/)
  })

  test('a document without any stays as it is', () => {
    const text = 'no markers\r\nhere'
    expect(renderDocument(text, new Map([['speed', 'x']]), { path: 'README.md' })).toEqual({ text, missing: [] })
  })
})

describe('the newest results', () => {
  const of = (cpu: string, date: string, options = {}) =>
    sampleResult({ machine: { cpu }, date: `2026-01-${date}T00:00:00.000Z`, options })

  test('of each machine', () => {
    const results = [of('a', '04'), of('b', '03'), of('a', '02')]
    expect(newestOf(results)).toEqual(results.slice(0, 2))
  })

  test('of each instruction set and number of threads', () => {
    const results = [{ isa: 'amx' }, { isa: 'avx2' }, { threads: 1 }].map((machine) => sampleResult({ machine }))
    expect(newestOf(results)).toEqual(results)
  })

  test('of each variant a benchmark knows', () => {
    const results = [of('a', '04', { model: 'x' }), of('a', '03', { model: 'y' }), of('a', '02', { model: 'x' })]
    const variantOf = (result: BenchResult) => (result.options as { model: string }).model
    expect(newestOf(results, variantOf)).toEqual(results.slice(0, 2))
  })
})
