// A folder of files to the tables C++ maps weights from: configuration, tensors by role, Medusa heads.
import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, extname, join, resolve } from 'node:path'
import {
  FUSED_PREFIX,
  type HeadsFormat,
  type HeadsLayout,
  headTensorShape,
  recogniseHeads,
} from '../../heads/format/names.js'
import { type DeclaredHeads, declaredHeads, HeadsConfig } from '../../heads/format/schema.js'
import { GorgonError } from '../errors.js'
import { type ModelSpec, packageRoot, type TensorSlice, type WeightDtype } from '../native.js'
import { type GenerationConfig, parseGenerationConfig } from './generation-config.js'
import { isJsonObject, readJsonObject } from './json.js'
import { check, type ModelConfig, parseModelConfig } from './model-config.js'
import { openSafetensors, readTensorBytes, type TensorEntry } from './safetensors.js'

/** Most files one checkpoint may be cut into. */
export const MAX_SHARDS = 4096

const SINGLE_FILE = 'model.safetensors'
const INDEX_FILE = 'model.safetensors.index.json'
const HEADS_FILE = 'medusa_lm_head.safetensors'
/** Pickles: loading one runs code that is in it. */
const PICKLE_EXTENSIONS = ['.pt', '.bin', '.pth']

/** Dtypes of weights, as safetensors names them. */
const WEIGHT_DTYPES: Readonly<Record<string, WeightDtype>> = { F32: 'f32', F16: 'f16', BF16: 'bf16' }
export const WEIGHT_BYTES: Readonly<Record<WeightDtype, number>> = { f32: 4, f16: 2, bf16: 2 }

/** A tensor of one of several files. */
export interface StoredTensor extends TensorEntry {
  /** Index into the table's files. */
  readonly file: number
}

/** Every tensor of a checkpoint, over all its files. */
export interface TensorTable {
  readonly files: readonly string[]
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly warnings: readonly string[]
}

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

/** Medusa heads, read and checked against their base model, their weights still on disk. */
export interface HeadsFolder {
  readonly format: HeadsFormat
  /** The folder or file they were read from; absolute. */
  readonly path: string
  readonly medusaHeads: number
  /** Residual blocks per head. */
  readonly blocks: number
  /** Blocks that have a bias. */
  readonly bias: 'all' | 'some' | 'none'
  /** `base`: the model's lm_head projects. */
  readonly projection: 'base' | 'per-head' | 'shared'
  /** Tokens the heads can draft. */
  readonly vocab: number
  /** Of every matrix as stored; f32 when they differ. */
  readonly dtype: WeightDtype
  readonly files: readonly string[]
  /** By role, as `HeadsSpec` names them. A shared projection is the same slice under each head. */
  readonly tensors: Readonly<Record<string, TensorSlice>>
  /** i32 [vocab]: token of each row of a reduced projection; null when row = token. */
  readonly tokenMap: Int32Array | null
  /** What their configuration calls the model they were trained on. */
  readonly baseModel: string | null
  readonly warnings: readonly string[]
}

/** What a user chose about how the weights are held. */
export interface ModelSpecOptions {
  readonly backend: string
  readonly isa: string
  readonly threads: number
  readonly dtype: WeightDtype | 'auto'
  readonly progress: Int32Array
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

/** The second half of `readModelFolder`: tensor headers, of one file or of all shards. */
export async function readTensorTable(dir: string): Promise<TensorTable> {
  const single = join(dir, SINGLE_FILE)
  // A single file is preferred, as transformers does.
  if (await exists(single)) return tableOf([single])
  const index = await readJsonObject(join(dir, INDEX_FILE), 'ERR_SAFETENSORS')
  if (index !== null) return readShards(dir, index)
  const pickle = (await readdir(dir).catch(() => [])).find((name) => PICKLE_EXTENSIONS.includes(extname(name)))
  throw new GorgonError(
    'ERR_MODEL_NOT_FOUND',
    `${resolve(dir)} has neither ${SINGLE_FILE} nor ${INDEX_FILE}${pickle ? `, only ${pickle}, a pickle that could run code` : ''}. Export the weights as safetensors.`,
    { dir: resolve(dir) },
  )
}

/** The table of the files given; a name in two of them is an error. */
async function tableOf(files: readonly string[]): Promise<TensorTable> {
  const tensors = new Map<string, StoredTensor>()
  for (const [file, path] of files.entries()) {
    for (const [name, entry] of (await openSafetensors(path)).tensors) {
      const other = tensors.get(name)
      if (other) {
        throw new GorgonError(
          'ERR_SAFETENSORS',
          `tensor "${name}" is in both ${files[other.file]} and ${path}. Download the model again.`,
          { tensor: name, files: [files[other.file], path] },
        )
      }
      tensors.set(name, { ...entry, file })
    }
  }
  return { files, tensors, warnings: [] }
}

async function readShards(dir: string, index: Record<string, unknown>): Promise<TensorTable> {
  const where = join(dir, INDEX_FILE)
  const bad = (what: string, details: Record<string, unknown> = {}) =>
    new GorgonError('ERR_SAFETENSORS', `${where}: ${what}. Download the model again.`, { file: where, ...details })
  const map = index['weight_map']
  if (!isJsonObject(map)) throw bad('has no weight_map')
  const shards = new Set<string>()
  for (const [tensor, shard] of Object.entries(map)) {
    // A name with a path in it could point anywhere on this machine.
    if (
      typeof shard !== 'string' ||
      shard !== basename(shard) ||
      /[\\\0]/.test(shard) ||
      extname(shard) !== '.safetensors'
    ) {
      throw bad(
        `places tensor "${tensor}" in ${JSON.stringify(shard)}, which is not the name of a safetensors file beside it`,
        {
          tensor,
          shard,
        },
      )
    }
    shards.add(shard)
  }
  if (shards.size === 0) throw bad('lists no tensors')
  if (shards.size > MAX_SHARDS)
    throw bad(`names ${shards.size} files; at most ${MAX_SHARDS} are read`, { limit: MAX_SHARDS })
  const table = await tableOf([...shards].sort().map((shard) => join(dir, shard)))
  for (const [tensor, shard] of Object.entries(map)) {
    const stored = table.tensors.get(tensor)
    if (!stored || basename(table.files[stored.file]!) !== shard) {
      throw bad(`places tensor "${tensor}" in ${shard}, which does not have it`, { tensor, shard })
    }
  }
  const unlisted = [...table.tensors.keys()].filter((name) => !Object.hasOwn(map, name))
  if (unlisted.length === 0) return table
  // As transformers does: the index says what the model is.
  const tensors = new Map([...table.tensors].filter(([name]) => Object.hasOwn(map, name)))
  return { ...table, tensors, warnings: [`${INDEX_FILE} does not list ${listed(unlisted)}, so they are not used`] }
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

function widest(dtypes: readonly WeightDtype[]): WeightDtype {
  return dtypes.length === 1 ? dtypes[0]! : 'f32'
}

function matrixDtypes(tensors: Readonly<Record<string, TensorSlice>>): WeightDtype[] {
  const matrices = Object.values(tensors).filter(({ shape }) => shape.length === 2)
  return [...new Set(matrices.map(({ dtype }) => dtype as WeightDtype))].sort()
}

function belongsToLayer(name: string, layers: number): boolean {
  const match = /^model\.layers\.(\d+)\./.exec(name)
  return match !== null && Number(match[1]) < layers
}

/**
 * Medusa heads for a model, from a folder, a safetensors file, or the model's own folder when they are fused into it.
 *
 * @throws {GorgonError} ERR_HEADS_FORMAT when they are in no known layout or are a pickle; ERR_HEADS_MISMATCH when they belong to another
 *   model; ERR_TENSOR, ERR_SAFETENSORS, ERR_FILE, ERR_MODEL_CONFIG, ERR_UNSUPPORTED.
 */
export async function readHeads(path: string, base: ModelFolder): Promise<HeadsFolder> {
  const absolute = resolve(path)
  if (absolute === base.dir && base.hasFusedHeads) return readFusedHeads(base)
  const { dir, table } = await readHeadsTable(absolute)
  const where = join(dir, 'config.json')
  const json = await readJsonObject(where, 'ERR_MODEL_CONFIG')
  // A model's folder may hold heads beside it; its config.json then describes the model.
  const config = check(HeadsConfig, dir === base.dir ? {} : (json ?? {}), where)
  if ([...table.tensors.keys()].some((name) => name.startsWith('model.layers.'))) {
    const fused = [...table.tensors.keys()].some((name) => name.startsWith(FUSED_PREFIX))
    throw fused
      ? new GorgonError(
          'ERR_HEADS_MISMATCH',
          `${absolute} is a whole model with heads fused into it. They fit only that model: load ${absolute} as the model instead.`,
          { heads: absolute, model: base.dir },
        )
      : new GorgonError('ERR_HEADS_FORMAT', `${absolute} is a model without Medusa heads.`, { heads: absolute })
  }
  const layout = layoutOf(absolute, table, [...table.tensors.keys()], config.original_lm_head === true)
  return bindHeads(absolute, layout.format, layout, table, base, config, declaredHeads(config))
}

/**
 * The heads a model brings along: fused into its checkpoint, in its folder, or, for the demo model of this package, in heads/demo. Null
 * when there are none.
 *
 * @throws {GorgonError} as `readHeads`, when there are some but they cannot be used.
 */
export async function findHeads(base: ModelFolder): Promise<HeadsFolder | null> {
  if (base.hasFusedHeads) return readFusedHeads(base)
  const beside = join(base.dir, HEADS_FILE)
  if (await exists(beside)) return readHeads(beside, base)
  if (base.dir === join(packageRoot(), 'models', 'demo')) return readHeads(join(packageRoot(), 'heads', 'demo'), base)
  return null
}

function readFusedHeads(base: ModelFolder): Promise<HeadsFolder> {
  const names = [...base.table.tensors.keys()].filter((name) => name.startsWith(FUSED_PREFIX))
  const layout = layoutOf(base.dir, base.table, names, false)
  return bindHeads(base.dir, 'C', layout, base.table, base, {}, base.config.declaredHeads)
}

/** The file or files at a path a user gave as heads. */
async function readHeadsTable(path: string): Promise<{ dir: string; table: TensorTable }> {
  const info = await stat(path).catch((error: Error) => {
    throw new GorgonError(
      'ERR_FILE',
      `No heads at ${path}: ${error.message}. Give a folder, a .safetensors file, or "none".`,
      { path },
      error,
    )
  })
  if (!info.isDirectory()) {
    if (extname(path) !== '.safetensors') throw notSafetensors(path, extname(path))
    return { dir: dirname(path), table: await tableOf([path]) }
  }
  const named = join(path, HEADS_FILE)
  if (await exists(named)) return { dir: path, table: await tableOf([named]) }
  if ((await exists(join(path, SINGLE_FILE))) || (await exists(join(path, INDEX_FILE)))) {
    return { dir: path, table: await readTensorTable(path) }
  }
  const pickle = (await readdir(path)).find((name) => PICKLE_EXTENSIONS.includes(extname(name)))
  if (pickle) throw notSafetensors(join(path, pickle), extname(pickle))
  throw new GorgonError('ERR_HEADS_FORMAT', `${path} has no Medusa heads: neither ${HEADS_FILE} nor ${SINGLE_FILE}.`, {
    path,
  })
}

function notSafetensors(path: string, extension: string): GorgonError {
  const what = PICKLE_EXTENSIONS.includes(extension)
    ? `${path} is a pickle, which can run code when it is loaded, so gorgon does not read it. Convert it once, where you trust it, to ${HEADS_FILE} with the same tensor names ("0.0.linear.weight", "0.0.linear.bias", "0.1.weight", …): heads/README.md says how.`
    : `${path} is not a safetensors file. Give a folder with ${HEADS_FILE}, or a .safetensors file.`
  return new GorgonError('ERR_HEADS_FORMAT', what, { path })
}

function layoutOf(
  path: string,
  table: TensorTable,
  names: readonly string[],
  sharesFirstProjection: boolean,
): HeadsLayout {
  const recognised = recogniseHeads(names, sharesFirstProjection)
  if ('layout' in recognised) return recognised.layout
  throw new GorgonError(
    'ERR_HEADS_FORMAT',
    `${path} ${recognised.problem}. heads/FORMAT.md lists the layouts that are read.`,
    {
      path,
      files: table.files,
    },
  )
}

async function bindHeads(
  path: string,
  format: HeadsFormat,
  layout: HeadsLayout,
  table: TensorTable,
  base: ModelFolder,
  config: HeadsConfig,
  declared: DeclaredHeads,
): Promise<HeadsFolder> {
  const { hidden, vocab } = base.config.shape
  const warnings: string[] = [...table.warnings]
  const storedOf = (name: string) => table.tensors.get(name)!
  // A positive scale leaves the order of the drafts as it is.
  if (config.logit_scale != null && config.logit_scale <= 0) {
    throw new GorgonError(
      'ERR_UNSUPPORTED',
      `${path}: logit_scale is ${config.logit_scale}, which reverses the order of the drafts. That is not implemented; use a positive scale.`,
      { heads: path, logitScale: config.logit_scale },
    )
  }
  checkHeadsWidth(path, layout, table, base, config)

  const projectionName = layout.tensors.find(({ part }) => part === 'projection')?.name
  const rows = projectionName === undefined ? vocab : storedOf(projectionName).shape[0]!
  const tokenMap =
    layout.tokenMap === null ? null : await readTokenMap(path, table, layout.tokenMap, rows, layout, base)
  if (tokenMap === null && rows < vocab) {
    throw new GorgonError(
      'ERR_HEADS_MISMATCH',
      `${path}: the heads know ${rows} tokens, the model (${base.dir}) ${vocab}, and there is no token_map to say which. These heads were trained for another model, or lost their token_map.`,
      { heads: path, model: base.dir, headsVocab: rows, modelVocab: vocab },
    )
  }
  const used = tokenMap === null ? vocab : rows
  if (rows > used)
    warnings.push(
      `the heads project to ${rows} tokens, the model has ${vocab}: the last ${rows - used} rows are not used`,
    )

  const tensors: Record<string, TensorSlice> = {}
  for (const { name, role, part } of layout.tensors) {
    const stored = storedOf(name)
    const file = table.files[stored.file]!
    const shape = headTensorShape(part, hidden, rows)
    if (!sameShape(stored.shape, shape)) throw shapeError(file, name, stored.shape, shape, 'its layout asks for')
    const slice = sliceOf(stored, file, name)
    // Rows are contiguous, so fewer of them is a shorter range.
    tensors[role] =
      part === 'projection' && used < rows
        ? {
            ...slice,
            shape: [used, hidden],
            end: slice.begin + used * hidden * WEIGHT_BYTES[slice.dtype as WeightDtype],
          }
        : slice
  }

  const { medusaHeads, blocks, biasedBlocks } = layout
  const bias = biasedBlocks === 0 ? 'none' : biasedBlocks === medusaHeads * blocks ? 'all' : 'some'
  warnings.push(...configWarnings(layout, rows, bias, config, declared, base))
  return {
    format,
    path,
    medusaHeads,
    blocks,
    bias,
    projection: layout.projection,
    vocab: used,
    dtype: widest(matrixDtypes(tensors)),
    files: table.files,
    tensors,
    tokenMap,
    baseModel: config.base_model_name_or_path ?? null,
    warnings,
  }
}

/** Heads of another model show first in their width. */
function checkHeadsWidth(
  path: string,
  layout: HeadsLayout,
  table: TensorTable,
  base: ModelFolder,
  config: HeadsConfig,
): void {
  const { hidden } = base.config.shape
  for (const { name, part } of layout.tensors) {
    const { shape, file } = table.tensors.get(name)!
    if (part === 'bias') continue
    if (shape.length !== 2) {
      throw new GorgonError(
        'ERR_TENSOR',
        `${table.files[file]}: tensor "${name}" is [${shape.join(', ')}]; a matrix belongs there.`,
        {
          file: table.files[file],
          tensor: name,
          found: shape,
        },
      )
    }
    const width = shape[1]!
    if (width === hidden) continue
    const trainedFor = config.base_model_name_or_path
      ? ` They name "${config.base_model_name_or_path}" as their model.`
      : ''
    throw new GorgonError(
      'ERR_HEADS_MISMATCH',
      `${path}: tensor "${name}" is [${shape.join(', ')}], for a model of hidden width ${width}; the model (${base.dir}) has ${hidden}.${trainedFor} These heads were trained for another model.`,
      { heads: path, model: base.dir, tensor: name, headsHidden: width, modelHidden: hidden },
    )
  }
}

/** i32 [V']: the token of each projection row, each once and in the vocabulary. */
async function readTokenMap(
  path: string,
  table: TensorTable,
  name: string,
  rows: number,
  layout: HeadsLayout,
  base: ModelFolder,
): Promise<Int32Array> {
  const stored = table.tensors.get(name)!
  const file = table.files[stored.file]!
  const { vocab } = base.config.shape
  const [length] = stored.shape
  if (stored.shape.length !== 1 || length === undefined || length === 0 || length > vocab) {
    throw shapeError(file, name, stored.shape, [Math.min(rows, vocab)], 'a token map has')
  }
  if (stored.dtype !== 'I32' && stored.dtype !== 'I64') {
    throw new GorgonError('ERR_TENSOR', `${file}: tensor "${name}" is ${stored.dtype}; a token map is I32 or I64.`, {
      file,
      tensor: name,
      dtype: stored.dtype,
    })
  }
  if (layout.projection === 'base' || rows > length) {
    const source = layout.projection === 'base' ? "the model's lm_head" : `a projection of ${rows} rows`
    throw new GorgonError(
      'ERR_UNSUPPORTED',
      `${path}: the token map would select ${length} rows of ${source}, which is not implemented. Store the projection with those ${length} rows only, in the order of the map.`,
      { heads: path, rows, mapped: length },
    )
  }
  if (rows < length) throw shapeError(file, name, stored.shape, [rows], 'the projection has')

  const view = await readTensorBytes(file, stored).then((b) => new DataView(b.buffer, b.byteOffset, b.byteLength))
  const map = new Int32Array(length)
  const seen = new Uint8Array(vocab)
  for (let row = 0; row < length; row++) {
    const token = stored.dtype === 'I32' ? view.getInt32(row * 4, true) : Number(view.getBigInt64(row * 8, true))
    if (token < 0 || token >= vocab) {
      throw new GorgonError(
        'ERR_HEADS_MISMATCH',
        `${file}: token_map[${row}] is ${token}; the model (${base.dir}) has tokens 0 to ${vocab - 1}. These heads were trained for another model.`,
        { file, row, token, modelVocab: vocab },
      )
    }
    if (seen[token]) {
      throw new GorgonError(
        'ERR_HEADS_FORMAT',
        `${file}: token_map[${row}] is ${token}, which an earlier row already is.`,
        {
          file,
          row,
          token,
        },
      )
    }
    seen[token] = 1
    map[row] = token
  }
  return map
}

/** Where the configuration says something else than the tensors, which win. */
function configWarnings(
  layout: HeadsLayout,
  rows: number,
  bias: HeadsFolder['bias'],
  config: HeadsConfig,
  declared: DeclaredHeads,
  base: ModelFolder,
): string[] {
  const warnings: string[] = []
  const compare = (what: string, said: number | null | undefined, found: number) => {
    if (said != null && said !== found)
      warnings.push(`their config.json says ${what} ${said}, the tensors say ${found}; the tensors are used`)
  }
  compare('heads:', declared.medusaHeads, layout.medusaHeads)
  compare('blocks per head:', declared.blocks, layout.blocks)
  if (bias === 'some') warnings.push('some blocks have a bias and some have none')
  if (config.model_type === 'medusa') {
    compare('hidden_size', config.hidden_size, base.config.shape.hidden)
    if (layout.projection !== 'base') compare('truncated_vocab_size', config.truncated_vocab_size, rows)
  }
  if (config.medusa_fc_bias === true && bias === 'none' && layout.blocks > 0) {
    warnings.push(
      'their config.json says the blocks have biases (medusa_fc_bias), but none are stored: were they lost in a conversion?',
    )
  }
  if (layout.format === 'E' && config.medusa_fc_bias !== true && bias !== 'none') {
    warnings.push(
      'their config.json does not say that the blocks have biases (medusa_fc_bias), but they do; they are used',
    )
  }
  return warnings
}

/** What `openModel` takes. */
export function modelSpecOf(folder: ModelFolder, heads: HeadsFolder | null, options: ModelSpecOptions): ModelSpec {
  const { backend, isa, threads, dtype, progress } = options
  return {
    backend,
    isa,
    threads,
    dtype: dtype === 'auto' ? folder.dtype : dtype,
    files: folder.table.files,
    shape: folder.config.shape,
    tensors: folder.tensors,
    heads: heads && {
      medusaHeads: heads.medusaHeads,
      blocks: heads.blocks,
      files: heads.files,
      tensors: heads.tensors,
      tokenMap: heads.tokenMap,
    },
    progress,
  }
}

/** Tensors C++ loads for a spec: what `progress[0]` counts to. */
export function tensorCount(spec: Pick<ModelSpec, 'tensors' | 'heads'>): number {
  return Object.keys(spec.tensors).length + Object.keys(spec.heads?.tensors ?? {}).length
}

function sliceOf(stored: StoredTensor, file: string, name: string): TensorSlice {
  const dtype = Object.hasOwn(WEIGHT_DTYPES, stored.dtype) ? WEIGHT_DTYPES[stored.dtype] : undefined
  if (dtype === undefined) {
    throw new GorgonError(
      'ERR_UNSUPPORTED',
      `${file}: tensor "${name}" is ${stored.dtype}, which is not implemented for weights. Implemented: ${Object.keys(WEIGHT_DTYPES).join(', ')}.`,
      { file, tensor: name, dtype: stored.dtype },
    )
  }
  return { file: stored.file, dtype, shape: stored.shape, begin: stored.begin, end: stored.end }
}

function shapeError(
  file: string,
  tensor: string,
  found: readonly number[],
  expected: readonly number[],
  who: string,
): GorgonError {
  return new GorgonError(
    'ERR_TENSOR',
    `${file}: tensor "${tensor}" is [${found.join(', ')}], but ${who} [${expected.join(', ')}]. The file does not belong to this model.`,
    { file, tensor, found, expected },
  )
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis])
}

async function exists(path: string): Promise<boolean> {
  return stat(path)
    .then(() => true)
    .catch(() => false)
}

/** The first few, quoted, and how many more. */
function listed(names: readonly string[]): string {
  const shown = names.slice(0, 6).map((name) => JSON.stringify(name))
  return shown.join(', ') + (names.length > shown.length ? ` and ${names.length - shown.length} more` : '')
}
