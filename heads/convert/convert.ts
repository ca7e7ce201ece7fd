// Heads from one published layout to another, streamed from file to file: what they hold may be larger than memory.
import { mkdir, rm, rmdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { writeDurably, writeError } from '../../src/durable-file.js'
import { GorgonError } from '../../src/errors.js'
import { readJsonObject } from '../../src/json.js'
import { bytesOf, firstBeyond, valuesOf } from '../../src/weights/dtype.js'
import { ACCURACY_FILE, HEADS_FILE } from '../../src/weights/medusa-heads.js'
import { readModelFolder } from '../../src/weights/model-folder.js'
import {
  DTYPE_BYTES,
  openSafetensors,
  PIECE_BYTES,
  readTensorPieces,
  type TensorData,
  writeSafetensors,
} from '../../src/weights/safetensors.js'
import { exists, INDEX_FILE, SINGLE_FILE, WEIGHT_DTYPES } from '../../src/weights/tensor-table.js'
import { type HeadsFormat, recogniseHeads } from '../format/names.js'
import { type ConvertOptions, type ConvertOptionsInput, parseConvertOptions } from './options.js'
import { type BaseModel, FILE_OF, type Published, type PublishedTensor, publish, type Target } from './published.js'
import { type HeadsSource, openHeads, type Stored } from './source.js'

/** What was converted. Plain data, fit for JSON. */
export interface ConvertReport {
  /** Where the heads came from; absolute. */
  readonly source: string
  readonly from: HeadsFormat
  readonly to: Target
  /** The folder written to; absolute. */
  readonly out: string
  readonly medusaHeads: number
  /** Residual blocks per head. */
  readonly blocks: number
  /** Every block has a bias. */
  readonly bias: boolean
  /** `base`: the model's lm_head projects. */
  readonly projection: 'base' | 'per-head' | 'shared'
  /** Tokens that a token map leaves; null without one. */
  readonly mappedTokens: number | null
  /** Of the weights, each once: `BF16`, `F32`. */
  readonly dtypes: readonly string[]
  /** Of the tensors written. */
  readonly bytes: number
  readonly warnings: readonly string[]
}

/** Files of a folder of heads, of any layout. */
const FILES_OF_HEADS = [HEADS_FILE, SINGLE_FILE, INDEX_FILE, 'config.json', ACCURACY_FILE] as const

/**
 * Writes heads in another layout. Drafts do not change by it, except by a narrower `dtype`.
 *
 * @throws {GorgonError} ERR_OPTION when the model is needed and not given; ERR_HEADS_FORMAT when the source is no file of heads, or cannot be
 *   said in that layout; ERR_HEADS_MISMATCH when they are of another model; ERR_FILE when `out` holds something already; ERR_WRITE when it
 *   cannot be written; and as `readHeads` and `readModelFolder`. What was in `out` is then unchanged.
 */
export async function convertHeads(input: ConvertOptionsInput): Promise<ConvertReport> {
  const options = parseConvertOptions(input)
  const { to, signal } = options
  const out = resolve(options.out)
  const source = await openHeads(options.source)
  // A fused checkpoint is the model of its own heads.
  const model = options.model ?? (source.format === 'C' && needsModel(source, to) ? source.dir : undefined)
  const base = model === undefined ? null : await openBase(model, source)
  const replaced = await checkPlace(out, to, options.force)
  const published = publish(source, to, base)
  const tensors = published.tensors.map((tensor) => ({ ...tensor, dtype: targetDtype(tensor.dtype, options.dtype) }))

  const bytes = tensors.reduce((sum, tensor) => sum + sizeOf(tensor), 0)
  const compared = to === 'B' && source.layout.projection !== 'base' ? projectionsOf(source) : []
  const total = bytes + compared.reduce((sum, { begin, end }) => sum + end - begin, 0)
  let done = 0
  /** Between pieces: told what was done, and asked whether to go on. */
  const step = (count: number) => {
    signal?.throwIfAborted()
    done += count
    options.onProgress?.({ done, total })
  }

  for (const projection of compared) await checkSameAsBase(projection, source, base, step)
  await writeFolder(out, to, published, tensors, source, replaced, step)
  return {
    source: source.path,
    from: source.format,
    to,
    out,
    medusaHeads: source.layout.medusaHeads,
    blocks: source.layout.blocks,
    bias: source.layout.blocks > 0 && tensors.some(({ name }) => name.endsWith('.bias')),
    projection: published.projection,
    mappedTokens: source.tokenMap?.shape[0] ?? null,
    dtypes: [...new Set(tensors.map(({ dtype }) => dtype).filter((dtype) => dtype in WEIGHT_DTYPES))],
    bytes,
    warnings: [...source.warnings, ...published.warnings],
  }
}

const needsModel = (source: HeadsSource, to: Target): boolean => (to === 'B') !== (source.layout.projection === 'base')

const sizeOf = ({ shape, dtype }: PublishedTensor): number =>
  shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]!)

/** Each once: one may serve every head. */
const projectionsOf = (source: HeadsSource): Stored[] => [
  ...new Map(
    [...source.tensors]
      .filter(([role]) => role.endsWith('.projection'))
      .map(([, one]) => [`${one.path}:${one.begin}`, one]),
  ).values(),
]

/** Token maps stay as they are. */
function targetDtype(stored: string, asked: ConvertOptions['dtype']): string {
  return asked === 'auto' || !(stored in WEIGHT_DTYPES) ? stored : asked.toUpperCase()
}

async function openBase(model: string, source: HeadsSource): Promise<BaseModel> {
  const folder = await readModelFolder(model)
  const { hidden, vocab } = folder.config.shape
  if (hidden !== source.hidden) {
    throw new GorgonError(
      'ERR_HEADS_MISMATCH',
      `${source.path} is for a model of hidden width ${source.hidden}; the model (${folder.dir}) has ${hidden}. Give the heads' own model.`,
      { heads: source.path, model: folder.dir, headsHidden: source.hidden, modelHidden: hidden },
    )
  }
  if (source.rows !== null && source.tokenMap === null && source.rows < vocab) {
    throw new GorgonError(
      'ERR_HEADS_MISMATCH',
      `${source.path} knows ${source.rows} tokens, the model (${folder.dir}) ${vocab}. Give the heads' own model.`,
      { heads: source.path, model: folder.dir, headsVocab: source.rows, modelVocab: vocab },
    )
  }
  const { file, shape, begin, end, dtype } = (folder.tensors['lm_head'] ?? folder.tensors['embed'])!
  const lmHead = { path: folder.table.files[file]!, shape, begin, end, dtype: dtype.toUpperCase() }
  return { dir: folder.dir, hidden, vocab, lmHead }
}

/**
 * Layout B says that the model's lm_head projects: heads with other projections would draft other tokens.
 *
 * @throws {GorgonError} ERR_OPTION without a model; ERR_HEADS_FORMAT when any value differs.
 */
async function checkSameAsBase(
  projection: Stored,
  source: HeadsSource,
  base: BaseModel | null,
  step: (bytes: number) => void,
): Promise<void> {
  if (base === null) {
    throw new GorgonError(
      'ERR_OPTION',
      `${source.path} has projections of its own, and layout B leaves them to the model's lm_head. Give the model as --model, to see whether they are the same.`,
      { heads: source.path },
    )
  }
  const differ = (how: string) =>
    new GorgonError(
      'ERR_HEADS_FORMAT',
      `${source.path} cannot be written in layout B, where the model's lm_head projects: its projections ${how} (${base.dir}). Use layout A or E.`,
      { heads: source.path, model: base.dir },
    )
  if (source.tokenMap) throw differ('know fewer tokens than that of')
  if (projection.shape[0] !== base.lmHead.shape[0]) throw differ('have another number of rows than that of')
  const count = PIECE_BYTES / 4
  const others = readTensorPieces(base.lmHead.path, base.lmHead, count * DTYPE_BYTES[base.lmHead.dtype]!)
  try {
    for await (const piece of readTensorPieces(projection.path, projection, count * DTYPE_BYTES[projection.dtype]!)) {
      const other = (await others.next()).value!
      if (!sameValues(piece, projection.dtype, other, base.lmHead.dtype)) throw differ('have other values than that of')
      step(piece.byteLength)
    }
  } finally {
    await others.return()
  }
}

/** Bit for bit in one dtype; as f32, which holds both exactly, in two. */
function sameValues(a: Uint8Array, ofA: string, b: Uint8Array, ofB: string): boolean {
  if (ofA === ofB) return Buffer.compare(a, b) === 0
  return (
    Buffer.compare(
      bytesOf(valuesOf(a, WEIGHT_DTYPES[ofA]!), 'f32'),
      bytesOf(valuesOf(b, WEIGHT_DTYPES[ofB]!), 'f32'),
    ) === 0
  )
}

/**
 * Nothing that is there is lost unless it is to be replaced, and only heads are.
 *
 * @returns the files of other heads that are to go.
 */
async function checkPlace(out: string, to: Target, force: boolean): Promise<string[]> {
  const refused = (what: string) => new GorgonError('ERR_FILE', `${out} ${what}`, { file: out })
  const info = await stat(out).catch(() => null)
  if (info === null) return []
  if (!info.isDirectory()) throw refused('is a file. Give the path of a folder to write to.')
  const there: string[] = []
  for (const name of FILES_OF_HEADS) if (await exists(join(out, name))) there.push(name)
  if (there.length === 0) return []
  if (!force)
    throw refused(`has ${there.join(', ')} already. Give another folder, or --force to replace the heads in it.`)
  for (const name of there) {
    if (!(await isOfHeads(join(out, name))))
      throw refused(`has a ${name} that is not of Medusa heads. Give another folder.`)
  }
  return there.filter((name) => name !== FILE_OF[to]).map((name) => join(out, name))
}

async function isOfHeads(path: string): Promise<boolean> {
  if (path.endsWith(INDEX_FILE)) return false
  if (path.endsWith(ACCURACY_FILE)) return true
  if (path.endsWith('.safetensors')) {
    const names = await openSafetensors(path).then(
      ({ tensors }) => [...tensors.keys()],
      () => [],
    )
    return 'layout' in recogniseHeads(names)
  }
  const config = (await readJsonObject(path, 'ERR_MODEL_CONFIG')) ?? {}
  return config['model_type'] === 'medusa' || (!('model_type' in config) && 'medusa_num_heads' in config)
}

/** The weights, what describes them, and then away with what they replace. */
async function writeFolder(
  out: string,
  to: Target,
  published: Published,
  tensors: readonly PublishedTensor[],
  source: HeadsSource,
  replaced: readonly string[],
  step: (bytes: number) => void,
): Promise<void> {
  const made = await mkdir(out, { recursive: true }).catch((error: unknown) => {
    throw writeError(out, error)
  })
  try {
    const data = new Map(tensors.map((tensor) => [tensor.name, dataOf(tensor, step)]))
    await writeSafetensors(join(out, FILE_OF[to]), data, { format: 'pt' })
    const texts = { 'config.json': published.config, ...(source.accuracy ? { [ACCURACY_FILE]: source.accuracy } : {}) }
    const written = Object.keys(texts).map((name) => join(out, name))
    for (const [name, json] of Object.entries(texts)) {
      await writeDurably(join(out, name), (handle) => handle.writeFile(`${JSON.stringify(json, null, 2)}\n`))
    }
    for (const path of replaced) if (!written.includes(path)) await rm(path, { force: true })
  } catch (error) {
    // Only a folder that is empty goes.
    if (made !== undefined) await rmdir(out).catch(() => undefined)
    throw error
  }
}

function dataOf(tensor: PublishedTensor, step: (bytes: number) => void): TensorData {
  const { name, from, shape, dtype } = tensor
  return {
    dtype,
    shape,
    data: async function* () {
      if (from === null) {
        step(sizeOf(tensor))
        yield new Uint8Array(sizeOf(tensor))
        return
      }
      for await (const piece of readTensorPieces(from.path, from)) {
        const written = from.dtype === dtype ? piece : convertPiece(piece, from.dtype, dtype, name)
        step(written.byteLength)
        yield written
      }
    },
  }
}

/** @throws {GorgonError} ERR_TENSOR when a value is too large for the dtype. */
function convertPiece(piece: Uint8Array, from: string, to: string, tensor: string): Uint8Array {
  const values = valuesOf(piece, WEIGHT_DTYPES[from]!)
  const dtype = WEIGHT_DTYPES[to]!
  const beyond = firstBeyond(values, dtype)
  if (beyond === undefined) return bytesOf(values, dtype)
  throw new GorgonError(
    'ERR_TENSOR',
    `tensor "${tensor}" holds ${beyond}, which is too large for ${dtype}. Use another --dtype.`,
    { tensor, value: beyond, dtype },
  )
}
