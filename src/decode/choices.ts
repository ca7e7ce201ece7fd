// Named tree shapes, as data, and the small trees made from them.
import { GorgonError } from '../errors.js'

/** Ranks from the root down: `[2, 0]` is the best draft of Medusa head 1 below the third best of head 0. */
export type Path = readonly number[]
/** Paths of all nodes but the root, each after its parent. */
export type Choices = readonly Path[]

/** Drafts per Medusa head a tree may name: ranks are 0 to 9. */
export const RANK_COUNT = 10
/** Nodes of a tree, root included: an ancestor mask is one 64-bit word. */
export const NODE_LIMIT = 64

/**
 * Paths written as their ranks, one digit each, in the order they were grown: by falling expected gain, so that the first n paths
 * are the best tree of n + 1 nodes under the same statistics.
 */
const MC_SIM_7B_63 =
  '0 00 1 01 2 000 10 02 3 03 4 04 20 05 001 5 06 6 07 010 11 7 08 002 30 09 8 9 100 020 12 003 40 21 004 005 0000 011 006 030 ' +
  '50 13 007 008 009 60 040 14 70 012 200 31 22 80 050 15 101 021 90 060 0001 16 070'

/** Children of each inner node, as `path:count`; the root's path is empty. A node with n children has those of ranks 0 to n - 1. */
const CHILD_COUNTS = {
  vicuna_7b_stage1: ':10 0:10 1:7 2:4 3:3 4:2 5:2 6:1 7:1 8:1 9:1 00:9 01:3 02:2 03:1 04:1 05:1 10:2 20:1 000:1',
  vicuna_7b_stage1_ablation:
    ':10 0:10 1:4 2:2 3:2 4:1 5:1 6:1 00:10 01:4 02:2 03:1 04:1 05:1 10:3 11:1 20:1 30:1 000:4 001:1 002:1 010:1',
  vicuna_7b_stage2:
    ':10 0:10 1:5 2:2 3:2 4:1 5:1 6:1 7:1 00:9 01:4 02:2 03:1 04:1 05:1 10:3 11:1 20:1 000:4 001:1 002:1 010:1',
  vicuna_13b_stage1: ':10 0:10 1:7 2:4 3:2 4:2 5:1 6:1 7:1 8:1 00:10 01:4 02:2 03:1 04:1 05:1 10:2 11:1 20:1 000:1',
  vicuna_13b_stage2:
    ':10 0:10 1:4 2:2 3:1 4:1 5:1 00:10 01:4 02:2 03:1 04:1 05:1 10:3 11:1 20:1 30:1 000:4 001:2 002:1 010:1 100:1',
  vicuna_33b_stage1: ':10 0:10 1:8 2:5 3:3 4:2 5:2 6:1 7:1 8:1 9:1 00:9 01:3 02:2 03:1 04:1 10:2 20:1',
  vicuna_33b_stage2:
    ':10 0:10 1:5 2:3 3:2 4:1 5:1 6:1 7:1 00:10 01:4 02:2 03:1 04:1 05:1 10:3 11:1 20:1 000:3 001:1 010:1',
  zephyr_stage2: ':10 0:10 1:6 2:4 3:2 4:2 5:1 6:1 7:1 00:10 01:4 02:2 03:1 04:1 05:1 10:2 11:1 20:1 000:2 001:1',
} as const

export type TreeName = 'mc_sim_7b_63' | keyof typeof CHILD_COUNTS

const parsePath = (digits: string): Path => Array.from(digits, Number)

/** The paths that child counts describe, parents first. */
function expandChildCounts(text: string): Choices {
  return text.split(' ').flatMap((entry) => {
    const [path = '', count = ''] = entry.split(':')
    return Array.from({ length: Number(count) }, (_, rank) => [...parsePath(path), rank])
  })
}

/**
 * The trees that ship with published Medusa heads: 63 paths each, for four heads (`vicuna_33b_stage1`: three). `mc_sim_7b_63` is in
 * the order it was grown, the others are sorted by length, then rank.
 *
 * Source: FasterDecoding/Medusa:medusa/model/medusa_choices.py, rewritten here as child counts.
 */
export const CHOICES: Readonly<Record<TreeName, Choices>> = {
  mc_sim_7b_63: MC_SIM_7B_63.split(' ').map(parsePath),
  ...(Object.fromEntries(Object.entries(CHILD_COUNTS).map(([name, text]) => [name, expandChildCounts(text)])) as Record<
    keyof typeof CHILD_COUNTS,
    Choices
  >),
}

/**
 * A tree without branches: the best draft of each of the first `depth` Medusa heads.
 *
 * @throws {GorgonError} ERR_TREE when depth is not from 1 to 63.
 */
export function chain(depth: number): Choices {
  if (!Number.isInteger(depth) || depth < 1 || depth >= NODE_LIMIT) {
    throw new GorgonError(
      'ERR_TREE',
      `A chain of depth ${depth} cannot be built: use a whole number from 1 to ${NODE_LIMIT - 1}. For plain decoding turn speculation off.`,
      { depth, maximum: NODE_LIMIT - 1 },
    )
  }
  return Array.from({ length: depth }, (_, index) => new Array<number>(index + 1).fill(0))
}

/**
 * The first `pathCount` paths, itself a tree: in every list above a path comes after its parent.
 *
 * @throws {GorgonError} ERR_TREE when there are not that many.
 */
export function firstPaths(choices: Choices, pathCount: number): Choices {
  if (!Number.isInteger(pathCount) || pathCount < 0 || pathCount > choices.length) {
    throw new GorgonError(
      'ERR_TREE',
      `The first ${pathCount} paths of a tree of ${choices.length} cannot be taken: use a whole number from 0 to ${choices.length}.`,
      { pathCount, maximum: choices.length },
    )
  }
  return choices.slice(0, pathCount)
}
