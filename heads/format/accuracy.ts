// accuracy.json of a heads folder: how often drafts of each head are right, as their maker measured it, and the tree grown from that.
import { z } from 'zod'

const share = z.number().min(0).max(1)

/** Shares of one head add up to at most one: a position has one right token. Sums of rounded numbers may miss it by a little. */
const isAtMostAll = (shares: readonly number[]): boolean => shares.reduce((sum, value) => sum + value, 0) <= 1.001

const Row = z
  .array(share)
  .min(1)
  .max(1024)
  .refine(isAtMostAll, 'shares of one head that add up to at most 1')
  .readonly()

/** Ranks from the root down. As many paths, and ranks as high, as a tree may have. */
const GrownPath = z.object({ ranks: z.array(z.int().min(0).max(9)).min(1).max(63).readonly(), share }).readonly()

const Paths = z
  .array(GrownPath)
  .min(1)
  .max(63)
  .refine(growsFromRoot, 'paths that come once each, and after their parents')
  .refine(hasOneRightChild, 'shares of siblings that add up to at most 1')
  .readonly()

function growsFromRoot(paths: readonly z.output<typeof GrownPath>[]): boolean {
  const known = new Set([''])
  return paths.every(({ ranks }) => {
    const isNew = known.has(ranks.slice(0, -1).join()) && !known.has(ranks.join())
    known.add(ranks.join())
    return isNew
  })
}

function hasOneRightChild(paths: readonly z.output<typeof GrownPath>[]): boolean {
  const siblings = new Map<string, number[]>()
  for (const { ranks, share } of paths) {
    const parent = ranks.slice(0, -1).join()
    siblings.set(parent, [...(siblings.get(parent) ?? []), share])
  }
  return [...siblings.values()].every(isAtMostAll)
}

export const HeadsAccuracy = z.looseObject({
  /** [medusaHead][rank]: share of positions at which the head's draft of that rank, 0 the best, is the token it stands for. */
  rank_accuracy: z.array(Row).min(1).max(64).readonly(),
  /** [medusaHead]: positions that the shares are of. */
  counts: z.array(z.int().min(0)).max(64).readonly().optional(),
  /**
   * The tree of 64 nodes, or as many as there are drafts for, in the order it was grown: its first paths are the best smaller trees. The share
   * of a path is that of the decode steps that come to its parent and go on to it.
   */
  paths: Paths.optional(),
})
export type HeadsAccuracy = z.output<typeof HeadsAccuracy>
