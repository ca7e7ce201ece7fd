// The project's own sources as texts: code that the demo model never saw.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { packageRoot } from '../../src/index.js'

/** Paths of at most `count` files of `src`, spread evenly over them in path order. */
export async function ownSources(count: number): Promise<string[]> {
  const root = join(packageRoot(), 'src')
  const files = (await readdir(root, { recursive: true })).filter((name) => name.endsWith('.ts')).sort()
  return spreadEvenly(files, count).map((name) => join(root, name))
}

/** At most `count` of some values, in their order, as far apart as can be. */
export function spreadEvenly<T>(values: readonly T[], count: number): T[] {
  const every = Math.max(1, values.length / count)
  return values.filter((_, i) => Math.floor(i / every) !== Math.floor((i - 1) / every))
}
