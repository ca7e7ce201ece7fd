// When a turn's cache is compressed, and to what.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { planCompression } from '../../src/cache/budget.js'
import { type KvOptionsInput, mergeKv, parseLoadOptions } from '../../src/options.js'

const kvOf = (options: KvOptionsInput = {}) => mergeKv(parseLoadOptions('model').kv, options)
const plan = (rows: number, newTokens: number, options: KvOptionsInput = {}) =>
  planCompression({ rows, newTokens, kv: kvOf(options) })

describe('the first turn', () => {
  test('is left whole up to the budget, and compressed one token past it', () => {
    expect(plan(0, 99, { budget: 100 })).toBeNull()
    expect(plan(0, 100, { budget: 100 })).toBeNull()
    expect(plan(0, 101, { budget: 100 })).toMatchObject({ budget: 100, window: 32 })
  })

  test('is left whole by the full policy, however long', () => {
    expect(plan(0, 1_000_000, { policy: 'full' })).toBeNull()
  })

  test('is the same for both kinds of turns', () => {
    expect(plan(0, 3000, { turns: 'frozen' })).toEqual(plan(0, 3000, { turns: 'recompress' }))
  })

  test.each(['snapkv', 'h2o', 'streaming'] as const)('carries all options of %s', (policy) => {
    const options = {
      budget: 64,
      window: 8,
      poolSize: 5,
      pool: 'avg',
      groupReduce: 'max',
      sinks: 2,
      reportKept: true,
    } as const
    expect(plan(0, 65, { policy, ...options })).toEqual({ policy, ...options })
  })
})

describe('later turns', () => {
  test('recompress when earlier rows and new tokens exceed the budget together', () => {
    expect(plan(90, 10, { budget: 100 })).toBeNull()
    expect(plan(90, 11, { budget: 100 })).toMatchObject({ budget: 100 })
    expect(plan(100, 1, { budget: 100 })).toMatchObject({ budget: 100, window: 1 })
  })

  test('are kept whole when frozen', () => {
    expect(plan(1, 5000, { budget: 100, turns: 'frozen' })).toBeNull()
    expect(plan(100, 5000, { budget: 100, turns: 'frozen' })).toBeNull()
  })

  test('shorter than the window vote with what they have', () => {
    expect(plan(100, 5, { budget: 100 })?.window).toBe(5)
    expect(plan(100, 32, { budget: 100 })?.window).toBe(32)
    expect(plan(100, 33, { budget: 100 })?.window).toBe(32)
  })
})

test('a plan always shrinks the cache, and its window fits into turn and budget', () => {
  const size = fc.integer({ min: 1, max: 300 })
  const policy = fc.constantFrom('full', 'snapkv', 'h2o', 'streaming')
  const turns = fc.constantFrom('recompress', 'frozen')
  fc.assert(
    fc.property(fc.nat(300), size, size, size, policy, turns, (rows, newTokens, window, extra, policy, turns) => {
      const budget = window + extra + 4
      const spec = plan(rows, newTokens, { policy, turns, window, budget })
      if (!spec) return
      expect(spec.budget).toBeLessThan(rows + newTokens)
      expect(spec.window).toBeLessThanOrEqual(newTokens)
      expect(spec.window).toBeLessThan(spec.budget)
    }),
  )
})
