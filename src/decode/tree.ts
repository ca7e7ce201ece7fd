// Choices to nodes: parent, depth, rank, children and ancestor mask of each.
import { GorgonError } from '../errors.js'
import {
  CHOICES,
  type Choices,
  chain,
  firstPaths,
  NODE_LIMIT,
  type Path,
  RANK_COUNT,
  type TreeName,
} from './choices.js'

/**
 * The static shape of a draft. Node 0 is the root, a token already certain; node n is the n-th choice, ordered by length, then by
 * ranks, so that a parent comes before its children and siblings stand in rank order.
 */
export interface Tree {
  /** As `parseTree` takes it, where it came from there. */
  readonly name: string
  /** Root included: 1 to 64. */
  readonly nodeCount: number
  /** i32 [N]: -1 for the root. */
  readonly parents: Int32Array
  /** i32 [N]: edges from the root; depth d is drafted by Medusa head d - 1. */
  readonly depths: Int32Array
  /** i32 [N]: which draft of its Medusa head, 0 the best; -1 for the root. */
  readonly ranks: Int32Array
  /** u64 [N]: bit j of word n is set when node j is n or an ancestor of n. */
  readonly ancestorMasks: BigUint64Array
  /** Per node, in rank order. */
  readonly children: readonly (readonly number[])[]
  /** Of the deepest node: how many Medusa heads the tree needs. */
  readonly depth: number
  /** Largest rank used: `maxRank + 1` drafts per Medusa head are needed; -1 when there are none. */
  readonly maxRank: number
  /** Node n's path at n - 1. */
  readonly choices: Choices
}

/**
 * A tree as a user writes it:
 *
 * - `'auto'`: the engine's choice at each step; see tree-family.ts.
 * - a name in `CHOICES`;
 * - a number N (or its digits): the tree of N nodes, root included, made of the first N - 1 paths of `mc_sim_7b_63`;
 * - `'chain:N'`: the best draft of each of the first N Medusa heads;
 * - `{ paths }`: any tree of up to 63 paths, every prefix of a path listed.
 */
export type TreeOption = string | number | { readonly paths: Choices }

const showPath = (path: Path): string => `[${path.join(', ')}]`

function byLengthThenRanks(a: Path, b: Path): number {
  if (a.length !== b.length) return a.length - b.length
  const at = a.findIndex((rank, index) => rank !== b[index])
  return at < 0 ? 0 : a[at]! - b[at]!
}

function refuse(name: string, path: Path, index: number, what: string): GorgonError {
  const shown = Array.isArray(path) ? showPath(path) : String(path)
  return new GorgonError('ERR_TREE', `Tree "${name}": path ${shown} (number ${index}) ${what}`, {
    tree: name,
    path,
    index,
  })
}

function checkPath(name: string, path: Path, index: number): void {
  if (!Array.isArray(path)) throw refuse(name, path, index, 'is not an array. Write a path as ranks, such as [0, 2].')
  if (path.length === 0) throw refuse(name, path, index, 'is empty. The root is implied: leave it out.')
  const bad = path.find((rank) => !Number.isInteger(rank) || rank < 0 || rank >= RANK_COUNT)
  if (bad !== undefined) {
    throw refuse(name, path, index, `has rank ${bad}. Ranks are whole numbers from 0 to ${RANK_COUNT - 1}.`)
  }
}

/**
 * The nodes of a tree.
 *
 * @param choices up to 63 paths in any order; none makes the one-node tree, which is plain decoding.
 * @throws {GorgonError} ERR_TREE when a path is malformed, repeated or lacks its parent, or there are too many; the message names it.
 */
export function buildTree(choices: Choices, name = 'custom'): Tree {
  if (choices.length >= NODE_LIMIT) {
    throw new GorgonError(
      'ERR_TREE',
      `Tree "${name}" has ${choices.length} paths, but at most ${NODE_LIMIT - 1} fit beside the root. Remove ${choices.length - NODE_LIMIT + 1}.`,
      { tree: name, pathCount: choices.length, maximum: NODE_LIMIT - 1 },
    )
  }
  choices.forEach((path, index) => {
    checkPath(name, path, index)
  })

  const sorted = choices.map((path) => [...path]).sort(byLengthThenRanks)
  const given = (path: Path): number => choices.findLastIndex((other) => byLengthThenRanks(other, path) === 0)
  const nodeCount = sorted.length + 1
  const parents = new Int32Array(nodeCount).fill(-1)
  const depths = new Int32Array(nodeCount)
  const ranks = new Int32Array(nodeCount).fill(-1)
  const ancestorMasks = new BigUint64Array(nodeCount)
  const children: number[][] = Array.from({ length: nodeCount }, () => [])
  const nodeOf = new Map<string, number>([['', 0]])
  ancestorMasks[0] = 1n
  sorted.forEach((path, index) => {
    const node = index + 1
    const parent = nodeOf.get(path.slice(0, -1).join())
    if (parent === undefined) {
      const missing = showPath(path.slice(0, -1))
      throw refuse(name, path, given(path), `has no parent: ${missing} is not listed. List every prefix of a path.`)
    }
    if (nodeOf.has(path.join())) throw refuse(name, path, given(path), 'is listed twice. Remove one.')
    nodeOf.set(path.join(), node)
    parents[node] = parent
    depths[node] = path.length
    ranks[node] = path.at(-1)!
    ancestorMasks[node] = ancestorMasks[parent]! | (1n << BigInt(node))
    children[parent]!.push(node)
  })
  const depth = Math.max(...depths)
  return {
    name,
    nodeCount,
    parents,
    depths,
    ranks,
    ancestorMasks,
    children,
    depth,
    maxRank: Math.max(...ranks),
    choices: sorted,
  }
}

/** The root alone: with it a decode step is plain decoding. */
export const PLAIN_TREE: Tree = buildTree([], 'plain')

const limited = new WeakMap<Tree, Tree[]>()

/**
 * The tree without nodes deeper than `maxDepth`; the tree itself when there are none. Used where few tokens are left to make: a path
 * longer than the text may become is wasted work, and its positions may not exist.
 */
export function limitDepth(tree: Tree, maxDepth: number): Tree {
  if (maxDepth >= tree.depth) return tree
  if (!(maxDepth >= 1)) return PLAIN_TREE
  const depth = Math.floor(maxDepth)
  let byDepth = limited.get(tree)
  if (!byDepth) {
    byDepth = []
    limited.set(tree, byDepth)
  }
  byDepth[depth] ??= buildTree(
    tree.choices.filter((path) => path.length <= depth),
    `${tree.name} to depth ${depth}`,
  )
  return byDepth[depth]
}

const prefixTree = (nodeCount: number): Tree =>
  nodeCount === 1 ? PLAIN_TREE : buildTree(firstPaths(CHOICES.mc_sim_7b_63, nodeCount - 1), String(nodeCount))

function namedTree(spec: string): Tree {
  if (Object.hasOwn(CHOICES, spec)) return buildTree(CHOICES[spec as TreeName], spec)
  const chained = /^chain:(\d+)$/.exec(spec)
  if (chained) return buildTree(chain(Number(chained[1])), `chain:${Number(chained[1])}`)
  if (/^\d+$/.test(spec)) return countedTree(Number(spec))
  throw new GorgonError(
    'ERR_TREE',
    `Tree "${spec}" is not known. Use "auto", a number of nodes from 1 to ${NODE_LIMIT}, "chain:N", or a name: ${Object.keys(CHOICES).join(', ')}.`,
    { tree: spec, names: Object.keys(CHOICES) },
  )
}

function countedTree(nodeCount: number): Tree {
  if (!Number.isInteger(nodeCount) || nodeCount < 1 || nodeCount > NODE_LIMIT) {
    throw new GorgonError(
      'ERR_TREE',
      `A tree of ${nodeCount} nodes cannot be built: use a whole number from 1 (plain decoding) to ${NODE_LIMIT}, the root included.`,
      { nodeCount, maximum: NODE_LIMIT },
    )
  }
  return prefixTree(nodeCount)
}

/**
 * The tree an option other than `'auto'` asks for.
 *
 * @param medusaHeads heads that can draft: the depth a tree may have.
 * @throws {GorgonError} ERR_TREE when the tree is unknown, malformed, or deeper than the heads.
 */
export function parseTree(spec: TreeOption, medusaHeads: number): Tree {
  const tree =
    typeof spec === 'string' ? namedTree(spec) : typeof spec === 'number' ? countedTree(spec) : buildTree(spec.paths)
  if (tree.depth > medusaHeads) {
    const remedy =
      medusaHeads === 0
        ? 'Load heads, or turn speculation off.'
        : `Use "auto", "chain:${medusaHeads}", or paths of at most ${medusaHeads} ranks.`
    throw new GorgonError(
      'ERR_TREE',
      `Tree "${tree.name}" is ${tree.depth} deep, but there are ${medusaHeads} Medusa heads, one per depth. ${remedy}`,
      { tree: tree.name, depth: tree.depth, medusaHeads },
    )
  }
  return tree
}
