// Tables of PyTorch and transformers beside this engine on the same GPU.
import { z } from 'zod'
import type { ThroughputMeasurement } from '../device/throughput.bench.js'
import type { LinearMeasurement } from '../kernels/linear.bench.js'
import { measurementsOf, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, short } from '../support/table.js'

/** As bench/peers/pytorch.py writes them; milliseconds are of one call or one step. */
export const TransformersMeasurement = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('copy'), bytes: z.number(), ms: z.number() }),
  z.object({
    kind: z.literal('product'),
    product: z.string(),
    columns: z.number(),
    depth: z.number(),
    rows: z.number(),
    ms: z.number(),
  }),
  z.object({ kind: z.literal('attention'), tokens: z.number(), flops: z.number(), ms: z.number() }),
  z.object({
    kind: z.literal('decode'),
    attention: z.enum(['sdpa', 'eager']),
    cache: z.enum(['dynamic', 'static']),
    way: z.enum(['eager', 'graph', 'compiled']),
    prompt: z.number(),
    ms: z.number(),
  }),
  z.object({ kind: z.literal('prefill'), prompt: z.number(), ms: z.number() }),
  z.object({ kind: z.literal('failure'), what: z.string(), why: z.string() }),
])
export type TransformersMeasurement = Readonly<z.infer<typeof TransformersMeasurement>>

export interface TransformersOptions {
  readonly prompts: readonly number[]
  readonly layers: number
  readonly steps: number
  readonly seconds: number
  readonly compile: boolean
  readonly quick: boolean
}

/** With what answered. */
export interface TransformersResultOptions extends TransformersOptions {
  readonly torch: string
  readonly transformers: string
}

type Of<Kind extends TransformersMeasurement['kind']> = Extract<TransformersMeasurement, { kind: Kind }>

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]

function only<Kind extends TransformersMeasurement['kind']>(
  measurements: readonly TransformersMeasurement[],
  kind: Kind,
): Of<Kind>[] {
  return measurements.filter((m): m is Of<Kind> => m.kind === kind)
}

const WAYS = { eager: '', graph: ', CUDA graph', compiled: ', torch.compile' } as const
const wayOf = ({ attention, cache, way }: Of<'decode'>): string =>
  `transformers: ${attention}, ${cache} cache${WAYS[way]}`

/** Products of more rows are bound by computing. */
const MOST_FEW = 64

const OURS = [
  ['gorgon: plain', 'full', false],
  ['gorgon: Medusa', 'full', true],
  ['gorgon: SnapKV', 'snapkv', false],
  ['gorgon: Medusa + SnapKV', 'snapkv', true],
] as const

/** Tokens per second behind a prompt; ours from device/throughput on the same GPU, of the same shape. */
function decodeTable(measurements: readonly TransformersMeasurement[], ours: readonly ThroughputMeasurement[]): string {
  const decodes = only(measurements, 'decode')
  const prompts = unique(decodes.map((m) => m.prompt))
  const theirs = unique(decodes.map(wayOf)).map((way) => [
    way,
    ...prompts.map((prompt) => {
      const found = decodes.find((m) => wayOf(m) === way && m.prompt === prompt)
      return found ? `${fixed(1e3 / found.ms, 1)} (${fixed(found.ms, 2)} ms)` : '–'
    }),
  ])
  const own = OURS.map(([name, kv, speculates]) => [
    name,
    ...prompts.map((prompt) => {
      const found = ours.find((m) => m.promptTokens === prompt && m.kv === kv && m.speculates === speculates)
      return found
        ? `${fixed(found.tokens / (found.generationMs * 1e-3), 1)} (${fixed(found.generationMs / found.tokens, 2)} ms)`
        : '–'
    }),
  ])
  const prefills = only(measurements, 'prefill')
  const head = ['tokens/s (ms per token) behind', ...prompts.map((prompt) => `${prompt}`)]
  const table = markdownTable([head, ...theirs, ...(ours.length > 0 ? own : [])])
  if (prefills.length === 0) return table
  const promptOf = (prompt: number): string => {
    const found = ours.find((m) => m.promptTokens === prompt && m.kv === 'full')
    return found ? short(found.promptMs / 1e3) : '–'
  }
  const times = prefills.map((m) => [`${m.prompt}`, short(m.ms / 1e3), promptOf(m.prompt)])
  return `${table}\n${markdownTable([['prompt', 'transformers (SDPA), s', 'gorgon, s'], ...times])}`
}

/** What the vendor's libraries reach, and our product beside it where kernels/linear ran on the same GPU. */
function librariesTable(measurements: readonly TransformersMeasurement[], ours: readonly LinearMeasurement[]): string {
  const products = only(measurements, 'product')
  const rows = unique(products.map((m) => m.rows))
  const [copy] = only(measurements, 'copy')
  const copied = copy ? copy.bytes / (copy.ms * 1e-3) : Number.NaN
  const bandwidth = ours[0]?.bytesPerSecond ?? copied
  const cell = (m: number, columns: number, depth: number, seconds: number, bytes: number): string => {
    const flops = (2 * m * columns * depth) / seconds
    if (m > MOST_FEW) return `${fixed(flops / 1e12)} TFLOP/s`
    return `${fixed(1e6 * seconds, 1)} µs (${fixed((100 * bytes) / seconds / bandwidth)}%)`
  }
  const body = unique(products.map((m) => m.product)).flatMap((name) => {
    const own = products.filter((m) => m.product === name)
    const { columns, depth } = own[0]!
    const title = `${name} ${columns} x ${depth}`
    const theirs = rows.map((count) => {
      const found = own.find((m) => m.rows === count)
      return found ? cell(count, columns, depth, found.ms * 1e-3, 2 * columns * depth) : '–'
    })
    const mine = ours.filter((m) => m.columns === columns && m.depth === depth && m.cache === 'cold')
    return [
      [`${title}: cuBLAS, bf16`, ...theirs],
      ...unique(mine.map(({ dtype }) => dtype)).map((dtype) => [
        `${title}: gorgon, ${dtype}`,
        ...rows.map((count) => {
          const found = mine.find((m) => m.rows === count && m.dtype === dtype)
          return found?.ns ? cell(count, columns, depth, found.ns.median * 1e-9, found.bytes) : '–'
        }),
      ]),
    ]
  })
  const attention = only(measurements, 'attention').map(
    ({ tokens, flops, ms }) => `${tokens} tokens ${fixed(flops / (ms * 1e-3) / 1e12)} TFLOP/s`,
  )
  const whose = ours.length > 0 ? `${short(bandwidth / 1e12)} TB/s, what a kernel that only reads gets` : 'that'
  const remarks = [
    `A copying kernel moves ${short(copied / 1e12)} TB/s, bytes read plus bytes written; shares are of ${whose}.`,
    ...(attention.length > 0
      ? [`Causal attention (SDPA, 32 query and 8 KV heads of 128): ${attention.join(', ')}.`]
      : []),
  ]
  return `${markdownTable([['product', ...rows.map((count) => `M = ${count}`)], ...body])}\n${remarks.join(' ')}\n`
}

function failuresOf(measurements: readonly TransformersMeasurement[]): string {
  const failures = only(measurements, 'failure')
  return failures.length === 0
    ? ''
    : `\nNot measured:\n${failures.map(({ what, why }) => `- ${what}: ${why}\n`).join('')}`
}

export function report(
  results: readonly BenchResult[],
  resultsOf: (bench: string) => readonly BenchResult[],
): Rendered {
  const sameGpu = ({ machine }: BenchResult): ThroughputMeasurement[] =>
    resultsOf('device/throughput')
      .filter((other) => other.machine.gpu !== null && other.machine.gpu.name === machine.gpu?.name)
      .filter(({ options }) => {
        const { shape, weights } = options as { shape?: string; weights?: string }
        return shape === 'mistral-7b' && weights === 'full'
      })
      .slice(0, 1)
      .flatMap(({ measurements }) => measurements as ThroughputMeasurement[])
  const products = ({ machine }: BenchResult): LinearMeasurement[] =>
    resultsOf('kernels/linear')
      .filter((other) => other.machine.gpu !== null && other.machine.gpu.name === machine.gpu?.name)
      .slice(0, 1)
      .flatMap(({ measurements }) => measurements as LinearMeasurement[])
      .filter(({ isa }) => isa === 'sm_90a')
  const versions = ({ options }: BenchResult): string => {
    const { torch, transformers } = options as TransformersResultOptions
    return `torch ${torch}, transformers ${transformers}.\n\n`
  }
  return {
    tables: {
      'peers-transformers': sections(results, (result) => {
        const measurements = measurementsOf(result, TransformersMeasurement)
        return `${versions(result)}${decodeTable(measurements, sameGpu(result))}${failuresOf(measurements)}`
      }),
      'peers-transformers-libraries': sections(results, (result) =>
        librariesTable(measurementsOf(result, TransformersMeasurement), products(result)),
      ),
    },
    plots: {},
  }
}
