// Tiny Hugging Face model folders and Medusa heads with seeded random weights, for every architecture and layout the engine reads.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TensorData, writeSafetensors } from '../../src/weights/safetensors.js'

export type TinyArchitecture = 'llama' | 'mistral' | 'qwen2' | 'qwen3'
export type TinyDtype = 'f32' | 'f16' | 'bf16'

/** A tensor's values as the file holds them, that is after rounding to the dtype. */
export interface TinyTensor {
  readonly shape: readonly number[]
  readonly values: Float32Array
}
/** By the name in the file. */
export type TinyTensors = ReadonlyMap<string, TinyTensor>

export interface TinyModelOptions {
  readonly architecture?: TinyArchitecture
  readonly seed?: number
  readonly dtype?: TinyDtype
  readonly tied?: boolean
  /** llama and qwen3 only; qwen2 always has q, k and v biases. */
  readonly attentionBias?: boolean
  /** llama only. */
  readonly mlpBias?: boolean
  readonly layers?: number
  readonly hidden?: number
  readonly ffn?: number
  readonly vocab?: number
  readonly queryHeads?: number
  readonly kvHeads?: number
  readonly headDim?: number
  readonly maxPositions?: number
  readonly rmsEps?: number
  /** Fields of rope_parameters; rope_theta and rope_type included. */
  readonly rope?: Readonly<Record<string, unknown>>
  /** `v5`: rope_parameters. `legacy`: rope_theta beside rope_scaling. */
  readonly ropeSpelling?: 'v5' | 'legacy'
  /** Positions a layer sees; null for all. */
  readonly slidingWindow?: number | null
  /** qwen2 and qwen3: layers below this see everything. */
  readonly maxWindowLayers?: number
  readonly layerTypes?: readonly string[]
  /** Files the weights are cut into; 1 writes model.safetensors, more write an index. */
  readonly shards?: number
  readonly bos?: number | null
  readonly eos?: number | readonly number[] | null
  /** Written to generation_config.json when given. */
  readonly generation?: Readonly<Record<string, unknown>>
  /** Added to config.json, over what the other options put there. */
  readonly config?: Readonly<Record<string, unknown>>
  /** Every row of a matrix is whole numbers times a power of two, and 127 the largest: int8 and bf16 hold it as it is. */
  readonly int8Steps?: boolean
  /** Medusa heads fused into the checkpoint (layout C). */
  readonly fusedHeads?: TinyHeadsOptions
}

export interface TinyModel {
  readonly dir: string
  readonly architecture: TinyArchitecture
  readonly config: Readonly<Record<string, unknown>>
  readonly tensors: TinyTensors
  readonly layers: number
  readonly hidden: number
  readonly ffn: number
  readonly vocab: number
  readonly queryHeads: number
  readonly kvHeads: number
  readonly headDim: number
}

export interface TinyHeadsOptions {
  readonly seed?: number
  readonly dtype?: TinyDtype
  readonly medusaHeads?: number
  /** Residual blocks per head, R. */
  readonly blocks?: number
  /** Every block of a head repeats the first, as reference checkpoints with R > 1 do. */
  readonly tiedBlocks?: boolean
  readonly bias?: boolean
  /** Layouts A and C with projections; false makes C project through the base lm_head. */
  readonly projection?: boolean
  /** Layout E: one lm_head.weight for all heads. */
  readonly sharedProjection?: boolean
  /** Rows of the projections; default: the vocabulary. */
  readonly rows?: number
  /** Written as `token_map`. */
  readonly tokenMap?: readonly number[]
  readonly tokenMapDtype?: 'I32' | 'I64'
  /** Standard deviation of the block weights; 0 leaves only the biases. */
  readonly scale?: number
  /** As of a model. */
  readonly int8Steps?: boolean
  /** Added to config.json, over what the other options put there. */
  readonly config?: Readonly<Record<string, unknown>>
}

export interface TinyHeads {
  readonly dir: string
  readonly format: 'A' | 'B' | 'E'
  readonly medusaHeads: number
  readonly blocks: number
  readonly tensors: TinyTensors
  readonly tokenMap: readonly number[] | null
}

/** Writes a model folder (no tokenizer) and returns what is in it. The same options give the same bytes. */
export async function writeTinyModel(dir: string, options: TinyModelOptions = {}): Promise<TinyModel> {
  const { architecture = 'llama', dtype = 'f32', layers = 2, hidden = 64, ffn = 96, vocab = 128 } = options
  const {
    queryHeads = 4,
    kvHeads = 2,
    headDim = 16,
    shards = 1,
    seed = 1,
    tied = false,
    slidingWindow = null,
  } = options
  const size = { layers, hidden, ffn, vocab, queryHeads, kvHeads, headDim }
  const config = { ...configJson(architecture, size, tied, slidingWindow, options), ...options.config }

  const tensors = new Map<string, TinyTensor>()
  const random = gaussian(seed)
  const add = (name: string, shape: readonly number[], mean: number, deviation: number) => {
    const count = shape.reduce((product, n) => product * n, 1)
    const values = Float32Array.from({ length: count }, () => round(mean + deviation * random(), dtype))
    tensors.set(name, { shape, values })
  }
  const linear = (name: string, rows: number, columns: number, bias: boolean) => {
    add(`${name}.weight`, [rows, columns], 0, 1 / Math.sqrt(columns))
    if (bias) add(`${name}.bias`, [rows], 0, 0.2)
  }
  const norm = (name: string, width: number) => add(`${name}.weight`, [width], 1, 0.1)

  const qkvBias = architecture === 'qwen2' || (options.attentionBias ?? false)
  const oBias = architecture !== 'qwen2' && (options.attentionBias ?? false)
  const mlpBias = options.mlpBias ?? false
  // Tied embeddings are also the projection: small enough for logits of a few units.
  add('model.embed_tokens.weight', [vocab, hidden], 0, tied ? 2 / Math.sqrt(hidden) : 1)
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`
    norm(`${at}.input_layernorm`, hidden)
    linear(`${at}.self_attn.q_proj`, queryHeads * headDim, hidden, qkvBias)
    linear(`${at}.self_attn.k_proj`, kvHeads * headDim, hidden, qkvBias)
    linear(`${at}.self_attn.v_proj`, kvHeads * headDim, hidden, qkvBias)
    linear(`${at}.self_attn.o_proj`, hidden, queryHeads * headDim, oBias)
    if (architecture === 'qwen3') {
      norm(`${at}.self_attn.q_norm`, headDim)
      norm(`${at}.self_attn.k_norm`, headDim)
    }
    norm(`${at}.post_attention_layernorm`, hidden)
    linear(`${at}.mlp.gate_proj`, ffn, hidden, mlpBias)
    linear(`${at}.mlp.up_proj`, ffn, hidden, mlpBias)
    linear(`${at}.mlp.down_proj`, hidden, ffn, mlpBias)
  }
  norm('model.norm', hidden)
  if (!tied) add('lm_head.weight', [vocab, hidden], 0, 2 / Math.sqrt(hidden))
  if (options.fusedHeads) {
    const heads = headTensors(options.fusedHeads.projection === false ? 'B' : 'A', hidden, vocab, {
      dtype,
      ...options.fusedHeads,
    })
    for (const [name, tensor] of heads) tensors.set(`medusa_head.${name}`, tensor)
    Object.assign(config, {
      medusa_num_heads: options.fusedHeads.medusaHeads ?? 3,
      medusa_num_layers: options.fusedHeads.blocks ?? 1,
    })
    Object.assign(config, options.config)
  }

  if (options.int8Steps) toInt8Steps(tensors)

  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'config.json'), JSON.stringify(config, null, 1))
  if (options.generation) await writeFile(join(dir, 'generation_config.json'), JSON.stringify(options.generation))
  await writeShards(dir, encodeAll(tensors, dtype), shards)
  return { dir, architecture, config, tensors, ...size }
}

/** Writes a heads folder for a model and returns what is in it. Layout C is the `fusedHeads` option of `writeTinyModel`. */
export async function writeTinyHeads(
  dir: string,
  base: Pick<TinyModel, 'hidden' | 'vocab'>,
  options: TinyHeadsOptions & { readonly format?: 'A' | 'B' | 'E' } = {},
): Promise<TinyHeads> {
  const { format = 'A', medusaHeads = 3, blocks = 1, dtype = 'f32', tokenMap = null, bias = true } = options
  const tensors = headTensors(format, base.hidden, base.vocab, options)
  if (options.int8Steps) toInt8Steps(tensors)
  const stored = encodeAll(tensors, dtype)
  if (tokenMap) stored.set('token_map', encodeTokenMap(tokenMap, options.tokenMapDtype ?? 'I64'))
  const config =
    format === 'E'
      ? {
          architectures: ['MedusaModel'],
          model_type: 'medusa',
          hidden_size: base.hidden,
          vocab_size: base.vocab,
          num_heads: medusaHeads,
          num_hidden_layers: blocks,
          truncated_vocab_size: options.rows ?? null,
          medusa_fc_bias: bias,
          original_lm_head: options.sharedProjection ?? false,
        }
      : {
          medusa_num_heads: medusaHeads,
          medusa_num_layers: blocks,
          base_model_name_or_path: 'tiny',
          ...(format === 'B' ? { version: '2' } : {}),
        }
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'config.json'), JSON.stringify({ ...config, ...options.config }))
  await writeSafetensors(join(dir, format === 'E' ? 'model.safetensors' : 'medusa_lm_head.safetensors'), stored, {
    format: 'pt',
  })
  return { dir, format, medusaHeads, blocks, tensors, tokenMap }
}

function headTensors(
  format: 'A' | 'B' | 'E',
  hidden: number,
  vocab: number,
  options: TinyHeadsOptions,
): Map<string, TinyTensor> {
  const { medusaHeads = 3, blocks = 1, bias = true, dtype = 'f32', seed = 2, rows = vocab, scale = 0.5 } = options
  const tensors = new Map<string, TinyTensor>()
  const random = gaussian(seed)
  const draw = (shape: readonly number[], deviation: number): TinyTensor => {
    const count = shape.reduce((product, n) => product * n, 1)
    return { shape, values: Float32Array.from({ length: count }, () => round(deviation * random(), dtype)) }
  }
  for (let head = 0; head < medusaHeads; head++) {
    for (let block = 0; block < blocks; block++) {
      const linear = (h: number, b: number) => (format === 'E' ? `blocks.${h}.layers.${b}` : `${h}.${b}.linear`)
      const first = options.tiedBlocks && block > 0 ? linear(head, 0) : null
      const name = linear(head, block)
      tensors.set(
        `${name}.weight`,
        first ? tensors.get(`${first}.weight`)! : draw([hidden, hidden], scale / Math.sqrt(hidden)),
      )
      if (bias) tensors.set(`${name}.bias`, first ? tensors.get(`${first}.bias`)! : draw([hidden], 0.1))
    }
    const projection = () => draw([rows, hidden], 2 / Math.sqrt(hidden))
    if (format === 'A') tensors.set(`${head}.${blocks}.weight`, projection())
    if (format === 'E' && !options.sharedProjection) tensors.set(`lm_heads.${head}.weight`, projection())
    if (format === 'E' && options.sharedProjection && head === 0) tensors.set('lm_head.weight', projection())
  }
  return tensors
}

function configJson(
  architecture: TinyArchitecture,
  size: Omit<TinyModel, 'dir' | 'architecture' | 'config' | 'tensors'>,
  tied: boolean,
  slidingWindow: number | null,
  options: TinyModelOptions,
): Record<string, unknown> {
  const rope: Readonly<Record<string, unknown>> = options.rope ?? { rope_theta: 10000, rope_type: 'default' }
  const { rope_theta, ...scaling } = rope
  const className = { llama: 'Llama', mistral: 'Mistral', qwen2: 'Qwen2', qwen3: 'Qwen3' }[architecture]
  return {
    architectures: [`${className}ForCausalLM`],
    model_type: architecture,
    vocab_size: size.vocab,
    hidden_size: size.hidden,
    intermediate_size: size.ffn,
    num_hidden_layers: size.layers,
    num_attention_heads: size.queryHeads,
    num_key_value_heads: size.kvHeads,
    head_dim: size.headDim,
    hidden_act: 'silu',
    rms_norm_eps: options.rmsEps ?? 1e-6,
    max_position_embeddings: options.maxPositions ?? 4096,
    tie_word_embeddings: tied,
    bos_token_id: options.bos === undefined ? 1 : options.bos,
    eos_token_id: options.eos === undefined ? 2 : options.eos,
    ...(options.ropeSpelling === 'legacy'
      ? { rope_theta, rope_scaling: legacyScaling(scaling) }
      : { rope_parameters: rope }),
    ...(architecture === 'llama' ? { mlp_bias: options.mlpBias ?? false } : {}),
    ...(architecture === 'llama' || architecture === 'qwen3' ? { attention_bias: options.attentionBias ?? false } : {}),
    ...(architecture === 'mistral' ? { sliding_window: slidingWindow } : {}),
    ...(architecture.startsWith('qwen')
      ? {
          use_sliding_window: slidingWindow !== null,
          sliding_window: slidingWindow,
          max_window_layers: options.maxWindowLayers ?? 0,
        }
      : {}),
    ...(options.layerTypes ? { layer_types: options.layerTypes } : {}),
  }
}

/** Before version 5, the default was spelled by leaving rope_scaling out. */
function legacyScaling(scaling: Readonly<Record<string, unknown>>): Record<string, unknown> | null {
  return (scaling['rope_type'] ?? 'default') === 'default' ? null : { ...scaling }
}

/** With all its bytes at hand. */
type HeldTensor = TensorData & { readonly data: Uint8Array }

async function writeShards(dir: string, stored: ReadonlyMap<string, HeldTensor>, shards: number): Promise<void> {
  if (shards === 1) return writeSafetensors(join(dir, 'model.safetensors'), stored, { format: 'pt' })
  const count = (n: number) => String(n).padStart(5, '0')
  const names = [...stored.keys()]
  const weightMap: Record<string, string> = {}
  for (let shard = 0; shard < shards; shard++) {
    const file = `model-${count(shard + 1)}-of-${count(shards)}.safetensors`
    const own = names.filter((_, index) => Math.floor((index * shards) / names.length) === shard)
    for (const name of own) weightMap[name] = file
    await writeSafetensors(join(dir, file), new Map(own.map((name) => [name, stored.get(name)!])), { format: 'pt' })
  }
  const index = {
    metadata: { total_size: [...stored.values()].reduce((sum, t) => sum + t.data.byteLength, 0) },
    weight_map: weightMap,
  }
  await writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify(index))
}

function encodeAll(tensors: TinyTensors, dtype: TinyDtype): Map<string, HeldTensor> {
  return new Map([...tensors].map(([name, { shape, values }]) => [name, encode(values, shape, dtype)]))
}

function encode(values: Float32Array, shape: readonly number[], dtype: TinyDtype): HeldTensor {
  if (dtype === 'f32')
    return { dtype: 'F32', shape, data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) }
  const half = Uint16Array.from(values, dtype === 'bf16' ? toBf16 : toF16)
  return { dtype: dtype === 'bf16' ? 'BF16' : 'F16', shape, data: new Uint8Array(half.buffer) }
}

function encodeTokenMap(map: readonly number[], dtype: 'I32' | 'I64'): HeldTensor {
  const data = dtype === 'I32' ? Int32Array.from(map) : BigInt64Array.from(map, BigInt)
  return { dtype, shape: [map.length], data: new Uint8Array(data.buffer) }
}

/** Every row of every matrix to the nearest whole numbers times a power of two, its largest one to 127. */
function toInt8Steps(tensors: Map<string, TinyTensor>): void {
  for (const { shape, values } of new Set(tensors.values())) {
    const [rows, depth] = shape
    if (depth === undefined) continue
    for (let n = 0; n < rows!; n++) {
      const row = values.subarray(n * depth, (n + 1) * depth)
      const largest = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      if (largest === 0) continue
      const step = 2 ** Math.ceil(Math.log2(largest / 127))
      const peak = row.findIndex((value) => Math.abs(value) === largest)
      row.forEach((value, k) => {
        row[k] = step * (k === peak ? Math.sign(value) * 127 : Math.round(value / step))
      })
    }
  }
}

/** The nearest value the dtype has. */
function round(value: number, dtype: TinyDtype): number {
  if (dtype === 'f32') return Math.fround(value)
  return dtype === 'bf16' ? fromBf16(toBf16(value)) : fromF16(toF16(value))
}

const scratch = new DataView(new ArrayBuffer(4))

/** bf16 bits of a finite number, ties to even. */
export function toBf16(value: number): number {
  scratch.setFloat32(0, value)
  const bits = scratch.getUint32(0)
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

export function fromBf16(bits: number): number {
  scratch.setUint32(0, bits << 16)
  return scratch.getFloat32(0)
}

/** f16 bits of a finite number within its range, ties to even. */
export function toF16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const magnitude = Math.abs(value)
  if (magnitude === 0) return sign
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), -14)
  // Units of the last place; a carry into the next exponent comes out right by itself.
  const units = roundToEven(magnitude / 2 ** (exponent - 10))
  return sign | (((exponent + 14) << 10) + units)
}

export function fromF16(bits: number): number {
  const exponent = (bits >>> 10) & 31
  const fraction = bits & 1023
  const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25)
  return bits & 0x8000 ? -magnitude : magnitude
}

function roundToEven(value: number): number {
  const down = Math.floor(value)
  const rest = value - down
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down
}

/** Normally distributed numbers from a seed: a splitmix-style integer generator, and the Box-Muller transform. */
export function gaussian(seed: number): () => number {
  const next = uniform(seed)
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
}

/** Numbers in [0, 1) from a seed. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let bits = state ^ (state >>> 16)
    bits = Math.imul(bits, 0x21f0aaad)
    bits ^= bits >>> 15
    bits = Math.imul(bits, 0x735a2d97)
    bits ^= bits >>> 15
    return (bits >>> 0) / 2 ** 32
  }
}
