// How long to wait before trying again.

export interface Backoff {
  /** The first delay; each further one is twice as long. */
  readonly minDelayMs: number
  readonly maxDelayMs: number
}

/**
 * Half of it is chance, so that clients who lost one server together do not come back together.
 *
 * @param failures in a row, from 1.
 * @param random 0 to 1.
 */
export function backoffMs(failures: number, { minDelayMs, maxDelayMs }: Backoff, random = Math.random()): number {
  const full = Math.min(maxDelayMs, minDelayMs * 2 ** Math.min(failures - 1, 30))
  return full * (0.5 + random / 2)
}
