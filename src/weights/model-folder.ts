// A Hugging Face model folder: its configuration, and each tensor of the forward pass found and of the right shape.
import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { FUSED_PREFIX } from '../../heads/format/names.js'
import { GorgonError } from '../errors.js'
import { readJsonObject } from '../json.js'
import type { TensorSlice, WeightDtype } from '../native.js'
import { type GenerationConfig, parseGenerationConfig } from './generation-config.js'
import { type ModelConfig, parseModelConfig } from './model-config.js'
import {
  listed,
  matrixDtypes,
  readTensorTable,
  sameShape,
  shapeError,
  sliceOf,
  type TensorTable,
  widest,
} from './tensor-table.js'

/** A model's folder, read and checked, its weights still on disk. */
export interface ModelFolder {
  /** Absolute. */
  readonly dir: string
  readonly config: ModelConfig
  readonly generation: GenerationConfig
  readonly table: TensorTable
  /** By role, as `ModelTensors` names them. */
  readonly tensors: Readonly<Record<string, TensorSlice>>
  /** Of every matrix; f32 when they differ, since it holds them all exactly. Vectors may have another. */
  readonly dtype: WeightDtype
  /** A fused checkpoint holds Medusa heads besides the model. */
  readonly hasFusedHeads: boolean
  readonly warnings: readonly string[]
}

/**
 * A Hugging Face model folder: config.json, generation_config.json, and the headers of its safetensors. No weights are read.
 *
 * @throws {GorgonError} ERR_MODEL_NOT_FOUND, ERR_MODEL_CONFIG, ERR_UNSUPPORTED, ERR_FILE, ERR_SAFETENSORS, ERR_TENSOR
 */
export async function readModelFolder(dir: string): Promise<ModelFolder> {
  const { config, generation } = await readModelConfig(dir)
  const table = await readTensorTable(dir)
  return bindModel(dir, config, generation, table)
}

/** The first half of `readModelFolder`: the JSON files. */
export async function readModelConfig(dir: string): Promise<{ config: ModelConfig; generation: GenerationConfig }> {
  const where = join(dir, 'config.json')
  const json = await readJsonObject(where, 'ERR_MODEL_CONFIG')
  if (json === null) {
    const isDirectory = await stat(dir)
      .then((s) => s.isDirectory())
      .catch(() => false)
    const what = isDirectory ? 'has no config.json' : 'is not a folder'
    throw new GorgonError(
      'ERR_MODEL_NOT_FOUND',
      `No model at ${resolve(dir)}: it ${what}. Give the folder of a Hugging Face model (config.json, *.safetensors, tokenizer.json).`,
      { dir: resolve(dir) },
    )
  }
  const config = parseModelConfig(json, where)
  const generationFile = join(dir, 'generation_config.json')
  const generationJson = await readJsonObject(generationFile, 'ERR_MODEL_CONFIG')
  return { config, generation: parseGenerationConfig(generationJson, config, generationFile) }
}

/** One tensor a model of this configuration has. */
interface ExpectedTensor {
  readonly role: string
  readonly name: string
  readonly shape: readonly number[]
}

/** Hugging Face's names for a layer's tensors, and ours. */
function expectedTensors(config: ModelConfig): ExpectedTensor[] {
  const { layers, hidden, ffn, vocab, queryHeads, kvHeads, headDim } = config.shape
  const q = queryHeads * headDim
  const kv = kvHeads * headDim
  const { biases } = config
  const expected: ExpectedTensor[] = [
    { role: 'embed', name: 'model.embed_tokens.weight', shape: [vocab, hidden] },
    { role: 'final_norm', name: 'model.norm.weight', shape: [hidden] },
  ]
  if (!config.tied) expected.push({ role: 'lm_head', name: 'lm_head.weight', shape: [vocab, hidden] })
  const linears = [
    { role: 'q', name: 'self_attn.q_proj', rows: q, columns: hidden, bias: biases.qkv },
    { role: 'k', name: 'self_attn.k_proj', rows: kv, columns: hidden, bias: biases.qkv },
    { role: 'v', name: 'self_attn.v_proj', rows: kv, columns: hidden, bias: biases.qkv },
    { role: 'o', name: 'self_attn.o_proj', rows: hidden, columns: q, bias: biases.o },
    { role: 'gate', name: 'mlp.gate_proj', rows: ffn, columns: hidden, bias: biases.mlp },
    { role: 'up', name: 'mlp.up_proj', rows: ffn, columns: hidden, bias: biases.mlp },
    { role: 'down', name: 'mlp.down_proj', rows: hidden, columns: ffn, bias: biases.mlp },
  ]
  const norms = [
    { role: 'attn_norm', name: 'input_layernorm', width: hidden },
    { role: 'ffn_norm', name: 'post_attention_layernorm', width: hidden },
    ...(config.qkNorm
      ? [
          { role: 'q_norm', name: 'self_attn.q_norm', width: headDim },
          { role: 'k_norm', name: 'self_attn.k_norm', width: headDim },
        ]
      : []),
  ]
  for (let layer = 0; layer < layers; layer++) {
    const role = `layers.${layer}.`
    const name = `model.layers.${layer}.`
    for (const norm of norms) {
      expected.push({ role: role + norm.role, name: `${name}${norm.name}.weight`, shape: [norm.width] })
    }
    for (const { rows, columns, bias, ...linear } of linears) {
      expected.push({ role: role + linear.role, name: `${name}${linear.name}.weight`, shape: [rows, columns] })
      if (bias) expected.push({ role: `${role}${linear.role}_bias`, name: `${name}${linear.name}.bias`, shape: [rows] })
    }
  }
  return expected
}

/** Tensors of old checkpoints that hold what is computed from config.json. */
const COMPUTED_TENSOR = /^model\.(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$/

/**
 * The last part of `readModelFolder`: each tensor the configuration asks for, found and of the right shape and dtype, and none in a layer
 * that the configuration does not ask for.
 */
export function bindModel(
  dir: string,
  config: ModelConfig,
  generation: GenerationConfig,
  table: TensorTable,
): ModelFolder {
  const expected = expectedTensors(config)
  const missing = expected.filter(({ name }) => !table.tensors.has(name)).map(({ name }) => name)
  if (missing.length > 0) {
    const hint =
      missing.length === 1 && missing[0] === 'lm_head.weight' ? ' Is tie_word_embeddings missing from config.json?' : ''
    throw new GorgonError(
      'ERR_TENSOR',
      `${resolve(dir)} lacks ${missing.length} of the ${expected.length} tensors its config.json asks for: ${listed(missing)}.${hint} Download the model again, or correct config.json.`,
      { dir: resolve(dir), missing },
    )
  }
  const tensors: Record<string, TensorSlice> = {}
  for (const { role, name, shape } of expected) {
    const stored = table.tensors.get(name)!
    const file = table.files[stored.file]!
    if (!sameShape(stored.shape, shape)) throw shapeError(file, name, stored.shape, shape, 'config.json asks for')
    tensors[role] = sliceOf(stored, file, name)
  }

  const warnings: string[] = [...config.warnings, ...generation.warnings, ...table.warnings]
  const names = new Set(expected.map(({ name }) => name))
  const unused: string[] = []
  let hasFusedHeads = false
  for (const name of table.tensors.keys()) {
    if (names.has(name) || COMPUTED_TENSOR.test(name)) continue
    if (name.startsWith(FUSED_PREFIX)) hasFusedHeads = true
    else if (name === 'lm_head.weight') {
      warnings.push('config.json ties the embeddings, so the stored lm_head.weight is not used')
    } else if (belongsToLayer(name, config.shape.layers)) {
      throw new GorgonError(
        'ERR_UNSUPPORTED',
        `${resolve(dir)} has the tensor "${name}", which a ${config.architecture} model of this config.json does not use: the model would not be what was trained. Check config.json (attention_bias, mlp_bias, model_type).`,
        { dir: resolve(dir), tensor: name },
      )
    } else unused.push(name)
  }
  if (unused.length > 0) warnings.push(`${unused.length} tensors are not used: ${listed(unused)}`)
  if (!hasFusedHeads && config.declaredHeads.medusaHeads) {
    warnings.push(
      `config.json declares ${config.declaredHeads.medusaHeads} Medusa heads, but the folder has no ${FUSED_PREFIX}* tensors`,
    )
  }
  const dtypes = matrixDtypes(tensors)
  if (dtypes.length > 1)
    warnings.push(`the weights mix ${dtypes.join(' and ')}; they are held as f32, which changes none of them`)
  const dtype = widest(dtypes)
  return { dir: resolve(dir), config, generation, table, tensors, dtype, hasFusedHeads, warnings }
}

function belongsToLayer(name: string, layers: number): boolean {
  const match = /^model\.layers\.(\d+)\./.exec(name)
  return match !== null && Number(match[1]) < layers
}
