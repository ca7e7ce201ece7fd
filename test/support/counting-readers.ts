// What slow readers cost, counted.
import type { SlowReaders } from '../../src/server/outbox.js'

export function countingReaders() {
  const counts = { coalesced: 0, parked: 0, slowClosed: 0 }
  const readers: SlowReaders = {
    coalesced: (frames) => {
      counts.coalesced += frames
    },
    parked: () => {
      counts.parked++
    },
    slowClosed: () => {
      counts.slowClosed++
    },
  }
  return { counts, readers }
}
