// Hidden rows of texts on disk: what the frozen model computes once need not be computed again in every epoch.
//
// One file: 64 bytes that say what it is and whose rows it holds, then records, each appended whole:
//
//   header   32 bytes of MAGIC, zeros behind it; 32 of the digest of what the rows depend on
//   record   key [32], length u64, crc32 of the rows u32, crc32 of the 44 bytes before u32; then the rows
//
// Nothing depends on it but the time a run takes. What is not whole is as if it were not there; no more can be written: training goes on.
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, mkdir, open, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { writeError } from '../../src/durable-file.js'
import { GorgonError } from '../../src/errors.js'

export const HIDDEN_CACHE_FILE = 'hidden-rows.bin'

const MAGIC = Buffer.alloc(32, 0)
MAGIC.write('gorgon hidden rows, version 1')
const HEADER_BYTES = 64
const KEY_BYTES = 32
const RECORD_BYTES = 48

export interface HiddenCacheOptions {
  /** What rows depend on besides their tokens: whose weights, which dtype, which backend. Rows of anything else are discarded. */
  readonly identity: string
  /** Of one token: C values of the model's dtype. */
  readonly bytesPerRow: number
  /** Size of the file at most. Default: what it has, and half of what is free. */
  readonly maxBytes?: number
  /** Told, at most once, why nothing more is kept. */
  readonly onWarning?: (message: string) => void
}

interface Place {
  readonly at: number
  readonly bytes: number
  readonly checksum: number
}

/**
 * The cache in a folder, which is made when it is not there.
 *
 * @throws {GorgonError} ERR_FILE when something else lies where its file would be. A folder that cannot be written is a warning, and a cache
 *   without anything in it.
 */
export async function openHiddenCache(dir: string, options: HiddenCacheOptions): Promise<HiddenCache> {
  const path = join(dir, HIDDEN_CACHE_FILE)
  const owner = createHash('sha256').update(`${options.bytesPerRow}/${options.identity}`).digest()
  let handle: FileHandle | null = null
  try {
    await mkdir(dir, { recursive: true })
    handle = await open(path, constants.O_RDWR | constants.O_CREAT)
    await claim(handle, path, owner)
    const { index, end } = await scan(handle)
    const free = options.maxBytes === undefined ? await statfs(dir) : null
    const maxBytes = options.maxBytes ?? end + (free!.bavail * free!.bsize) / 2
    return new HiddenCache({ ...options, maxBytes, path, owner, handle, index, end })
  } catch (error) {
    await handle?.close()
    if (error instanceof GorgonError) throw error
    const none = new HiddenCache({ ...options, maxBytes: 0, path, owner, handle: null, index: new Map(), end: 0 })
    options.onWarning?.(withoutMore(writeError(path, error).message))
    return none
  }
}

export class HiddenCache {
  readonly #path: string
  readonly #owner: Buffer
  readonly #bytesPerRow: number
  readonly #maxBytes: number
  readonly #onWarning: ((message: string) => void) | undefined
  readonly #handle: FileHandle | null
  /** By key. */
  readonly #index: Map<string, Place>
  #end: number
  #isFull: boolean

  /** Made by `openHiddenCache()`. Without a handle it holds nothing, and keeps nothing. */
  constructor(
    parts: HiddenCacheOptions & {
      readonly maxBytes: number
      readonly path: string
      readonly owner: Buffer
      readonly handle: FileHandle | null
      readonly index: Map<string, Place>
      readonly end: number
    },
  ) {
    this.#path = parts.path
    this.#owner = parts.owner
    this.#bytesPerRow = parts.bytesPerRow
    this.#maxBytes = parts.maxBytes
    this.#onWarning = parts.onWarning
    this.#handle = parts.handle
    this.#index = parts.index
    this.#end = parts.end
    this.#isFull = parts.handle === null
  }

  /** Of the file. */
  get bytes(): number {
    return this.#end
  }

  /** Texts whose rows it has. */
  get texts(): number {
    return this.#index.size
  }

  /** [T, C] of the model's dtype: a text's rows as they were put, or null. */
  async get(tokens: Int32Array): Promise<Uint8Array | null> {
    const key = this.#keyOf(tokens)
    const place = this.#index.get(key)
    if (!place || place.bytes !== tokens.length * this.#bytesPerRow) return null
    const rows = Buffer.allocUnsafeSlow(place.bytes)
    const isRead = await readFully(this.#handle!, rows, place.at).catch(() => false)
    if (isRead && crc32(rows) === place.checksum) return rows
    this.#index.delete(key)
    return null
  }

  /** Keeps a text's rows, if there is room. Never fails: what cannot be written is not kept, and `onWarning` is told. */
  async put(tokens: Int32Array, rows: Uint8Array): Promise<void> {
    const key = this.#keyOf(tokens)
    if (this.#isFull || this.#index.has(key)) return
    const start = this.#end
    const at = start + RECORD_BYTES
    if (at + rows.length > this.#maxBytes) {
      this.#stop(
        `${this.#path} holds ${start} bytes and may hold ${Math.floor(this.#maxBytes)}: there is no room for more.`,
      )
      return
    }
    // Taken before anything waits: two texts that are put at once get places of their own.
    this.#end = at + rows.length
    const record = Buffer.alloc(RECORD_BYTES)
    record.write(key, 'hex')
    record.writeBigUInt64LE(BigInt(rows.length), KEY_BYTES)
    record.writeUInt32LE(crc32(rows), KEY_BYTES + 8)
    record.writeUInt32LE(crc32(record.subarray(0, RECORD_BYTES - 4)), RECORD_BYTES - 4)
    try {
      await writeFully(this.#handle!, rows, at)
      await writeFully(this.#handle!, record, start)
      this.#index.set(key, { at, bytes: rows.length, checksum: record.readUInt32LE(KEY_BYTES + 8) })
    } catch (error) {
      this.#end = Math.min(this.#end, start)
      // The room is for checkpoints now.
      await this.#handle!.truncate(this.#end).catch(() => undefined)
      this.#stop(writeError(this.#path, error).message)
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close()
  }

  #stop(why: string): void {
    if (!this.#isFull) this.#onWarning?.(withoutMore(why))
    this.#isFull = true
  }

  #keyOf(tokens: Int32Array): string {
    return createHash('sha256').update(this.#owner).update(tokens).digest('hex')
  }
}

/** @param why a sentence. */
const withoutMore = (why: string): string => `${why} Hidden rows that are not kept are computed anew in every epoch.`

/** Makes the file ours: one that is empty, of another owner, or cut short in its first bytes begins anew. */
async function claim(handle: FileHandle, path: string, owner: Buffer): Promise<void> {
  const { size, isOurs } = await look(handle)
  if (!isOurs) {
    throw new GorgonError(
      'ERR_FILE',
      `${path} is not a cache of hidden rows. Remove it, or keep hidden rows in another folder.`,
      { file: path },
    )
  }
  const header = Buffer.concat([MAGIC, owner])
  const found = Buffer.alloc(HEADER_BYTES)
  if (size >= HEADER_BYTES && (await readFully(handle, found, 0)) && found.equals(header)) return
  await handle.truncate(0)
  await writeFully(handle, header, 0)
}

async function look(handle: FileHandle): Promise<{ readonly size: number; readonly isOurs: boolean }> {
  const stat = await handle.stat()
  if (!stat.isFile()) return { size: 0, isOurs: false }
  const begin = Buffer.alloc(Math.min(stat.size, MAGIC.length))
  await readFully(handle, begin, 0)
  return { size: stat.size, isOurs: begin.equals(MAGIC.subarray(0, begin.length)) }
}

/** Where each whole record lies, and where the last one ends: what follows was cut short, and goes. */
async function scan(handle: FileHandle): Promise<{ readonly index: Map<string, Place>; readonly end: number }> {
  const { size } = await handle.stat()
  const index = new Map<string, Place>()
  const record = Buffer.alloc(RECORD_BYTES)
  let end = HEADER_BYTES
  while (end + RECORD_BYTES <= size) {
    if (!(await readFully(handle, record, end))) break
    if (crc32(record.subarray(0, RECORD_BYTES - 4)) !== record.readUInt32LE(RECORD_BYTES - 4)) break
    const bytes = Number(record.readBigUInt64LE(KEY_BYTES))
    const at = end + RECORD_BYTES
    if (bytes > size - at) break
    index.set(record.toString('hex', 0, KEY_BYTES), { at, bytes, checksum: record.readUInt32LE(KEY_BYTES + 8) })
    end = at + bytes
  }
  if (end < size) await handle.truncate(end)
  return { index, end }
}

/** False where the file ends before. */
async function readFully(handle: FileHandle, into: Buffer, at: number): Promise<boolean> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await handle.read(into, done, into.length - done, at + done)
    if (bytesRead === 0) return false
    done += bytesRead
  }
  return true
}

async function writeFully(handle: FileHandle, from: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < from.length; ) {
    const { bytesWritten } = await handle.write(from, done, from.length - done, at + done)
    done += bytesWritten
  }
}
