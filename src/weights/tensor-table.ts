// Every tensor of a checkpoint, over one file or many: names to byte ranges, and the checks both models and heads make on them.
import { readdir, stat } from 'node:fs/promises'
import { basename, extname, join, resolve } from 'node:path'
import { GorgonError } from '../errors.js'
import { isJsonObject, readJsonObject } from '../json.js'
import type { TensorSlice, WeightDtype } from '../native.js'
import { openSafetensors, type TensorEntry } from './safetensors.js'

export const SINGLE_FILE = 'model.safetensors'
export const INDEX_FILE = 'model.safetensors.index.json'
/** Pickles: loading one runs code that is in it. */
export const PICKLE_EXTENSIONS = ['.pt', '.bin', '.pth']

/** Dtypes of weights, as safetensors names them. */
export const WEIGHT_DTYPES: Readonly<Record<string, WeightDtype>> = { F32: 'f32', F16: 'f16', BF16: 'bf16' }
export const WEIGHT_BYTES: Readonly<Record<WeightDtype, number>> = { f32: 4, f16: 2, bf16: 2 }

/** Most files one checkpoint may be cut into. */
export const MAX_SHARDS = 4096

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

/**
 * The tensors of a folder: of model.safetensors, or of all shards its index names.
 *
 * @throws {GorgonError} ERR_MODEL_NOT_FOUND when it has neither; ERR_SAFETENSORS, ERR_FILE.
 */
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
export async function tableOf(files: readonly string[]): Promise<TensorTable> {
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

/**
 * What C++ maps a weight from.
 *
 * @throws {GorgonError} ERR_UNSUPPORTED when it is stored in a dtype we do not compute with.
 */
export function sliceOf(stored: StoredTensor, file: string, name: string): TensorSlice {
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

/** ERR_TENSOR, with file, tensor, and both shapes; `who` is what expects the other. */
export function shapeError(
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

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis])
}

/** The dtype that holds all of them exactly. */
export function widest(dtypes: readonly WeightDtype[]): WeightDtype {
  return dtypes.length === 1 ? dtypes[0]! : 'f32'
}

/** Of matrices only: C++ holds vectors as f32 whatever they are stored in. */
export function matrixDtypes(tensors: Readonly<Record<string, TensorSlice>>): WeightDtype[] {
  const matrices = Object.values(tensors).filter(({ shape }) => shape.length === 2)
  return [...new Set(matrices.map(({ dtype }) => dtype as WeightDtype))].sort()
}

export async function exists(path: string): Promise<boolean> {
  return stat(path)
    .then(() => true)
    .catch(() => false)
}

/** The first few, quoted, and how many more. */
export function listed(names: readonly string[]): string {
  const shown = names.slice(0, 6).map((name) => JSON.stringify(name))
  return shown.join(', ') + (names.length > shown.length ? ` and ${names.length - shown.length} more` : '')
}
