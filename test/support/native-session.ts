// Models and decoding loops straight on the native boundary, for tests that need to see what the engine hides.
import { accept } from '../../src/decode/accept.js'
import { draft } from '../../src/decode/draft.js'
import { GREEDY_SAMPLING } from '../../src/decode/sampling.js'
import { limitDepth, PLAIN_TREE, type Tree } from '../../src/decode/tree.js'
import {
  type CompressionSpec,
  type ModelHandle,
  native,
  type PrefillStep,
  type SamplingSpec,
  type SessionHandle,
  type WeightDtype,
  type WeightForm,
} from '../../src/native.js'
import { modelSpecOf, readHeads, readModelFolder } from '../../src/weights/load.js'
import { testBackend } from './backend.js'

export const GREEDY = GREEDY_SAMPLING

export function sampled(temperature: number, seed: bigint, others: Partial<SamplingSpec> = {}): SamplingSpec {
  return { ...GREEDY, temperature, seed, ...others }
}

export interface OpenOptions {
  readonly heads?: string
  readonly dtype?: WeightDtype | 'auto'
  readonly weights?: WeightForm
  readonly isa?: string
  readonly threads?: number
  /** Rounds the RoPE frequencies to bf16, as a model does whose buffers were cast together with its weights. */
  readonly bf16Frequencies?: boolean
}

function roundToBf16(values: Float32Array): Float32Array {
  const bits = new Uint32Array(values.slice().buffer)
  return new Float32Array(bits.map((b) => ((b + 0x7fff + ((b >>> 16) & 1)) & 0xffff0000) >>> 0).buffer)
}

/** A model of a folder, loaded; the caller closes it. */
export async function openModel(dir: string, options: OpenOptions = {}): Promise<ModelHandle> {
  const folder = await readModelFolder(dir)
  const heads = options.heads === undefined ? null : await readHeads(options.heads, folder)
  const spec = modelSpecOf(folder, heads, {
    ...testBackend,
    isa: options.isa ?? testBackend.isa,
    threads: options.threads ?? 2,
    dtype: options.dtype ?? 'auto',
    weights: options.weights ?? 'full',
    progress: new Int32Array(new SharedArrayBuffer(8)),
  })
  if (!options.bf16Frequencies) return native().openModel(spec)
  const inverseFrequencies = roundToBf16(spec.shape.inverseFrequencies)
  return native().openModel({ ...spec, shape: { ...spec.shape, inverseFrequencies } })
}

/** f32 [T, V]: logits after every token. */
export function forwardLogits(model: ModelHandle, tokens: readonly number[], chunk = 512): Float32Array {
  const run = native().ops['forwardLogits'] as (model: ModelHandle, tokens: Int32Array, chunk: number) => Float32Array
  return run(model, Int32Array.from(tokens), chunk)
}

/**
 * f32 [L, R, Hq, T]: the attention that the queries of each range of tokens pay to each token, added up.
 *
 * @param ranges first token and the one behind the last, of each
 */
export function forwardVotes(
  model: ModelHandle,
  tokens: readonly number[],
  ranges: readonly (readonly [number, number])[],
  chunk = 512,
): Float32Array {
  const run = native().ops['forwardVotes'] as (
    model: ModelHandle,
    tokens: Int32Array,
    ranges: Int32Array,
    chunk: number,
  ) => Float32Array
  return run(model, Int32Array.from(tokens), Int32Array.from(ranges.flat()), chunk)
}

export function snapkv(budget: number, window: number, poolSize: number, pool: 'max' | 'avg'): CompressionSpec {
  return { policy: 'snapkv', budget, window, poolSize, pool, groupReduce: 'mean', sinks: 4, reportKept: true }
}

export interface Decoded {
  readonly tokens: number[]
  readonly steps: number
  /** Tokens of all steps, the last one whole. */
  readonly committed: number
  readonly kept: Int32Array | null
}

export interface DecodeOptions {
  readonly sampling?: SamplingSpec
  readonly tree?: Tree
  readonly compression?: CompressionSpec | null
  /** Keeps every step's tree whole instead of cutting it near the end. */
  readonly wholeSteps?: boolean
}

/** A turn on an open session: `count` tokens after `prompt`, all of them committed. */
export async function decodeTurn(
  session: SessionHandle,
  prompt: readonly number[],
  count: number,
  options: DecodeOptions = {},
): Promise<Decoded> {
  const addon = native()
  const tree = options.tree ?? PLAIN_TREE
  const topK = tree.maxRank + 1
  addon.beginPrefill({
    session,
    tokens: Int32Array.from(prompt),
    sampling: options.sampling ?? GREEDY,
    compression: options.compression ?? null,
    medusaHeads: tree.depth,
    topK,
  })
  let step: PrefillStep
  do {
    ;[step] = (await addon.prefill([session])) as [PrefillStep]
  } while (step.result === null)
  let drafts = step.result.drafts
  const kept = step.result.compression?.kept ?? null
  const tokens: number[] = []
  let steps = 0
  let committed = 0
  while (tokens.length < count) {
    const wanted = count - tokens.length
    const now = options.wholeSteps ? tree : limitDepth(tree, Math.min(tree.depth, wanted - 1))
    const nodes = draft(now, drafts, topK)
    const [posterior] = await addon.verify([{ session, tokens: nodes, parents: now.parents, typical: false }])
    const accepted = accept(now, nodes, posterior!, { rule: 'exact' })
    steps += 1
    committed += accepted.tokens.length
    tokens.push(...accepted.tokens)
    ;[drafts] = (await addon.commit([{ session, path: accepted.path, medusaHeads: tree.depth, topK }])) as [
      typeof drafts,
    ]
  }
  return { tokens: tokens.slice(0, count), steps, committed, kept }
}

/** One turn on a session of its own. */
export async function decode(
  model: ModelHandle,
  prompt: readonly number[],
  count: number,
  options: DecodeOptions = {},
): Promise<Decoded> {
  const session = native().openSession(model)
  try {
    return await decodeTurn(session, prompt, count, options)
  } finally {
    await native().close(session)
  }
}
