// config.json of a Hugging Face model folder: what the engine needs from it, and a refusal by name of what it does not implement.
import { z } from 'zod'
import { GorgonError } from '../errors.js'
import { isJsonObject } from '../json.js'
import type { ModelShape } from '../native.js'
import { check, configError, unsupported } from './config-check.js'
import { type Rope, ropeFrequencies } from './rope.js'
import { extendedPositions, LAYER_TYPES, MAX_POSITIONS, readRope, ropeFields } from './rope-config.js'

/** Limits on the numbers of a configuration. Well past any model in use, and small enough that no product of theirs overflows. */
export const MAX_LAYERS = 1024
export const MAX_HIDDEN = 1 << 17
export const MAX_FFN = 1 << 20
export const MAX_VOCAB = 1 << 22
export const MAX_ATTENTION_HEADS = 1024
/** The attention kernels' own (kernels/ops/causal_attention.h). */
export const MAX_HEAD_DIM = 256
/** Most ids of the end of a text. */
export const MAX_EOS_IDS = 64

export const ARCHITECTURES = ['llama', 'mistral', 'qwen2', 'qwen3'] as const
export type Architecture = (typeof ARCHITECTURES)[number]

/** Which projections carry a bias, and which do not. */
export interface Biases {
  readonly qkv: boolean
  readonly o: boolean
  readonly mlp: boolean
}

export interface ModelConfig {
  /** `model_type` of config.json. */
  readonly architecture: Architecture
  readonly shape: ModelShape
  readonly rope: Rope
  /** The output projection is the embedding. */
  readonly tied: boolean
  readonly biases: Biases
  /** Queries and keys are normalised per head before rotation. */
  readonly qkNorm: boolean
  readonly bosId: number | null
  readonly eosIds: readonly number[]
  /** What config.json says of fused Medusa heads; null where it says nothing. The tensors decide. */
  readonly declaredHeads: { readonly medusaHeads: number | null; readonly blocks: number | null }
  /** Worth telling a user; nothing that changes a number. */
  readonly warnings: readonly string[]
}

/** What transformers takes when config.json is silent, and what each family fixes. */
interface Family {
  /** Null: as many as query heads. */
  readonly kvHeads: number | null
  /** Null: hidden width over query heads. */
  readonly headDim: number | null
  readonly maxPositions: number
  readonly qkNorm: boolean
  /** `always`: sliding_window applies to every layer. `opt-in`: only with use_sliding_window. */
  readonly sliding: 'never' | 'always' | 'opt-in'
  readonly biases: (config: ConfigJson) => Biases
}

const FAMILIES: Readonly<Record<Architecture, Family>> = {
  llama: {
    kvHeads: null,
    headDim: null,
    maxPositions: 2048,
    qkNorm: false,
    sliding: 'never',
    biases: (c) => ({ qkv: c.attention_bias ?? false, o: c.attention_bias ?? false, mlp: c.mlp_bias ?? false }),
  },
  mistral: {
    kvHeads: 8,
    headDim: null,
    maxPositions: 131072,
    qkNorm: false,
    sliding: 'always',
    biases: () => ({ qkv: false, o: false, mlp: false }),
  },
  qwen2: {
    kvHeads: 32,
    headDim: null,
    maxPositions: 32768,
    qkNorm: false,
    sliding: 'opt-in',
    biases: () => ({ qkv: true, o: false, mlp: false }),
  },
  qwen3: {
    kvHeads: 32,
    headDim: 128,
    maxPositions: 32768,
    qkNorm: true,
    sliding: 'opt-in',
    biases: (c) => ({ qkv: c.attention_bias ?? false, o: c.attention_bias ?? false, mlp: false }),
  },
}

const DEFAULT_RMS_EPS = 1e-6
const DEFAULT_SLIDING_WINDOW = 4096
const DEFAULT_MAX_WINDOW_LAYERS = 28

const size = (max: number) => z.int().min(1).max(max)

/** Fields we read. Null and absent mean the same: the default. Other keys pass, unless UNSUPPORTED names them. */
const ConfigJson = z.looseObject({
  architectures: z.array(z.string()).nullish(),
  vocab_size: size(MAX_VOCAB),
  hidden_size: size(MAX_HIDDEN),
  intermediate_size: size(MAX_FFN),
  num_hidden_layers: size(MAX_LAYERS),
  num_attention_heads: size(MAX_ATTENTION_HEADS),
  num_key_value_heads: size(MAX_ATTENTION_HEADS).nullish(),
  head_dim: size(MAX_HEAD_DIM).nullish(),
  hidden_act: z.string().nullish(),
  rms_norm_eps: z.number().positive().max(1).nullish(),
  max_position_embeddings: size(MAX_POSITIONS).nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  ...ropeFields,
  sliding_window: z.int().min(1).nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.int().min(0).nullish(),
  layer_types: z.array(z.string()).max(MAX_LAYERS).nullish(),
  bos_token_id: z.int().nullish(),
  eos_token_id: z.union([z.int(), z.array(z.int()).max(MAX_EOS_IDS)]).nullish(),
  medusa_num_heads: z.int().min(0).nullish(),
  medusa_num_layers: z.int().min(0).nullish(),
})
type ConfigJson = z.output<typeof ConfigJson>

/** Features that change the arithmetic, and the values that switch them off; null and absent always do. */
const UNSUPPORTED: readonly { readonly key: string; readonly off: readonly unknown[]; readonly what: string }[] = [
  { key: 'quantization_config', off: [], what: 'quantised weights' },
  { key: 'compression_config', off: [], what: 'compressed weights' },
  { key: 'partial_rotary_factor', off: [1], what: 'rotary embedding over part of a head' },
  { key: 'rotary_pct', off: [1], what: 'rotary embedding over part of a head' },
  { key: 'no_rope_layers', off: [], what: 'layers without rotary embedding' },
  { key: 'attn_logit_softcapping', off: [0], what: 'soft-capped attention' },
  { key: 'final_logit_softcapping', off: [0], what: 'soft-capped logits' },
  { key: 'query_pre_attn_scalar', off: [], what: 'a custom attention scale' },
  { key: 'attention_multiplier', off: [], what: 'a custom attention scale' },
  { key: 'attention_chunk_size', off: [], what: 'chunked attention' },
  { key: 'clip_qkv', off: [], what: 'clipped queries and keys' },
  { key: 'use_qk_norm', off: [false], what: 'normalised queries and keys outside qwen3' },
  { key: 'use_mrope', off: [false], what: 'multimodal rotary embedding' },
  { key: 'alibi', off: [false], what: 'ALiBi positions' },
  { key: 'num_experts', off: [0], what: 'a mixture of experts' },
  { key: 'num_local_experts', off: [0], what: 'a mixture of experts' },
  { key: 'n_routed_experts', off: [0], what: 'a mixture of experts' },
  { key: 'kv_lora_rank', off: [], what: 'multi-head latent attention' },
  { key: 'q_lora_rank', off: [], what: 'multi-head latent attention' },
  { key: 'embedding_multiplier', off: [1], what: 'scaled embeddings' },
  { key: 'residual_multiplier', off: [1], what: 'scaled residuals' },
  { key: 'logits_scaling', off: [1], what: 'scaled logits' },
  { key: 'logit_scale', off: [1], what: 'scaled logits' },
  { key: 'is_encoder_decoder', off: [false], what: 'an encoder' },
  { key: 'vision_config', off: [], what: 'image input' },
  { key: 'text_config', off: [], what: 'several models in one configuration' },
]

/**
 * What a model's config.json says, checked.
 *
 * @param where The file's name, for messages.
 * @throws {GorgonError} ERR_UNSUPPORTED when it asks for something that is not implemented, named in the message; ERR_MODEL_CONFIG when
 *   it is not a configuration, or contradicts itself.
 */
export function parseModelConfig(json: unknown, where: string): ModelConfig {
  if (!isJsonObject(json)) throw configError(where, 'is not a JSON object')
  const architecture = readArchitecture(json, where)
  refuseUnsupported(json, where)
  const config = check(ConfigJson, json, where)
  refuseClass(config.architectures, where)

  const family = FAMILIES[architecture]
  const warnings: string[] = []
  const queryHeads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? family.kvHeads ?? queryHeads
  if (queryHeads % kvHeads !== 0) {
    throw configError(where, `has ${queryHeads} query heads, which ${kvHeads} KV heads cannot share evenly`)
  }
  const headDim = readHeadDim(config, family, where)
  const maxPositions = config.max_position_embeddings ?? family.maxPositions
  const rope = readRope(config, maxPositions, where, warnings)
  const frequencies = ropeFrequencies(rope, headDim)
  if (
    !frequencies.inverseFrequencies.every((f) => f > 0 && Number.isFinite(f)) ||
    !Number.isFinite(frequencies.scale)
  ) {
    throw configError(
      where,
      `asks for rotary embedding (${JSON.stringify(rope)}) whose frequencies are not positive numbers`,
    )
  }
  const activation = config.hidden_act ?? 'silu'
  // transformers calls the same function by both names.
  if (activation !== 'silu' && activation !== 'swish') {
    throw unsupported(where, `the activation "${activation}"`, 'hidden_act', 'silu')
  }
  if ('auto_map' in json && json['auto_map'] !== null) {
    warnings.push(
      `config.json names custom code (auto_map), which is not run: the model is computed as a plain ${architecture}`,
    )
  }

  const extended = extendedPositions(rope, config, maxPositions)
  const { vocab_size: vocab } = config
  return {
    architecture,
    shape: {
      layers: config.num_hidden_layers,
      hidden: config.hidden_size,
      ffn: config.intermediate_size,
      vocab,
      queryHeads,
      kvHeads,
      headDim,
      rmsEps: config.rms_norm_eps ?? DEFAULT_RMS_EPS,
      maxPositions: extended,
      inverseFrequencies: frequencies.inverseFrequencies,
      ropeScale: frequencies.scale,
      slidingWindows: readSlidingWindows(config, family, extended, where, warnings),
    },
    rope,
    tied: config.tie_word_embeddings ?? false,
    biases: family.biases(config),
    qkNorm: family.qkNorm,
    ...readTextIds(config.bos_token_id, config.eos_token_id, vocab, 'config.json', warnings),
    declaredHeads: readDeclaredHeads(config),
    warnings,
  }
}

/**
 * Ids of the beginning and end of a text. Ids the vocabulary does not have can never be chosen; they are dropped with a warning.
 *
 * @param source Name of the file they come from, for warnings.
 */
export function readTextIds(
  bos: number | null | undefined,
  eos: number | readonly number[] | null | undefined,
  vocab: number,
  source: string,
  warnings: string[],
): { bosId: number | null; eosIds: number[] } {
  const known = (id: number, key: string) => {
    if (id >= 0 && id < vocab) return true
    // -1 is a common way to write "none".
    if (id !== -1) warnings.push(`${source}: ${key} ${id} is not in the vocabulary of ${vocab}; it is ignored`)
    return false
  }
  const ids = typeof eos === 'number' ? [eos] : (eos ?? [])
  return {
    bosId: typeof bos === 'number' && known(bos, 'bos_token_id') ? bos : null,
    eosIds: [...new Set(ids)].filter((id) => known(id, 'eos_token_id')),
  }
}

function readArchitecture(json: Record<string, unknown>, where: string): Architecture {
  const found = json['model_type']
  if (found === undefined && 'medusa_num_heads' in json) {
    throw configError(
      where,
      'describes Medusa heads, not a model. Pass its folder as the heads, and the base model as the model',
    )
  }
  const known = ARCHITECTURES.find((name) => name === found)
  if (known) return known
  if (typeof found !== 'string') throw configError(where, 'has no model_type, so its architecture is not known')
  throw unsupported(where, `the architecture "${found}"`, 'model_type', ARCHITECTURES.join(', '))
}

/** A classifier or an embedding model shares its model_type with the language model it was made from. */
function refuseClass(classes: readonly string[] | null | undefined, where: string): void {
  if (!classes || classes.length === 0) return
  if (classes.some((name) => name.endsWith('ForCausalLM') || name.includes('Medusa'))) return
  throw unsupported(where, `the model class "${classes[0]}"`, 'architectures', 'causal language models (…ForCausalLM)')
}

function refuseUnsupported(json: Record<string, unknown>, where: string): void {
  for (const { key, off, what } of UNSUPPORTED) {
    const value = Object.hasOwn(json, key) ? json[key] : null
    if (value === null || off.includes(value)) continue
    const shown = JSON.stringify(value).slice(0, 80)
    throw new GorgonError(
      'ERR_UNSUPPORTED',
      `${where}: ${key} is ${shown}: ${what} is not implemented. Use another model.`,
      {
        file: where,
        key,
        value,
      },
    )
  }
}

function readHeadDim(config: ConfigJson, family: Family, where: string): number {
  const headDim = config.head_dim ?? family.headDim ?? config.hidden_size / config.num_attention_heads
  if (!Number.isInteger(headDim)) {
    throw configError(
      where,
      `has a hidden_size of ${config.hidden_size}, not a multiple of its ${config.num_attention_heads} heads, and no head_dim`,
    )
  }
  if (headDim % 2 !== 0) throw configError(where, `has heads of width ${headDim}; rotary embedding needs an even width`)
  if (headDim > MAX_HEAD_DIM)
    throw configError(where, `has heads of width ${headDim}; at most ${MAX_HEAD_DIM} is implemented`)
  return headDim
}

/** i32 [L]: 0 where a layer sees everything. */
function readSlidingWindows(
  config: ConfigJson,
  family: Family,
  maxPositions: number,
  where: string,
  warnings: string[],
): Int32Array {
  const { num_hidden_layers: layers, layer_types: types } = config
  const windows = new Int32Array(layers)
  for (const type of types ?? []) {
    if (!LAYER_TYPES.includes(type))
      throw unsupported(where, `the layer type "${type}"`, 'layer_types', LAYER_TYPES.join(', '))
  }
  if (types && types.length !== layers) {
    throw configError(where, `has ${layers} layers and ${types.length} layer_types`)
  }
  const sliding = types?.filter((type) => type === 'sliding_attention').length

  let window: number | null
  switch (family.sliding) {
    case 'never':
      window = null
      // transformers would silently attend to everything here.
      if (config.sliding_window != null) {
        throw unsupported(
          where,
          `a sliding window of ${config.sliding_window} in a llama model`,
          'sliding_window',
          'mistral, qwen2, qwen3',
        )
      }
      break
    case 'always':
      window = config.sliding_window === undefined ? DEFAULT_SLIDING_WINDOW : config.sliding_window
      if (config.sliding_window === undefined) {
        warnings.push(
          `config.json does not mention sliding_window; transformers takes ${DEFAULT_SLIDING_WINDOW} for mistral, and so do we`,
        )
      }
      // transformers ignores layer_types here, other engines do not: only a file that means one thing is read.
      if (types && sliding !== (window === null ? 0 : layers)) {
        throw unsupported(
          where,
          'a mistral model whose layer_types differ from its sliding_window',
          'layer_types',
          'qwen2, qwen3',
        )
      }
      break
    case 'opt-in':
      window = config.sliding_window === undefined ? DEFAULT_SLIDING_WINDOW : config.sliding_window
      if (!config.use_sliding_window) window = null
      break
  }
  if (window === null) {
    if (sliding) throw configError(where, `has ${sliding} layers of sliding_attention and no sliding window`)
    return windows
  }
  // A window the positions cannot outgrow hides nothing.
  if (window >= maxPositions) return windows
  const fullLayers = family.sliding === 'opt-in' ? (config.max_window_layers ?? DEFAULT_MAX_WINDOW_LAYERS) : 0
  return windows.map((_, layer) => ((types ? types[layer] === 'sliding_attention' : layer >= fullLayers) ? window : 0))
}

function readDeclaredHeads(config: ConfigJson): ModelConfig['declaredHeads'] {
  // Some exporters nest the fields.
  const nested = isJsonObject(config['medusa']) ? config['medusa'] : {}
  const count = (value: unknown) => (Number.isSafeInteger(value) ? (value as number) : null)
  return {
    medusaHeads: count(config.medusa_num_heads ?? nested['num_medusa_heads']),
    blocks: count(config.medusa_num_layers ?? nested['num_medusa_layers']),
  }
}
