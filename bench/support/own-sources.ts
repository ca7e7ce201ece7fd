// The project's own sources as texts: code that the demo model never saw.
import { readdir, readFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { packageRoot } from '../../src/index.js'

/** Paths of at most `count` files of `src`, spread evenly over them in path order. */
export async function ownSources(count: number): Promise<string[]> {
  return spreadEvenly(await sourcesIn('src'), count)
}

/** Paths of the tests and benchmarks: code like that of `src`, and none of it. */
export async function ownTests(): Promise<string[]> {
  return [...(await sourcesIn('test')), ...(await sourcesIn('bench'))]
}

async function sourcesIn(folder: string): Promise<string[]> {
  const root = join(packageRoot(), folder)
  const files = (await readdir(root, { recursive: true })).filter((name) => name.endsWith('.ts')).sort()
  return files.map((name) => join(root, name))
}

/** A file as the demo model knows files: after a line with its path. */
export async function sourceText(file: string): Promise<string> {
  return `// path: ${relative(packageRoot(), file)}\n${await readFile(file, 'utf8')}`
}

/** At most `count` of some values, in their order, as far apart as can be. */
export function spreadEvenly<T>(values: readonly T[], count: number): T[] {
  const every = Math.max(1, values.length / count)
  return values.filter((_, i) => Math.floor(i / every) !== Math.floor((i - 1) / every))
}
