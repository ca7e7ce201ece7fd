// Leaves out of a response what an earlier attempt at it had delivered, and makes sure that it is the same.
import type { Delta, Span } from './generation.js'

/** Of all chunks so far. */
export interface Delivered {
  readonly text: string
  readonly tokens: number
  readonly ids: readonly number[] | null
}

/** The second attempt made another text. */
export class Differs extends Error {
  /** Where, in UTF-16 units. */
  readonly index: number

  constructor(index: number) {
    super(`The texts differ at ${index}.`)
    this.index = index
  }
}

export class Replay {
  readonly #delivered: Delivered
  #chars = 0
  #tokens = 0

  constructor(delivered: Delivered) {
    this.#delivered = delivered
  }

  /** Whether all that was delivered has come again. */
  get isOver(): boolean {
    return this.#chars >= this.#delivered.text.length && this.#tokens >= this.#delivered.tokens
  }

  /**
   * What of the delta is new, or null.
   *
   * @throws {Differs}
   */
  next(delta: Delta): Delta | null {
    const { text, tokens, ids } = this.#delivered
    const skippedChars = Math.min(delta.text.length, text.length - this.#chars)
    const skippedTokens = Math.min(delta.n, tokens - this.#tokens)
    for (let i = 0; i < skippedChars; i++) {
      if (delta.text[i] !== text[this.#chars + i]) throw new Differs(this.#chars + i)
    }
    for (let i = 0; i < skippedTokens; i++) {
      if (ids && delta.ids && delta.ids[i] !== ids[this.#tokens + i]) throw new Differs(this.#chars)
    }
    this.#chars += skippedChars
    this.#tokens += skippedTokens
    if (skippedChars === delta.text.length && skippedTokens === delta.n) return null
    return rest(delta, skippedChars, skippedTokens)
  }
}

/** A delta without its first units and tokens. */
function rest(delta: Delta, chars: number, tokens: number): Delta {
  const spans = delta.spans && withoutTokens(delta.spans, tokens)
  return {
    ...delta,
    text: delta.text.slice(chars),
    n: delta.n - tokens,
    drafted: spans ? draftedIn(delta.spans, tokens) : Math.min(delta.drafted, delta.n - tokens),
    ...(spans && { spans }),
    ...(delta.ids && { ids: delta.ids.slice(tokens) }),
    ...(delta.logprobs && { logprobs: delta.logprobs.slice(tokens) }),
  }
}

/** Steps that are gone are left out; of one that is cut, the tokens before the cut release nothing, so that the others keep their depth. */
function withoutTokens(spans: readonly Span[], tokens: number): { step: number; chars: number[] }[] {
  let left = tokens
  const kept: { step: number; chars: number[] }[] = []
  for (const { step, chars } of spans) {
    const cut = Math.min(left, chars.length)
    left -= cut
    if (cut < chars.length || chars.length === 0) kept.push({ step, chars: chars.map((n, i) => (i < cut ? 0 : n)) })
  }
  return kept
}

/** Drafted tokens after the first so many. */
function draftedIn(spans: readonly Span[] = [], tokens: number): number {
  let left = tokens
  let drafted = 0
  for (const { chars } of spans) {
    const cut = Math.min(left, chars.length)
    left -= cut
    drafted += chars.length - Math.max(cut, 1)
    if (chars.length === 0) drafted += 1
  }
  return drafted
}
