// Tokens in, text pieces out, up to the first stop id, stop string or token limit.
import { GorgonError } from '../errors.js'
import type { Detokenizer } from './detokenizer.js'
import { StopMatcher } from './stop-matcher.js'

export interface TextStreamOptions {
  /** Null for a model without a tokenizer: texts are empty, and there can be no stop strings. */
  readonly detokenizer: Detokenizer | null
  /** The text ends before the first of these to complete. */
  readonly stopStrings: readonly string[]
  /** The text ends before the first of these; it is taken, but adds no text. */
  readonly stopIds: ReadonlySet<number>
  /** Most tokens taken. */
  readonly maxTokens: number
}

/**
 * One generation's text. Tokens are looked at one by one, so runs may be cut anywhere: texts joined, tokens taken and the reason to finish
 * are the same. Text that begins a stop string is held back until it is more, or is none.
 */
export class TextStream {
  readonly #detokenizer: Detokenizer | null
  readonly #matcher: StopMatcher
  readonly #stopIds: ReadonlySet<number>
  readonly #maxTokens: number
  #taken = 0
  /** The end of the text so far, which begins a stop string. */
  #held = ''
  #ended = false
  #finish: 'stop' | 'length' | null = null
  #stopString: string | null = null

  /** @throws {GorgonError} ERR_OPTION for an empty stop string, or for stop strings without a detokenizer. */
  constructor({ detokenizer, stopStrings, stopIds, maxTokens }: TextStreamOptions) {
    if (detokenizer === null && stopStrings.length > 0) {
      throw new GorgonError(
        'ERR_OPTION',
        `stop is ${JSON.stringify(stopStrings)}, but this model has no tokenizer to make text. Use stopTokenIds.`,
        { stop: stopStrings },
      )
    }
    if (stopStrings.includes('')) {
      throw new GorgonError('ERR_OPTION', 'stop has an empty string, which every text contains. Leave it out.', {
        stop: stopStrings,
      })
    }
    this.#detokenizer = detokenizer
    this.#matcher = new StopMatcher(stopStrings)
    this.#stopIds = stopIds
    this.#maxTokens = maxTokens
    if (maxTokens <= 0) this.#end('length')
  }

  /** True once no more tokens are taken. */
  get finished(): boolean {
    return this.#ended
  }

  /** Why the text ended: a stop id or string, or the token limit; null before, and when it was ended by flush() alone. */
  get finish(): 'stop' | 'length' | null {
    return this.#finish
  }

  /** The stop string that ended the text; null when something else did. */
  get stopString(): string | null {
    return this.#stopString
  }

  /**
   * Takes tokens in order until the text ends; tokens after that are not taken. When it ends, the text returned is its last.
   *
   * @returns of each token taken, the one that ended the text included, the text that is certain with it: no stop string can reach back
   *   into it. So many are taken: cut ids, log-probabilities and usage there too.
   */
  push(tokens: readonly number[] | Int32Array): string[] {
    const pieces: string[] = []
    for (const token of tokens) {
      if (this.#ended) break
      pieces.push(this.#take(token))
    }
    return pieces
  }

  /** Ends the text where it is and returns what was held back; empty when it had ended. */
  flush(): string {
    return this.#ended ? '' : this.#end(null)
  }

  #take(token: number): string {
    this.#taken++
    if (this.#stopIds.has(token)) return this.#end('stop')
    const text = this.#read(this.#detokenizer?.push(token) ?? '')
    return !this.#ended && this.#taken >= this.#maxTokens ? text + this.#end('length') : text
  }

  #end(finish: 'stop' | 'length' | null): string {
    // An incomplete character may still complete a stop string, as U+FFFD.
    const text = this.#read(this.#detokenizer?.flush() ?? '')
    if (this.#ended) return text
    const held = this.#held
    this.#held = ''
    this.#ended = true
    this.#finish = finish
    return text + held
  }

  /** Adds to the text; returns what of it is certain. */
  #read(piece: string): string {
    const match = this.#matcher.read(piece)
    if (match !== null) {
      const text = this.#held + piece.slice(0, match.end)
      this.#held = ''
      this.#ended = true
      this.#finish = 'stop'
      this.#stopString = match.stop
      return text.slice(0, text.length - match.stop.length)
    }
    const text = this.#held + piece
    const certain = text.length - this.#matcher.held
    this.#held = text.slice(certain)
    return text.slice(0, certain)
  }
}
