// The named trees hold what their source says, and small trees are made from them.
import { describe, expect, test } from 'vitest'
import { CHOICES, chain, firstPaths } from '../../src/decode/choices.js'
import { buildTree } from '../../src/decode/tree.js'

/** Nodes per depth and leaves, as published beside the trees. */
const FACTS: Record<string, { perDepth: number[]; leaves: number }> = {
  mc_sim_7b_63: { perDepth: [10, 28, 23, 2], leaves: 42 },
  vicuna_7b_stage1: { perDepth: [10, 32, 20, 1], leaves: 44 },
  vicuna_7b_stage1_ablation: { perDepth: [10, 21, 25, 7], leaves: 42 },
  vicuna_7b_stage2: { perDepth: [10, 23, 23, 7], leaves: 42 },
  vicuna_13b_stage1: { perDepth: [10, 29, 23, 1], leaves: 44 },
  vicuna_13b_stage2: { perDepth: [10, 19, 25, 9], leaves: 42 },
  vicuna_33b_stage1: { perDepth: [10, 34, 19], leaves: 46 },
  vicuna_33b_stage2: { perDepth: [10, 24, 24, 5], leaves: 43 },
  zephyr_stage2: { perDepth: [10, 27, 23, 3], leaves: 44 },
}

/** Children of each inner node of mc_sim_7b_63. */
const MC_SIM_CHILD_COUNTS = new Map(
  ':10 0:10 1:7 2:3 3:2 4:1 5:1 6:1 7:1 8:1 9:1 00:10 01:3 02:2 03:1 04:1 05:1 06:1 07:1 10:2 20:1 000:2'
    .split(' ')
    .map((entry) => entry.split(':') as [string, string]),
)

test('there are nine named trees', () => {
  expect(Object.keys(CHOICES).sort()).toEqual(Object.keys(FACTS).sort())
})

describe.each(Object.entries(CHOICES))('%s', (name, choices) => {
  test('has 63 distinct paths, each after its parent and its lower sibling', () => {
    expect(choices).toHaveLength(63)
    const seen = new Set([''])
    for (const path of choices) {
      const parent = path.slice(0, -1)
      const rank = path.at(-1)!
      expect(seen).toContain(parent.join())
      if (rank > 0) expect(seen).toContain([...parent, rank - 1].join())
      expect(seen).not.toContain(path.join())
      seen.add(path.join())
    }
  })

  test('has the published number of nodes per depth and of leaves', () => {
    const tree = buildTree(choices)
    const { perDepth, leaves } = FACTS[name]!
    expect(perDepth.map((_, index) => tree.depths.filter((depth) => depth === index + 1).length)).toEqual(perDepth)
    expect(tree.depth).toBe(perDepth.length)
    expect(tree.children.filter((children) => children.length === 0)).toHaveLength(leaves)
  })
})

test('mc_sim_7b_63 has the published child counts', () => {
  const tree = buildTree(CHOICES.mc_sim_7b_63)
  tree.children.forEach((children, node) => {
    const path = node === 0 ? '' : tree.choices[node - 1]!.join('')
    expect(children).toHaveLength(Number(MC_SIM_CHILD_COUNTS.get(path) ?? 0))
  })
})

test('mc_sim_7b_63 keeps the order in which it was grown', () => {
  expect(CHOICES.mc_sim_7b_63.slice(0, 9)).toEqual([[0], [0, 0], [1], [0, 1], [2], [0, 0, 0], [1, 0], [0, 2], [3]])
  expect(CHOICES.mc_sim_7b_63.slice(-3)).toEqual([
    [0, 0, 0, 1],
    [1, 6],
    [0, 7, 0],
  ])
})

test('every first-n part of a named tree is a tree', () => {
  for (const choices of Object.values(CHOICES)) {
    for (let count = 0; count <= choices.length; count++) {
      expect(buildTree(firstPaths(choices, count)).nodeCount).toBe(count + 1)
    }
  }
})

test('a chain takes the best draft of each head', () => {
  expect(chain(3)).toEqual([[0], [0, 0], [0, 0, 0]])
  expect(buildTree(chain(63)).nodeCount).toBe(64)
})

test.each([0, -1, 64, 1.5, Number.NaN])('a chain of %s is refused', (depth) => {
  expect(() => chain(depth)).toThrow(expect.objectContaining({ code: 'ERR_TREE' }))
})

test.each([-1, 64, 0.5])('the first %s of 63 paths are refused', (count) => {
  expect(() => firstPaths(CHOICES.mc_sim_7b_63, count)).toThrow(expect.objectContaining({ code: 'ERR_TREE' }))
})
