// Text to token ids and back, by the tokenizer files of a model folder.
import { join } from 'node:path'
import { GorgonError } from '../errors.js'
import { readText } from '../read-text.js'
import { Detokenizer, type DetokenizerOptions, Pieces } from './detokenizer.js'
import { closedError, EncodeThread, encodeError } from './encode-thread.js'
import { type Encoder, openEncoder } from './encoder.js'
import { readTokenizerConfig } from './tokenizer-config.js'

/**
 * Longest text encoded on the JavaScript thread, in UTF-16 code units. Measured on two cores of a server CPU: 4096 characters of code take
 * 3 to 8 ms there, about as long as other streams can wait unnoticed. The thread adds 0.3 ms to that, and 65 ms when it starts.
 */
export const MAX_INLINE_CHARACTERS = 4096

/** Largest tokenizer.json read. The largest in use, of vocabularies of 2^18 tokens, are 33 MiB. */
const MAX_TOKENIZER_BYTES = 256 * 1024 * 1024

export interface EncodeOptions {
  /**
   * Add what the model's post-processor adds to a text, such as the beginning-of-sequence token. Default true. False for text that
   * already has it, such as most rendered chats.
   */
  readonly addSpecial?: boolean
  /** Stops waiting for the ids; the promise rejects with its reason. */
  readonly signal?: AbortSignal
}

export interface Tokenizer {
  /** One more than the largest id. */
  readonly vocabSize: number
  /**
   * The text's ids. Special tokens spelled out in the text become their ids, as everywhere in the field.
   *
   * Texts longer than MAX_INLINE_CHARACTERS are encoded in a worker thread, started with the first such text.
   *
   * @throws {GorgonError} ERR_TOKENIZER when the text cannot be encoded, ERR_CLOSED after close().
   */
  encode(text: string, options?: EncodeOptions): Promise<Int32Array>
  /** The text of these ids, all at once. Ids outside the vocabulary have none. */
  decode(ids: Iterable<number>, options?: DetokenizerOptions): string
  /** A new detokenizer, for one text. */
  detokenizer(options?: DetokenizerOptions): Detokenizer
  /** True for tokens that stand for no text, such as the end of sequence. */
  isSpecial(id: number): boolean
  /** What one token adds to a text, special tokens spelled out; U+FFFD for parts of characters, empty outside the vocabulary. */
  tokenText(id: number): string
  /** UTF-8 of what `tokenText` says, parts of characters as they are. */
  tokenBytes(id: number): Uint8Array
  /** The id of a token spelled exactly so in the vocabulary, such as "<|im_end|>"; null without one. */
  tokenId(token: string): number | null
  /** Ends the worker thread; texts being encoded reject with ERR_CLOSED. Decoding still works. */
  close(): Promise<void>
}

/**
 * The tokenizer of a model folder; null when the folder has no tokenizer.json.
 *
 * @throws {GorgonError} ERR_TOKENIZER when a file is malformed or needs a feature that is not supported, ERR_FILE when one cannot be read.
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer | null> {
  const where = join(dir, 'tokenizer.json')
  const json = await readText(where, MAX_TOKENIZER_BYTES, 'ERR_TOKENIZER')
  if (json === null) return null
  const { specialTokens } = await readTokenizerConfig(dir)
  try {
    const encoder = openEncoder(json)
    return new LoadedTokenizer(encoder, new EncodeThread(json, where), specialTokens, where)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new GorgonError(
      'ERR_TOKENIZER',
      `${where}: ${reason}. Use this model with token ids, or a tokenizer.json in a supported form.`,
      { file: where },
      error,
    )
  }
}

class LoadedTokenizer implements Tokenizer {
  readonly vocabSize: number
  readonly #encoder: Encoder
  readonly #thread: EncodeThread
  readonly #pieces: Pieces
  readonly #where: string
  #closed = false

  constructor(encoder: Encoder, thread: EncodeThread, specialTokens: ReadonlySet<string>, where: string) {
    this.#encoder = encoder
    this.#thread = thread
    this.#where = where
    const { tokens, addedToken } = encoder.vocabulary
    this.vocabSize = tokens.length
    this.#pieces = new Pieces((id) => {
      const token = tokens[id]
      if (token === undefined) return null
      const added = addedToken(id)
      return { token, added: added !== undefined, special: (added?.special ?? false) || specialTokens.has(token) }
    }, encoder.decoder)
  }

  async encode(text: string, { addSpecial = true, signal }: EncodeOptions = {}): Promise<Int32Array> {
    signal?.throwIfAborted()
    if (this.#closed) throw closedError(this.#where)
    if (text.length > MAX_INLINE_CHARACTERS) return this.#thread.encode({ text, addSpecial }, signal)
    try {
      return this.#encoder.encode(text, addSpecial)
    } catch (error) {
      throw encodeError(this.#where, text, error instanceof Error ? error.message : String(error), error)
    }
  }

  decode(ids: Iterable<number>, options?: DetokenizerOptions): string {
    const detokenizer = this.detokenizer(options)
    let text = ''
    for (const id of ids) text += detokenizer.push(id)
    return text + detokenizer.flush()
  }

  detokenizer(options?: DetokenizerOptions): Detokenizer {
    return new Detokenizer(this.#pieces, options)
  }

  isSpecial(id: number): boolean {
    return this.#pieces.isSpecial(id)
  }

  tokenText(id: number): string {
    return this.decode([id], { skipSpecial: false, continuation: true })
  }

  tokenBytes(id: number): Uint8Array {
    return this.#pieces.piece(id, false)?.bytes ?? new Uint8Array(0)
  }

  tokenId(token: string): number | null {
    return this.#encoder.vocabulary.idOf(token) ?? null
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#thread.close()
  }
}
