// Safetensors files: a header read and fully checked before anything in it is believed, and a writer.
import { type FileHandle, open, stat } from 'node:fs/promises'
import { writeDurably } from '../durable-file.js'
import { GorgonError } from '../errors.js'
import { isJsonObject, outlineJson, parseJsonObject } from '../json.js'

/** The length prefix: a little-endian u64. */
const PREFIX_BYTES = 8
/** Largest header read; a file of 100,000 tensors needs about 12 MiB. */
export const MAX_HEADER_BYTES = 16 * 1024 * 1024
/** Most tensors in one file. */
export const MAX_TENSORS = 1 << 17
/** Most dimensions of one tensor. */
export const MAX_RANK = 8
/** A header is three levels deep: file, tensor, shape or offsets. */
const MAX_HEADER_DEPTH = 3
/** Writers align the data to this. */
const DATA_ALIGNMENT = 8

/** Bytes per element of every dtype we know the size of. Which of them a tensor may have is the reader's business. */
export const DTYPE_BYTES: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
}

/** One tensor of a file. */
export interface TensorEntry {
  /** As stored: `BF16`, `F32`, …; a key of DTYPE_BYTES. */
  readonly dtype: string
  readonly shape: readonly number[]
  /** First byte, from the start of the file. */
  readonly begin: number
  /** One past the last byte, from the start of the file. */
  readonly end: number
}

/** A file whose header holds: every range is inside the file, none overlap, none leave a gap. */
export interface SafetensorsFile {
  readonly path: string
  readonly bytes: number
  readonly tensors: ReadonlyMap<string, TensorEntry>
  /** Free text of the writer; empty when there is none. */
  readonly metadata: Readonly<Record<string, string>>
}

/** A tensor to write. */
export interface TensorData {
  readonly dtype: string
  readonly shape: readonly number[]
  /** All of its bytes, or what gives them piece by piece when its turn comes: files may be larger than memory. */
  readonly data: Uint8Array | (() => AsyncIterable<Uint8Array>)
}

/**
 * The header of a safetensors file, checked. No tensor bytes are read.
 *
 * @throws {GorgonError} ERR_FILE when the file cannot be read; ERR_SAFETENSORS when anything in its header does not hold.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const bytes = await fileBytes(path)
  const handle = await openFile(path)
  try {
    if (bytes < PREFIX_BYTES) {
      throw broken(path, `only ${bytes} bytes long, too short for the ${PREFIX_BYTES}-byte length of a header`, {
        bytes,
      })
    }
    const prefix = await readExactly(handle, path, 0, PREFIX_BYTES)
    const declared = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true)
    if (declared > BigInt(MAX_HEADER_BYTES)) {
      throw broken(path, `its header claims ${declared} bytes; gorgon reads at most ${MAX_HEADER_BYTES}`, {
        headerBytes: String(declared),
        limit: MAX_HEADER_BYTES,
      })
    }
    const headerBytes = Number(declared)
    if (PREFIX_BYTES + headerBytes > bytes) {
      throw broken(path, `its header claims ${headerBytes} bytes, but the file ends after ${bytes}`, {
        headerBytes,
        bytes,
      })
    }
    const header = parseHeader(path, await readExactly(handle, path, PREFIX_BYTES, headerBytes))
    const dataBegin = PREFIX_BYTES + headerBytes
    const metadata = readMetadata(path, header)
    const tensors = readEntries(path, header, dataBegin, bytes)
    checkRanges(path, tensors, dataBegin, bytes)
    return { path, bytes, tensors, metadata }
  } finally {
    await handle.close()
  }
}

/**
 * The bytes of one tensor. For small ones that TypeScript needs itself (a token map); weights are mapped by C++.
 *
 * @throws {GorgonError} ERR_FILE when the file cannot be read or has become shorter.
 */
export async function readTensorBytes(path: string, range: Pick<TensorEntry, 'begin' | 'end'>): Promise<Uint8Array> {
  const handle = await openFile(path)
  try {
    return await readExactly(handle, path, range.begin, range.end - range.begin)
  } finally {
    await handle.close()
  }
}

/** Enough to keep a disk busy; a whole number of elements of any dtype. */
export const PIECE_BYTES = 4 * 1024 * 1024

/**
 * The same bytes, a piece at a time: for tensors larger than memory. Each piece is a view of one buffer, whose content the next replaces.
 *
 * @param pieceBytes of every piece but the last, which may be shorter.
 * @throws {GorgonError} ERR_FILE when the file cannot be read or has become shorter.
 */
export async function* readTensorPieces(
  path: string,
  range: Pick<TensorEntry, 'begin' | 'end'>,
  pieceBytes = PIECE_BYTES,
): AsyncGenerator<Uint8Array, void, undefined> {
  const handle = await openFile(path)
  try {
    const buffer = new Uint8Array(Math.min(pieceBytes, range.end - range.begin))
    for (let at = range.begin; at < range.end; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, range.end - at))
      await readInto(piece, handle, path, at)
      yield piece
    }
  } finally {
    await handle.close()
  }
}

/**
 * Writes a safetensors file, tensors in the order given. It is there once it is whole.
 *
 * @throws {GorgonError} ERR_TENSOR when a tensor's data does not have the bytes its dtype and shape need; ERR_WRITE when the file cannot be
 *   written. What was there before is then unchanged.
 */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, TensorData>> | ReadonlyMap<string, TensorData>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const entries: [string, TensorData][] = tensors instanceof Map ? [...tensors] : Object.entries(tensors)
  const header: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : []
  let offset = 0
  for (const [name, tensor] of entries) {
    const bytes = bytesOf(tensor)
    if (Number.isNaN(bytes)) throw unfit(path, name, tensor, 'has a dtype whose size is not known', {})
    if (tensor.data instanceof Uint8Array) checkCount(path, name, tensor, tensor.data.byteLength)
    header.push([name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [offset, offset + bytes] }])
    offset += bytes
  }
  // fromEntries and not a literal: a tensor may be called "__proto__".
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)))
  const headerBytes = Math.ceil(json.length / DATA_ALIGNMENT) * DATA_ALIGNMENT
  const head = new Uint8Array(PREFIX_BYTES + headerBytes).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(headerBytes), true)
  head.set(json, PREFIX_BYTES)
  await writeDurably(path, async (handle) => {
    await handle.writeFile(head)
    for (const [name, tensor] of entries) {
      let written = 0
      for await (const piece of piecesOf(tensor)) {
        await handle.writeFile(piece)
        written += piece.byteLength
      }
      checkCount(path, name, tensor, written)
    }
  })
}

const bytesOf = ({ dtype, shape }: TensorData): number =>
  shape.reduce((product, size) => product * size, Object.hasOwn(DTYPE_BYTES, dtype) ? DTYPE_BYTES[dtype]! : Number.NaN)

const piecesOf = ({ data }: TensorData): Iterable<Uint8Array> | AsyncIterable<Uint8Array> =>
  data instanceof Uint8Array ? [data] : data()

function checkCount(path: string, name: string, tensor: TensorData, found: number): void {
  const expected = bytesOf(tensor)
  if (found === expected) return
  throw unfit(path, name, tensor, `needs ${expected} bytes; ${found} were given`, { expected, found })
}

function unfit(path: string, name: string, tensor: TensorData, what: string, details: Record<string, unknown>) {
  const { dtype, shape } = tensor
  return new GorgonError('ERR_TENSOR', `${path}: tensor "${name}", ${dtype} [${shape.join(', ')}], ${what}.`, {
    file: path,
    tensor: name,
    ...details,
  })
}

function broken(path: string, what: string, details: Record<string, unknown> = {}): GorgonError {
  return new GorgonError(
    'ERR_SAFETENSORS',
    `${path} is not a valid safetensors file: ${what}. Download or export it again.`,
    { file: path, ...details },
  )
}

async function fileBytes(path: string): Promise<number> {
  try {
    const info = await stat(path)
    // Opening a pipe would wait for a writer for ever.
    if (!info.isFile()) throw new Error('it is not a regular file')
    return info.size
  } catch (error) {
    throw new GorgonError('ERR_FILE', `${path} cannot be read: ${(error as Error).message}.`, { file: path }, error)
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r')
  } catch (error) {
    throw new GorgonError('ERR_FILE', `${path} cannot be opened: ${(error as Error).message}.`, { file: path }, error)
  }
}

async function readExactly(handle: FileHandle, path: string, begin: number, bytes: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(bytes)
  await readInto(buffer, handle, path, begin)
  return buffer
}

async function readInto(buffer: Uint8Array, handle: FileHandle, path: string, begin: number): Promise<void> {
  let done = 0
  while (done < buffer.length) {
    const { bytesRead } = await handle.read(buffer, done, buffer.length - done, begin + done)
    if (bytesRead === 0) {
      throw new GorgonError('ERR_FILE', `${path} ended at byte ${begin + done} while it was read. Was it replaced?`, {
        file: path,
        byte: begin + done,
      })
    }
    done += bytesRead
  }
}

function parseHeader(path: string, bytes: Uint8Array): Record<string, unknown> {
  if (bytes[0] !== 0x7b) throw broken(path, 'its header does not begin with "{"')
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw broken(path, 'its header is not UTF-8')
  }
  const outline = outlineJson(text)
  if (outline.depth > MAX_HEADER_DEPTH) throw broken(path, 'its header is nested deeper than tensors are')
  if (outline.keys > 5 * MAX_TENSORS) {
    throw broken(path, `its header has ${outline.keys} keys; gorgon reads at most ${MAX_TENSORS} tensors`, {
      limit: MAX_TENSORS,
    })
  }
  if (outline.duplicateKey !== null) throw broken(path, `its header has the key ${outline.duplicateKey} twice`)
  const header = parseJsonObject(text, path, 'ERR_SAFETENSORS')
  const count = Object.keys(header).length
  if (count > MAX_TENSORS + 1) {
    throw broken(path, `it lists ${count} tensors; gorgon reads at most ${MAX_TENSORS}`, {
      tensors: count,
      limit: MAX_TENSORS,
    })
  }
  return header
}

function readMetadata(path: string, header: Record<string, unknown>): Record<string, string> {
  const metadata = header['__metadata__']
  if (metadata === undefined) return {}
  if (!isJsonObject(metadata) || !Object.values(metadata).every((value) => typeof value === 'string')) {
    throw broken(path, '"__metadata__" is not an object of strings')
  }
  return metadata as Record<string, string>
}

function readEntries(
  path: string,
  header: Record<string, unknown>,
  dataBegin: number,
  fileBytes: number,
): Map<string, TensorEntry> {
  const tensors = new Map<string, TensorEntry>()
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const bad = (what: string) => broken(path, `tensor ${JSON.stringify(name)} ${what}`, { tensor: name })
    if (!isJsonObject(value)) throw bad('is not an object')
    const { dtype, shape, data_offsets: offsets } = value
    if (typeof dtype !== 'string') throw bad('has no dtype')
    const elementBytes = Object.hasOwn(DTYPE_BYTES, dtype) ? DTYPE_BYTES[dtype] : undefined
    if (elementBytes === undefined) throw bad(`has the unknown dtype ${JSON.stringify(dtype)}`)
    if (!Array.isArray(shape) || !shape.every(isCount)) throw bad('has a shape that is not a list of sizes')
    if (shape.length > MAX_RANK) throw bad(`has ${shape.length} dimensions; gorgon reads at most ${MAX_RANK}`)
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
      throw bad('has no data_offsets [begin, end]')
    }
    const [from, to] = offsets as [number, number]
    if (from > to || dataBegin + to > fileBytes) {
      throw bad(`has the byte range ${from} to ${to}, but the file holds ${fileBytes - dataBegin} bytes of data`)
    }
    // BigInt: a product of safe integers need not be one.
    const needed = (shape as number[]).reduce((product, size) => product * BigInt(size), BigInt(elementBytes))
    if (needed !== BigInt(to - from)) {
      throw bad(`is ${dtype} [${shape.join(', ')}], ${needed} bytes, but its byte range holds ${to - from}`)
    }
    tensors.set(name, { dtype, shape: shape as number[], begin: dataBegin + from, end: dataBegin + to })
  }
  return tensors
}

/** Ranges, in order, follow one another from the first data byte to the last of the file. */
function checkRanges(
  path: string,
  tensors: ReadonlyMap<string, TensorEntry>,
  dataBegin: number,
  fileBytes: number,
): void {
  const ordered = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  let at = dataBegin
  let previous = ''
  for (const [name, { begin, end }] of ordered) {
    if (begin < at) throw broken(path, `tensors ${JSON.stringify(previous)} and ${JSON.stringify(name)} share bytes`)
    if (begin > at)
      throw broken(path, `bytes ${at} to ${begin}, before tensor ${JSON.stringify(name)}, belong to no tensor`)
    at = end
    previous = name
  }
  if (at !== fileBytes) throw broken(path, `the last ${fileBytes - at} bytes belong to no tensor`)
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
