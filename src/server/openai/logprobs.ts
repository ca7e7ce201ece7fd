// Log-probabilities of tokens as OpenAI writes them: a list of tokens, or lists side by side.
import type { Chunk, TokenLogprob } from '../../index.js'

/** UTF-8 bytes of a token: where it is a part of a character, its text says nothing. */
export type BytesOf = (id: number) => Uint8Array

export interface TopLogprob {
  readonly token: string
  readonly logprob: number
  readonly bytes: number[]
}

/** As chat completions and responses have it. */
export interface ListedLogprob extends TopLogprob {
  readonly top_logprobs: TopLogprob[]
}

/** JSON has no infinity; OpenAI writes this for what cannot be. */
const IMPOSSIBLE = -9999

const finite = (logprob: number): number => Math.max(IMPOSSIBLE, logprob)

export function listedLogprobs(logprobs: readonly TokenLogprob[], bytesOf: BytesOf): ListedLogprob[] {
  const written = ({ id, token, logprob }: Pick<TokenLogprob, 'id' | 'token' | 'logprob'>): TopLogprob => ({
    token,
    logprob: finite(logprob),
    bytes: [...bytesOf(id)],
  })
  return logprobs.map((chosen) => ({ ...written(chosen), top_logprobs: chosen.top.map(written) }))
}

/** As completions have it. */
export interface ColumnLogprobs {
  readonly tokens: string[]
  readonly token_logprobs: number[]
  /** By token, the chosen one among them. */
  readonly top_logprobs: Record<string, number>[]
  /** Where in the choice's text each token begins, in characters. */
  readonly text_offset: number[]
}

/** Characters as every language counts them: code points. */
const lengthOf = (text: string): number => [...text].length

/** Follows a choice's text, for the offsets of its tokens. */
export class LogprobColumns {
  #offset = 0

  of({ logprobs = [], pieces }: Pick<Chunk, 'logprobs' | 'pieces'>): ColumnLogprobs {
    const columns: ColumnLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
    for (const [i, { token, logprob, top }] of logprobs.entries()) {
      columns.tokens.push(token)
      columns.token_logprobs.push(finite(logprob))
      const byToken = new Map(top.map((one) => [one.token, finite(one.logprob)]))
      // Two tokens may be spelled alike; the likelier one is meant, and they come best first.
      for (const one of top.toReversed()) byToken.set(one.token, finite(one.logprob))
      if (!byToken.has(token)) byToken.set(token, finite(logprob))
      columns.top_logprobs.push(Object.fromEntries(byToken))
      columns.text_offset.push(this.#offset)
      this.#offset += lengthOf(pieces[i] ?? '')
    }
    return columns
  }
}

/** Of several chunks as of one. */
export function joinColumns(all: readonly ColumnLogprobs[]): ColumnLogprobs {
  return {
    tokens: all.flatMap(({ tokens }) => tokens),
    token_logprobs: all.flatMap(({ token_logprobs }) => token_logprobs),
    top_logprobs: all.flatMap(({ top_logprobs }) => top_logprobs),
    text_offset: all.flatMap(({ text_offset }) => text_offset),
  }
}
