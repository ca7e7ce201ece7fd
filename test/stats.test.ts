// Times, rates and accept lengths mean what their definitions say.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CHOICES } from '../src/decode/choices.js'
import { buildTree, limitDepth, PLAIN_TREE } from '../src/decode/tree.js'
import { autoFamily, UNMEASURED_HEADS } from '../src/decode/tree-family.js'
import { percentilesOf, Stats } from '../src/stats.js'

/** A clock moved by hand, which starts away from zero. */
function handClock() {
  let at = 1000
  return {
    now: (): number => at,
    pass: (ms: number): void => {
      at += ms
    },
  }
}

describe('timing', () => {
  test('of a generation of three chunks', () => {
    const clock = handClock()
    const stats = new Stats(PLAIN_TREE, clock.now)
    clock.pass(5)
    stats.started()
    clock.pass(100)
    stats.prefilled()
    clock.pass(10)
    expect(stats.chunk(1, '')).toBe(115)
    clock.pass(20)
    expect(stats.chunk(3, 'abc')).toBe(135)
    clock.pass(40)
    expect(stats.chunk(1, 'd')).toBe(175)
    clock.pass(5)
    stats.end()
    clock.pass(1000)
    const { completion, timing } = stats.summary()
    expect(completion).toBe(5)
    expect(timing).toEqual({
      queueMs: 5,
      prefillMs: 100,
      ttftMs: 135, // the first chunk had no text
      decodeMs: 75,
      tpotMs: (180 - 135) / 4,
      e2eMs: 180,
      tokensPerSecond: 4 / 0.075,
      gapMs: { p50: 20, p90: 40, p99: 40, max: 40 },
    })
  })

  test('without any text counts the first chunk as the first', () => {
    const clock = handClock()
    const stats = new Stats(PLAIN_TREE, clock.now)
    clock.pass(7)
    stats.chunk(1, '')
    clock.pass(7)
    stats.chunk(1, '')
    stats.end()
    expect(stats.summary().timing).toMatchObject({ ttftMs: 7, tpotMs: 7 })
  })

  test('of one cut short in the queue has its time there and nothing else', () => {
    const clock = handClock()
    const stats = new Stats(PLAIN_TREE, clock.now)
    clock.pass(50)
    stats.end()
    expect(stats.summary().timing).toEqual({
      queueMs: 50,
      prefillMs: 0,
      ttftMs: null,
      decodeMs: 0,
      tpotMs: null,
      e2eMs: 50,
      tokensPerSecond: 0,
      gapMs: null,
    })
  })

  test('of one cut short in prefill', () => {
    const clock = handClock()
    const stats = new Stats(PLAIN_TREE, clock.now)
    clock.pass(1)
    stats.started()
    clock.pass(50)
    stats.end()
    expect(stats.summary().timing).toMatchObject({ queueMs: 1, prefillMs: 50, decodeMs: 0, e2eMs: 51 })
  })

  test('phases add up to the whole', () => {
    const span = fc.nat(1000)
    fc.assert(
      fc.property(span, span, fc.array(span, { maxLength: 5 }), (queue, prefill, gaps) => {
        const clock = handClock()
        const stats = new Stats(PLAIN_TREE, clock.now)
        clock.pass(queue)
        stats.started()
        clock.pass(prefill)
        stats.prefilled()
        for (const gap of gaps) {
          clock.pass(gap)
          stats.chunk(1, 'x')
        }
        stats.end()
        const { timing } = stats.summary()
        expect(timing.queueMs + timing.prefillMs + timing.decodeMs).toBe(timing.e2eMs)
      }),
    )
  })

  test('one token has no time per further token, one chunk no gap', () => {
    const stats = new Stats(PLAIN_TREE, handClock().now)
    stats.chunk(1, 'x')
    stats.end()
    expect(stats.summary().timing).toMatchObject({ ttftMs: 0, tpotMs: null, gapMs: null })
  })

  test('marks after the end, and made twice, change nothing', () => {
    const clock = handClock()
    const stats = new Stats(PLAIN_TREE, clock.now)
    stats.started()
    clock.pass(5)
    stats.started()
    stats.prefilled()
    stats.end()
    const before = stats.summary()
    clock.pass(5)
    stats.prefilled()
    stats.step(PLAIN_TREE, Int32Array.of(0))
    stats.chunk(4, 'late')
    stats.end()
    expect(stats.summary()).toEqual(before)
    expect(before.timing.prefillMs).toBe(5)
  })

  test('runs on until the end is marked', () => {
    const clock = handClock()
    const stats = new Stats(PLAIN_TREE, clock.now)
    clock.pass(5)
    expect(stats.summary().timing.e2eMs).toBe(5)
    clock.pass(5)
    expect(stats.summary().timing.e2eMs).toBe(10)
  })
})

describe('percentiles', () => {
  test('are values that occurred, by nearest rank', () => {
    const hundred = Array.from({ length: 100 }, (_, index) => 100 - index)
    expect(percentilesOf(hundred)).toEqual({ p50: 50, p90: 90, p99: 99, max: 100 })
    expect(percentilesOf([3])).toEqual({ p50: 3, p90: 3, p99: 3, max: 3 })
    expect(percentilesOf([1, 2])).toEqual({ p50: 1, p90: 2, p99: 2, max: 2 })
    expect(percentilesOf([])).toBeNull()
  })

  test('leave their input as it was', () => {
    const values = [3, 1, 2]
    percentilesOf(values)
    expect(values).toEqual([3, 1, 2])
  })
})

describe('speculation', () => {
  //        0
  //      /   \
  //     1     2
  //   /   \
  //  3     4
  //  |
  //  5
  const tree = buildTree([[0], [1], [0, 0], [0, 1], [0, 0, 0]], 'small')

  test('counts offered and accepted per depth, by the path taken', () => {
    const stats = new Stats(tree, handClock().now)
    stats.step(tree, Int32Array.of(0)) // nothing below the root was right
    stats.step(tree, Int32Array.of(0, 2)) // node 2 has no children: depth 2 was not offered
    stats.step(tree, Int32Array.of(0, 1)) // offered at depth 2, not accepted
    stats.step(tree, Int32Array.of(0, 1, 4)) // node 4 is a leaf
    stats.step(tree, Int32Array.of(0, 1, 3, 5))
    stats.chunk(12, 'text')
    stats.end()
    expect(stats.summary().speculation).toEqual({
      used: true,
      tree: 'small',
      nodes: 6,
      sizes: [{ nodes: 6, steps: 5 }],
      steps: 5,
      drafted: 25,
      accepted: 7,
      tokensPerStep: 12 / 5,
      byDepth: [
        { offered: 5, accepted: 4 },
        { offered: 3, accepted: 2 },
        { offered: 1, accepted: 1 },
      ],
      lengths: [1, 2, 1, 1],
    })
  })

  test('of a tree cut near the end counts what was offered, under the whole tree’s name', () => {
    const stats = new Stats(tree, handClock().now)
    stats.step(limitDepth(tree, 1), Int32Array.of(0, 1))
    expect(stats.summary().speculation).toMatchObject({
      tree: 'small',
      nodes: 6,
      drafted: 2,
      accepted: 1,
      byDepth: [{ offered: 1, accepted: 1 }],
      lengths: [0, 1],
    })
  })

  test('of plain decoding is one token per step and nothing offered', () => {
    const stats = new Stats(PLAIN_TREE, handClock().now)
    for (let step = 0; step < 3; step++) {
      stats.step(PLAIN_TREE, Int32Array.of(0))
      stats.chunk(1, 'x')
    }
    expect(stats.summary().speculation).toEqual({
      used: false,
      tree: 'plain',
      nodes: 1,
      sizes: [{ nodes: 1, steps: 3 }],
      steps: 3,
      drafted: 0,
      accepted: 0,
      tokensPerStep: 1,
      byDepth: [],
      lengths: [3],
    })
  })

  test('of a family is named after it, with the size most steps with a tree had', () => {
    const family = autoFamily(UNMEASURED_HEADS, 4)
    const stats = new Stats(family, handClock().now)
    for (const nodes of [1, 1, 1, 4, 16, 4]) stats.step(family.tree(nodes), Int32Array.of(0))
    expect(stats.summary().speculation).toMatchObject({
      tree: 'auto',
      nodes: 4,
      sizes: [
        { nodes: 1, steps: 3 },
        { nodes: 4, steps: 2 },
        { nodes: 16, steps: 1 },
      ],
    })
  })

  test('before any step is all zero', () => {
    expect(new Stats(tree, handClock().now).summary().speculation).toMatchObject({
      used: false,
      steps: 0,
      tokensPerStep: 0,
      byDepth: [],
      lengths: [],
    })
  })

  test('lengths, depths and totals agree for any paths', () => {
    const big = buildTree(CHOICES.mc_sim_7b_63)
    const pathTo = (node: number): number[] => (node < 0 ? [] : [...pathTo(big.parents[node]!), node])
    fc.assert(
      fc.property(fc.array(fc.nat(63), { minLength: 1, maxLength: 50 }), (ends) => {
        const stats = new Stats(big, handClock().now)
        for (const end of ends) stats.step(big, Int32Array.from(pathTo(end)))
        const { steps, accepted, byDepth, lengths } = stats.summary().speculation
        expect(steps).toBe(ends.length)
        expect(lengths.reduce((sum, count) => sum + count, 0)).toBe(steps)
        expect(lengths.reduce((sum, count, length) => sum + count * length, 0)).toBe(accepted)
        expect(byDepth.reduce((sum, depth) => sum + depth.accepted, 0)).toBe(accepted)
        byDepth.forEach((depth, index) => {
          expect(depth.offered).toBeLessThanOrEqual(byDepth[index - 1]?.accepted ?? steps)
          expect(depth.accepted).toBeLessThanOrEqual(depth.offered)
        })
      }),
    )
  })
})
