// A model on a device and sessions of it, timed call by call: random weights of any shape, or those of a folder.
import { performance } from 'node:perf_hooks'
import { randomTokens } from '../../src/bench/prompts.js'
import { RANK_COUNT } from '../../src/decode/choices.js'
import { draft } from '../../src/decode/draft.js'
import { GREEDY_SAMPLING } from '../../src/decode/sampling.js'
import type { Tree } from '../../src/decode/tree.js'
import type {
  CompressionReport,
  CompressionSpec,
  Drafts,
  ModelSpec,
  PrefillStep,
  WeightForm,
} from '../../src/native.js'
import { type ModelInfo, native } from '../../src/native.js'
import { headsOf, modelSpecOf, readModelFolder } from '../../src/weights/load.js'
import { type ModelShape, productsOf } from '../support/shapes.js'
import { type StepTime, timedStep } from '../support/timed-step.js'

export interface DeviceModelOptions {
  readonly backend: string
  readonly isa: string
  readonly weights: WeightForm
  /** Read instead of making weights up. */
  readonly model?: string | undefined
  /** Of the made-up weights. */
  readonly shape: ModelShape
  readonly medusaHeads: number
}

export interface StepOptions {
  /** Whether the Medusa heads draft for the next step. */
  readonly drafts: boolean
  /** i32: nodes to commit, root first; the root alone when left out, so that steps of every tree grow the cache alike. */
  readonly path?: Int32Array
}

export interface Prompt {
  readonly ms: number
  readonly compression: CompressionReport | null
  /** Of the model's memory while it ran. */
  readonly peakBytes: number
}

export interface DeviceModel {
  readonly info: ModelInfo
  readonly shape: ModelShape
  readonly medusaHeads: number
  /** Read by one pass over some nodes with `rows` rows in the cache: every product's weight, and the cache. */
  stepBytes(rows: number): number
  /** Read by the Medusa heads of a step: their blocks, and the shared output projection once more. */
  draftBytes(): number
  session(): DeviceSession
  close(): Promise<void>
}

export interface DeviceSession {
  /** A cache as after a prompt of so many tokens, of arbitrary numbers. */
  assume(tokens: number): Promise<void>
  prefill(tokens: Int32Array, compression: CompressionSpec | null): Promise<Prompt>
  step(tree: Tree, options: StepOptions): Promise<StepTime>
  /** In the cache. */
  rows(): number
  close(): Promise<void>
}

/** More than any benchmark here reaches. */
const POSITIONS = 2 ** 20
const ROPE_THETA = 1e6
const SEED = 1
/** Calls of a prompt, of one chunk of one layer each, between two looks at the memory in use. */
const LOOKED_AT_EVERY = 16

/**
 * What `openModel` takes for random weights of a shape: made on the device, so that no file of gigabytes has to be read.
 */
export function syntheticSpec({ shape, medusaHeads, ...options }: DeviceModelOptions): ModelSpec {
  const { backend, isa, weights } = options
  const { hidden, ffn, layers, queryHeads, kvHeads, headDim, vocab } = shape
  const inverseFrequencies = Float32Array.from({ length: headDim / 2 }, (_, i) => ROPE_THETA ** ((-2 * i) / headDim))
  return {
    backend,
    isa,
    threads: 0,
    device: 0,
    memoryBudget: 0,
    dtype: 'bf16',
    weights,
    files: [],
    tensors: {},
    synthetic: { seed: SEED },
    shape: {
      ...{ layers, hidden, ffn, vocab, queryHeads, kvHeads, headDim, inverseFrequencies },
      rmsEps: 1e-5,
      maxPositions: POSITIONS,
      ropeScale: 1,
      slidingWindows: new Int32Array(layers),
    },
    heads:
      medusaHeads === 0
        ? null
        : { medusaHeads, blocks: 1, files: [], tensors: {}, sharedProjection: true, tokenMap: null },
    progress: new Int32Array(new SharedArrayBuffer(8)),
  }
}

/** Bytes of a product's weight as it is streamed; int8 has a scale for each column. */
function weightBytes(columns: number, depth: number, weights: WeightForm): number {
  return weights === 'int8' ? columns * depth + 4 * columns : 2 * columns * depth
}

/** What a pass over a model streams besides the cache. */
export function streamedBytes(shape: ModelShape, weights: WeightForm): number {
  return productsOf(shape).reduce((sum, p) => sum + p.count * weightBytes(p.columns, p.depth, weights), 0)
}

/** What heads of one block each stream, with a shared output projection. */
export function sharedHeadsBytes({ hidden, vocab }: ModelShape, medusaHeads: number, weights: WeightForm): number {
  return medusaHeads === 0
    ? 0
    : weightBytes(medusaHeads * hidden, hidden, weights) + weightBytes(vocab, hidden, weights)
}

/** What `openModel` takes: of a folder, or of random weights. */
export async function deviceModelSpec(options: DeviceModelOptions): Promise<ModelSpec> {
  return options.model === undefined ? syntheticSpec(options) : await folderSpec(options.model, options)
}

/** Opens it; the caller closes it after its sessions. */
export async function openDeviceModel(options: DeviceModelOptions): Promise<DeviceModel> {
  const addon = native()
  const spec = await deviceModelSpec(options)
  const model = await addon.openModel(spec)
  const info = addon.modelInfo(model)
  const shape: ModelShape = { ...spec.shape, tied: options.shape.tied }
  const medusaHeads = spec.heads?.medusaHeads ?? 0
  const memory = (): { used: number; peak: number } => {
    const { memoryUsed, memoryPeak } = addon.modelInfo(model)
    return { used: memoryUsed, peak: memoryPeak }
  }
  return {
    info,
    shape,
    medusaHeads,
    stepBytes: (rows) => streamedBytes(shape, info.weights) + rows * info.kvBytesPerToken,
    draftBytes: () => sharedHeadsBytes(shape, medusaHeads, info.weights),
    session() {
      const session = addon.openSession(model)
      const topK = Math.min(RANK_COUNT, shape.vocab)
      let drafts: Drafts = { root: 0, tokens: new Int32Array(0), logprobs: null }
      const tokensOf = (tree: Tree): Int32Array => {
        if (drafts.tokens.length >= tree.depth * topK) return draft(tree, drafts, topK)
        // Any tokens cost the same.
        return randomTokens(tree.nodeCount, shape.vocab).fill(drafts.root, 0, 1)
      }
      return {
        assume: (tokens) => addon.assumePrefill({ session, tokens }),
        async prefill(tokens, compression) {
          const before = memory()
          let most = before.used
          const start = performance.now()
          const heads = medusaHeads === 0 ? { medusaHeads, topK: 0 } : { medusaHeads, topK }
          addon.beginPrefill({ session, tokens, sampling: GREEDY_SAMPLING, compression, ...heads })
          let step: PrefillStep | undefined
          let calls = 0
          do {
            ;[step] = await addon.prefill([session])
            if (calls++ % LOOKED_AT_EVERY === 0) most = Math.max(most, memory().used)
          } while (step!.result === null)
          const ms = performance.now() - start
          drafts = step!.result.drafts
          const { peak } = memory()
          // The model's peak is of all its life: it tells of this prompt only where it rose.
          return { ms, compression: step!.result.compression, peakBytes: peak > before.peak ? peak : most }
        },
        async step(tree, { drafts: isDrafting, path = Int32Array.of(0) }) {
          const heads = isDrafting && medusaHeads > 0 ? { medusaHeads, topK } : { medusaHeads: 0, topK: 0 }
          const { time, next } = await timedStep(tree, tokensOf, { session, path, ...heads })
          drafts = heads.medusaHeads > 0 ? next : { ...drafts, root: next.root }
          return time
        },
        rows: () => addon.sessionInfo(session).rows,
        close: () => addon.close(session),
      }
    },
    close: () => addon.close(model),
  }
}

async function folderSpec(dir: string, { backend, isa, weights, medusaHeads }: DeviceModelOptions): Promise<ModelSpec> {
  const folder = await readModelFolder(dir)
  const heads = medusaHeads === 0 ? null : await headsOf(folder, undefined)
  const progress = new Int32Array(new SharedArrayBuffer(8))
  return modelSpecOf(folder, heads, { backend, isa, threads: 0, dtype: 'auto', weights, progress })
}
