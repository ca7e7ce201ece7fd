// Trees grown from texts: whole at every size, the best there are where that can be told, and no worse than by other methods.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { countRanks, growTree } from '../../../heads/calibrate/grow.js'
import { MISSED, type Trace, UNSEEN } from '../../../heads/calibrate/trace.js'
import { rateOf, walkTexts } from '../../../heads/calibrate/walk.js'
import { HeadsAccuracy } from '../../../heads/format/accuracy.js'
import { smoothAccuracy } from '../../../src/decode/accuracy.js'
import type { Choices, Path } from '../../../src/decode/choices.js'
import { buildTree } from '../../../src/decode/tree.js'
import { growPaths } from '../../../src/decode/tree-family.js'
import { uniform } from '../../support/tiny-model.js'
import { traceOf, tracesArbitrary } from './traces.js'

const pathsOf = (traces: readonly Trace[], nodeCount?: number): Choices =>
  growTree(traces, nodeCount).map(({ ranks }) => ranks)

const tokensPerStep = (paths: Choices, traces: readonly Trace[]): number =>
  rateOf(walkTexts(paths, traces)).tokensPerStep

/** The most tokens per step that any tree of so many paths makes, by trying them all. */
function bestRate(count: number, traces: readonly Trace[], ranks: number): number {
  const { medusaHeads } = traces[0]!
  const all: Path[] = []
  const extend = (path: Path): void => {
    if (path.length === medusaHeads) return
    for (let rank = 0; rank < ranks; rank++) {
      all.push([...path, rank])
      extend([...path, rank])
    }
  }
  extend([])
  let best = 0
  const choose = (from: number, chosen: Choices): void => {
    if (chosen.length === count) {
      best = Math.max(best, tokensPerStep(chosen, traces))
      return
    }
    for (let i = from; i < all.length; i++) {
      const path = all[i]!
      const hasParent = path.length === 1 || chosen.some((other) => other.join() === path.slice(0, -1).join())
      if (hasParent) choose(i + 1, [...chosen, path])
    }
  }
  choose(0, [])
  return best
}

/**
 * Texts whose right drafts come in runs: where the model is sure of itself, all heads are right; elsewhere each head's are chance, low ranks likelier.
 */
function runs(texts: number, seed: number): Trace[] {
  const random = uniform(seed)
  return Array.from({ length: texts }, () => {
    let isSure = false
    return traceOf(
      Array.from({ length: 100 }, () => {
        if (random() < 0.2) isSure = !isSure
        return Array.from({ length: 4 }, () => (isSure ? 0 : random() < 0.7 ? Math.floor(random() ** 2 * 8) : MISSED))
      }),
    )
  })
}

describe('countRanks', () => {
  test('counts the positions of each head for itself', () => {
    const traces = [
      traceOf([
        [0, 1],
        [0, MISSED],
        [2, UNSEEN],
      ]),
      traceOf([[MISSED, 1]]),
    ]
    const { accuracy, counts } = countRanks(traces)
    expect(counts).toEqual([4, 3])
    expect(accuracy[0]).toEqual([0.5, 0, 0.25, 0, 0, 0, 0, 0, 0, 0])
    expect(accuracy[1]!.slice(0, 2)).toEqual([0, 2 / 3])
  })

  test('of no texts is empty', () => {
    expect(countRanks([])).toEqual({ accuracy: [], counts: [] })
  })
})

describe('growTree', () => {
  test('grows a tree: each path once, after its parent, no deeper than the heads, no larger than asked for', () => {
    fc.assert(
      fc.property(tracesArbitrary(), fc.integer({ min: 1, max: 64 }), (traces, nodeCount) => {
        const grown = growTree(traces, nodeCount)
        expect(grown.length).toBeLessThan(nodeCount)
        for (const count of [0, 1, 2, grown.length >> 1, grown.length]) {
          expect(buildTree(grown.slice(0, count).map(({ ranks }) => ranks)).depth).toBeLessThanOrEqual(3)
        }
        if (grown.length > 0) {
          const file = { rank_accuracy: countRanks(traces).accuracy, paths: grown }
          expect(HeadsAccuracy.safeParse(file).success).toBe(true)
        }
      }),
      { numRuns: 40 },
    )
  })

  test('smaller trees are the beginnings of larger ones', () => {
    const traces = runs(4, 1)
    expect(pathsOf(traces, 64).slice(0, 15)).toEqual(pathsOf(traces, 16))
  })

  test('is the best tree of every size where a text is one step, and so all steps begin alike', () => {
    const row = fc.array(fc.integer({ min: MISSED, max: 1 }), { minLength: 3, maxLength: 3 })
    fc.assert(
      fc.property(fc.array(row, { minLength: 2, maxLength: 40 }), fc.integer({ min: 1, max: 4 }), (rows, count) => {
        const traces = rows.map((ranks) => traceOf([ranks]))
        const paths = pathsOf(traces, count + 1)
        expect(tokensPerStep(paths, traces)).toBeCloseTo(bestRate(paths.length, traces, 2), 12)
      }),
      { numRuns: 60 },
    )
  })

  test('comes close to the best tree of every size where steps begin after steps', () => {
    for (const seed of [1, 2, 3, 4]) {
      const traces = runs(3, seed).map(({ ranks }) => {
        const rows = Array.from({ length: 100 }, (_, at) =>
          [...ranks.slice(at * 4, at * 4 + 2)].map((rank) => Math.min(rank, 2)),
        )
        return traceOf(rows)
      })
      for (const count of [1, 2, 3, 4]) {
        const rate = tokensPerStep(pathsOf(traces, count + 1), traces)
        expect(rate / bestRate(count, traces, 3)).toBeGreaterThan(0.99)
      }
    }
  })

  test('beats the tree that takes heads for independent, on texts of its kind that it has not seen', () => {
    const [seen, unseen] = [runs(60, 5), runs(60, 6)]
    const independent = growPaths(smoothAccuracy(countRanks(seen).accuracy), 4)
    const grown = pathsOf(seen)
    for (const nodes of [32, 64]) {
      const [ours, theirs] = [grown, independent].map((paths) => tokensPerStep(paths.slice(0, nodes - 1), unseen))
      expect(ours, `${nodes} nodes`).toBeGreaterThan(theirs!)
    }
  })

  test('says how often a node is right where its parent is', () => {
    const traces = runs(60, 7)
    const grown = growTree(traces, 6)
    // A draft below right ones is right more often than in general.
    const below = grown.find(({ ranks }) => ranks.join() === '0,0')!
    expect(below.share).toBeGreaterThan(countRanks(traces).accuracy[1]![0]! + 0.1)
    // What the shares promise of a step is what steps do.
    const value = (ranks: Path): number =>
      ranks.reduce((product, _, i) => {
        return product * grown.find((one) => one.ranks.join() === ranks.slice(0, i + 1).join())!.share
      }, 1)
    const promised = 1 + grown.reduce((sum, { ranks }) => sum + value(ranks), 0)
    expect(
      promised /
        tokensPerStep(
          grown.map(({ ranks }) => ranks),
          traces,
        ),
    ).toBeCloseTo(1, 2)
  })

  test('of few steps trusts what is known of a rank elsewhere', () => {
    // Rank 0 of head 1 is right after any draft of head 0 but [1], where two steps had rank 1.
    const rows = [...new Array(60).fill([0, 0]), ...new Array(20).fill([2, 0]), [1, 1], [1, 1]]
    const traces = rows.map((ranks) => traceOf([ranks]))
    const paths = pathsOf(traces).map(String)
    expect(paths.slice(0, 2)).toEqual(['0', '0,0'])
    const grown = growTree(traces)
    const shareOf = (path: string) => grown.find(({ ranks }) => ranks.join() === path)!.share
    expect(shareOf('1,0')).toBeGreaterThan(shareOf('1,1'))
    // q = 80/82 and 2/82, worth 16 steps beside two.
    expect(shareOf('1,1')).toBeCloseTo((2 + (16 * 2) / 82) / 18, 6)
  })

  test('of heads that are never right, or of nothing, is no tree', () => {
    expect(growTree([traceOf([[MISSED, MISSED]])])).toEqual([])
    expect(growTree([])).toEqual([])
  })
})
