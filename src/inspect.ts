// What a model folder and its Medusa heads are, and whether they would load: a report from headers alone.
import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { HeadsFormat } from '../heads/format/names.js'
import { type ErrorCode, GorgonError } from './errors.js'
import type { TensorSlice, WeightDtype } from './native.js'
import type { GenerationConfig } from './weights/generation-config.js'
import { type HeadsFolder, headsOf } from './weights/medusa-heads.js'
import type { ModelConfig } from './weights/model-config.js'
import { bindModel, type ModelFolder, readModelConfig } from './weights/model-folder.js'
import type { Rope } from './weights/rope.js'
import { readTensorTable, type TensorTable, WEIGHT_BYTES } from './weights/tensor-table.js'

/** Plain data, fit for JSON. Parts that could not be read are null, and `problems` says why. */
export interface ModelReport {
  /** The model's folder; absolute. */
  readonly path: string
  /** Nothing stands in the way of loading the model, and its heads if there are any. */
  readonly loads: boolean
  readonly problems: readonly { readonly code: ErrorCode; readonly message: string }[]
  /** Worth knowing; nothing that stops loading. */
  readonly warnings: readonly string[]
  readonly model: ModelSummary | null
  readonly weights: WeightsSummary | null
  /** Without a tokenizer, prompts are token ids. */
  readonly tokenizer: boolean
  /** Null: there are none, or they cannot be read. */
  readonly heads: HeadsSummary | null
}

export interface ModelSummary {
  readonly architecture: string
  readonly layers: number
  readonly hidden: number
  readonly ffn: number
  readonly vocab: number
  readonly queryHeads: number
  readonly kvHeads: number
  readonly headDim: number
  /** A KV head per query head, per group of them, or for all. */
  readonly attention: 'mha' | 'gqa' | 'mqa'
  readonly tiedEmbeddings: boolean
  /** Projections with a bias. */
  readonly biases: readonly ('q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down')[]
  /** Queries and keys are normalised per head. */
  readonly qkNorm: boolean
  readonly maxPositions: number
  /** The parameters, and what cos and sin are multiplied by. */
  readonly rope: Rope & { readonly scale: number }
  /** Null: every layer sees every position. */
  readonly slidingWindow: { readonly positions: number; readonly layers: number } | null
  readonly bosId: number | null
  readonly eosIds: readonly number[]
}

export interface WeightsSummary {
  readonly files: number
  readonly tensors: number
  /** Numbers in the tensors the model uses; tied ones once. */
  readonly parameters: number
  readonly bytes: number
  /** The same with int8 weights: matrices as bytes and scales, vectors as f32, the embedding table as it is unless it is the lm_head too. */
  readonly int8Bytes: number
  /** What the weights are held in unless asked otherwise. */
  readonly dtype: WeightDtype
  /** K and V of one token over all layers, held in `dtype`. */
  readonly kvBytesPerToken: number
}

export interface HeadsSummary {
  readonly path: string
  /** heads/FORMAT.md describes each. */
  readonly format: HeadsFormat
  readonly medusaHeads: number
  /** Residual blocks per head. */
  readonly blocks: number
  readonly bias: 'all' | 'some' | 'none'
  /** `base`: the model's lm_head projects. */
  readonly projection: 'base' | 'per-head' | 'shared'
  /** Tokens the heads can draft, and whether a token map says which. */
  readonly vocab: number
  readonly tokenMap: boolean
  readonly parameters: number
  readonly bytes: number
  /** The same with int8 weights. */
  readonly int8Bytes: number
  /** As stored; they are held in the model's. */
  readonly dtype: WeightDtype
  /** [medusaHead][rank]: how often that draft is right; null when no accuracy.json says. */
  readonly accuracy: readonly (readonly number[])[] | null
  /** Of the tree that was grown for them, root included, by the same file; null when none was. */
  readonly grownNodes: number | null
  /** What their configuration calls the model they were trained on. */
  readonly baseModel: string | null
  readonly warnings: readonly string[]
}

/**
 * What is in a model folder. Reads JSON and tensor headers, never weights, and collects problems instead of stopping at the first.
 *
 * @param options.heads Folder or file of heads; false for none; by default those the model brings along.
 * @throws {GorgonError} ERR_MODEL_NOT_FOUND when there is no model in that folder.
 */
export async function inspect(model: string, options: { heads?: string | false } = {}): Promise<ModelReport> {
  const problems: { code: ErrorCode; message: string }[] = []
  /** The value, or null and a problem noted; `fatal` is thrown on. */
  const attempt = async <T>(read: () => T | Promise<T>, fatal?: ErrorCode): Promise<T | null> => {
    try {
      return await read()
    } catch (error) {
      if (!(error instanceof GorgonError) || error.code === fatal) throw error
      problems.push({ code: error.code, message: error.message })
      return null
    }
  }

  const described = await attempt(() => readModelConfig(model), 'ERR_MODEL_NOT_FOUND')
  const table = await attempt(() => readTensorTable(model))
  const folder =
    described && table ? await attempt(() => bindModel(model, described.config, described.generation, table)) : null
  const heads = folder ? await attempt(() => headsOf(folder, options.heads)) : null

  return {
    path: resolve(model),
    loads: problems.length === 0,
    problems,
    warnings: folder?.warnings ?? [...(described?.config.warnings ?? []), ...(table?.warnings ?? [])],
    model: described && summariseModel(described.config, described.generation),
    weights: folder && table && summariseWeights(folder, table),
    tokenizer: await stat(join(model, 'tokenizer.json'))
      .then((s) => s.isFile())
      .catch(() => false),
    heads: heads && summariseHeads(heads),
  }
}

function summariseModel(config: ModelConfig, generation: GenerationConfig): ModelSummary {
  const { layers, hidden, ffn, vocab, queryHeads, kvHeads, headDim, maxPositions, ropeScale, slidingWindows } =
    config.shape
  const { qkv, o, mlp } = config.biases
  const sliding = slidingWindows.filter((positions) => positions > 0)
  return {
    architecture: config.architecture,
    layers,
    hidden,
    ffn,
    vocab,
    queryHeads,
    kvHeads,
    headDim,
    attention: kvHeads === queryHeads ? 'mha' : kvHeads === 1 ? 'mqa' : 'gqa',
    tiedEmbeddings: config.tied,
    biases: [
      ...(qkv ? (['q', 'k', 'v'] as const) : []),
      ...(o ? (['o'] as const) : []),
      ...(mlp ? (['gate', 'up', 'down'] as const) : []),
    ],
    qkNorm: config.qkNorm,
    maxPositions,
    rope: { ...config.rope, scale: ropeScale },
    slidingWindow: sliding.length > 0 ? { positions: sliding[0]!, layers: sliding.length } : null,
    bosId: generation.bosId,
    eosIds: generation.eosIds,
  }
}

function summariseWeights(folder: ModelFolder, table: TensorTable): WeightsSummary {
  const { layers, kvHeads, headDim } = folder.config.shape
  return {
    files: table.files.length,
    tensors: Object.keys(folder.tensors).length,
    ...sumSlices(folder.tensors),
    dtype: folder.dtype,
    kvBytesPerToken: 2 * layers * kvHeads * headDim * WEIGHT_BYTES[folder.dtype],
  }
}

function summariseHeads(heads: HeadsFolder): HeadsSummary {
  const {
    path,
    format,
    medusaHeads,
    blocks,
    bias,
    projection,
    vocab,
    dtype,
    tokenMap,
    accuracy,
    grown,
    baseModel,
    warnings,
  } = heads
  return {
    path,
    format,
    medusaHeads,
    blocks,
    bias,
    projection,
    vocab,
    tokenMap: tokenMap !== null,
    ...sumSlices(heads.tensors),
    dtype,
    accuracy,
    grownNodes: grown && grown.length + 1,
    baseModel,
    warnings,
  }
}

/** Totals over the distinct slices of a table: a shared tensor counts once. */
function sumSlices(
  tensors: Readonly<Record<string, TensorSlice>>,
): Pick<WeightsSummary, 'parameters' | 'bytes' | 'int8Bytes'> {
  const distinct = new Map(Object.values(tensors).map((slice) => [`${slice.file}:${slice.begin}`, slice]))
  const onlyGathered = 'lm_head' in tensors ? tensors['embed'] : undefined
  let parameters = 0
  let bytes = 0
  let int8Bytes = 0
  for (const slice of distinct.values()) {
    const [rows = 0, depth] = slice.shape
    const count = rows * (depth ?? 1)
    const asStored = slice.end - slice.begin
    parameters += count
    bytes += asStored
    // A scale for each row of a matrix, which is a column of the product.
    int8Bytes += slice === onlyGathered ? asStored : depth === undefined ? 4 * count : count + 4 * rows
  }
  return { parameters, bytes, int8Bytes }
}
