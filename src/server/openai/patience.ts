// How long an answer of events waits for something to say.
import { setTimeout as delay } from 'node:timers/promises'

/**
 * Until then a failure is told by its status, which clients understand best, as when the queue is full; after it silence would look like a
 * failure.
 */
const PATIENCE_MS = 1000

/** Resolves when a request is worked on, or has waited for long; rejects with what it could not begin for. */
export async function untilBegun(begun: Promise<unknown>): Promise<void> {
  const timer = new AbortController()
  const patience = delay(PATIENCE_MS, undefined, { signal: timer.signal }).catch(() => undefined)
  try {
    await Promise.race([begun, patience])
  } finally {
    timer.abort()
  }
}
