// A model folder of any shape with random bf16 weights and Medusa heads, written in one stream: gigabytes in seconds.
import { mkdir, open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { RandomWeights } from '../support/random-weights.js'
import type { ModelShape } from '../support/shapes.js'

export interface RandomModelOptions {
  readonly seed?: number
  readonly medusaHeads?: number
  readonly maxPositions?: number
  readonly onProgress?: (writtenBytes: number, totalBytes: number) => void
  readonly signal?: AbortSignal
}

export interface RandomModel {
  readonly model: string
  /** Null without Medusa heads. */
  readonly heads: string | null
  readonly bytes: number
}

/** A tensor to draw: values of a normal distribution around zero, or all of one value. */
interface RandomTensor {
  readonly name: string
  readonly shape: readonly number[]
  readonly values: { readonly deviation: number } | { readonly constant: number }
}

const CHUNK_BYTES = 1 << 24
const ONE_BF16 = 0x3f80

/**
 * Deviations that keep every activation finite and of ordinary size: a product's inputs of size one give outputs of size one, and what is
 * added to the residual stream stays small beside it, however many layers there are.
 */
function modelTensors(shape: ModelShape): RandomTensor[] {
  const { hidden, ffn, layers, queryHeads, kvHeads, headDim, vocab } = shape
  const product = (name: string, rows: number, depth: number, gain = 1): RandomTensor => ({
    name: `${name}.weight`,
    shape: [rows, depth],
    values: { deviation: gain / Math.sqrt(depth) },
  })
  const norm = (name: string): RandomTensor => ({ name: `${name}.weight`, shape: [hidden], values: { constant: 1 } })
  const residual = 1 / Math.sqrt(2 * layers)
  const layerTensors = Array.from({ length: layers }, (_, layer) => {
    const at = `model.layers.${layer}`
    return [
      norm(`${at}.input_layernorm`),
      product(`${at}.self_attn.q_proj`, queryHeads * headDim, hidden),
      product(`${at}.self_attn.k_proj`, kvHeads * headDim, hidden),
      product(`${at}.self_attn.v_proj`, kvHeads * headDim, hidden),
      product(`${at}.self_attn.o_proj`, hidden, queryHeads * headDim, residual),
      norm(`${at}.post_attention_layernorm`),
      product(`${at}.mlp.gate_proj`, ffn, hidden),
      product(`${at}.mlp.up_proj`, ffn, hidden),
      product(`${at}.mlp.down_proj`, hidden, ffn, residual),
    ]
  })
  return [
    {
      name: 'model.embed_tokens.weight',
      shape: [vocab, hidden],
      values: { deviation: shape.tied ? 2 / Math.sqrt(hidden) : 1 },
    },
    ...layerTensors.flat(),
    norm('model.norm'),
    ...(shape.tied ? [] : [product('lm_head', vocab, hidden, 2)]),
  ]
}

/** Layout B of heads/FORMAT.md: residual blocks, and the model's own projection. */
function headTensors({ hidden }: ModelShape, medusaHeads: number): RandomTensor[] {
  return Array.from({ length: medusaHeads }, (_, head) => [
    { name: `${head}.0.linear.weight`, shape: [hidden, hidden], values: { deviation: 0.5 / Math.sqrt(hidden) } },
    { name: `${head}.0.linear.bias`, shape: [hidden], values: { deviation: 0.1 } },
  ]).flat()
}

const elementsOf = ({ shape }: RandomTensor): number => shape.reduce((product, size) => product * size, 1)

/** What `writeRandomModel` will write, headers aside. */
export function randomModelBytes(shape: ModelShape, medusaHeads: number): number {
  return 2 * [...modelTensors(shape), ...headTensors(shape, medusaHeads)].reduce((sum, t) => sum + elementsOf(t), 0)
}

/** Writes a folder `model` and, with Medusa heads, a folder `heads`. The same seed and shape give the same bytes. */
export async function writeRandomModel(
  dir: string,
  shape: ModelShape,
  { seed = 1, medusaHeads = 4, maxPositions = 4096, onProgress, signal }: RandomModelOptions = {},
): Promise<RandomModel> {
  const bytes = randomModelBytes(shape, medusaHeads)
  let before = 0
  const report = (written: number): void => onProgress?.(before + written, bytes)
  const model = join(dir, 'model')
  await mkdir(model, { recursive: true })
  await writeFile(join(model, 'config.json'), JSON.stringify(configOf(shape, maxPositions), null, 1))
  before += await writeTensors(join(model, 'model.safetensors'), modelTensors(shape), {
    seed,
    onProgress: report,
    signal,
  })
  if (medusaHeads === 0) return { model, heads: null, bytes }
  const heads = join(dir, 'heads')
  await mkdir(heads, { recursive: true })
  const config = { medusa_num_heads: medusaHeads, medusa_num_layers: 1, version: '2' }
  await writeFile(join(heads, 'config.json'), JSON.stringify(config, null, 1))
  const tensors = headTensors(shape, medusaHeads)
  await writeTensors(join(heads, 'medusa_lm_head.safetensors'), tensors, { seed: seed + 1, onProgress: report, signal })
  return { model, heads, bytes }
}

function configOf(shape: ModelShape, maxPositions: number): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: shape.vocab,
    hidden_size: shape.hidden,
    intermediate_size: shape.ffn,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.queryHeads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    max_position_embeddings: maxPositions,
    tie_word_embeddings: shape.tied,
    torch_dtype: 'bfloat16',
  }
}

/** One safetensors file, never whole in memory: while one chunk is written the next is drawn. Returns the bytes of its tensors. */
async function writeTensors(
  path: string,
  tensors: readonly RandomTensor[],
  {
    seed,
    onProgress,
    signal,
  }: {
    readonly seed: number
    readonly onProgress: (written: number) => void
    readonly signal: AbortSignal | undefined
  },
): Promise<number> {
  const draws = new Map<number, RandomWeights>()
  const fill = (tensor: RandomTensor, words: Uint32Array): void => {
    if ('constant' in tensor.values) {
      words.fill((ONE_BF16 << 16) | ONE_BF16)
      return
    }
    const { deviation } = tensor.values
    const source = draws.get(deviation) ?? new RandomWeights(seed * 1000 + draws.size, deviation)
    draws.set(deviation, source)
    source.fillPairs(words)
  }

  const file = await open(path, 'w')
  try {
    await file.writeFile(headerOf(tensors))
    const buffers = [new Uint32Array(CHUNK_BYTES / 4), new Uint32Array(CHUNK_BYTES / 4)] as const
    let turn = 0
    let written = 0
    let pending: Promise<unknown> = Promise.resolve()
    for (const tensor of tensors) {
      let left = 2 * elementsOf(tensor)
      while (left > 0) {
        signal?.throwIfAborted()
        const bytes = Math.min(CHUNK_BYTES, left)
        const words = buffers[turn++ % 2]!.subarray(0, Math.ceil(bytes / 4))
        fill(tensor, words)
        await pending
        pending = file.writeFile(new Uint8Array(words.buffer, 0, bytes))
        // Awaited a turn later: until then a failure is nobody's.
        pending.catch(() => undefined)
        left -= bytes
        written += bytes
        onProgress(written)
      }
    }
    await pending
    return written
  } finally {
    await file.close()
  }
}

/** The length prefix and the header, padded so that the tensors start aligned. */
function headerOf(tensors: readonly RandomTensor[]): Uint8Array {
  let offset = 0
  const entries = tensors.map((tensor) => {
    const begin = offset
    offset += 2 * elementsOf(tensor)
    return [tensor.name, { dtype: 'BF16', shape: tensor.shape, data_offsets: [begin, offset] }]
  })
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)))
  const length = Math.ceil(json.length / 64) * 64
  const head = new Uint8Array(8 + length).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true)
  head.set(json, 8)
  return head
}
