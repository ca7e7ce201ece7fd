// Prompts to calibrate with: the beginnings of texts, so many of them, chosen by chance and the same each time.
import { createHash } from 'node:crypto'
import { GorgonError } from '../../src/errors.js'
import { tokenizerOf } from '../../src/prompt.js'
import type { Tokenizer } from '../../src/text/tokenizer.js'
import { checkVocabulary } from '../train/data.js'
import { listDataFiles, type RawText, readDataFile } from '../train/data-files.js'

export interface PromptOptions {
  readonly count: number
  /** Of each prompt, at most. */
  readonly promptTokens: number
  /** What the text is called in the objects of .jsonl files. */
  readonly field: string
  readonly seed: number
  readonly signal?: AbortSignal | undefined
  /** Told of bytes read, of all. */
  readonly onProgress?: (done: number, total: number) => void
}

/** Fewer tokens say too little to go on from. */
const LEAST_PROMPT_TOKENS = 4
/** Characters that are enough for a token, in code with much white space too. */
const CHARACTERS_PER_TOKEN = 8

/** A stretch of a text that one prompt is taken from. */
interface Piece extends RawText {
  /** Where it stands among all pieces, in an order that its content and the seed alone decide. */
  readonly place: string
}

/**
 * At most `count` prompts. Where there are fewer texts than that, prompts also begin inside them. What they are chosen by is their content, so
 * copies are taken once, and the order of files does not matter.
 *
 * @returns i32 each: the beginning of a text, half of it at most; of a text that says which of its tokens are a prompt, those.
 * @throws {GorgonError} ERR_DATA when a file cannot be used, or there is no text long enough; ERR_FILE, ERR_TOKENIZER.
 */
export async function readPrompts(
  paths: readonly string[],
  encoder: { readonly tokenizer: Tokenizer | null; readonly vocab: number },
  { count, promptTokens, field, seed, signal, onProgress }: PromptOptions,
): Promise<Int32Array[]> {
  const skipped = { hidden: 0, binary: 0, empty: 0, output: 0 }
  const files = await listDataFiles(paths, skipped)
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  const onBytes = (bytes: number) => {
    done += bytes
    onProgress?.(done, total)
  }
  const beginnings = new Chosen(count, seed)
  const insides = new Chosen(count, seed)
  for (const file of files) {
    for await (const raw of readDataFile(file, { field, skipped, signal, onBytes })) {
      const [first, ...others] = piecesOf(raw, promptTokens)
      if (first) beginnings.offer(first)
      for (const other of others) insides.offer(other)
    }
  }
  const prompts: Int32Array[] = []
  for (const piece of [...beginnings.pieces(), ...insides.pieces()]) {
    if (prompts.length === count) break
    const prompt = await promptOf(piece, encoder, promptTokens, signal)
    if (prompt) prompts.push(prompt)
  }
  if (prompts.length > 0) return prompts
  throw new GorgonError(
    'ERR_DATA',
    `There is no text of ${2 * LEAST_PROMPT_TOKENS} tokens or more in ${paths.join(', ')} (${files.length} ${files.length === 1 ? 'file' : 'files'}), so there is nothing to continue. Give longer texts.`,
    { paths, files: files.length, ...skipped },
  )
}

/** Stretches twice as long as a prompt. */
function* piecesOf(raw: RawText, promptTokens: number): Generator<RawText> {
  const { content, from } = raw
  if (typeof content !== 'string') {
    const length = from > 0 ? content.length : 2 * promptTokens
    for (let at = 0; at < content.length; at += length) yield { ...raw, content: content.slice(at, at + length) }
    return
  }
  const length = 2 * promptTokens * CHARACTERS_PER_TOKEN
  for (let at = 0; at < content.length; ) {
    const end = endOf(content, at, length)
    yield { ...raw, content: content.slice(at, end) }
    at = end
  }
}

/** After the last whole line of a stretch; where one line is longer, between two characters. */
function endOf(text: string, begin: number, length: number): number {
  if (begin + length >= text.length) return text.length
  const line = text.lastIndexOf('\n', begin + length - 1) + 1
  if (line > begin) return line
  const isInPair = (text.charCodeAt(begin + length - 1) & 0xfc00) === 0xd800
  return begin + length - (isInPair && length > 1 ? 1 : 0)
}

/** The pieces of lowest place, each once. Few are held at a time, however many are offered. */
class Chosen {
  readonly #count: number
  readonly #seed: number
  #pieces = new Map<string, Piece>()
  /** Whoever comes after it is not among those wanted. */
  #last = '~'

  constructor(count: number, seed: number) {
    this.#count = count
    this.#seed = seed
  }

  offer(raw: RawText): void {
    const { content } = raw
    const hash = createHash('sha256').update(`${this.#seed}/`)
    const place = (
      typeof content === 'string'
        ? hash.update(content)
        : hash.update(new Uint8Array(content.buffer, content.byteOffset, content.byteLength))
    ).digest('hex')
    if (place > this.#last) return
    this.#pieces.set(place, { ...raw, content: typeof content === 'string' ? copyOf(content) : content, place })
    if (this.#pieces.size < 4 * this.#count) return
    const lowest = this.#lowest(2 * this.#count)
    this.#pieces = new Map(lowest)
    this.#last = lowest.at(-1)![0]
  }

  /** Twice as many as wanted, where there are: some may turn out too short. */
  pieces(): Piece[] {
    return this.#lowest(2 * this.#count).map(([, piece]) => piece)
  }

  #lowest(count: number): [string, Piece][] {
    return [...this.#pieces].sort(([a], [b]) => (a < b ? -1 : 1)).slice(0, count)
  }
}

/** A part of a string keeps the whole in memory. */
const copyOf = (text: string): string => Buffer.from(text, 'utf16le').toString('utf16le')

async function promptOf(
  { where, content, from }: Piece,
  { tokenizer, vocab }: { readonly tokenizer: Tokenizer | null; readonly vocab: number },
  promptTokens: number,
  signal: AbortSignal | undefined,
): Promise<Int32Array | null> {
  const ids =
    typeof content === 'string' ? await tokenizerOf({ tokenizer }).encode(content, signal ? { signal } : {}) : content
  checkVocabulary(ids, vocab, where, 'The data, or tokenizer.json, are of another model.')
  // The rest of a text is what the model is to find by itself.
  const most = from > 0 ? from : ids.length >> 1
  const length = Math.min(promptTokens, most)
  return length < Math.min(LEAST_PROMPT_TOKENS, promptTokens) ? null : ids.slice(0, length)
}
