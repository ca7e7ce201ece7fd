// Trees grown from accuracies: the best of each size, nested, and never deeper or wider than the heads.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type GrownPath, independentShares, NOMINAL_ACCURACY, smoothAccuracy } from '../../src/decode/accuracy.js'
import { CHOICES, type Choices, type Path } from '../../src/decode/choices.js'
import { buildTree, PLAIN_TREE, parseTree } from '../../src/decode/tree.js'
import {
  autoFamily,
  growPaths,
  PLAIN_FAMILY,
  singleFamily,
  TreeFamily,
  UNMEASURED_HEADS,
} from '../../src/decode/tree-family.js'

/** Measured rows, noisy: shares of one head that add up to at most 1, in any order. */
const accuracies = (heads: { min: number; max: number }, ranks: { min: number; max: number }) =>
  fc.array(
    fc
      .array(fc.double({ min: 0.001, max: 1, noNaN: true }), { minLength: ranks.min, maxLength: ranks.max })
      .map((row) =>
        row.map(
          (share) =>
            share /
            Math.max(
              1,
              row.reduce((a, b) => a + b, 0),
            ),
        ),
      ),
    { minLength: heads.min, maxLength: heads.max },
  )

const worthOf = (path: Path, table: readonly (readonly number[])[]): number =>
  path.reduce((value, rank, depth) => value * (table[depth]?.[rank] ?? 0), 1)

/** Every tree of `count` paths over small ranks and depths, by brute force: the largest sum of values there is. */
function bestSum(count: number, table: readonly (readonly number[])[]): number {
  const all: Path[] = []
  const extend = (path: Path): void => {
    if (path.length === table.length) return
    for (let rank = 0; rank < table[path.length]!.length; rank++) {
      all.push([...path, rank])
      extend([...path, rank])
    }
  }
  extend([])
  let best = 0
  const choose = (from: number, chosen: Choices, sum: number): void => {
    if (chosen.length === count) {
      best = Math.max(best, sum)
      return
    }
    for (let i = from; i < all.length; i++) {
      const path = all[i]!
      const hasParent = path.length === 1 || chosen.some((other) => other.join() === path.slice(0, -1).join())
      if (hasParent) choose(i + 1, [...chosen, path], sum + worthOf(path, table))
    }
  }
  choose(0, [], 0)
  return best
}

describe('smoothAccuracy', () => {
  test('rows never rise, keep their sum, and stay as they are where they fall already', () => {
    fc.assert(
      fc.property(accuracies({ min: 1, max: 4 }, { min: 1, max: 10 }), (table) => {
        for (const [head, row] of smoothAccuracy(table).entries()) {
          const measured = table[head]!
          expect(row).toHaveLength(measured.length)
          for (let rank = 1; rank < row.length; rank++) expect(row[rank]!).toBeLessThanOrEqual(row[rank - 1]! + 1e-12)
          expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(
            measured.reduce((a, b) => a + b, 0),
            9,
          )
        }
        const smooth = smoothAccuracy(table)
        expect(smoothAccuracy(smooth)).toEqual(smooth)
      }),
    )
    expect(smoothAccuracy([[0.5, 0.1, 0.3]])).toEqual([[0.5, 0.2, 0.2]])
  })

  test('drops ranks that no tree can name', () => {
    expect(smoothAccuracy([new Array<number>(20).fill(0.05)])[0]).toHaveLength(10)
  })
})

describe('growPaths', () => {
  test('grows the best tree of every size', () => {
    fc.assert(
      fc.property(
        accuracies({ min: 1, max: 3 }, { min: 2, max: 2 }),
        fc.integer({ min: 1, max: 5 }),
        (noisy, count) => {
          const table = smoothAccuracy(noisy)
          const paths = growPaths(table, table.length).slice(0, count)
          const grown = paths.reduce((sum, path) => sum + worthOf(path, table), 0)
          expect(grown).toBeCloseTo(bestSum(paths.length, table), 9)
        },
      ),
      { numRuns: 60 },
    )
  })

  test('every prefix is a tree, no deeper than the heads and of at most 64 nodes', () => {
    fc.assert(
      fc.property(
        accuracies({ min: 1, max: 6 }, { min: 1, max: 10 }),
        fc.integer({ min: 1, max: 6 }),
        (noisy, heads) => {
          const paths = growPaths(smoothAccuracy(noisy), heads)
          expect(paths.length).toBeLessThan(64)
          for (const count of [1, 2, paths.length >> 1, paths.length]) {
            expect(buildTree(paths.slice(0, count)).depth).toBeLessThanOrEqual(Math.min(heads, noisy.length))
          }
        },
      ),
      { numRuns: 40 },
    )
  })

  test('goes on from the path of largest value', () => {
    const table = [
      [0.6, 0.2],
      [0.5, 0.1],
    ]
    expect(growPaths(table, 2)).toEqual([[0], [0, 0], [1], [1, 0], [0, 1], [1, 1]])
    expect(growPaths(table, 1)).toEqual([[0], [1]])
  })
})

describe('families', () => {
  const family = autoFamily({ accuracy: NOMINAL_ACCURACY, grown: null }, 4)

  test('offer nested trees, the same object for the same size', () => {
    expect(family.sizes).toEqual([2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
    for (const [i, size] of family.sizes.entries()) {
      const tree = family.tree(size)
      expect(tree.nodeCount).toBe(size)
      expect(family.tree(size)).toBe(tree)
      const before = family.tree(family.sizes[i - 1] ?? 1).choices.map(String)
      expect(tree.choices.map(String)).toEqual(expect.arrayContaining(before))
    }
    expect(family.tree(1)).toBe(PLAIN_TREE)
  })

  test('know what each node is worth, and what it takes to draft it', () => {
    const small = new TreeFamily(
      'small',
      [[0], [2], [2, 1]],
      [4],
      independentShares([
        [0.5, 0.2, 0.1],
        [0.4, 0.3],
      ]),
    )
    expect([...small.shares]).toEqual([1, 0.5, 0.1, 0.3])
    expect([...small.parents]).toEqual([-1, 0, 0, 2])
    expect([...small.depths]).toEqual([0, 1, 1, 2])
    expect([...small.ranks]).toEqual([-1, 0, 2, 1])
    expect(small.children).toEqual([[1, 2], [], [3], []])
    expect(small).toMatchObject({ depth: 2, maxRank: 2, nodeCount: 4 })
    expect(small.childOf(0, 2)).toBe(2)
    expect(small.childOf(2, 1)).toBe(3)
    expect(small.childOf(0, 1)).toBe(-1)
  })

  test('without accuracies are the first paths of mc_sim_7b_63', () => {
    const fallback = autoFamily(UNMEASURED_HEADS, 4)
    expect(fallback.tree(64).choices).toEqual(buildTree(CHOICES.mc_sim_7b_63).choices)
    expect(autoFamily(UNMEASURED_HEADS, 2).depth).toBe(2)
    expect(autoFamily(UNMEASURED_HEADS, 1).sizes.at(-1)).toBe(11)
  })

  test('of heads that were calibrated are as they were grown, shares of right drafts below right drafts included', () => {
    const grown: GrownPath[] = [
      { ranks: [1], share: 0.4 },
      { ranks: [1, 0], share: 0.9 },
      { ranks: [0], share: 0.3 },
      { ranks: [1, 0, 2], share: 0.2 },
    ]
    const measured = { accuracy: NOMINAL_ACCURACY, grown }
    const calibrated = autoFamily(measured, 4)
    expect(calibrated.sizes).toEqual([2, 3, 4, 5])
    expect(calibrated.tree(3).choices).toEqual([[1], [1, 0]])
    expect([...calibrated.shares]).toEqual([1, 0.4, 0.9, 0.3, 0.2])
    expect(autoFamily(measured, 2).tree(4).choices).toEqual([[0], [1], [1, 0]])
    expect(autoFamily(measured, 2).nodeCount).toBe(4)
    // A tree that was named has nodes that were measured, and others.
    const single = singleFamily(parseTree({ paths: [[1], [1, 0], [2]] }, 4), measured)
    expect([...single.shares]).toEqual([1, 0.4, NOMINAL_ACCURACY[0]![2], 0.9])
  })

  test('expect the same of a node in every family, whatever counting noise is in the table', () => {
    const accuracy = [[0.5, 0.1, 0.2, 0.05]]
    const auto = autoFamily({ accuracy, grown: null }, 1)
    const named = singleFamily(parseTree({ paths: [[0], [1], [2], [3]] }, 1), { accuracy, grown: null })
    for (const [i, share] of [1, 0.5, 0.15, 0.15, 0.05].entries()) {
      expect(auto.shares[i]).toBeCloseTo(share, 12)
      expect(named.shares[i]).toBe(auto.shares[i])
    }
  })

  test('without heads are plain decoding', () => {
    expect(autoFamily({ accuracy: NOMINAL_ACCURACY, grown: null }, 0)).toBe(PLAIN_FAMILY)
    expect(singleFamily(PLAIN_TREE, UNMEASURED_HEADS)).toBe(PLAIN_FAMILY)
  })

  test('of a named tree hold that tree alone, by its name', () => {
    const tree = parseTree('vicuna_7b_stage1', 4)
    const single = singleFamily(tree, UNMEASURED_HEADS)
    expect(single).toMatchObject({ name: 'vicuna_7b_stage1', sizes: [64], nodeCount: 64 })
    expect(single.tree(64)).toBe(tree)
  })
})
