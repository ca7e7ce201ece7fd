// Medusa heads of a model: found, recognised, and checked against the base model they must fit.
import { readdir, stat } from 'node:fs/promises'
import { dirname, extname, join, resolve } from 'node:path'
import { HeadsAccuracy } from '../../heads/format/accuracy.js'
import {
  FUSED_PREFIX,
  type HeadsFormat,
  type HeadsLayout,
  headTensorShape,
  recogniseHeads,
} from '../../heads/format/names.js'
import { type DeclaredHeads, declaredHeads, HeadsConfig } from '../../heads/format/schema.js'
import { GorgonError } from '../errors.js'
import { readJsonObject } from '../json.js'
import { packageRoot, type TensorSlice, type WeightDtype } from '../native.js'
import { check } from './config-check.js'
import type { ModelFolder } from './model-folder.js'
import { readTensorBytes } from './safetensors.js'
import {
  exists,
  INDEX_FILE,
  matrixDtypes,
  PICKLE_EXTENSIONS,
  readTensorTable,
  SINGLE_FILE,
  sameShape,
  shapeError,
  sliceOf,
  type TensorTable,
  tableOf,
  WEIGHT_BYTES,
  widest,
} from './tensor-table.js'

export const HEADS_FILE = 'medusa_lm_head.safetensors'
export const ACCURACY_FILE = 'accuracy.json'

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
  /** [medusaHead][rank]: how often that draft is right, by the accuracy.json beside them; null without one. */
  readonly accuracy: readonly (readonly number[])[] | null
  /** The tree that was grown for them, by the same file; null where none was. */
  readonly grown: NonNullable<HeadsAccuracy['paths']> | null
  /** What their configuration calls the model they were trained on. */
  readonly baseModel: string | null
  readonly warnings: readonly string[]
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
  const heads = await bindHeads(absolute, layout.format, layout, table, base, config, declaredHeads(config))
  return withAccuracy(heads, dir)
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

/**
 * The heads a user chose: those of a path, none for false, and otherwise those the model brings along.
 *
 * @throws {GorgonError} as `readHeads`.
 */
export async function headsOf(base: ModelFolder, heads: string | false | undefined): Promise<HeadsFolder | null> {
  if (heads === false) return null
  return heads === undefined ? findHeads(base) : readHeads(heads, base)
}

async function readFusedHeads(base: ModelFolder): Promise<HeadsFolder> {
  const names = [...base.table.tensors.keys()].filter((name) => name.startsWith(FUSED_PREFIX))
  const layout = layoutOf(base.dir, base.table, names, false)
  const heads = await bindHeads(base.dir, 'C', layout, base.table, base, {}, base.config.declaredHeads)
  return withAccuracy(heads, base.dir)
}

/** Accuracies only say which trees to begin with: a file that cannot be used is worth a warning, and no more. */
async function withAccuracy(heads: HeadsFolder, dir: string): Promise<HeadsFolder> {
  const where = join(dir, ACCURACY_FILE)
  try {
    const json = await readJsonObject(where, 'ERR_MODEL_CONFIG')
    if (json === null) return heads
    const { rank_accuracy: accuracy, paths: grown = null } = check(HeadsAccuracy, json, where)
    return { ...heads, accuracy: accuracy.slice(0, heads.medusaHeads), grown }
  } catch (error) {
    if (!(error instanceof GorgonError)) throw error
    return { ...heads, warnings: [...heads.warnings, `${error.message} Trees are chosen without it.`] }
  }
}

/**
 * The tensors at a path a user gave as heads, and the folder they are in.
 *
 * @throws {GorgonError} ERR_FILE, ERR_HEADS_FORMAT, ERR_SAFETENSORS.
 */
export async function readHeadsTable(path: string): Promise<{ dir: string; table: TensorTable }> {
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
    ? `${path} is a pickle, which is not loaded as it is. Convert it once: gorgon heads convert ${JSON.stringify(path)} --to A --out DIR. Nothing in it is run.`
    : `${path} is not a safetensors file. Give a folder with ${HEADS_FILE}, or a .safetensors file.`
  return new GorgonError('ERR_HEADS_FORMAT', what, { path })
}

/** @throws {GorgonError} ERR_HEADS_FORMAT when the names spell no layout. */
export function layoutOf(
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
  checkScale(path, config)
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

  const { medusaHeads, blocks } = layout
  warnings.push(...configWarnings(layout, rows, hidden, config, declared))
  return {
    format,
    path,
    medusaHeads,
    blocks,
    bias: biasOf(layout),
    projection: layout.projection,
    vocab: used,
    dtype: widest(matrixDtypes(tensors)),
    files: table.files,
    tensors,
    tokenMap,
    accuracy: null,
    grown: null,
    baseModel: config.base_model_name_or_path ?? null,
    warnings,
  }
}

/** A positive scale leaves the order of the drafts as it is. */
export function checkScale(path: string, config: HeadsConfig): void {
  if (config.logit_scale == null || config.logit_scale > 0) return
  throw new GorgonError(
    'ERR_UNSUPPORTED',
    `${path}: logit_scale is ${config.logit_scale}, which reverses the order of the drafts. That is not implemented; use a positive scale.`,
    { heads: path, logitScale: config.logit_scale },
  )
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

/** Which blocks have a bias. */
export function biasOf({ medusaHeads, blocks, biasedBlocks }: HeadsLayout): HeadsFolder['bias'] {
  return biasedBlocks === 0 ? 'none' : biasedBlocks === medusaHeads * blocks ? 'all' : 'some'
}

/** Where the configuration says something else than the tensors, which win. */
export function configWarnings(
  layout: HeadsLayout,
  rows: number | null,
  hidden: number,
  config: HeadsConfig,
  declared: DeclaredHeads,
): string[] {
  const bias = biasOf(layout)
  const warnings: string[] = []
  const compare = (what: string, said: number | null | undefined, found: number | null) => {
    if (said != null && found !== null && said !== found)
      warnings.push(`their config.json says ${what} ${said}, the tensors say ${found}; the tensors are used`)
  }
  compare('heads:', declared.medusaHeads, layout.medusaHeads)
  compare('blocks per head:', declared.blocks, layout.blocks)
  if (bias === 'some') warnings.push('some blocks have a bias and some have none')
  if (config.model_type === 'medusa') {
    compare('hidden_size', config.hidden_size, hidden)
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
