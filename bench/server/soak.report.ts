// What the soak found: the same tokens, memory that stays, no stream that starves, and every request ended once whatever clients do.
import { basename } from 'node:path'
import { z } from 'zod'
import { measurementsOf, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, mebibytes, short } from '../support/table.js'
import { Digest } from './times.js'

/** Clients at once, for so many requests. */
const Crowd = z.object({
  kind: z.literal('crowd'),
  clients: z.int(),
  requests: z.int(),
  tokens: z.int(),
  wallMs: z.number(),
  /** Between chunks of a stream, over all streams. */
  gapMs: Digest,
  /** Jain's index of the streams' speeds, the lowest of any round. */
  fairness: z.number(),
  /** After each round, garbage collected and nothing running. */
  samples: z.array(
    z.object({
      requests: z.int(),
      heapBytes: z.number(),
      externalBytes: z.number(),
      rssBytes: z.number(),
      files: z.int().nullable(),
    }),
  ),
})
export type Crowd = Readonly<z.infer<typeof Crowd>>

const Fault = z.object({
  kind: z.literal('fault'),
  name: z.string(),
  size: z.string(),
  /** Null where nobody can know. */
  requests: z.int().nullable(),
  ended: z.int(),
  ends: z.record(z.string(), z.int()),
  restMs: z.number(),
  heapGrowthBytes: z.number(),
  wallMs: z.number(),
  coalesced: z.int(),
  parked: z.int(),
  slowCloses: z.int(),
})
export type Fault = Readonly<z.infer<typeof Fault>>

export const SoakMeasurement = z.discriminatedUnion('kind', [Crowd, Fault])
export type SoakMeasurement = Crowd | Fault

export interface SoakOptions {
  readonly model: string
  readonly clients: number
  readonly requests: number
  readonly tokens: number
  readonly temperature: number
  readonly quick: boolean
}

type Sample = Crowd['samples'][number]
type Held = 'heapBytes' | 'externalBytes' | 'rssBytes'

/** Before it, code is compiled and pools are filled. */
const SETTLED = 0.2

/** Bytes a request leaves behind: the slope of a line through the samples, the first fifth of the requests left out. */
export function growthOf(samples: readonly Sample[], held: Held): number {
  const last = samples.at(-1)?.requests ?? 0
  const points = samples
    .filter(({ requests }) => requests >= SETTLED * last)
    .map((one) => [one.requests, one[held]] as const)
  const mean = (at: 0 | 1): number => points.reduce((sum, point) => sum + point[at], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const square = points.reduce((sum, [requests]) => sum + (requests - x) ** 2, 0)
  return points.reduce((sum, [requests, bytes]) => sum + (requests - x) * (bytes - y), 0) / square
}

/** Fewer say more about pools than about what a request leaves. */
const MEMORY_TELLS = 2000

/** Bytes of heap that a request may seem to leave: what a line through samples can tell. */
const MOST_LEFT = 1000

/** Jain's index of the speeds at which some stream has starved; a busy machine alone takes it to 0.8. */
const STARVED = 0.5

/** What is not as it must be, a sentence each. */
export function crowdProblems({ samples, fairness, requests }: Crowd): string[] {
  const problems: string[] = []
  const settled = samples.filter((sample) => sample.requests >= SETTLED * requests)
  const left = growthOf(samples, 'heapBytes')
  if (requests >= MEMORY_TELLS && left > MOST_LEFT) problems.push(`each request left ${fixed(left)} bytes in the heap`)
  const [before, after] = [settled[0]?.files ?? 0, settled.at(-1)?.files ?? 0]
  if (after > before) problems.push(`${after - before} more files were open at the end`)
  if (fairness < STARVED) problems.push(`streams starved: the fairness of a round was ${fixed(fairness, 3)}`)
  return problems
}

/** A head, then what is held after a fifth, half and all of the requests, and what a request leaves behind. */
export function memoryTable({ samples }: Crowd): string[][] {
  const last = samples.at(-1)?.requests ?? 0
  const after = (share: number): Sample | undefined => samples.find(({ requests }) => requests >= share * last)
  const shown = [after(SETTLED), after(0.5), after(1)].filter((sample) => sample !== undefined)
  const row = (name: string, held: Held): string[] => [
    name,
    ...shown.map((sample) => mebibytes(sample[held])),
    fixed(growthOf(samples, held)),
  ]
  return [
    ['MiB', ...shown.map(({ requests }) => `after ${requests} requests`), 'bytes a request leaves'],
    row('heap', 'heapBytes'),
    row('outside the heap', 'externalBytes'),
    row('resident', 'rssBytes'),
    ['open files', ...shown.map(({ files }) => String(files ?? '–')), ''],
  ]
}

export function crowdTable(crowds: readonly Crowd[]): string[][] {
  return [
    ['clients', 'requests', 'tokens/s', 'chunk gap p50 / p95 / p99 / max ms', 'fairness'],
    ...crowds.map(({ clients, requests, tokens, wallMs, gapMs, fairness }) => [
      String(clients),
      String(requests),
      short((1000 * tokens) / wallMs),
      [gapMs.p50, gapMs.p95, gapMs.p99, gapMs.max].map(short).join(' / '),
      fixed(fairness, 3),
    ]),
  ]
}

export function faultTable(faults: readonly Fault[]): string[][] {
  return [
    [
      'fault',
      'size',
      'requests',
      'ended, by the server',
      'as clients saw it',
      'seconds',
      'at rest after ms',
      'heap, MiB more',
      'back-pressure',
    ],
    ...faults.map((one) => [
      one.name,
      one.size,
      String(one.requests ?? '–'),
      String(one.ended),
      Object.entries(one.ends)
        .map(([end, count]) => `${count} ${end}`)
        .join(', '),
      fixed(one.wallMs / 1000, 1),
      fixed(one.restMs),
      mebibytes(one.heapGrowthBytes),
      [
        one.coalesced > 0 && `${one.coalesced} coalesced`,
        one.parked > 0 && `${one.parked} parked`,
        one.slowCloses > 0 && `${one.slowCloses} closed`,
      ]
        .filter(Boolean)
        .join(', '),
    ]),
  ]
}

/** What was held to be so in every run, or there would be no figures. */
export const LEGEND =
  'Every answer equals, token by token, what its request gets alone with the same seed. After each fault nothing runs, waits, is open or held, no more files are open than before, the server’s count of ended requests equals the clients’, none ended twice or never, and a plain request gets the tokens it got before.'

const optionsOf = ({ options }: BenchResult): SoakOptions => options as SoakOptions

export function variantOf(result: BenchResult): string {
  return JSON.stringify([basename(optionsOf(result).model)])
}

export function report(results: readonly BenchResult[]): Rendered {
  const tables = results.map((result) => {
    const measurements = measurementsOf(result, SoakMeasurement)
    const crowds = measurements.filter((one) => one.kind === 'crowd')
    const faults = measurements.filter((one) => one.kind === 'fault')
    const { model, tokens, temperature } = optionsOf(result)
    const conditions = `${basename(model)}, temperature ${temperature}, ${tokens} tokens an answer; half of the clients over WebSocket, half over SSE. Memory is the server process’s, its engine included, garbage collected and nothing running.`
    const parts = [
      conditions,
      markdownTable(crowdTable(crowds)),
      ...crowds.map((crowd) => markdownTable(memoryTable(crowd))),
      markdownTable(faultTable(faults)),
      LEGEND,
    ]
    return section(result, parts.join('\n\n'))
  })
  return { tables: { 'server-soak': tables.join('\n') }, plots: {} }
}
