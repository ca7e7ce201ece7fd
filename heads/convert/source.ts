// Heads to convert, wherever they come from: a layout, and for each tensor the bytes of a file.
import { readdir, stat } from 'node:fs/promises'
import { dirname, extname, join, parse, resolve } from 'node:path'
import { GorgonError } from '../../src/errors.js'
import { readJsonObject } from '../../src/json.js'
import { check } from '../../src/weights/config-check.js'
import {
  ACCURACY_FILE,
  biasOf,
  checkScale,
  configWarnings,
  HEADS_FILE,
  layoutOf,
  readHeadsTable,
} from '../../src/weights/medusa-heads.js'
import type { TensorEntry } from '../../src/weights/safetensors.js'
import {
  exists,
  INDEX_FILE,
  listed,
  PICKLE_EXTENSIONS,
  SINGLE_FILE,
  type StoredTensor,
  sameShape,
  type TensorTable,
  WEIGHT_DTYPES,
} from '../../src/weights/tensor-table.js'
import { HeadsAccuracy } from '../format/accuracy.js'
import { FUSED_PREFIX, type HeadsFormat, type HeadsLayout, headTensorShape } from '../format/names.js'
import { declaredHeads, HeadsConfig } from '../format/schema.js'
import { openTorchFile } from './torch-file.js'

/** A tensor as it lies in a file. */
export interface Stored extends TensorEntry {
  readonly path: string
}

export interface HeadsSource {
  /** As given, made absolute. */
  readonly path: string
  /** The folder it is, or is in. */
  readonly dir: string
  readonly format: HeadsFormat
  readonly layout: HeadsLayout
  readonly bias: 'all' | 'some' | 'none'
  /** By role, as the layout names them. */
  readonly tensors: ReadonlyMap<string, Stored>
  readonly tokenMap: Stored | null
  /** Hidden width of the model they were made for. */
  readonly hidden: number
  /** Of the projections; null when the model's lm_head projects. */
  readonly rows: number | null
  /** Their own configuration; empty when the file beside them is a model's. */
  readonly config: HeadsConfig
  /** What they measured; null when nothing beside them says. */
  readonly accuracy: HeadsAccuracy | null
  readonly warnings: readonly string[]
}

/** Shards of a model that torch.save wrote. */
const SHARD = /^pytorch_model-\d{5}-of-\d{5}\.bin$/
const BACKBONE = 'model.layers.'

/**
 * Heads at a path: a folder, a safetensors file, or what torch.save wrote.
 *
 * @throws {GorgonError} ERR_FILE, ERR_HEADS_FORMAT, ERR_SAFETENSORS, ERR_TENSOR, ERR_MODEL_CONFIG, ERR_UNSUPPORTED.
 */
export async function openHeads(given: string): Promise<HeadsSource> {
  const path = resolve(given)
  const { dir, table, isFused } = await readTable(path)
  const where = join(dir, 'config.json')
  const json = (await readJsonObject(where, 'ERR_MODEL_CONFIG')) ?? {}
  // A model's folder may hold heads, in its own files or beside them; its config.json then describes the model.
  const isOfModel = typeof json['model_type'] === 'string' && json['model_type'] !== 'medusa'
  const config = check(HeadsConfig, isOfModel ? {} : json, where)
  checkScale(path, config)
  const declared = declaredHeads(isOfModel && !isFused ? {} : check(HeadsConfig, json, where))
  const names = [...table.tensors.keys()]
  if (names.length === 0) {
    throw new GorgonError('ERR_HEADS_FORMAT', `${path} is a model without Medusa heads.`, { heads: path })
  }
  const layout = layoutOf(path, table, names, config.original_lm_head === true)
  const format = isFused ? 'C' : layout.format

  const stored = (name: string): Stored => {
    const { file, ...entry } = table.tensors.get(name) as StoredTensor
    return { ...entry, path: table.files[file]! }
  }
  const tensors = new Map(layout.tensors.map(({ name, role }) => [role, stored(name)]))
  const { hidden, rows } = checkShapes(layout, tensors)
  const tokenMap = layout.tokenMap === null ? null : stored(layout.tokenMap)
  if (tokenMap) checkTokenMap(path, tokenMap, rows)
  const accuracy = await readAccuracy(dir)
  return {
    path,
    dir,
    format,
    layout,
    bias: biasOf(layout),
    tensors,
    tokenMap,
    hidden,
    rows,
    config,
    accuracy: accuracy.found,
    warnings: [...table.warnings, ...configWarnings(layout, rows, hidden, config, declared), ...accuracy.warnings],
  }
}

interface Found {
  readonly dir: string
  /** Those of the heads alone. */
  readonly table: TensorTable
  /** They are in the files of a whole model. */
  readonly isFused: boolean
}

async function readTable(path: string): Promise<Found> {
  const pickles = await findPickles(path)
  if (pickles === null) {
    const { dir, table } = await readHeadsTable(path)
    const names = [...table.tensors.keys()]
    const isFused = names.some((name) => name.startsWith(BACKBONE))
    const kept = new Map([...table.tensors].filter(([name]) => !isFused || name.startsWith(FUSED_PREFIX)))
    return { dir, isFused, table: { ...table, tensors: kept } }
  }
  const tensors = new Map<string, StoredTensor>()
  const warnings: string[] = []
  let isFused = pickles.length > 1
  for (const [file, pickle] of pickles.entries()) {
    const read = await openTorchFile(pickle, (names) => {
      isFused ||= names.some((name) => name.startsWith(BACKBONE))
      return isFused ? names.filter((name) => name.startsWith(FUSED_PREFIX)) : names
    })
    warnings.push(...read.warnings)
    for (const [name, entry] of read.tensors) {
      if (tensors.has(name)) {
        throw new GorgonError('ERR_HEADS_FORMAT', `${pickle} has ${listed([name])}, and so has another shard.`, {
          file: pickle,
          tensor: name,
        })
      }
      tensors.set(name, { ...entry, file })
    }
  }
  return { dir: dirname(pickles[0]!), isFused, table: { files: pickles, tensors, warnings } }
}

/** What torch.save wrote at a path, if that is what there is to read; null otherwise. */
async function findPickles(path: string): Promise<string[] | null> {
  const isFolder = await stat(path).then(
    (info) => info.isDirectory(),
    () => null,
  )
  // Whoever reads safetensors says what is wrong with a path.
  if (isFolder === null) return null
  if (!isFolder) return PICKLE_EXTENSIONS.includes(extname(path)) ? [path] : null
  for (const name of [HEADS_FILE, SINGLE_FILE, INDEX_FILE]) if (await exists(join(path, name))) return null
  const found = (await readdir(path)).filter((name) => PICKLE_EXTENSIONS.includes(extname(name))).sort()
  const shards = found.filter((name) => SHARD.test(name))
  // Beside heads a training script leaves its optimizer and its arguments.
  const named = found.filter((name) => parse(name).name === parse(HEADS_FILE).name)
  const chosen = [shards, named].find(({ length }) => length > 0) ?? found
  if (shards.length === 0 && chosen.length > 1) {
    throw new GorgonError(
      'ERR_HEADS_FORMAT',
      `${path} has ${listed(chosen)}. Give the path of the one with the heads.`,
      {
        path,
        files: chosen,
      },
    )
  }
  return chosen.length === 0 ? null : chosen.map((name) => join(path, name))
}

/** Every tensor has the shape that its part must have, for one hidden width and one number of rows. */
function checkShapes(
  layout: HeadsLayout,
  tensors: ReadonlyMap<string, Stored>,
): { hidden: number; rows: number | null } {
  const first = tensors.get(layout.tensors[0]!.role)!
  const hidden = first.shape.at(-1) ?? 0
  const projection = layout.tensors.find(({ part }) => part === 'projection')
  const rows = projection ? (tensors.get(projection.role)!.shape[0] ?? 0) : null
  for (const { name, role, part } of layout.tensors) {
    const { path, shape, dtype } = tensors.get(role)!
    const expected = headTensorShape(part, hidden, rows ?? 0)
    if (!sameShape(shape, expected) || shape.includes(0)) {
      throw new GorgonError(
        'ERR_TENSOR',
        `${path}: tensor "${name}" is [${shape.join(', ')}], but with the others it must be [${expected.join(', ')}]. ` +
          'The file is damaged, or no file of heads.',
        { file: path, tensor: name, found: shape, expected },
      )
    }
    if (!Object.hasOwn(WEIGHT_DTYPES, dtype)) {
      throw new GorgonError('ERR_UNSUPPORTED', `${path}: tensor "${name}" is ${dtype}. Weights are F32, F16 or BF16.`, {
        file: path,
        tensor: name,
        dtype,
      })
    }
  }
  return { hidden, rows }
}

function checkTokenMap(path: string, { shape, dtype }: Stored, rows: number | null): void {
  const [length] = shape
  if (shape.length !== 1 || length !== rows || (dtype !== 'I32' && dtype !== 'I64')) {
    const has = rows === null ? 'there are no projections' : `the projections have ${rows} rows`
    throw new GorgonError(
      'ERR_UNSUPPORTED',
      `${path}: the token map is ${dtype} [${shape.join(', ')}], and ${has}: it must be I32 or I64, with one token for each row.`,
      { heads: path, found: shape, rows },
    )
  }
}

/** Only trees are chosen by it: a file that makes no sense is worth a warning, and no more. */
async function readAccuracy(dir: string): Promise<{ found: HeadsAccuracy | null; warnings: string[] }> {
  const where = join(dir, ACCURACY_FILE)
  try {
    const json = await readJsonObject(where, 'ERR_MODEL_CONFIG')
    return { found: json === null ? null : check(HeadsAccuracy, json, where), warnings: [] }
  } catch (error) {
    if (!(error instanceof GorgonError)) throw error
    return { found: null, warnings: [`${error.message} It is left out.`] }
  }
}
