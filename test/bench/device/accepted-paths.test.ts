// Paths of a stated mean: shares, whole runs, and that they are paths.
import { describe, expect, it, test } from 'vitest'
import { AcceptedPaths, lengthShares } from '../../../bench/device/accepted-paths.js'
import { parseTree } from '../../../src/decode/index.js'

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0)
const meanOf = (shares: readonly number[]): number => sum(shares.map((share, i) => share * (i + 1)))

describe('lengths', () => {
  it.each([
    [1, 5],
    [1.5, 5],
    [2.8, 5],
    [4.9, 5],
    [5, 5],
    [1, 1],
  ])('have the mean %f, of at most %i tokens', (mean, most) => {
    const shares = lengthShares(mean, most)
    expect(shares).toHaveLength(most)
    expect(sum(shares)).toBeCloseTo(1, 9)
    expect(meanOf(shares)).toBeCloseTo(mean, 6)
  })

  it('come from one chance at every depth', () => {
    const shares = lengthShares(2.8, 5)
    // Of the steps that came to a depth, as many go further.
    const further = shares.slice(1, 4).map((_, i) => sum(shares.slice(i + 2)) / sum(shares.slice(i + 1)))
    for (const chance of further) expect(chance).toBeCloseTo(further[0]!, 6)
  })

  it('cannot have a mean that no tree gives', () => {
    expect(() => lengthShares(0.5, 5)).toThrow(RangeError)
    expect(() => lengthShares(5.1, 5)).toThrow(RangeError)
    expect(() => lengthShares(Number.NaN, 5)).toThrow(RangeError)
  })
})

describe('paths', () => {
  const tree = parseTree(64, 63)

  it('have the mean soon, and for good', () => {
    const paths = new AcceptedPaths(tree, 2.8)
    let tokens = 0
    for (let step = 1; step <= 1000; step++) {
      tokens += paths.next().length
      if (step >= 50) expect(tokens / step).toBeGreaterThan(2.7)
      if (step >= 50) expect(tokens / step).toBeLessThan(2.9)
    }
    expect(tokens / 1000).toBeCloseTo(2.8, 2)
  })

  it('lead from the root through parents, by ways that change', () => {
    const paths = new AcceptedPaths(tree, 2.8)
    const ends = new Set<number>()
    for (let step = 0; step < 200; step++) {
      const path = paths.next()
      expect(path[0]).toBe(0)
      for (let i = 1; i < path.length; i++) expect(tree.parents[path[i]!]).toBe(path[i - 1])
      ends.add(path.at(-1)!)
    }
    expect(ends.size).toBeGreaterThan(30)
  })

  test('of plain decoding are the root', () => {
    const paths = new AcceptedPaths(parseTree(1, 63), 1)
    for (let step = 0; step < 5; step++) expect([...paths.next()]).toEqual([0])
  })
})
