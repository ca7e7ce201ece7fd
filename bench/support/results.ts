// Result files: one JSON per run, named by benchmark, machine, date and commit.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type BenchResult, decodeResult, encodeResult } from '../../src/bench/results.js'
import { GorgonError, packageRoot } from '../../src/index.js'
import type { MachineRecord } from './machine.js'

export type { BenchResult } from '../../src/bench/results.js'
export type { MachineRecord } from './machine.js'

/** Where results are written and read unless somebody says otherwise. */
export const RESULTS = join(packageRoot(), 'bench', 'results')

const COMMIT_LENGTH = 7

/** `Intel(R) Xeon(R) Platinum 8581C CPU @ 2.10GHz` is `intel-xeon-platinum-8581c`. */
export function cpuSlug(cpu: string): string {
  const plain = cpu
    .toLowerCase()
    .replace(/\((r|tm)\)/g, '')
    .replace(/@.*$/, '')
    .replace(/\b(cpu|processor|\d+-core)\b/g, '')
  return plain.replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '') || 'unknown'
}

/** What computed, as a part of file names. */
export function machineSlug({ cpu, gpu }: Pick<MachineRecord, 'cpu' | 'gpu'>): string {
  return cpuSlug(gpu?.name ?? cpu)
}

/** Name of a result's file, without what tells apart several of one day. */
export function fileStemOf({ bench, machine }: BenchResult): string {
  const day = machine.date.slice(0, 10).replaceAll('-', '')
  const commit = machine.commit?.slice(0, COMMIT_LENGTH) ?? 'unknown'
  return [bench.replaceAll('/', '-'), machineSlug(machine), machine.isa.replaceAll('_', '-'), day, commit].join('-')
}

/**
 * Writes a result beside those there are: none is replaced.
 *
 * @returns the file's path.
 * @throws {GorgonError} ERR_FILE when the folder cannot be written.
 */
export async function writeResult(result: BenchResult, outDir: string = RESULTS): Promise<string> {
  const stem = join(outDir, fileStemOf(result))
  try {
    await mkdir(outDir, { recursive: true })
    for (let run = 1; ; run++) {
      const path = `${stem}${run === 1 ? '' : `-${run}`}.json`
      try {
        await writeFile(path, encodeResult(result), { flag: 'wx' })
        return path
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      }
    }
  } catch (error) {
    throw new GorgonError(
      'ERR_FILE',
      `The result cannot be written to ${outDir}: ${(error as Error).message}. Give another folder with --out.`,
      { outDir },
      error,
    )
  }
}

/** A file that is no result, and why. */
export interface Foreign {
  readonly file: string
  readonly problem: string
}

function isQuick({ options }: BenchResult): boolean {
  return typeof options === 'object' && options !== null && 'quick' in options && options.quick === true
}

/** Every result of a folder, newest first, and what else lies there. */
export async function scanResults(dir: string = RESULTS): Promise<{ results: BenchResult[]; foreign: Foreign[] }> {
  const results: { readonly result: BenchResult; readonly file: string }[] = []
  const foreign: Foreign[] = []
  for (const file of (await jsonFiles(dir)).sort()) {
    const read = decodeResult(await readFile(join(dir, file), 'utf8'))
    if ('problem' in read) foreign.push({ file, problem: read.problem })
    else if (isQuick(read))
      foreign.push({ file, problem: 'was made with --quick, which only shows that a benchmark runs' })
    else results.push({ result: read, file })
  }
  // The file's name settles what the clock does not, so that the order is always the same.
  results.sort((a, b) => compare(b.result.machine.date, a.result.machine.date) || compare(b.file, a.file))
  return { results: results.map(({ result }) => result), foreign }
}

/** Results of one benchmark, newest first; files that are no results are left out. */
export async function readResults<Options = unknown, Measurement = unknown>(
  bench: string,
  dir: string = RESULTS,
): Promise<BenchResult<Options, Measurement>[]> {
  const { results } = await scanResults(dir)
  return results.filter((result) => result.bench === bench) as BenchResult<Options, Measurement>[]
}

async function jsonFiles(dir: string): Promise<string[]> {
  try {
    return (await readdir(dir)).filter((name) => name.endsWith('.json'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
