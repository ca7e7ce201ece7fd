// What outcomes teach about the nodes of a family: of each where its parent was right, and of nothing that was not drafted.
import { describe, expect, test } from 'vitest'
import { Acceptance } from '../../src/decode/acceptance.js'
import { independentShares } from '../../src/decode/accuracy.js'
import { TreeFamily } from '../../src/decode/tree-family.js'

//      0
//    1   3
//    2
const ACCURACY = [
  [0.5, 0.25],
  [0.5, 0.1],
]
const FAMILY = new TreeFamily('small', [[0], [0, 0], [1]], [4], independentShares(ACCURACY))
const begin = (weight = 4, keep = 1) => new Acceptance(FAMILY, FAMILY.shares, weight, keep)
const sizes = [1, 2, 3, 4]
const tokens = (acceptance: Acceptance): number[] => sizes.map((nodes) => acceptance.tokens(nodes))

describe('expected tokens', () => {
  test('begin as the accuracies have it: one, and each path’s probability', () => {
    expect(tokens(begin())).toEqual([1, 1.5, 1.75, 2])
  })

  test('become what was seen', () => {
    const acceptance = begin()
    for (let i = 0; i < 3000; i++) {
      const hits = i % 4 === 0 ? [] : i % 4 === 1 ? [3] : i % 4 === 2 ? [1] : [1, 2]
      acceptance.learn({ hits, medusaHeads: 2, topK: 2 })
    }
    for (const [i, expected] of [1, 1.5, 1.75, 2].entries()) expect(tokens(acceptance)[i]).toBeCloseTo(expected, 2)
    for (let i = 0; i < 9000; i++) acceptance.learn({ hits: [1, 2], medusaHeads: 2, topK: 2 })
    expect(acceptance.tokens(3)).toBeGreaterThan(2.4)
    expect(acceptance.tokens(4) - acceptance.tokens(3)).toBeLessThan(0.1)
  })

  test('of larger trees are never less', () => {
    const acceptance = begin(1, 0.9)
    for (const hits of [[], [1], [3], [1, 2], [], []]) {
      acceptance.learn({ hits, medusaHeads: 2, topK: 2 })
      expect(tokens(acceptance)).toEqual(tokens(acceptance).toSorted((a, b) => a - b))
    }
  })
})

describe('what was not drafted', () => {
  test('is not counted against a node', () => {
    const acceptance = begin()
    for (let i = 0; i < 50; i++) acceptance.learn({ hits: [1], medusaHeads: 1, topK: 1 })
    const [, first, second, other] = acceptance.shares()
    expect(first).toBeGreaterThan(0.9)
    expect(second).toBe(0.5)
    expect(other).toBe(0.25)
  })

  test('rises and falls with the nodes above it', () => {
    const acceptance = begin()
    const before = acceptance.tokens(3) - acceptance.tokens(2)
    for (let i = 0; i < 50; i++) acceptance.learn({ hits: [1], medusaHeads: 1, topK: 1 })
    expect(acceptance.tokens(3) - acceptance.tokens(2)).toBeGreaterThan(1.8 * before)
    for (let i = 0; i < 500; i++) acceptance.learn({ hits: [], medusaHeads: 1, topK: 1 })
    expect(acceptance.tokens(3) - acceptance.tokens(2)).toBeLessThan(0.1)
  })
})

test('older outcomes count for less, and for less still after many steps without one', () => {
  const learnt = (steps: number): number => {
    const acceptance = begin(4, 0.97)
    for (let i = 0; i < 100; i++) acceptance.learn({ hits: [1, 2], medusaHeads: 2, topK: 2 })
    for (let i = 0; i < 5; i++) acceptance.learn({ hits: [], medusaHeads: 2, topK: 2 }, steps)
    return acceptance.tokens(4)
  }
  expect(learnt(1)).toBeLessThan(2.9)
  expect(learnt(8)).toBeLessThan(learnt(1) - 0.15)
})

test('what was learnt can be handed on', () => {
  const acceptance = begin()
  for (let i = 0; i < 40; i++) acceptance.learn({ hits: [3], medusaHeads: 2, topK: 2 })
  const heir = new Acceptance(FAMILY, acceptance.shares(), 3, 0.97)
  for (const nodes of sizes) expect(heir.tokens(nodes)).toBeCloseTo(acceptance.tokens(nodes), 9)
})
