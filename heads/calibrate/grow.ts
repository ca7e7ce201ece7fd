// The tree that takes the fewest decode steps over calibration texts, grown node by node.
import { type GrownPath, type RankAccuracy, smoothAccuracy } from '../../src/decode/accuracy.js'
import { NODE_LIMIT, type Path, RANK_COUNT } from '../../src/decode/choices.js'
import { type Trace, UNSEEN } from './trace.js'
import { childTable, type Met, noneMet, walkText } from './walk.js'

/** Steps that what is known of a rank in general counts for, beside those that came to the very node. */
const PRIOR_STEPS = 16
/** Nodes most asked for that are tried before one is added. */
const TRIED = 8

/** How often each draft is right: per head, over all positions that the text went on long enough to judge. */
export interface RankShares {
  /** [medusaHead][rank] */
  readonly accuracy: RankAccuracy
  /** [medusaHead]: positions. */
  readonly counts: readonly number[]
}

/**
 * Heads have counts of their own: near the end of a text the deeper ones stand for tokens that never came. FasterDecoding/Medusa divides all by
 * the first head's (medusa/eval/gen_results.py), which makes the deepest of five look up to a fifth worse than it is.
 */
export function countRanks(traces: readonly Trace[]): RankShares {
  return shareRanks(traces, () => true)
}

/** As `countRanks`, of the positions at which some draft of each head before was right. */
function countFollowing(traces: readonly Trace[]): RankShares {
  return shareRanks(traces, (rank) => rank >= 0)
}

function shareRanks(traces: readonly Trace[], goesOn: (rank: number) => boolean): RankShares {
  const medusaHeads = traces[0]?.medusaHeads ?? 0
  const counts = new Array<number>(medusaHeads).fill(0)
  const hits = counts.map(() => new Array<number>(RANK_COUNT).fill(0))
  for (const { positions, ranks } of traces) {
    for (let at = 0; at < positions; at++) {
      for (let head = 0; head < medusaHeads; head++) {
        const rank = ranks[at * medusaHeads + head]!
        if (rank === UNSEEN) break
        counts[head]!++
        if (rank >= 0) hits[head]![rank]!++
        if (!goesOn(rank)) break
      }
    }
  }
  return { counts, accuracy: hits.map((row, head) => row.map((hit) => hit / Math.max(1, counts[head]!))) }
}

interface Candidate {
  readonly path: Path
  /** Expected steps that would go on to it. */
  readonly wanted: number
}

/**
 * Paths in the order in which they shorten the walk over the texts most, each after its parent: the first n make the best tree of n + 1 nodes that
 * has those before it.
 *
 * Independence of heads (FasterDecoding/Medusa multiplies their accuracies) is not assumed, since right drafts come in runs; nor that steps begin
 * anywhere alike, since they begin after something that was not drafted. Both are in the walk: a node is wanted by the steps that end for lack of
 * it. What a token more is worth depends on where the next step then begins, so the nodes wanted most are tried, and the one stays with which
 * all is done in the fewest steps.
 *
 * A share of few steps is little known. It is taken as the mean of its posterior under a Dirichlet prior worth `PRIOR_STEPS` steps, whose mean is
 * the share of that rank wherever the heads before were right, by whatever draft:
 *
 *   share(r | node) = (went(node, r) + PRIOR_STEPS * q(depth, r)) / (came(node) + PRIOR_STEPS)
 *
 * @param nodeCount of the largest tree wanted, root included.
 */
export function growTree(traces: readonly Trace[], nodeCount = NODE_LIMIT): GrownPath[] {
  const medusaHeads = traces[0]?.medusaHeads ?? 0
  const prior = smoothAccuracy(countFollowing(traces).accuracy)
  const paths: Path[] = []
  for (;;) {
    const met = meet(paths, traces)
    const shareOf = shares(paths, met, prior)
    if (paths.length + 1 >= nodeCount) return withShares(paths, shareOf)
    const candidates = candidatesOf(paths, medusaHeads, shareOf)
    if (candidates.length === 0) return withShares(paths, shareOf)
    paths.push(shortestWalk(paths, candidates, traces))
  }
}

function meet(paths: readonly Path[], traces: readonly Trace[]): Met {
  const met = noneMet(paths.length + 1)
  const children = childTable(paths)
  for (const trace of traces) walkText(children, trace, met)
  return met
}

/** Of the node's draft of that rank, where the node is right; by the node's number. */
type NodeShare = (node: number, rank: number) => number

function shares(paths: readonly Path[], { came, went }: Met, prior: RankAccuracy): NodeShare {
  return (node, rank) => {
    const depth = node === 0 ? 0 : paths[node - 1]!.length
    const expected = prior[depth]?.[rank] ?? 0
    return (went[node * RANK_COUNT + rank]! + PRIOR_STEPS * expected) / (came[node]! + PRIOR_STEPS)
  }
}

/** What is not there and could be, most wanted first; among equals what comes first in the tree. */
function candidatesOf(paths: readonly Path[], medusaHeads: number, shareOf: NodeShare): Candidate[] {
  const children = childTable(paths)
  const reached = new Float64Array(paths.length + 1).fill(1)
  const candidates: Candidate[] = []
  for (let node = 0; node <= paths.length; node++) {
    const path = node === 0 ? [] : paths[node - 1]!
    if (path.length === medusaHeads) continue
    for (let rank = 0; rank < RANK_COUNT; rank++) {
      const wanted = reached[node]! * shareOf(node, rank)
      const child = children[node * RANK_COUNT + rank]!
      if (child >= 0) reached[child] = wanted
      else if (wanted > 0) candidates.push({ path: [...path, rank], wanted })
    }
  }
  return candidates.sort((a, b) => b.wanted - a.wanted)
}

function shortestWalk(paths: readonly Path[], candidates: readonly Candidate[], traces: readonly Trace[]): Path {
  let best: { readonly path: Path; readonly rate: number } | undefined
  for (const { path } of candidates.slice(0, TRIED)) {
    const children = childTable([...paths, path])
    let [steps, tokens] = [0, 0]
    for (const trace of traces) {
      const walked = walkText(children, trace)
      steps += walked.steps
      tokens += walked.tokens
    }
    const rate = tokens / Math.max(1, steps)
    if (!best || rate > best.rate) best = { path, rate }
  }
  return best!.path
}

function withShares(paths: readonly Path[], shareOf: NodeShare): GrownPath[] {
  const children = childTable(paths)
  return paths.map((ranks) => {
    let node = 0
    for (const rank of ranks.slice(0, -1)) node = children[node * RANK_COUNT + rank]!
    return { ranks, share: shareOf(node, ranks.at(-1)!) }
  })
}
