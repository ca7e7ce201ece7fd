// Choices become nodes whose parents, depths, masks and children agree; bad trees are refused by name.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CHOICES, type Choices, chain } from '../../src/decode/choices.js'
import { buildTree, limitDepth, PLAIN_TREE, parseTree, type Tree } from '../../src/decode/tree.js'
import { choicesArbitrary } from './arbitrary.js'

const isAncestorOrSelf = (tree: Tree, ancestor: number, node: number): boolean =>
  node === ancestor || (node > 0 && isAncestorOrSelf(tree, ancestor, tree.parents[node]!))

const pathTo = (tree: Tree, node: number): number[] => (node < 0 ? [] : [...pathTo(tree, tree.parents[node]!), node])

/** The reference's buffers, from our tree: 10 drafts per head in one flat vector after the root token. */
const treeIndices = (tree: Tree): number[] =>
  Array.from(tree.ranks, (rank, node) => (node === 0 ? 0 : rank + 10 * (tree.depths[node]! - 1) + 1))

/** One row per leaf, found by walking the nodes backwards, padded with -1. */
function retrieveIndices(tree: Tree): number[][] {
  const leaves = Array.from(tree.parents.keys()).filter((node) => tree.children[node]!.length === 0)
  return leaves.reverse().map((leaf) => {
    const path = pathTo(tree, leaf)
    return [...path, ...new Array<number>(tree.depth + 1 - path.length).fill(-1)]
  })
}

const refusal = (make: () => unknown): { code: string; message: string } => {
  try {
    make()
  } catch (error) {
    return error as { code: string; message: string }
  }
  throw new Error('nothing was thrown')
}

describe('golden vectors', () => {
  test('a tree of 9 nodes', () => {
    const tree = buildTree([[0], [0, 0], [0, 1], [0, 2], [1], [1, 0], [1, 1], [1, 2]])
    expect(treeIndices(tree)).toEqual([0, 1, 2, 11, 12, 13, 11, 12, 13])
    expect([...tree.depths]).toEqual([0, 1, 1, 2, 2, 2, 2, 2, 2])
    expect(retrieveIndices(tree)).toEqual([
      [0, 2, 8],
      [0, 2, 7],
      [0, 2, 6],
      [0, 1, 5],
      [0, 1, 4],
      [0, 1, 3],
    ])
  })

  test('mc_sim_7b_63', () => {
    const tree = buildTree(CHOICES.mc_sim_7b_63)
    // biome-ignore format: rows of the published vectors
    expect(treeIndices(tree)).toEqual([
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 11, 12, 13, 14, 15, 16, 17, 11, 12, 13, 11, 12, 11, 11,
      11, 11, 11, 11, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 21, 22, 23, 21, 22, 21, 21, 21, 21, 21, 21, 22, 21, 31, 32,
    ])
    // biome-ignore format: rows of the published vectors
    expect([...tree.parents]).toEqual([
      -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 11, 11,
      11, 11, 11, 11, 11, 11, 11, 12, 12, 12, 13, 13, 14, 15, 16, 17, 18, 21, 21, 28, 39, 39,
    ])
    const rows = retrieveIndices(tree)
    expect(rows).toHaveLength(42)
    expect(rows.slice(0, 4)).toEqual([
      [0, 1, 11, 39, 63],
      [0, 1, 11, 39, 62],
      [0, 3, 28, 61, -1],
      [0, 2, 21, 60, -1],
    ])
    expect(rows.at(-1)).toEqual([0, 1, 19, -1, -1])
    const firstChildren = Array.from({ length: 10 }, (_, index) => rows.filter((row) => row[1] === index + 1).length)
    expect(firstChildren).toEqual([23, 8, 3, 2, 1, 1, 1, 1, 1, 1])
  })
})

describe('properties of any tree', () => {
  const property = (holds: (tree: Tree, choices: Choices) => void) =>
    fc.assert(fc.property(choicesArbitrary(), (choices) => holds(buildTree(choices), choices)))

  test('the nodes are the choices, by length, then ranks', () => {
    property((tree, choices) => {
      const key = (path: readonly number[]): string => `${String(path.length).padStart(2)}:${path.join()}`
      expect(tree.choices.map(key)).toEqual(choices.map(key).sort())
      expect(tree.nodeCount).toBe(choices.length + 1)
      expect(tree.depth).toBe(Math.max(0, ...choices.map((path) => path.length)))
      expect(tree.maxRank).toBe(Math.max(-1, ...choices.flat()))
    })
  })

  test('a parent comes before its child and is its path without the last rank', () => {
    property((tree) => {
      expect([tree.parents[0], tree.depths[0], tree.ranks[0]]).toEqual([-1, 0, -1])
      for (let node = 1; node < tree.nodeCount; node++) {
        const parent = tree.parents[node]!
        expect(parent).toBeLessThan(node)
        expect(tree.depths[node]).toBe(tree.depths[parent]! + 1)
        const ranks = pathTo(tree, node).slice(1)
        expect(ranks.map((ancestor) => tree.ranks[ancestor])).toEqual(tree.choices[node - 1])
      }
    })
  })

  test('a mask is exactly the ancestor relation', () => {
    property((tree) => {
      for (let node = 0; node < tree.nodeCount; node++) {
        for (let other = 0; other < 64; other++) {
          const bit = ((tree.ancestorMasks[node]! >> BigInt(other)) & 1n) === 1n
          expect(bit).toBe(other < tree.nodeCount && isAncestorOrSelf(tree, other, node))
        }
      }
    })
  })

  test('children are the nodes with that parent, in rank order', () => {
    property((tree) => {
      tree.children.forEach((children, node) => {
        expect(children).toEqual([...tree.parents.keys()].filter((child) => tree.parents[child] === node))
        const ranks = children.map((child) => tree.ranks[child]!)
        expect(ranks).toEqual(ranks.toSorted((a, b) => a - b))
      })
    })
  })

  test('limiting the depth keeps the shallower nodes and is remembered', () => {
    fc.assert(
      fc.property(choicesArbitrary(), fc.integer({ min: -1, max: 9 }), (choices, depth) => {
        const tree = buildTree(choices, 'random')
        const limited = limitDepth(tree, depth)
        expect(limited.choices).toEqual(tree.choices.filter((path) => path.length <= depth))
        expect(limitDepth(tree, depth)).toBe(limited)
        if (depth >= tree.depth) expect(limited).toBe(tree)
        else if (depth < 1) expect(limited).toBe(PLAIN_TREE)
        else expect(limited.name).toBe(`random to depth ${depth}`)
      }),
    )
  })
})

test('the one-node tree is plain decoding', () => {
  expect(PLAIN_TREE).toMatchObject({ nodeCount: 1, depth: 0, maxRank: -1, children: [[]], choices: [], name: 'plain' })
  expect([...PLAIN_TREE.ancestorMasks]).toEqual([1n])
})

test('the last bit of a full mask is in its place', () => {
  const tree = buildTree(chain(63))
  expect(tree.ancestorMasks[63]).toBe(2n ** 64n - 1n)
})

describe('a tree is refused, by the path that is wrong,', () => {
  test.each<[string, Choices, RegExp]>([
    ['without a prefix', [[0], [0, 3, 1]], /path \[0, 3, 1\] \(number 1\) has no parent: \[0, 3\] is not listed/],
    ['without the root child', [[2, 0]], /path \[2, 0\] \(number 0\) has no parent: \[2\] is not listed/],
    ['with a path twice', [[0], [1], [0]], /path \[0\] \(number 2\) is listed twice/],
    ['with an empty path', [[0], []], /path \[\] \(number 1\) is empty/],
    ['with rank 10', [[0], [10]], /path \[10\] \(number 1\) has rank 10.*0 to 9/],
    ['with a negative rank', [[-1]], /has rank -1/],
    ['with a rank that is no integer', [[0.5]], /has rank 0.5/],
    ['with a path that is no array', ['0' as never], /path 0 \(number 0\) is not an array/],
    ['with 64 paths', [...chain(63), [1]], /has 64 paths, but at most 63 fit.*Remove 1/],
  ])('%s', (_, choices, message) => {
    const error = refusal(() => buildTree(choices, 'mine'))
    expect(error.code).toBe('ERR_TREE')
    expect(error.message).toMatch(message)
    expect(error.message).toContain('"mine"')
  })
})

describe('parseTree', () => {
  test('takes names, and the name leads back to the tree', () => {
    for (const name of Object.keys(CHOICES)) expect(parseTree(name, 4)).toMatchObject({ name, nodeCount: 64 })
  })

  test('takes a number of nodes, also as digits', () => {
    expect(parseTree(16, 4).choices).toEqual(buildTree(CHOICES.mc_sim_7b_63.slice(0, 15)).choices)
    expect(parseTree('16', 4)).toEqual(parseTree(16, 4))
    expect(parseTree(64, 4).choices).toEqual(buildTree(CHOICES.mc_sim_7b_63).choices)
    expect(parseTree(1, 4)).toBe(PLAIN_TREE)
  })

  test('takes chains', () => {
    expect(parseTree('chain:4', 4)).toMatchObject({ name: 'chain:4', choices: chain(4), maxRank: 0 })
  })

  test('takes paths', () => {
    expect(parseTree({ paths: [[1], [0]] }, 4)).toMatchObject({ name: 'custom', choices: [[0], [1]] })
    expect(parseTree({ paths: [] }, 0).nodeCount).toBe(1)
  })

  test.each(['mc_sim_7b_63', 'chain:4', 64, '64', { paths: chain(4) }])(
    '%j is deeper than three heads, and the error names both numbers',
    (spec) => {
      const error = refusal(() => parseTree(spec, 3))
      expect(error).toMatchObject({ code: 'ERR_TREE', details: { depth: 4, medusaHeads: 3 } })
      expect(error.message).toMatch(/4 deep, but there are 3 Medusa heads.*chain:3/)
    },
  )

  test('a tree without heads says to load some', () => {
    expect(refusal(() => parseTree('chain:1', 0)).message).toMatch(/Load heads, or turn speculation off/)
  })

  test.each(['auto', 'mcsim', '', 'chain:', 'chain:-1', '1.5', 'constructor', '__proto__'])(
    '%j is not known, and the error lists what is',
    (spec) => {
      const error = refusal(() => parseTree(spec, 4))
      expect(error.code).toBe('ERR_TREE')
      for (const name of Object.keys(CHOICES)) expect(error.message).toContain(name)
    },
  )

  test.each([0, 65, 2.5, Number.NaN, '0', '65', 'chain:0', 'chain:64'])('%s is out of range', (spec) => {
    expect(refusal(() => parseTree(spec, 64)).code).toBe('ERR_TREE')
  })
})
