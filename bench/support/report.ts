// From results to documents: which results are shown, under which command, and between which markers.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { z } from 'zod'
import { GorgonError } from '../../src/index.js'
import { type BenchResult, type MachineRecord, machineSlug, scanResults } from './results.js'

/** What a benchmark's results look like to a reader. */
export interface Rendered {
  /** Markdown, by the name of the marker it stands between. Links start at the package: `![…](bench/plots/NAME.svg)`. */
  readonly tables: Readonly<Record<string, string>>
  /** SVG, by file name without ending. */
  readonly plots: Readonly<Record<string, string>>
}

/** What `AREA/NAME.report.ts` exports. */
export interface ReportModule {
  /**
   * @param results the newest of each machine and variant; at least one, newest first.
   * @param resultsOf the same of another benchmark, for tables that need several; may be none.
   */
  report(results: readonly BenchResult[], resultsOf: (bench: string) => readonly BenchResult[]): Rendered
  /** Tells apart results of one machine that do not replace each other, such as those of two models. Default: every newer one replaces. */
  variantOf?(result: BenchResult): string
}

/** @param results newest first, as they stay. */
export function newestOf(results: readonly BenchResult[], variantOf?: ReportModule['variantOf']): BenchResult[] {
  const seen = new Set<string>()
  return results.filter((result) => {
    const { cpu, cores, threads, isa, gpu } = result.machine
    // Whose GPU computes is the same machine, whatever stands beside it.
    const where = gpu ? [gpu.name] : [cpu, cores, threads]
    const key = JSON.stringify([...where, isa, variantOf?.(result) ?? ''])
    return !seen.has(key) && seen.add(key)
  })
}

/** One line on where a result comes from. */
export function machineLine({ cpu, cores, threads, isa, gpu, commit, dirty, date }: MachineRecord): string {
  const sources = commit === null ? 'commit unknown' : `commit ${commit.slice(0, 7)}${dirty ? ' with changes' : ''}`
  const driver = [gpu?.driver && `driver ${gpu.driver}`, gpu?.cuda && `CUDA ${gpu.cuda}`].filter(Boolean).join(', ')
  const device = gpu && `${gpu.name}${driver && ` (${driver})`}, ${isa}; ${cpu}`
  const used = device ?? `${cpu}, ${threads} of ${cores} ${cores === 1 ? 'core' : 'cores'}, ${isa}`
  return `${used}; ${date.slice(0, 10)}, ${sources}`
}

/** A table under the command that made it, and the machine it ran on. */
export function section({ command, machine }: Pick<BenchResult, 'command' | 'machine'>, markdown: string): string {
  return `\`${command}\`\n(${machineLine(machine)})\n\n${markdown.trim()}\n`
}

/** A section per result, one after the other. */
export function sections<Options, Measurement>(
  results: readonly BenchResult<Options, Measurement>[],
  markdownOf: (result: BenchResult<Options, Measurement>) => string,
): string {
  return results.map((result) => section(result, markdownOf(result))).join('\n')
}

/** A result's measurements as they are today. @throws when it is of a version that measured otherwise. */
export function measurementsOf<Schema extends z.ZodType>(
  { measurements, machine }: BenchResult,
  schema: Schema,
): z.output<Schema>[] {
  return measurements.map((measurement, i) => {
    const parsed = schema.safeParse(measurement)
    if (parsed.success) return parsed.data
    const issue = parsed.error.issues[0]!
    throw new GorgonError(
      'ERR_FILE',
      `the run of ${machine.date}: measurement ${i}: ${issue.path.join('.')}: ${issue.message}.`,
      { date: machine.date, index: i },
    )
  })
}

/** A plot's file name: one per machine and way of running. */
export function plotName(what: string, { machine }: Pick<BenchResult, 'machine'>, variant = ''): string {
  const words = [what, machineSlug(machine), machine.isa, machine.gpu ? '' : `${machine.threads}t`, variant]
  return words
    .join('-')
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replace(/-+$/, '')
}

const NOTHING = '*Not measured yet.*\n'
const OPEN = /<!-- bench:([a-z0-9-]+) -->/g

/**
 * A document with what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` replaced.
 *
 * @param options.path the document's, from the package: links are turned to start where it lies.
 * @returns the text, and the names no table was given for.
 * @throws {GorgonError} ERR_FILE when a marker is not closed.
 */
export function renderDocument(
  text: string,
  tables: ReadonlyMap<string, string>,
  { path }: { readonly path: string },
): { readonly text: string; readonly missing: readonly string[] } {
  const missing: string[] = []
  let rendered = ''
  let at = 0
  for (const { 0: opening, 1: name = '', index } of text.matchAll(OPEN)) {
    const closing = `<!-- /bench:${name} -->`
    const end = text.indexOf(closing, index)
    if (index < at || end < 0) {
      throw new GorgonError('ERR_FILE', `${path}: ${opening} is not closed. Put ${closing} where its table ends.`, {
        path,
        name,
      })
    }
    if (!tables.has(name)) missing.push(name)
    const body = (tables.get(name) ?? NOTHING).replaceAll(/\]\((?=bench\/)/g, `](${upFrom(path)}`)
    rendered += `${text.slice(at, index)}${opening}\n\n${body.trim()}\n\n${closing}`
    at = end + closing.length
  }
  return { text: rendered + text.slice(at), missing }
}

/** What leads from a document's folder to the package's. */
function upFrom(path: string): string {
  const folder = dirname(path)
  return folder === '.' ? '' : '../'.repeat(folder.split('/').length)
}

/** Where tables stand. */
const DOCUMENTS = ['README.md', 'bench/README.md'] as const

/**
 * Writes every plot, and every document anew.
 *
 * @param root the package's folder.
 * @param modules by benchmark.
 * @returns what somebody should know: files that are no results, benchmarks without any, markers nothing is made for.
 * @throws {GorgonError} ERR_FILE for a marker that is not closed, and when a benchmark's results cannot be rendered; the rest is written.
 */
export async function writeReports(root: string, modules: ReadonlyMap<string, ReportModule>): Promise<string[]> {
  const { results, foreign } = await scanResults(join(root, 'bench', 'results'))
  const remarks = foreign.map(({ file, problem }) => `bench/results/${file} ${problem}; left out`)
  const failures: string[] = []
  const tables = new Map<string, string>()
  const plots = new Map<string, string>()
  const resultsOf = (bench: string): BenchResult[] =>
    newestOf(
      results.filter((result) => result.bench === bench),
      modules.get(bench)?.variantOf,
    )
  for (const [bench, { report }] of modules) {
    try {
      const own = resultsOf(bench)
      if (own.length === 0) {
        remarks.push(`${bench}: no results`)
        continue
      }
      const rendered = report(own, resultsOf)
      for (const [name, table] of Object.entries(rendered.tables)) tables.set(name, table)
      for (const [name, plot] of Object.entries(rendered.plots)) plots.set(name, plot)
    } catch (error) {
      // Results of an older version that measured otherwise, most likely.
      failures.push(`${bench}: ${(error as Error).message}`)
    }
  }
  for (const bench of new Set(results.map((result) => result.bench))) {
    if (!modules.has(bench)) remarks.push(`${bench}: results, but no report`)
  }

  const folder = join(root, 'bench', 'plots')
  await mkdir(folder, { recursive: true })
  for (const [name, plot] of plots) await writeFile(join(folder, `${name}.svg`), plot)
  for (const path of DOCUMENTS) {
    const file = join(root, path)
    const { text, missing } = renderDocument(await readFile(file, 'utf8'), tables, { path })
    for (const name of missing) remarks.push(`${path}: no result makes "${name}"`)
    await writeFile(file, text)
  }
  if (failures.length === 0) return remarks
  throw new GorgonError(
    'ERR_FILE',
    `Some results cannot be rendered:\n${failures.join('\n')}\nRun these benchmarks again, or remove their files.`,
    { failures, remarks },
  )
}
