// Oracle of acceptance: tries every path of the tree, from its choices alone.

export interface AcceptCase {
  /** Paths of nodes 1, 2, …: ranks from the root down. */
  choices: number[][]
  /** [N] per node; node 0 is the root. */
  tokens: number[]
  /** [N] token decoding chooses after a node. */
  chosen: number[]
  /** [N] probability of a node's token after its parent. */
  tokenProb: number[]
  /** [N] nats, after a node. */
  entropy: number[]
}

const nodeAt = (choices: number[][], path: number[]): number =>
  path.length === 0 ? 0 : 1 + choices.findIndex((choice) => choice.join() === path.join())

/** Nodes of a path, root first. */
const nodesOf = (choices: number[][], path: number[]): number[] =>
  Array.from({ length: path.length + 1 }, (_, depth) => nodeAt(choices, path.slice(0, depth)))

/** Exact: the longest path each of whose steps takes the lowest rank that holds the chosen token. */
export function acceptExact({ choices, tokens, chosen }: AcceptCase): number[] {
  let best: number[] = []
  for (const path of choices) {
    const admissible = path.every((rank, depth) => {
      const above = path.slice(0, depth)
      const wanted = chosen[nodeAt(choices, above)]!
      const holding = choices.filter(
        (choice) =>
          choice.length === depth + 1 &&
          choice.slice(0, depth).join() === above.join() &&
          tokens[nodeAt(choices, choice)] === wanted,
      )
      return Math.min(...holding.map((choice) => choice[depth]!)) === rank
    })
    if (admissible && path.length > best.length) best = path
  }
  return nodesOf(choices, best)
}

/** Typical: of the paths whose nodes all have p > min(epsilon, delta exp(-H)), the longest, then the likeliest, then the first. */
export function acceptTypical(
  { choices, tokenProb, entropy }: AcceptCase,
  { epsilon, delta }: { epsilon: number; delta: number },
): number[] {
  const passing = choices
    .map((path) => nodesOf(choices, path))
    .filter((nodes) =>
      nodes.slice(1).every((node, depth) => {
        const threshold = Math.min(epsilon, delta * Math.exp(-entropy[nodes[depth]!]!))
        return tokenProb[node]! > threshold
      }),
    )
  const logProb = (nodes: number[]): number => nodes.slice(1).reduce((sum, node) => sum + Math.log(tokenProb[node]!), 0)
  const longest = Math.max(1, ...passing.map((nodes) => nodes.length))
  const candidates = passing.filter((nodes) => nodes.length === longest)
  const likeliest = Math.max(...candidates.map(logProb))
  return candidates.find((nodes) => logProb(nodes) === likeliest) ?? [0]
}
