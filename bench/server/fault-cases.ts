// The faults a soak goes through, with their sizes: in full, and small enough for a test.
import type { ServerOptions } from '../../src/server/index.js'
import {
  badFrames,
  cancelStorm,
  duplicateIds,
  fullQueue,
  halfOpenSockets,
  killedClients,
  oversize,
  type Seen,
  slowReaders,
  stalledReaders,
} from './faults.js'

type Size = Readonly<Record<string, number>>
type ServerLimits = NonNullable<ServerOptions['limits']>

/** Tenths of seconds for what takes seconds, and room for more clients than one machine should have. */
export const IMPATIENT: ServerLimits = {
  connections: 4096,
  connectionsPerAddress: 4096,
  perKey: { concurrent: 4096 },
  heartbeatMs: 200,
  stallMs: 500,
  resumeMs: 500,
}

/** Whoever does not read does not answer pings either: here that is not what counts. */
const NO_HEARTBEAT: ServerLimits = { ...IMPATIENT, heartbeatMs: 60_000 }

/** A system tells the other side of room in its buffers by the sixteenth: to the server, a slow reader takes nothing for a second, then a lot. */
const PATIENT: ServerLimits = { ...NO_HEARTBEAT, stallMs: 5000 }

// biome-ignore lint/suspicious/noExplicitAny: each fault has numbers of its own, which only this table pairs with it
export interface FaultCase<Sizes extends Size = any> {
  readonly name: string
  /** The server's patience, where it is not this that should run out. */
  readonly limits?: ServerLimits
  readonly fault: (size: Sizes) => (url: string) => Promise<Seen>
  readonly size: Sizes
  readonly quickSize: Sizes
  inWords(size: Sizes): string
}

function faultCase<Sizes extends Size>(of: FaultCase<Sizes>): FaultCase {
  return of
}

export const FAULTS: readonly FaultCase[] = [
  faultCase({
    name: 'kill -9 of client processes',
    fault: killedClients,
    size: { processes: 8, streams: 8 },
    quickSize: { processes: 1, streams: 4 },
    inWords: ({ processes, streams }) => `${processes} processes of ${streams} streams`,
  }),
  faultCase({
    name: 'half-open sockets',
    fault: halfOpenSockets,
    size: { sockets: 32 },
    quickSize: { sockets: 2 },
    inWords: ({ sockets }) => `${sockets} sockets`,
  }),
  faultCase({
    name: 'readers that stall',
    fault: stalledReaders,
    limits: NO_HEARTBEAT,
    size: { sockets: 4, streams: 8 },
    quickSize: { sockets: 1, streams: 8 },
    inWords: ({ sockets, streams }) => `${sockets} sockets of ${streams} streams`,
  }),
  faultCase({
    name: 'readers that are slow',
    fault: slowReaders,
    limits: PATIENT,
    size: { sockets: 4, streams: 8, tokens: 800, bytesPerSecond: 400_000 },
    quickSize: { sockets: 1, streams: 4, tokens: 100, bytesPerSecond: 400_000 },
    inWords: ({ sockets, streams, bytesPerSecond }) =>
      `${sockets} sockets of ${streams} streams, ${bytesPerSecond / 1000} kB/s each`,
  }),
  faultCase({
    name: 'bad frames',
    fault: badFrames,
    size: { sockets: 32, frames: 128_000, burst: 32 },
    quickSize: { sockets: 8, frames: 4096, burst: 32 },
    inWords: ({ sockets, frames }) => `${frames} frames, on ${sockets} sockets at once`,
  }),
  faultCase({
    name: 'ids in use',
    fault: duplicateIds,
    size: { sockets: 256 },
    quickSize: { sockets: 4 },
    inWords: ({ sockets }) => `${sockets} sockets`,
  }),
  faultCase({
    name: 'cancel storm',
    fault: cancelStorm,
    size: { sockets: 32, rounds: 20, each: 8 },
    quickSize: { sockets: 4, rounds: 3, each: 8 },
    inWords: ({ sockets, rounds, each }) => `${sockets} sockets, ${rounds} times ${each} requests`,
  }),
  faultCase({
    name: 'full queue',
    fault: fullQueue,
    size: { sockets: 64, each: 8 },
    quickSize: { sockets: 40, each: 8 },
    inWords: ({ sockets, each }) => `${sockets * each} requests at once`,
  }),
  faultCase({
    name: 'bodies and messages too large',
    fault: oversize,
    size: { times: 32, bytes: 16 * 2 ** 20 },
    quickSize: { times: 1, bytes: 8 * 2 ** 20 },
    inWords: ({ times, bytes }) => `${times} times ${bytes / 2 ** 20} MiB, three ways`,
  }),
]
