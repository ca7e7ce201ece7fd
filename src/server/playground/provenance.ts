// Which token brought which text: the spans of a delta, laid over it.

/** The text of one token, with the step that made it and how deep in the draft it stood; 0 is the base model's own token. */
export interface Piece {
  readonly text: string
  readonly step: number
  readonly depth: number
}

/** A delta as the client hands it out, as far as it says where text came from. */
export interface Delta {
  readonly text: string
  readonly n: number
  readonly spans?: readonly { readonly step: number; readonly chars: readonly number[] }[] | undefined
}

/** A delta's text, token by token. Tokens that brought none yet, in the middle of a character, are left out. */
export function piecesOf({ text, spans = [] }: Delta): Piece[] {
  const pieces: Piece[] = []
  let begin = 0
  for (const { step, chars } of spans) {
    chars.forEach((length, depth) => {
      if (length > 0) pieces.push({ text: text.slice(begin, begin + length), step, depth })
      begin += length
    })
  }
  // What no token claims, such as text that was held back to the end, is the base model's.
  if (begin < text.length) pieces.push({ text: text.slice(begin), step: spans.at(-1)?.step ?? 0, depth: 0 })
  return pieces
}
