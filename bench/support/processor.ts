// What the operating system says of the processor: cores that compute, and the largest cache they share.
import { readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'

const CPUS = '/sys/devices/system/cpu'
/** Taken where nobody says. */
const USUAL_CACHE_BYTES = 32 * 2 ** 20

function read(...path: string[]): string {
  try {
    return readFileSync(join(...path), 'utf8').trim()
  } catch {
    return ''
  }
}

function list(...path: string[]): string[] {
  try {
    return readdirSync(join(...path))
  } catch {
    return []
  }
}

/** Physical cores: those that share one count once. */
export function physicalCores(root: string = CPUS, available: number = availableParallelism()): number {
  const cpus = list(root).filter((name) => /^cpu\d+$/.test(name))
  const cores = new Set(
    cpus.map((cpu) => read(root, cpu, 'topology', 'thread_siblings_list')).filter((siblings) => siblings !== ''),
  )
  return Math.max(1, Math.min(available, cores.size || available))
}

/** `32K`, `1024K`, `105M` */
function sizeOf(text: string): number {
  const [, digits = '0', unit = ''] = /^(\d+)([KMG]?)$/.exec(text) ?? []
  return Number(digits) * { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[unit]!
}

/** Bytes of the largest cache of the first processor. */
export function lastLevelCacheBytes(root: string = CPUS): number {
  const caches = list(root, 'cpu0', 'cache').filter((name) => /^index\d+$/.test(name))
  const sizes = caches.map((name) => sizeOf(read(root, 'cpu0', 'cache', name, 'size')))
  return Math.max(0, ...sizes) || USUAL_CACHE_BYTES
}

/** Bytes of memory that no cache holds: a benchmark that reads this much before it comes back finds nothing left of it. */
export function coldBytesOf(cacheBytes: number): number {
  return Math.max(4 * cacheBytes, 2 ** 28)
}
