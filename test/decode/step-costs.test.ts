// Costs between and beyond the measured points, and what steps teach about them.
import { describe, expect, test } from 'vitest'
import { LiveCosts, type StepCosts, stepMs } from '../../src/decode/step-costs.js'

const COSTS: StepCosts = {
  rows: [1, 4, 16, 64, 128],
  ms: [1, 1.3, 2.5, 8.5, 16.5],
  cacheRows: 32,
  attention: { rows: [1, 16], msPerCacheRow: [0.0001, 0.001] },
  draftMs: [0, 0.1, 0.2],
  sequenceMs: 0.05,
}
const at = (nodes: number, others: object = {}) => ({ nodes, medusaHeads: 0, cacheRows: 32, sequences: 1, ...others })

describe('stepMs', () => {
  test('is what was measured at the points, on lines between them, and on the last line beyond', () => {
    for (const [i, rows] of COSTS.rows.entries()) expect(stepMs(COSTS, at(rows))).toBeCloseTo(COSTS.ms[i]!, 9)
    expect(stepMs(COSTS, at(10))).toBeCloseTo(1.9, 9)
    expect(stepMs(COSTS, at(64, { sequences: 3 }))).toBeCloseTo(24.5 + 2 * 0.05, 9)
  })

  test('grows with the cache, faster for a larger tree', () => {
    expect(stepMs(COSTS, at(1, { cacheRows: 1032 }))).toBeCloseTo(1 + 0.1, 9)
    expect(stepMs(COSTS, at(16, { cacheRows: 1032 }))).toBeCloseTo(2.5 + 1, 9)
  })

  test('adds drafts, and each further sequence', () => {
    expect(stepMs(COSTS, at(4, { medusaHeads: 2 }))).toBeCloseTo(1.5, 9)
    expect(stepMs(COSTS, at(4, { sequences: 4 }))).toBeCloseTo(2.5 + 3 * 0.05, 9)
  })

  test('works from a single point', () => {
    const one = { ...COSTS, rows: [1], ms: [2], attention: { rows: [1], msPerCacheRow: [0] } }
    expect(stepMs(one, at(8))).toBe(2)
  })
})

describe('what steps teach', () => {
  test('trees that turn out dearer become dearer, plain steps stay the measure', () => {
    const live = new LiveCosts(COSTS)
    for (let i = 0; i < 60; i++) live.compare({ ...at(16), ms: 5 * 2.5 }, { ...at(1), ms: 2.5 })
    expect(live.stepMs(at(16)) / live.stepMs(at(1))).toBeCloseTo(5, 1)
    expect(live.stepMs(at(1))).toBe(1)
    // Neighbours are believed to be dearer too, less so with distance.
    const raised = [4, 64].map((rows) => live.stepMs(at(rows)) / stepMs(COSTS, at(rows)))
    for (const factor of raised) expect(factor).toBeGreaterThan(1.2)
  })

  test('a machine that is slower for all steps alike teaches nothing', () => {
    const live = new LiveCosts(COSTS)
    for (let i = 0; i < 60; i++) live.compare({ ...at(16), ms: 25 }, { ...at(1), ms: 10 })
    expect(live.stepMs(at(16))).toBeCloseTo(2.5, 6)
  })

  test('one disturbed step moves little, and nonsense nothing', () => {
    const live = new LiveCosts(COSTS)
    live.compare({ ...at(16), ms: 2500 }, { ...at(1), ms: 1 })
    expect(live.stepMs(at(16))).toBe(2.5)
    live.compare({ ...at(16), ms: 2.6 }, { ...at(1), ms: 1 })
    expect(live.stepMs(at(16))).toBeLessThan(2.5 * 1.1)
    const before = live.stepMs(at(16))
    for (const ms of [0, Number.NaN, -1]) live.compare({ ...at(16), ms }, { ...at(1), ms: 1 })
    expect(live.stepMs(at(16))).toBe(before)
  })
})
