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
 * the text is the same for all of them. Rates are means in which older outcomes count less.
 */
export class Acceptance {
  readonly family: TreeFamily
  readonly #keep: number
  readonly #hits: Float64Array
  readonly #seen: Float64Array
  /** f64 [N]: expected tokens of a step with the first n + 1 nodes. */
  readonly #tokens: Float64Array

  /**
   * @param rates f64 [N]: of each node, to begin with.
   * @param weight outcomes that the beginning counts for.
   * @param keep what an outcome's weight is multiplied by with each later one.
   */
  constructor(family: TreeFamily, rates: Float64Array, weight: number, keep: number) {
    this.family = family
    this.#keep = keep
    this.#hits = rates.map((rate) => rate * weight)
    this.#seen = new Float64Array(rates.length).fill(weight)
    this.#tokens = new Float64Array(rates.length)
    this.#sum()
  }

  /** Tokens a step commits with the tree of that many nodes, root included. */
  tokens(nodeCount: number): number {
    return this.#tokens[nodeCount - 1]!
  }

  rates(): Float64Array {
    return this.#hits.map((hits, node) => hits / this.#seen[node]!)
  }

  /** @param steps since the outcome before: what is older is forgotten faster. */
  learn({ hits, medusaHeads, topK }: Outcome, steps = 1): void {
    const { headsNeeded, ranksNeeded } = this.family
    const keep = this.#keep ** steps
    for (let node = 1; node < this.#hits.length; node++) {
      if (headsNeeded[node]! > medusaHeads || ranksNeeded[node]! > topK) continue
      this.#hits[node]! *= keep
      this.#seen[node] = this.#seen[node]! * keep + 1
    }
    for (const node of hits) this.#hits[node]!++
    this.#sum()
  }

  #sum(): void {
    let tokens = 1
    this.#tokens[0] = 1
    for (let node = 1; node < this.#hits.length; node++) {
      tokens += this.#hits[node]! / this.#seen[node]!
      this.#tokens[node] = tokens
    }
  }
}
