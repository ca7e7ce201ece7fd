// Oracle of compression by votes: who votes, how votes become scores, which rows stay.
import { type AttentionCase, causalRows, weights } from './attention.js'

/** [Hq, voteRows]: attention each row gets from the tokens of the case, added up. Rows past voteRows take part in the softmax alone. */
export function votes(c: AttentionCase, voteRows: number): number[] {
  const out = new Array<number>(c.queryHeads * voteRows).fill(0)
  for (let h = 0; h < c.queryHeads; h++) {
    const kvHead = Math.floor(h / (c.queryHeads / c.kvHeads))
    for (let t = 0; t < c.tokens; t++) {
      const sees = causalRows(c, t, kvHead)
      const p = weights(c, t, h, sees)
      sees.forEach((row, j) => {
        if (row < voteRows) out[h * voteRows + row]! += p[j]!
      })
    }
  }
  return out
}

/** [n]: mean or maximum over the query heads of a KV head, of [G, n]. */
export function reduceGroup(groupVotes: readonly ArrayLike<number>[], how: 'mean' | 'max'): number[] {
  return Array.from(groupVotes[0]!, (_, row) => {
    const all = groupVotes.map((head) => head[row]!)
    return how === 'max' ? Math.max(...all) : all.reduce((a, b) => a + b, 0) / all.length
  })
}

/** [n]: maximum or average of the scores around each row. Outside there is nothing for a maximum and a zero for an average. */
export function poolScores(scores: readonly number[], how: 'max' | 'avg', size: number): number[] {
  const reach = (size - 1) / 2
  return scores.map((_, row) => {
    const near = scores.slice(Math.max(0, row - reach), row + reach + 1)
    return how === 'max' ? Math.max(...near) : near.reduce((a, b) => a + b, 0) / size
  })
}

/** The `count` rows of largest score, ties to the lower row, ascending. */
export function bestRows(scores: readonly number[], count: number): number[] {
  return scores
    .map((_, row) => row)
    .sort((a, b) => scores[b]! - scores[a]! || a - b)
    .slice(0, count)
    .sort((a, b) => a - b)
}
