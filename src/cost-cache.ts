// Step costs kept from one run to the next: one small file per model and machine. Nothing depends on it but the time a load takes.
import { createHash } from 'node:crypto'
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { isAbsolute, join } from 'node:path'
import { z } from 'zod'
import type { StepCosts } from './decode/step-costs.js'
import { parseJsonObject } from './json.js'
import { readText } from './read-text.js'

/** Of the file's layout, and of how costs are measured: what an older version wrote is measured again. */
const VERSION = 1
const MAX_BYTES = 64 * 1024

const milliseconds = z.number().min(0).max(1e7)
const counts = z.array(z.int().min(1).max(1e6)).min(1).max(64)
const risingFromOne = (rows: readonly number[]): boolean =>
  rows[0] === 1 && rows.every((value, i) => i === 0 || value > rows[i - 1]!)

const StoredCosts = z
  .object({
    rows: counts.refine(risingFromOne),
    ms: z.array(milliseconds.gt(0)).max(64),
    cacheRows: z.int().min(0).max(1e6),
    attention: z
      .object({ rows: counts.refine(risingFromOne), msPerCacheRow: z.array(milliseconds).max(64) })
      .refine(({ rows, msPerCacheRow }) => rows.length === msPerCacheRow.length),
    draftMs: z.array(milliseconds).min(1).max(65),
    sequenceMs: milliseconds,
  })
  .refine(({ rows, ms }) => rows.length === ms.length)

const CostFile = z.object({ version: z.literal(VERSION), key: z.string(), costs: StoredCosts })

/**
 * Where costs are kept: `GORGON_CACHE`, else the user's cache folder. Null when they are not: `GORGON_CACHE=off`, or no absolute path.
 */
export function costFolder(
  env: Readonly<Record<string, string | undefined>>,
  platform: NodeJS.Platform = process.platform,
  home: string = homedir(),
): string | null {
  const { GORGON_CACHE: chosen, XDG_CACHE_HOME: xdg } = env
  if (chosen === 'off') return null
  if (chosen) return chosen
  // A path from where the process happens to stand is nobody's cache folder.
  if (xdg && isAbsolute(xdg)) return join(xdg, 'gorgon')
  if (!isAbsolute(home)) return null
  return platform === 'darwin' ? join(home, 'Library', 'Caches', 'gorgon') : join(home, '.cache', 'gorgon')
}

/** @param facts everything that costs depend on; typed arrays and plain data. */
export function costKey(facts: Readonly<Record<string, unknown>>): string {
  const text = JSON.stringify(facts, (_, value: unknown) =>
    ArrayBuffer.isView(value) ? Array.from(value as never) : value,
  )
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}

const fileOf = (folder: string, key: string): string => join(folder, `step-costs-${key}.json`)

/** Null when there are none, or the file is not ours to trust. */
export async function readCosts(folder: string, key: string): Promise<StepCosts | null> {
  try {
    const file = fileOf(folder, key)
    // A pipe of that name would never end.
    if (!(await stat(file)).isFile()) return null
    const text = await readText(file, MAX_BYTES, 'ERR_FILE')
    if (text === null) return null
    const stored = CostFile.safeParse(parseJsonObject(text, file, 'ERR_FILE'))
    return stored.success && stored.data.key === key ? stored.data.costs : null
  } catch {
    return null
  }
}

/** A file is whole or not there: several processes may write it at once. Where it cannot be written, it is not. */
export async function writeCosts(folder: string, key: string, costs: StepCosts): Promise<void> {
  const file = fileOf(folder, key)
  const fresh = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}`
  try {
    await mkdir(folder, { recursive: true })
    await writeFile(fresh, `${JSON.stringify({ version: VERSION, key, costs })}\n`)
    await rename(fresh, file)
  } catch {
    await rm(fresh, { force: true }).catch(() => undefined)
  }
}
