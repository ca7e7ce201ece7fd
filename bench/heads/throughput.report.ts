// Tables of training heads on a GPU: tokens per second beside the frozen pass, what the parts take beside their floors, memory, PyTorch.
import { z } from 'zod'
import { measurementsOf, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { SHAPE_NAMES, type ShapeName } from '../support/shapes.js'
import { fixed, markdownTable, percent, short, spread } from '../support/table.js'
import type { Projection } from './training-work.js'

const Shape = z.enum(SHAPE_NAMES as [ShapeName, ...ShapeName[]])
const Times = z.object({ n: z.number(), median: z.number(), p10: z.number(), p90: z.number() })

/** Milliseconds are of a step's texts; theirs as bench/heads/pytorch.py writes them. */
export const TrainingMeasurement = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('gorgon'),
    shape: Shape,
    projection: z.enum(['shared', 'private']),
    /** The frozen model alone, its rows brought back to the process. */
    frozenMs: Times,
    /** The heads' passes over rows that are given. */
    headsMs: Times,
    /** Both in one call. */
    bothMs: Times,
    updateMs: Times,
    /** Both, and the update. */
    stepMs: Times,
    frozenFlops: z.number(),
    headsFlops: z.number(),
    updateBytes: z.number(),
    /** Moved by the first pass after an update. */
    packBytes: z.number(),
    flopsPerSecond: z.number(),
    bytesPerSecond: z.number(),
    modelBytes: z.number(),
    trainerBytes: z.number(),
    /** Of the device's memory, the most while this ran or before; 0 on the CPU. */
    peakBytes: z.number(),
  }),
  z.object({ kind: z.literal('pytorch-frozen'), shape: Shape, ms: z.number() }),
  z.object({
    kind: z.literal('pytorch'),
    way: z.enum(['eager', 'compiled']),
    shape: Shape,
    projection: z.enum(['shared', 'private']),
    headsMs: z.number(),
    updateMs: z.number(),
    peakBytes: z.number(),
  }),
  z.object({ kind: z.literal('failure'), what: z.string(), why: z.string() }),
])
export type TrainingMeasurement = Readonly<z.infer<typeof TrainingMeasurement>>

export interface TrainingOptions {
  readonly shapes: readonly ShapeName[]
  readonly projections: readonly Projection[]
  readonly texts: number
  readonly tokens: number
  readonly medusaHeads: number
  readonly blocks: number
  readonly rounds: number
  readonly seconds: number
  readonly backend: string
  readonly isa: string
  readonly model?: string | undefined
  readonly quick: boolean
  /** Versions of what was compared with; null: nothing was. */
  readonly peers: { readonly torch: string; readonly transformers: string } | null
}

type TrainingResult = Pick<BenchResult<TrainingOptions, TrainingMeasurement>, 'options' | 'measurements'>
type Of<Kind extends TrainingMeasurement['kind']> = Extract<TrainingMeasurement, { kind: Kind }>

function only<Kind extends TrainingMeasurement['kind']>(
  measurements: readonly TrainingMeasurement[],
  kind: Kind,
): Of<Kind>[] {
  return measurements.filter((m): m is Of<Kind> => m.kind === kind)
}

const gigabytes = (bytes: number): string => (bytes > 0 ? fixed(bytes / 1e9, 1) : '–')
const nameOf = ({ shape, projection }: Of<'gorgon'>): string => `${shape}, ${projection}`

/** Tokens per second of whole steps, and what the frozen pass alone would allow. */
function ratesTable({ options, measurements }: TrainingResult): string {
  const tokens = options.texts * options.tokens
  const rate = (ms: number): string => fixed(tokens / (ms * 1e-3))
  const head = [
    'model, projections',
    'tokens/s',
    'frozen pass alone',
    'floor of the frozen pass',
    'floor of the step',
    'of the floor',
    'model, GB',
    'trainer, GB',
    'peak, GB',
  ]
  const body = only(measurements, 'gorgon').map((m) => {
    const frozenFloor = (1e3 * m.frozenFlops) / m.flopsPerSecond
    const bytes = m.updateBytes + m.packBytes
    const floor = (1e3 * (m.frozenFlops + m.headsFlops)) / m.flopsPerSecond + (1e3 * bytes) / m.bytesPerSecond
    return [
      nameOf(m),
      rate(m.stepMs.median),
      rate(m.frozenMs.median),
      rate(frozenFloor),
      rate(floor),
      percent(floor, m.stepMs.median),
      gigabytes(m.modelBytes),
      gigabytes(m.trainerBytes),
      gigabytes(m.peakBytes),
    ]
  })
  return markdownTable([head, ...body])
}

/** A step's parts in milliseconds, each beside its arithmetic. */
function partsTable({ measurements }: TrainingResult): string {
  const head = [
    'model, projections',
    'frozen pass, ms',
    'TFLOP/s',
    'heads, ms',
    'TFLOP/s',
    'both, ms',
    'update, ms',
    'TB/s',
  ]
  const body = only(measurements, 'gorgon').map((m) => [
    nameOf(m),
    spread(m.frozenMs),
    short(m.frozenFlops / (m.frozenMs.median * 1e-3) / 1e12),
    spread(m.headsMs),
    short(m.headsFlops / (m.headsMs.median * 1e-3) / 1e12),
    spread(m.bothMs),
    spread(m.updateMs),
    short(m.updateBytes / (m.updateMs.median * 1e-3) / 1e12),
  ])
  const [first] = only(measurements, 'gorgon')
  const peaks = first
    ? `Floors: products at ${fixed(first.flopsPerSecond / 1e12)} TFLOP/s, bytes of updates and of laying out what they changed at ${short(first.bytesPerSecond / 1e12)} TB/s.\n`
    : ''
  return `${markdownTable([head, ...body])}\n${peaks}`
}

/** Whole steps, and what they are made of, beside PyTorch's. */
function peersTable({ options, measurements }: TrainingResult): string {
  const theirs = only(measurements, 'pytorch')
  const ways = [...new Set(theirs.map(({ way }) => way))]
  const head = [
    'model, projections',
    'gorgon: step, ms',
    'both passes + update',
    ...ways.flatMap((way) => [`PyTorch, ${way}: step, ms`, 'frozen + heads + update', 'x gorgon', 'heads, peak GB']),
  ]
  const body = only(measurements, 'gorgon').map((own) => {
    const frozen = only(measurements, 'pytorch-frozen').find(({ shape }) => shape === own.shape)
    const cells = ways.flatMap((way) => {
      const found = theirs.find((m) => m.way === way && m.shape === own.shape && m.projection === own.projection)
      if (!found || !frozen) return ['–', '–', '–', '–']
      const parts = [frozen.ms, found.headsMs, found.updateMs]
      const ms = parts.reduce((sum, part) => sum + part, 0)
      return [short(ms), parts.map(short).join(' + '), fixed(ms / own.stepMs.median, 2), gigabytes(found.peakBytes)]
    })
    return [
      nameOf(own),
      short(own.stepMs.median),
      `${short(own.bothMs.median)} + ${short(own.updateMs.median)}`,
      ...cells,
    ]
  })
  const failures = only(measurements, 'failure').map(({ what, why }) => `- ${what}: ${why}\n`)
  const missing = failures.length > 0 ? `\nNot measured:\n${failures.join('')}` : ''
  const { torch, transformers } = options.peers!
  return `torch ${torch}, transformers ${transformers}; compiled are the heads.\n\n${markdownTable([head, ...body])}${missing}`
}

/** By the name of the marker each stands between. */
export function throughputTables(result: TrainingResult): Record<string, string> {
  const own = { 'heads-throughput': `${ratesTable(result)}\n${partsTable(result)}` }
  return result.options.peers === null ? own : { ...own, 'heads-throughput-pytorch': peersTable(result) }
}

export function report(results: readonly BenchResult[]): Rendered {
  const known = results.map((result) => ({
    ...(result as BenchResult<TrainingOptions>),
    measurements: measurementsOf(result, TrainingMeasurement),
  }))
  const compared = known.filter(({ options }) => options.peers !== null)
  return {
    tables: {
      'heads-throughput': sections(known, (result) => throughputTables(result)['heads-throughput']!),
      'heads-throughput-pytorch': sections(compared, (result) => throughputTables(result)['heads-throughput-pytorch']!),
    },
    plots: {},
  }
}
