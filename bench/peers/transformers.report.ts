// Tables of PyTorch and transformers beside this engine on the same GPU.
import { z } from 'zod'
import type { ThroughputMeasurement } from '../device/throughput.bench.js'
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

/** What the vendor's libraries reach. */
function librariesTable(measurements: readonly TransformersMeasurement[]): string {
  const products = only(measurements, 'product')
  const rows = unique(products.map((m) => m.rows))
  const [copy] = only(measurements, 'copy')
  const bandwidth = copy ? copy.bytes / (copy.ms * 1e-3) : Number.NaN
  const cell = ({ rows: m, columns, depth, ms }: Of<'product'>): string => {
    const flops = (2 * m * columns * depth) / (ms * 1e-3)
    const bytes = (2 * columns * depth) / (ms * 1e-3)
    return m > 64 ? `${fixed(flops / 1e12)} TFLOP/s` : `${fixed(1e3 * ms, 1)} µs (${fixed((100 * bytes) / bandwidth)}%)`
  }
  const body = unique(products.map((m) => m.product)).map((name) => {
    const own = products.filter((m) => m.product === name)
    return [
      `${name} ${own[0]!.columns} x ${own[0]!.depth}`,
      ...rows.map((count) => {
        const found = own.find((m) => m.rows === count)
        return found ? cell(found) : '–'
      }),
    ]
  })
  const attention = only(measurements, 'attention').map(
    ({ tokens, flops, ms }) => `${tokens} tokens ${fixed(flops / (ms * 1e-3) / 1e12)} TFLOP/s`,
  )
  const remarks = [
    `A copy moves ${short(bandwidth / 1e12)} TB/s, bytes read plus bytes written; shares are of it.`,
    ...(attention.length > 0
      ? [`Causal attention (SDPA, 32 query and 8 KV heads of 128): ${attention.join(', ')}.`]
      : []),
  ]
  const head = ['cuBLAS, bf16', ...rows.map((count) => `M = ${count}`)]
  return `${markdownTable([head, ...body])}\n${remarks.join(' ')}\n`
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
        librariesTable(measurementsOf(result, TransformersMeasurement)),
      ),
    },
    plots: {},
  }
}
