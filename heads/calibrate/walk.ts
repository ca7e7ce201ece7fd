// Decode steps with a tree over texts that were made without one: where each would begin, and how far it would come.
import { type Choices, RANK_COUNT } from '../../src/decode/choices.js'
import { type Trace, UNSEEN } from './trace.js'

/** Of one text. */
export interface Steps {
  readonly steps: number
  /** Committed by them: roots and right drafts. */
  readonly tokens: number
}

/** What steps met at the nodes of a tree, the root first, then its paths in the order given. */
export interface Met {
  /** f64 [N]: steps that came to the node, and whose next token there was one for. */
  readonly came: Float64Array
  /** f64 [N, RANK_COUNT]: of those, steps whose next token was the draft of that rank, whether it has a node or not. */
  readonly went: Float64Array
}

/** i32 [N, RANK_COUNT]: each node's child of each rank, -1 where there is none. Paths come after their parents. */
export function childTable(paths: Choices): Int32Array {
  const table = new Int32Array((paths.length + 1) * RANK_COUNT).fill(-1)
  paths.forEach((path, index) => {
    let node = 0
    for (const rank of path.slice(0, -1)) node = table[node * RANK_COUNT + rank]!
    table[node * RANK_COUNT + path.at(-1)!] = index + 1
  })
  return table
}

export const noneMet = (nodeCount: number): Met => ({
  came: new Float64Array(nodeCount),
  went: new Float64Array(nodeCount * RANK_COUNT),
})

/**
 * The steps that decoding with this tree takes over a text, exactly: with exact acceptance a text does not depend on the tree, so the drafts at a
 * position are the same whichever step gets there. After n right drafts the next step begins n + 1 tokens later.
 *
 * @param children as `childTable` makes it.
 * @param met added to, where given.
 */
export function walkText(children: Int32Array, trace: Trace, met?: Met): Steps {
  const { positions, medusaHeads, ranks, isEnded } = trace
  let [steps, tokens, at] = [0, 0, 0]
  for (; at < positions; steps++) {
    let [node, accepted] = [0, 0]
    for (; accepted < medusaHeads; accepted++) {
      const rank = ranks[at * medusaHeads + accepted]!
      if (rank === UNSEEN) break
      if (met) met.came[node]!++
      if (rank < 0) break
      if (met) met.went[node * RANK_COUNT + rank]!++
      const child = children[node * RANK_COUNT + rank]!
      if (child < 0) break
      node = child
    }
    tokens += accepted + 1
    at += accepted + 1
  }
  // An end that no step came to by a draft is a root itself, and nothing is drafted after it.
  return isEnded && at === positions ? { steps: steps + 1, tokens: tokens + 1 } : { steps, tokens }
}

export function walkTexts(paths: Choices, traces: readonly Trace[]): Steps[] {
  const children = childTable(paths)
  return traces.map((trace) => walkText(children, trace))
}

/** Tokens per step over several texts. */
export interface Rate {
  readonly tokensPerStep: number
  /**
   * What it would vary by with other texts of the kind: one standard error. Steps of one text are alike, so it is texts that are counted;
   * null of fewer than two.
   */
  readonly standardError: number | null
}

/** Source: William Cochran, "Sampling Techniques", on the ratio estimator */
export function rateOf(texts: readonly Steps[]): Rate {
  const steps = texts.reduce((sum, text) => sum + text.steps, 0)
  const tokensPerStep = steps === 0 ? 0 : texts.reduce((sum, text) => sum + text.tokens, 0) / steps
  const count = texts.length
  if (count < 2 || steps === 0) return { tokensPerStep, standardError: null }
  const squares = texts.reduce((sum, text) => sum + (text.tokens - tokensPerStep * text.steps) ** 2, 0)
  return { tokensPerStep, standardError: Math.sqrt((squares * count) / (count - 1)) / steps }
}
