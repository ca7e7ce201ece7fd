// What this process and an engine in it hold, and what the process has spent.
import { readdirSync } from 'node:fs'
import type { Engine, EngineStats } from '../../src/index.js'

export interface Marks {
  /** In which the JavaScript thread was not waiting, since it began. */
  readonly busyMs: number
  /** Of all threads. */
  readonly cpuMs: number
  readonly rssBytes: number
  readonly heapBytes: number
  /** Held by JavaScript objects outside the heap. */
  readonly externalBytes: number
  /** Open files and sockets; null where nobody can tell. */
  readonly files: number | null
  readonly engine: EngineStats
}

/** @param afterGc collects garbage before; node must run with --expose-gc. */
export function marksOf(engine: Pick<Engine, 'stats'>, { afterGc = false } = {}): Marks {
  if (afterGc) (globalThis as { gc?: () => void }).gc!()
  const { rss, heapUsed, external } = process.memoryUsage()
  const { user, system } = process.cpuUsage()
  return {
    busyMs: performance.eventLoopUtilization().active,
    cpuMs: (user + system) / 1000,
    rssBytes: rss,
    heapBytes: heapUsed,
    externalBytes: external,
    files: openFiles(),
    engine: engine.stats(),
  }
}

function openFiles(): number | null {
  try {
    return readdirSync('/proc/self/fd').length
  } catch {
    return null
  }
}
