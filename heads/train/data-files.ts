// Files of text to learn from: found, and read text by text without holding a whole file.
import type { Dirent } from 'node:fs'
import { type FileHandle, open, readdir, realpath, stat } from 'node:fs/promises'
import { extname, join, resolve } from 'node:path'
import { GorgonError } from '../../src/errors.js'
import { isJsonObject, MAX_JSON_DEPTH, outlineJson } from '../../src/json.js'

/** Bytes read at a time. */
const CHUNK_BYTES = 1 << 20
/** A longer file of text is read as several texts, cut at ends of lines: a text is encoded in one piece. In UTF-16 code units. */
const MAX_TEXT = 1 << 20
/** Longest line of a .jsonl, and largest .json: both are parsed in one piece. In UTF-16 code units. */
const MAX_PARSED = 1 << 28
/** A file that begins with these bytes as text is text. */
const SNIFFED_BYTES = 1 << 16

/** One text as it stands in a file. */
export interface RawText {
  /** File, and line or index in it. */
  readonly where: string
  /** Text, or token ids. */
  readonly content: string | Int32Array
  /** Tokens before this index are context only. */
  readonly from: number
  /** Texts with the same have something in common. */
  readonly group?: string
  /** The next text is the rest of it. */
  readonly goesOn?: true
}

export interface DataFile {
  readonly path: string
  readonly bytes: number
  /** A user named it: it has to hold what its name says. */
  readonly isNamed: boolean
}

/** Files left out of folders, by why. */
export interface Skipped {
  hidden: number
  binary: number
  empty: number
  /** Folders that are written to. */
  output: number
}

export interface ReadOptions {
  /** What the text is called in the objects of a .jsonl. */
  readonly field: string
  /** Counts what is left out. */
  readonly skipped: Skipped
  readonly signal?: AbortSignal | undefined
  /** Told as bytes are read. */
  readonly onBytes?: (bytes: number) => void
}

function unusable(where: string, what: string, details: Record<string, unknown> = {}): GorgonError {
  return new GorgonError('ERR_DATA', `${where}: ${what}`, { where, ...details })
}

/**
 * Every file that these paths name: files, and all files of folders in the order of their names. Hidden ones, node_modules, and folders
 * that are links, are left out.
 *
 * @param except a folder that is not looked into: what a run writes is not what it learns from.
 * @throws {GorgonError} ERR_DATA when a path is neither file nor folder, ERR_FILE when it cannot be read.
 */
export async function listDataFiles(
  paths: readonly string[],
  skipped: Skipped,
  except: string | null = null,
): Promise<DataFile[]> {
  const files: DataFile[] = []
  const walking = { files, skipped, except: except === null ? null : resolve(except) }
  for (const path of paths) {
    const found = await stat(path).catch((error: Error) => {
      throw cannotRead(path, error)
    })
    if (found.isDirectory()) await walk(path, walking)
    else if (found.isFile()) files.push({ path, bytes: found.size, isNamed: true })
    // Opening a pipe would wait for a writer for ever.
    else throw unusable(path, 'it is neither a file nor a folder. Give text to learn from.')
  }
  return eachOnce(files)
}

/** A file that is named and in a folder besides is read once: a text that came twice could be learnt from and held out. */
async function eachOnce(files: readonly DataFile[]): Promise<DataFile[]> {
  const byPlace = new Map<string, DataFile>()
  for (const file of files) {
    const place = await realpath(file.path)
    const before = byPlace.get(place)
    byPlace.set(place, before && !file.isNamed ? before : file)
  }
  return [...byPlace.values()]
}

interface Walking {
  readonly files: DataFile[]
  readonly skipped: Skipped
  /** Absolute. */
  readonly except: string | null
}

async function walk(folder: string, walking: Walking): Promise<void> {
  if (resolve(folder) === walking.except) {
    walking.skipped.output++
    return
  }
  const entries: Dirent[] = await readdir(folder, { withFileTypes: true }).catch((error: Error) => {
    throw cannotRead(folder, error)
  })
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name)
    if (entry.name.startsWith('.') || entry.name === 'node_modules') walking.skipped.hidden++
    else if (entry.isDirectory()) await walk(path, walking)
    else {
      // Of a link, what it leads to; a folder behind one may lead around in circles.
      const found = await stat(path).catch(() => null)
      if (found?.isFile()) walking.files.push({ path, bytes: found.size, isNamed: false })
    }
  }
}

function cannotRead(path: string, error: Error): GorgonError {
  return new GorgonError('ERR_FILE', `${path} cannot be read: ${error.message}.`, { file: path }, error)
}

/**
 * The texts of a file, in order.
 *
 * @throws {GorgonError} ERR_DATA naming file and line when it is not what its name says, ERR_FILE when it cannot be read.
 */
export async function* readDataFile(file: DataFile, options: ReadOptions): AsyncGenerator<RawText> {
  const handle = await open(file.path, 'r').catch((error: Error) => {
    throw cannotRead(file.path, error)
  })
  try {
    if (file.bytes === 0) options.skipped.empty++
    else if (!(await isText(handle))) {
      if (file.isNamed) throw unusable(file.path, 'it is not UTF-8 text. Give text, .jsonl, or .json with token ids.')
      options.skipped.binary++
      options.onBytes?.(file.bytes)
    } else if (extname(file.path) === '.jsonl') yield* readLines(file, handle, options)
    else if (extname(file.path) === '.json') yield* readJson(file, handle, options)
    else yield* readPlain(file, handle, options)
  } finally {
    await handle.close()
  }
}

/** What the file begins with decides: no zero byte, and UTF-8. */
async function isText(handle: FileHandle): Promise<boolean> {
  const { buffer, bytesRead } = await handle.read(new Uint8Array(SNIFFED_BYTES), 0, SNIFFED_BYTES, 0)
  const head = buffer.subarray(0, bytesRead)
  if (head.includes(0)) return false
  try {
    // As a stream: the last character may be cut.
    new TextDecoder('utf-8', { fatal: true }).decode(head, { stream: true })
    return true
  } catch {
    return false
  }
}

/** The file's text in pieces. */
async function* decoded({ path }: DataFile, handle: FileHandle, options: ReadOptions): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const bytes = new Uint8Array(CHUNK_BYTES)
  let at = 0
  for (;;) {
    options.signal?.throwIfAborted()
    const { bytesRead } = await handle.read(bytes, 0, CHUNK_BYTES, at).catch((error: Error) => {
      throw cannotRead(path, error)
    })
    let piece: string
    try {
      piece = decoder.decode(bytes.subarray(0, bytesRead), { stream: bytesRead > 0 })
    } catch {
      throw unusable(path, `bytes ${at} to ${at + bytesRead} are not UTF-8. Give text in UTF-8.`, { byte: at })
    }
    at += bytesRead
    options.onBytes?.(bytesRead)
    if (piece !== '') yield piece
    if (bytesRead === 0) return
  }
}

async function* readPlain(file: DataFile, handle: FileHandle, options: ReadOptions): AsyncGenerator<RawText> {
  let held = ''
  let part = 0
  const next = (content: string): RawText => {
    part++
    return { where: part === 1 && held === '' ? file.path : `${file.path} (part ${part})`, content, from: 0 }
  }
  for await (const piece of decoded(file, handle, options)) {
    held += piece
    while (held.length > MAX_TEXT) {
      const cut = cutOf(held)
      const content = held.slice(0, cut)
      held = held.slice(cut)
      yield { ...next(content), goesOn: true }
    }
  }
  const content = held
  held = ''
  if (content.trim() !== '') yield next(content)
  else if (part === 0) options.skipped.empty++
}

/** After the last line that is whole within a text's length; where one line is longer, between two characters. */
function cutOf(text: string): number {
  const line = text.lastIndexOf('\n', MAX_TEXT - 1) + 1
  if (line > 0) return line
  const isInPair = (text.charCodeAt(MAX_TEXT - 1) & 0xfc00) === 0xd800
  return isInPair ? MAX_TEXT - 1 : MAX_TEXT
}

async function* readLines(file: DataFile, handle: FileHandle, options: ReadOptions): AsyncGenerator<RawText> {
  let number = 0
  for await (const line of linesOf(file, handle, options)) {
    number++
    if (line.trim() === '') continue
    const where = `${file.path}:${number}`
    yield textOf(parseJson(where, line), where, options.field)
  }
}

async function* linesOf(file: DataFile, handle: FileHandle, options: ReadOptions): AsyncGenerator<string> {
  let held: string[] = []
  let length = 0
  let number = 1
  for await (const piece of decoded(file, handle, options)) {
    let begin = 0
    for (let end = piece.indexOf('\n'); end >= 0; end = piece.indexOf('\n', begin)) {
      yield held.join('') + piece.slice(begin, end)
      held = []
      length = 0
      number++
      begin = end + 1
    }
    held.push(piece.slice(begin))
    length += piece.length - begin
    if (length > MAX_PARSED) {
      throw unusable(`${file.path}:${number}`, `the line is longer than ${MAX_PARSED} characters. Cut it into several.`)
    }
  }
  yield held.join('')
}

async function* readJson(file: DataFile, handle: FileHandle, options: ReadOptions): AsyncGenerator<RawText> {
  const pieces: string[] = []
  let length = 0
  for await (const piece of decoded(file, handle, options)) {
    pieces.push(piece)
    length += piece.length
    if (length > MAX_PARSED) {
      throw unusable(
        file.path,
        `it is longer than ${MAX_PARSED} characters. Write its texts into a .jsonl, one per line.`,
      )
    }
  }
  const text = pieces.join('')
  const arrays = asArrays(text, file)
  // In a folder of sources such a file is text like any other.
  if (arrays === null) yield { where: file.path, content: text, from: 0 }
  else {
    for (const [index, ids] of arrays.entries()) {
      const where = arrays.length === 1 ? file.path : `${file.path}[${index}]`
      yield { where, content: tokenIds(ids, where), from: 0 }
    }
  }
}

/** Arrays of ids, or one such; null for other JSON in a folder. */
function asArrays(text: string, { path, isNamed }: DataFile): unknown[][] | null {
  let value: unknown
  try {
    value = parseJson(path, text)
  } catch (error) {
    if (isNamed) throw error
    return null
  }
  if (Array.isArray(value) && value.length > 0) {
    const arrays: unknown[][] = value.every((one) => Array.isArray(one)) ? value : [value]
    if (isNamed || arrays.every((ids) => ids.every(isTokenId))) return arrays
  }
  if (isNamed) throw unusable(path, 'it holds no array of token ids. Give text as a .txt or .jsonl.')
  return null
}

function parseJson(where: string, text: string): unknown {
  // JSON.parse has no bound on depth.
  if (outlineJson(text).depth > MAX_JSON_DEPTH) throw unusable(where, 'its JSON is nested too deep.')
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    throw unusable(where, `it is not JSON (${(error as Error).message}). Give one JSON value per line.`)
  }
}

/** A line: ids, or an object with text or ids in the field, or in `tokens`, with `from` and `prompt`, as self-distilled text is stored. */
function textOf(value: unknown, where: string, field: string): RawText {
  if (Array.isArray(value)) return { where, content: tokenIds(value, where), from: 0 }
  if (!isJsonObject(value)) throw unusable(where, 'it is neither an object nor an array of token ids.')
  const name = value[field] === undefined && field === 'text' && value['tokens'] !== undefined ? 'tokens' : field
  const content = value[name]
  if (content === undefined) {
    const known = Object.keys(value).slice(0, 8)
    throw unusable(where, `it has no field "${field}". It has ${known.join(', ') || 'none'}: name one as the field.`, {
      field,
    })
  }
  if (typeof content === 'string') return { where, content, from: 0 }
  if (!Array.isArray(content)) throw unusable(where, `its field "${name}" is neither text nor an array of token ids.`)
  const ids = tokenIds(content, where)
  const from = value['from'] ?? 0
  if (!Number.isInteger(from) || (from as number) < 0 || (from as number) > ids.length) {
    throw unusable(where, `"from" is ${JSON.stringify(from)}: use a whole number, at most the ${ids.length} tokens.`)
  }
  const text = { where, content: ids, from: from as number }
  const { prompt } = value
  return typeof prompt === 'string' ? { ...text, group: prompt } : text
}

function tokenIds(values: readonly unknown[], where: string): Int32Array {
  const ids = new Int32Array(values.length)
  for (const [index, value] of values.entries()) {
    if (!isTokenId(value)) {
      const shown = JSON.stringify(value)?.slice(0, 60)
      throw unusable(where, `item ${index} is ${shown}, which is no token id. Give whole numbers from 0.`, { value })
    }
    ids[index] = value
  }
  return ids
}

const isTokenId = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0x7fffffff
