// How often each draft of each Medusa head is the token to come: the table that trees are grown from.
import { type Path, RANK_COUNT } from './choices.js'

/** [medusaHead][rank]: the share of positions at which that draft is the token it stands for. Rows fall from rank to rank. */
export type RankAccuracy = readonly (readonly number[])[]

/**
 * A node of a tree that was grown from measurements: its path, and how often it is right where its parent is. Right drafts come in runs, so a
 * share below a right parent is larger than the one in the table above, which is over all positions.
 */
export interface GrownPath {
  readonly ranks: Path
  readonly share: number
}

/** How often a node is right where its parent is, by its path. */
export type ShareOf = (path: Path) => number

/** As if heads were right independently of each other. */
export const independentShares =
  (accuracy: RankAccuracy): ShareOf =>
  (path) =>
    accuracy[path.length - 1]?.[path.at(-1)!] ?? 0

/** As measured path by path, and otherwise as given. */
export function grownShares(grown: readonly GrownPath[], otherwise: ShareOf): ShareOf {
  const shares = new Map(grown.map(({ ranks, share }) => [ranks.join(), share]))
  return (path) => shares.get(path.join()) ?? otherwise(path)
}

/**
 * Where nothing was measured: about what published heads reach on chat. It only says where to begin; acceptance is learnt as text is made.
 */
export const NOMINAL_ACCURACY: RankAccuracy = [1, 0.8, 0.64, 0.51].map((deeper) =>
  [0.58, 0.12, 0.055, 0.035, 0.025, 0.018, 0.014, 0.011, 0.009, 0.007].map((share) => share * deeper),
)

/**
 * A measured table as growing a tree needs it: rows that never rise, of at most ten ranks. Counting noise makes neighbours of nearly equal
 * share change places; they get the mean of what they have (pool adjacent violators), which keeps each row's sum.
 */
export function smoothAccuracy(measured: RankAccuracy): RankAccuracy {
  return measured.map((row) => {
    const pools: { sum: number; count: number }[] = []
    for (const share of row.slice(0, RANK_COUNT)) {
      let pool = { sum: share, count: 1 }
      for (let last = pools.at(-1); last && last.sum / last.count < pool.sum / pool.count; last = pools.at(-1)) {
        pools.pop()
        pool = { sum: pool.sum + last.sum, count: pool.count + last.count }
      }
      pools.push(pool)
    }
    return pools.flatMap(({ sum, count }) => new Array<number>(count).fill(sum / count))
  })
}
