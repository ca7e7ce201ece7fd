// Medusa heads' top-K to one token per tree node.
import { GorgonError } from '../errors.js'
import type { Drafts } from '../native.js'
import type { Tree } from './tree.js'

/**
 * The tokens to verify.
 *
 * Heads are independent of each other, so a node's token depends on its depth and rank alone, not on its parent.
 *
 * @param drafts of the last prefill or commit, whose request asked for `topK` drafts of at least `tree.depth` Medusa heads.
 * @param topK row length of `drafts.tokens`; may be larger than the tree needs, as when its deeper nodes were cut off.
 * @returns i32 [N]: node 0 is `drafts.root`.
 */
export function draft(tree: Tree, drafts: Drafts, topK: number): Int32Array {
  if (topK <= tree.maxRank || drafts.tokens.length < tree.depth * topK) {
    throw new GorgonError(
      'ERR_INTERNAL',
      `draft: tree "${tree.name}" needs ${tree.depth} rows of ${tree.maxRank + 1} drafts, but there are ${drafts.tokens.length} drafts in rows of ${topK}. This is a bug in gorgon, please report it.`,
      { tree: tree.name, topK, drafts: drafts.tokens.length },
    )
  }
  const tokens = new Int32Array(tree.nodeCount)
  tokens[0] = drafts.root
  for (let node = 1; node < tree.nodeCount; node++) {
    tokens[node] = drafts.tokens[(tree.depths[node]! - 1) * topK + tree.ranks[node]!]!
  }
  return tokens
}
