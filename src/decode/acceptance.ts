// How often each node of a family of trees is right, learnt from drafts and the text that came after them.
import type { TreeFamily } from './tree-family.js'

/** One set of drafts, and what then came. */
export interface Outcome {
  /** Nodes of the family on the path the text took, root excluded: right drafts, in order. */
  readonly hits: readonly number[]
  /** Medusa heads that had drafted, and drafts of each: nodes that need more were not seen. */
  readonly medusaHeads: number
  readonly topK: number
}

/**
 * Every set of drafts tells what every tree of the family would have accepted, whether it was verified or not: acceptance is exact, so
 * the text is the same for all of them. What is learnt of a node is how often it is right where its parent is, so that nodes nobody drafts
 * for a while rise and fall with those above them. Shares are means in which older outcomes count less.
 */
export class Acceptance {
  readonly family: TreeFamily
  readonly #keep: number
  /** f64 [N]: outcomes in which the node was right, and those in which it was drafted and its parent was right. */
  readonly #hits: Float64Array
  readonly #seen: Float64Array
  /** f64 [N]: probability of the whole path to the node. */
  readonly #values: Float64Array
  /** f64 [N]: expected tokens of a step with the first n + 1 nodes. */
  readonly #tokens: Float64Array

  /**
   * @param shares f64 [N]: of each node, to begin with.
   * @param weight outcomes that the beginning counts for.
   * @param keep what an outcome's weight is multiplied by with each later one.
   */
  constructor(family: TreeFamily, shares: Float64Array, weight: number, keep: number) {
    this.family = family
    this.#keep = keep
    this.#hits = shares.map((share) => share * weight)
    this.#seen = new Float64Array(shares.length).fill(weight)
    this.#values = new Float64Array(shares.length).fill(1)
    this.#tokens = new Float64Array(shares.length).fill(1)
    this.#sum()
  }

  /** Tokens a step commits with the tree of that many nodes, root included. */
  tokens(nodeCount: number): number {
    return this.#tokens[nodeCount - 1]!
  }

  shares(): Float64Array {
    return this.#hits.map((hits, node) => hits / this.#seen[node]!)
  }

  /** @param steps since the outcome before: what is older is forgotten faster. */
  learn({ hits, medusaHeads, topK }: Outcome, steps = 1): void {
    const { children, depths, ranks } = this.family
    const keep = this.#keep ** steps
    for (let i = -1; i < hits.length; i++) {
      const right = hits[i + 1]
      for (const child of children[i < 0 ? 0 : hits[i]!]!) {
        if (depths[child]! > medusaHeads || ranks[child]! >= topK) continue
        this.#hits[child] = this.#hits[child]! * keep + (child === right ? 1 : 0)
        this.#seen[child] = this.#seen[child]! * keep + 1
      }
    }
    this.#sum()
  }

  #sum(): void {
    const { parents } = this.family
    let tokens = 1
    for (let node = 1; node < this.#hits.length; node++) {
      const value = (this.#values[parents[node]!]! * this.#hits[node]!) / this.#seen[node]!
      this.#values[node] = value
      tokens += value
      this.#tokens[node] = tokens
    }
  }
}
