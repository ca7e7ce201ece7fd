// Oracle of attention: every query head over the rows it sees, written out; causal over a text, or over a tree's paths.

export interface AttentionShape {
  queryHeads: number
  kvHeads: number
  headDim: number
}

export interface AttentionCase extends AttentionShape {
  /** [T, Hq, D]. */
  q: ArrayLike<number>
  /** [Hkv, rows, D]: the committed rows, then those of the T tokens. */
  k: ArrayLike<number>
  v: ArrayLike<number>
  /** Committed rows, R. */
  rows: number
  tokens: number
  /** Of the first token, or of a tree's root. */
  position: number
  /** Rows this many positions back, or more, are hidden; 0 hides none. */
  window: number
  /** [Hkv, rows] of every row, when a window needs them. */
  positions: ArrayLike<number> | null
}

/** Softmax over the rows `sees` of q . k / sqrt(D), for one query head. */
export function weights(c: AttentionCase, token: number, queryHead: number, sees: readonly number[]): number[] {
  const { queryHeads, kvHeads, headDim, rows, tokens } = c
  const kvHead = Math.floor(queryHead / (queryHeads / kvHeads))
  const scores = sees.map((row) => {
    let dot = 0
    for (let d = 0; d < headDim; d++) {
      dot += c.q[(token * queryHeads + queryHead) * headDim + d]! * c.k[(kvHead * (rows + tokens) + row) * headDim + d]!
    }
    return dot / Math.sqrt(headDim)
  })
  const top = Math.max(...scores)
  const shares = scores.map((score) => Math.exp(score - top))
  const sum = shares.reduce((a, b) => a + b, 0)
  return shares.map((share) => share / sum)
}

/** [T, Hq, D] when token t, of KV head g, sees the rows `seenBy(t, g)`. */
export function attention(c: AttentionCase, seenBy: (token: number, kvHead: number) => readonly number[]): number[] {
  const { queryHeads, kvHeads, headDim, rows, tokens } = c
  const out: number[] = []
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < queryHeads; h++) {
      const kvHead = Math.floor(h / (queryHeads / kvHeads))
      const sees = seenBy(t, kvHead)
      const p = weights(c, t, h, sees)
      for (let d = 0; d < headDim; d++) {
        let sum = 0
        sees.forEach((row, j) => {
          sum += p[j]! * c.v[(kvHead * (rows + tokens) + row) * headDim + d]!
        })
        out.push(sum)
      }
    }
  }
  return out
}

const inWindow = (c: AttentionCase, position: number, rowPosition: number): boolean =>
  c.window === 0 || rowPosition > position - c.window

const rowPosition = (c: AttentionCase, kvHead: number, row: number): number =>
  c.positions === null ? row : c.positions[kvHead * (c.rows + c.tokens) + row]!

/** The rows token t of a text sees: all before it and its own, within the window. */
export function causalRows(c: AttentionCase, token: number, kvHead: number): number[] {
  const position = c.position + token
  return Array.from({ length: c.rows + token + 1 }, (_, row) => row).filter((row) =>
    inWindow(c, position, rowPosition(c, kvHead, row)),
  )
}

/** The rows node n of a tree sees: the committed ones and its path from the root, within the window. */
export function treeRows(c: AttentionCase, parents: ArrayLike<number>, node: number, kvHead: number): number[] {
  const path: number[] = []
  for (let n = node; n >= 0; n = parents[n]!) path.unshift(n)
  const position = c.position + path.length - 1
  const committed = Array.from({ length: c.rows }, (_, row) => row).filter((row) =>
    inWindow(c, position, rowPosition(c, kvHead, row)),
  )
  const own = path.filter((_, depth) => inWindow(c, position, c.position + depth)).map((n) => c.rows + n)
  return [...committed, ...own]
}

export const causalAttention = (c: AttentionCase): number[] =>
  attention(c, (token, kvHead) => causalRows(c, token, kvHead))

export const treeAttention = (c: AttentionCase, parents: ArrayLike<number>): number[] =>
  attention(c, (node, kvHead) => treeRows(c, parents, node, kvHead))
