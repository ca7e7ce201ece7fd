// The trees a generation may choose among from step to step: nested prefixes of one list of paths.
import {
  type GrownPath,
  grownShares,
  independentShares,
  NOMINAL_ACCURACY,
  type RankAccuracy,
  type ShareOf,
  smoothAccuracy,
} from './accuracy.js'
import { CHOICES, type Choices, firstPaths, NODE_LIMIT, type Path, RANK_COUNT } from './choices.js'
import { buildTree, PLAIN_TREE, type Tree } from './tree.js'

/** Node counts an automatic choice is made among. Costs hardly differ in between, and kernels work in groups of such sizes. */
export const AUTO_SIZES = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]

/**
 * Trees of several sizes, each the first paths of the same list. Nodes are numbered by that list, 0 the root: the tree of N nodes has the
 * nodes below N (a `Tree` numbers its own nodes otherwise).
 */
export class TreeFamily {
  /** As a user writes it. */
  readonly name: string
  /** Node counts on offer, root included, ascending. */
  readonly sizes: readonly number[]
  /** f64 [N]: how likely a node is right where its parent is; 1 for the root. */
  readonly shares: Float64Array
  /** Of the largest tree. */
  readonly depth: number
  /** Of the largest tree. */
  readonly maxRank: number
  /** i32 [N]: -1 for the root. */
  readonly parents: Int32Array
  /** i32 [N]: Medusa heads it takes to draft a node. */
  readonly depths: Int32Array
  /** i32 [N]: -1 for the root. */
  readonly ranks: Int32Array
  /** By node. */
  readonly children: readonly (readonly number[])[]
  /** Of all nodes but the root, in their order. */
  readonly paths: Choices
  /** i32 [N, RANK_COUNT]: a node's child of each rank, -1 where there is none. */
  readonly #childAt: Int32Array
  readonly #trees = new Map<number, Tree>()

  /** @param whole the largest tree itself, where it has a name of its own. */
  constructor(name: string, paths: Choices, sizes: readonly number[], shareOf: ShareOf, whole?: Tree) {
    const count = paths.length + 1
    this.name = name
    this.sizes = sizes
    this.paths = paths
    this.shares = new Float64Array(count).fill(1)
    this.parents = new Int32Array(count).fill(-1)
    this.depths = new Int32Array(count)
    this.ranks = new Int32Array(count).fill(-1)
    this.#childAt = new Int32Array(count * RANK_COUNT).fill(-1)
    const children = Array.from({ length: count }, (): number[] => [])
    const nodeOf = new Map<string, number>([['', 0]])
    for (const [index, path] of paths.entries()) {
      const node = index + 1
      const parent = nodeOf.get(path.slice(0, -1).join())!
      const rank = path.at(-1)!
      nodeOf.set(path.join(), node)
      children[parent]!.push(node)
      this.#childAt[parent * RANK_COUNT + rank] = node
      this.parents[node] = parent
      this.depths[node] = path.length
      this.ranks[node] = rank
      this.shares[node] = shareOf(path)
    }
    this.children = children
    this.depth = Math.max(...this.depths)
    this.maxRank = Math.max(...this.ranks)
    if (whole) this.#trees.set(count, whole)
  }

  /** Nodes of the largest tree. */
  get nodeCount(): number {
    return this.shares.length
  }

  /** -1 when the family has no such child. */
  childOf(node: number, rank: number): number {
    return this.#childAt[node * RANK_COUNT + rank] ?? -1
  }

  /** The tree of that many nodes: the same object each time. */
  tree(nodeCount: number): Tree {
    if (nodeCount === 1) return PLAIN_TREE
    let tree = this.#trees.get(nodeCount)
    if (!tree) {
      tree = buildTree(firstPaths(this.paths, nodeCount - 1), `${this.name} (${nodeCount} nodes)`)
      this.#trees.set(nodeCount, tree)
    }
    return tree
  }
}

/**
 * Paths in the order in which they add most to the expected accept length, each after its parent: whatever the size, the first ones are
 * the best tree of that size, given that heads are right independently of each other.
 *
 * Source: Medusa paper, "Searching for the Optimized Tree Construction"
 *
 * @param accuracy rows that never rise.
 */
export function growPaths(accuracy: RankAccuracy, medusaHeads: number): Choices {
  const depth = Math.min(medusaHeads, accuracy.length)
  const grown: Path[] = []
  const candidates: { path: Path; parentValue: number; value: number }[] = []
  const offer = (path: Path, parentValue: number): void => {
    const share = accuracy[path.length - 1]?.[path.at(-1)!]
    if (path.length <= depth && share !== undefined) candidates.push({ path, parentValue, value: parentValue * share })
  }
  offer([0], 1)
  while (grown.length < NODE_LIMIT - 1 && candidates.length > 0) {
    // The first of the largest: shorter paths are offered earlier, so the order does not depend on anything else.
    const at = candidates.reduce((best, { value }, i) => (value > candidates[best]!.value ? i : best), 0)
    const [{ path, parentValue, value }] = candidates.splice(at, 1) as [(typeof candidates)[number]]
    grown.push(path)
    offer([...path.slice(0, -1), path.at(-1)! + 1], parentValue)
    offer([...path, 0], value)
  }
  return grown
}

/** Plain decoding alone. */
export const PLAIN_FAMILY = new TreeFamily('plain', [], [1], () => 0)

/** What is known of heads' drafts. */
export interface MeasuredHeads {
  readonly accuracy: RankAccuracy | null
  /** The largest tree there is use for, in the order it was grown: its first paths are the best smaller ones. Null: to be grown. */
  readonly grown: readonly GrownPath[] | null
}

/** Of heads nobody measured. */
export const UNMEASURED_HEADS: MeasuredHeads = { accuracy: null, grown: null }

/**
 * The trees behind `auto`: as they were grown where the heads were calibrated; else grown from the heads' accuracies; where there are none, the
 * first paths of `mc_sim_7b_63`, with what is nominally expected of them.
 *
 * @param medusaHeads how deep a tree may be.
 */
export function autoFamily(measured: MeasuredHeads, medusaHeads: number): TreeFamily {
  if (medusaHeads === 0) return PLAIN_FAMILY
  const paths = autoPaths(measured, medusaHeads)
  const sizes = AUTO_SIZES.filter((size) => size < paths.length + 1)
  return new TreeFamily('auto', paths, [...sizes, paths.length + 1], sharesBy(measured))
}

function autoPaths({ accuracy, grown }: MeasuredHeads, medusaHeads: number): Choices {
  const fitting = (paths: Choices): Choices => paths.filter((path) => path.length <= medusaHeads)
  if (grown) return fitting(grown.map(({ ranks }) => ranks))
  return accuracy ? growPaths(smoothAccuracy(accuracy), medusaHeads) : fitting(CHOICES.mc_sim_7b_63)
}

/** A node's share does not depend on the family it is in: counting noise in a table is smoothed for a named tree as for those that are grown. */
function sharesBy({ accuracy, grown }: MeasuredHeads): ShareOf {
  const independent = independentShares(accuracy ? smoothAccuracy(accuracy) : NOMINAL_ACCURACY)
  return grown ? grownShares(grown, independent) : independent
}

/** One tree, or none of it. */
export function singleFamily(tree: Tree, measured: MeasuredHeads): TreeFamily {
  if (tree.nodeCount === 1) return PLAIN_FAMILY
  return new TreeFamily(tree.name, tree.choices, [tree.nodeCount], sharesBy(measured), tree)
}
