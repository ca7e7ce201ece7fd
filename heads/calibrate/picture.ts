// The grown tree as a picture: which drafts it holds, and how often each is right.
import { type TreeChart, treeChart } from '../../src/charts.js'
import { grownShares } from '../../src/decode/accuracy.js'
import { buildTree } from '../../src/decode/tree.js'
import type { Calibration } from './calibrate.js'

/** An SVG; the same tree gives the same bytes. */
export function drawTree({
  accuracy,
  tree,
  checks,
  conditions,
}: Pick<Calibration, 'accuracy' | 'tree' | 'checks' | 'conditions'>): string {
  const { parents, ranks, choices, nodeCount, depth } = buildTree(tree.paths)
  const shareOf = grownShares(accuracy.paths ?? [], () => 0)
  /** How often a decode step comes to a node. */
  const reached: number[] = [1]
  const nodes: TreeChart['nodes'][number][] = [{ parent: -1, label: '', width: 1, shade: 1 }]
  for (let node = 1; node < nodeCount; node++) {
    const share = shareOf(choices[node - 1]!)
    reached[node] = reached[parents[node]!]! * share
    // Most are rare: as shares they would all be pale.
    nodes.push({ parent: parents[node]!, label: String(ranks[node]), width: share, shade: Math.sqrt(reached[node]!) })
  }
  const rates = checks.map(
    ({ temperature, predicted }) =>
      `${predicted.tokensPerStep.toFixed(2)} ${temperature === 0 ? 'greedy' : `at temperature ${temperature}`}`,
  )
  return treeChart({
    title: `A tree of ${nodeCount} nodes: tokens per step ${rates.join(', ')}`,
    nodes,
    rows: ['next', ...Array.from({ length: depth }, (_, head) => `head ${head + 1}`)],
    notes: [
      'Numbers: which draft of its head, 0 the best. Darker: more often right.',
      'Thicker: more often right where what is above it is right.',
      `Grown from ${conditions.texts} texts, ${conditions.positions} tokens.`,
    ],
  })
}
