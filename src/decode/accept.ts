// Posterior to accepted path: exact and typical acceptance.
import { GorgonError } from '../errors.js'
import type { Posterior } from '../native.js'
import type { Tree } from './tree.js'

/**
 * When a drafted token is accepted.
 *
 * - `exact`: when it is the very token plain decoding chooses there. Changes speed and nothing else.
 * - `typical`: when the model finds it likely enough for how certain it is. Longer paths, other text.
 */
export type AcceptRule =
  | { readonly rule: 'exact' }
  | { readonly rule: 'typical'; readonly epsilon: number; readonly delta: number }

export interface Accepted {
  /** i32: nodes, root first. */
  readonly path: Int32Array
  /** i32: their tokens. */
  readonly tokens: Int32Array
  /** Drafts accepted, 0 to tree.depth; the root comes on top. */
  readonly length: number
}

/**
 * The path of the tree that a decode step keeps.
 *
 * It is found by walking from parents to children. Rows of paths padded to one length, as the reference has them, would take the
 * padding for an accepted token wherever the model chooses token 0.
 *
 * @param tokens i32 [N]: of each node.
 * @param posterior of the same nodes; `tokenProb` and `entropy` are read by `typical` only.
 */
export function accept(tree: Tree, tokens: Int32Array, posterior: Posterior, rule: AcceptRule): Accepted {
  const { nodeCount } = tree
  const rows = rule.rule === 'exact' ? [posterior.chosen] : [posterior.tokenProb, posterior.entropy]
  if (tokens.length !== nodeCount || rows.some((row) => row.length !== nodeCount)) {
    throw new GorgonError(
      'ERR_INTERNAL',
      `accept: tree "${tree.name}" has ${nodeCount} nodes, but there are ${tokens.length} tokens and posterior rows of ${rows.map((row) => row.length).join(' and ')}. This is a bug in gorgon, please report it.`,
      { tree: tree.name, rule: rule.rule, nodeCount, tokens: tokens.length },
    )
  }
  const last =
    rule.rule === 'exact'
      ? lastExact(tree, tokens, posterior.chosen)
      : lastTypical(tree, posterior.tokenProb, posterior.entropy, rule)

  const length = tree.depths[last]!
  const path = new Int32Array(length + 1)
  for (let node = last, at = length; at >= 0; at--) {
    path[at] = node
    node = tree.parents[node]!
  }
  return { path, tokens: path.map((node) => tokens[node]!), length }
}

/**
 * Sample, then match: `chosen[n]` was drawn from the distribution after node n without regard to the tree, and the walk goes on while
 * a child holds that token. So the chain of chosen tokens is the one plain decoding would make, whatever was drafted.
 *
 * Siblings can hold the same token when heads of a reduced vocabulary map two rows to one id: the first child wins.
 */
function lastExact(tree: Tree, tokens: Int32Array, chosen: Int32Array): number {
  for (let node = 0; ; ) {
    const match = tree.children[node]!.find((child) => tokens[child] === chosen[node])
    if (match === undefined) return node
    node = match
  }
}

/**
 * A node passes when `p(token | parent) > min(epsilon, delta * exp(-H))`, H the entropy after the parent in nats. The last node of the
 * longest path of passing nodes; among those of one length, of the largest sum of ln p, then the lowest node.
 *
 * Source: Medusa paper, "Typical Acceptance"; tie-break: FasterDecoding/Medusa:medusa/model/utils.py
 */
function lastTypical(
  tree: Tree,
  tokenProb: Float32Array,
  entropy: Float32Array,
  { epsilon, delta }: { readonly epsilon: number; readonly delta: number },
): number {
  // NaN marks nodes off every accepted path; any sum over it stays NaN. So does a NaN from below: it is never accepted.
  const logProb = new Float64Array(tree.nodeCount).fill(Number.NaN)
  logProb[0] = 0
  let last = 0
  for (let node = 1; node < tree.nodeCount; node++) {
    const parent = tree.parents[node]!
    const p = tokenProb[node]!
    if (!(p > Math.min(epsilon, delta * Math.exp(-entropy[parent]!)))) continue
    const sum = logProb[parent]! + Math.log(p)
    logProb[node] = sum
    if (Number.isNaN(sum)) continue
    // Nodes come by rising depth, so a deeper one always replaces.
    if (tree.depths[node]! > tree.depths[last]! || sum > logProb[last]!) last = node
  }
  return last
}
