// Accepted paths of a stated average length: what decoding with good Medusa heads would commit, for models whose heads know nothing.
import type { Tree } from '../../src/decode/tree.js'

/**
 * How often a step commits 1, 2, … `most` tokens when every draft after an accepted one has the same chance, and the mean is `mean`.
 *
 * @returns [most]: shares that sum to 1.
 */
export function lengthShares(mean: number, most: number): number[] {
  if (!(mean >= 1 && mean <= most)) {
    throw new RangeError(`A mean of ${mean} tokens cannot be had from steps of 1 to ${most}.`)
  }
  // The mean of a chance p is 1 + p + p^2 + …: it only grows with p.
  const meanOf = (p: number): number => Array.from({ length: most }, (_, i) => p ** i).reduce((a, b) => a + b, 0)
  let [low, high] = [0, 1]
  for (let i = 0; i < 60; i++) {
    const p = (low + high) / 2
    if (meanOf(p) < mean) low = p
    else high = p
  }
  const p = (low + high) / 2
  return Array.from({ length: most }, (_, i) => (i + 1 < most ? p ** i * (1 - p) : p ** i))
}

/**
 * Paths for one step after the other. Their lengths keep to the shares as closely as whole steps can, so that even a short run has the mean; which
 * nodes they go through changes, so that rows have to be moved as after real acceptance.
 */
export class AcceptedPaths {
  readonly #tree: Tree
  readonly #shares: readonly number[]
  readonly #taken: number[]
  #steps = 0

  /** @param tokensPerStep root included: from 1 to the tree's depth + 1. */
  constructor(tree: Tree, tokensPerStep: number) {
    this.#tree = tree
    this.#shares = lengthShares(tokensPerStep, tree.depth + 1)
    this.#taken = this.#shares.map(() => 0)
  }

  /** i32: nodes, root first. */
  next(): Int32Array {
    const step = this.#steps++
    // Whichever length lags most behind its share.
    const lag = this.#shares.map((share, i) => share * (step + 1) - this.#taken[i]!)
    const at = lag.indexOf(Math.max(...lag))
    this.#taken[at]!++
    const { depths, parents, nodeCount } = this.#tree
    const ends = Array.from({ length: nodeCount }, (_, node) => node).filter((node) => depths[node] === at)
    const path = new Int32Array(at + 1)
    for (let node = ends[step % ends.length]!, depth = at; depth >= 0; node = parents[node]!, depth--)
      path[depth] = node
    return path
  }
}
