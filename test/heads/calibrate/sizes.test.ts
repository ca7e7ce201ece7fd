// Sizes of a grown tree: tokens per step by the walk, time by the table, and the fastest of them.
import { describe, expect, test } from 'vitest'
import { growTree } from '../../../heads/calibrate/grow.js'
import { fastest, sizeTokens, timeSizes } from '../../../heads/calibrate/sizes.js'
import { rateOf, walkTexts } from '../../../heads/calibrate/walk.js'
import { CHOICES } from '../../../src/decode/choices.js'
import type { StepCosts } from '../../../src/decode/step-costs.js'
import { uniform } from '../../support/tiny-model.js'
import { traceOf } from './traces.js'

const random = uniform(3)
const TRACES = Array.from({ length: 8 }, () =>
  traceOf(Array.from({ length: 80 }, () => Array.from({ length: 3 }, () => Math.floor(random() ** 3 * 11) - 1))),
)
const GROWN = growTree(TRACES).map(({ ranks }) => ranks)
const SIZES = sizeTokens(GROWN, TRACES)

/** A plain step takes 1 ms at 100 rows, each further node `perNode`, and each cache row `perRow` for every node. */
const costs = (perNode: number, perRow = 0): StepCosts => ({
  rows: [1, 64],
  ms: [1, 1 + 63 * perNode],
  cacheRows: 100,
  attention: { rows: [1, 64], msPerCacheRow: [perRow, 64 * perRow] },
  draftMs: [0, 0.01, 0.02, 0.03],
  sequenceMs: 0,
})

describe('sizeTokens', () => {
  test('begins with plain decoding, and ends with all there is', () => {
    expect(SIZES[0]).toMatchObject({ nodes: 1, depth: 0, tokensPerStep: 1, unmeasured: 1 })
    expect(SIZES.map(({ nodes }) => nodes)).toEqual([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
    expect(SIZES.at(-1)!.depth).toBe(3)
    expect(sizeTokens([[0], [1]], TRACES).map(({ nodes }) => nodes)).toEqual([1, 2, 3])
  })

  test('are those of the walk, beside the tree for heads nobody measured', () => {
    for (const { nodes, tokensPerStep, unmeasured } of SIZES) {
      expect(tokensPerStep).toBe(rateOf(walkTexts(GROWN.slice(0, nodes - 1), TRACES)).tokensPerStep)
      const others = CHOICES.mc_sim_7b_63.filter((path) => path.length <= 3).slice(0, nodes - 1)
      expect(unmeasured).toBe(rateOf(walkTexts(others, TRACES)).tokensPerStep)
    }
  })
})

describe('timeSizes', () => {
  test('is tokens over time, and plain decoding is its own measure', () => {
    const [plain, ...trees] = timeSizes(SIZES, costs(0.1), 100)
    expect(plain).toMatchObject({ stepMs: 1, tokensPerSecond: 1000, speedup: 1 })
    for (const { nodes, depth, tokensPerStep, stepMs, tokensPerSecond, speedup } of trees) {
      expect(stepMs).toBeCloseTo(1 + 0.1 * (nodes - 1) + 0.01 * depth, 9)
      expect(tokensPerSecond).toBeCloseTo((1000 * tokensPerStep) / stepMs!, 9)
      expect(speedup).toBeCloseTo(tokensPerStep / stepMs!, 9)
    }
  })

  test('counts the cache that is attended to', () => {
    const [short, long] = [100, 1100].map((rows) => timeSizes(SIZES, costs(0.1, 0.001), rows)[0]!.stepMs!)
    expect(long! - short!).toBeCloseTo(1, 9)
  })

  test('knows no times without costs', () => {
    for (const size of timeSizes(SIZES, null, 100)) {
      expect(size).toMatchObject({ stepMs: null, tokensPerSecond: null, speedup: null })
    }
  })
})

describe('fastest', () => {
  const nodesWith = (perNode: number) => fastest(timeSizes(SIZES, costs(perNode), 100)).nodes

  test('is larger the cheaper a node is, and always a tree', () => {
    expect(nodesWith(0)).toBe(64)
    expect(nodesWith(0.05)).toBeGreaterThan(nodesWith(0.3))
    expect(nodesWith(10)).toBe(2)
  })

  test('has the most tokens per second of all', () => {
    const sizes = timeSizes(SIZES, costs(0.05), 100)
    expect(fastest(sizes).tokensPerSecond).toBe(Math.max(...sizes.slice(1).map((size) => size.tokensPerSecond!)))
  })

  test('without costs is the largest', () => {
    expect(fastest(timeSizes(SIZES, null, 100)).nodes).toBe(64)
  })
})
