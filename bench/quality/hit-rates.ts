// What a window's votes have in common with the attention of generated tokens.
// Source: SnapKV paper, "Observations": hit rate H = |I and J| / |J|, I the rows with the most votes, J those a generated token attends to
// with more than a threshold.

/** Of one layer: f32 [ranges, query heads, tokens], as the addon's forwardVotes gives them. */
export interface LayerVotes {
  readonly votes: Float32Array
  readonly queryHeads: number
  readonly tokens: number
}

/** [tokens]: what one query head of a range pays to every token. */
export function headVotes({ votes, queryHeads, tokens }: LayerVotes, range: number, queryHead: number): Float32Array {
  const at = (range * queryHeads + queryHead) * tokens
  return votes.subarray(at, at + tokens)
}

/** [n]: 1 for the `count` largest values, ties to the lower index. */
export function topMask(values: Float32Array, count: number): Uint8Array {
  const mask = new Uint8Array(values.length)
  if (count <= 0) return mask
  const threshold = values.toSorted()[Math.max(0, values.length - count)]!
  let left = count
  for (let i = 0; i < values.length; i++) {
    if (values[i]! > threshold) {
      mask[i] = 1
      left--
    }
  }
  for (let i = 0; i < values.length && left > 0; i++) {
    if (values[i] === threshold) {
      mask[i] = 1
      left--
    }
  }
  return mask
}

export interface Hits {
  /** Rows that were important and chosen. */
  readonly hits: number
  /** Rows that were important. */
  readonly important: number
}

/**
 * Over all query heads of a layer: of the rows before the window that a query attends to with more than `threshold`, how many are among the
 * window's favourite `share`.
 *
 * @param chosen [Hq] masks of the rows before the window
 * @param query range of the query
 */
export function hitsOf(layer: LayerVotes, chosen: readonly Uint8Array[], query: number, threshold: number): Hits {
  let hits = 0
  let important = 0
  for (const [head, mask] of chosen.entries()) {
    const attention = headVotes(layer, query, head)
    for (let row = 0; row < mask.length; row++) {
      if (attention[row]! <= threshold) continue
      important++
      hits += mask[row]!
    }
  }
  return { hits, important }
}

/** [Hq] masks of the floor(share * rows) rows that a window's query heads vote for most, each head for itself. */
export function favourites(layer: LayerVotes, window: number, rows: number, share: number): Uint8Array[] {
  return Array.from({ length: layer.queryHeads }, (_, head) =>
    topMask(headVotes(layer, window, head).subarray(0, rows), Math.floor(share * rows)),
  )
}

export interface Mass {
  /** Attention to rows of the prompt that were kept. */
  readonly kept: number
  /** Attention to all rows of the prompt. */
  readonly whole: number
}

/**
 * Over all query heads of a layer, what one query pays to the prompt, and to the rows of it that were kept.
 *
 * @param kept per KV head, rows of the prompt
 */
export function massOf(
  layer: LayerVotes,
  kept: readonly ArrayLike<number>[],
  query: number,
  promptTokens: number,
): Mass {
  const group = layer.queryHeads / kept.length
  let keptMass = 0
  let whole = 0
  for (let head = 0; head < layer.queryHeads; head++) {
    const attention = headVotes(layer, query, head)
    for (let row = 0; row < promptTokens; row++) whole += attention[row]!
    const rows = kept[Math.floor(head / group)]!
    for (let i = 0; i < rows.length; i++) keptMass += attention[rows[i]!]!
  }
  return { kept: keptMass, whole }
}
