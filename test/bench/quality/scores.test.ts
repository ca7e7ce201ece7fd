// Means, intervals and losses of scores.
import { describe, expect, it } from 'vitest'
import {
  decodeScores,
  encodeScores,
  intervalOf,
  lossOf,
  pointsOf,
  wilsonInterval,
} from '../../../bench/quality/scores.js'

describe('wilsonInterval', () => {
  it("is Wilson's", () => {
    expect(wilsonInterval(8, 10).low).toBeCloseTo(49.02, 1)
    expect(wilsonInterval(8, 10).high).toBeCloseTo(94.33, 1)
    expect(wilsonInterval(0, 10)).toEqual({ low: 0, high: expect.closeTo(27.75, 1) })
    expect(wilsonInterval(10, 10)).toEqual({ low: expect.closeTo(72.25, 1), high: expect.closeTo(100) })
  })

  it('knows nothing without cases', () => {
    expect(wilsonInterval(0, 0)).toEqual({ low: 0, high: 100 })
  })
})

describe('intervalOf', () => {
  it('takes Wilson for right and wrong, the normal one for anything between', () => {
    expect(intervalOf([1, 0, 1, 1])).toEqual(wilsonInterval(3, 4))
    // Mean 0.5, deviation 0.1 * sqrt(2), over sqrt(2).
    const { low, high } = intervalOf([0.4, 0.6])
    expect(low).toBeCloseTo(50 - 19.6, 2)
    expect(high).toBeCloseTo(50 + 19.6, 2)
  })

  it('stays within what scores can be', () => {
    expect(intervalOf([0, 0.9, 1, 1])).toMatchObject({ high: 100 })
    expect(intervalOf([0, 0.1, 0, 0])).toMatchObject({ low: 0 })
  })
})

describe('lossOf', () => {
  it('counts points and cases, whichever way they went', () => {
    expect(lossOf([1, 1, 1, 0], [1, 0, 0, 1])).toMatchObject({ points: 25, worse: 2, better: 1 })
    expect(lossOf([0, 0], [1, 1])).toMatchObject({ points: -100, worse: 0, better: 2 })
  })

  it('has the interval of Agresti and Min for right and wrong', () => {
    const baseline = [...Array(3).fill(1), 0, ...Array(16).fill(1)]
    const arm = [...Array(3).fill(0), 1, ...Array(16).fill(1)]
    const { points, low, high } = lossOf(baseline, arm)
    expect(points).toBeCloseTo(10)
    expect(low).toBeCloseTo(-10.47, 1)
    expect(high).toBeCloseTo(28.65, 1)
  })

  it('is not sure of nothing lost when few were asked', () => {
    const few = lossOf([1, 1], [1, 1])
    const many = lossOf(Array(200).fill(1), Array(200).fill(1))
    expect(few.points).toBe(0)
    expect(few.high).toBeGreaterThan(40)
    expect(many.high).toBeLessThan(1.5)
  })

  it('compares case by case: scores that differ much but always alike lose nothing', () => {
    const { points, low, high } = lossOf([0.2, 0.9, 0.5], [0.1, 0.8, 0.4])
    for (const value of [points, low, high]) expect(value).toBeCloseTo(10)
  })
})

describe('scores of a result', () => {
  it('come back to hundredths, with those not asked', () => {
    expect(encodeScores([1, null, 0, 0.637])).toBe('100 - 0 64')
    expect(decodeScores('100 - 0 64')).toEqual([1, null, 0, 0.64])
    expect(pointsOf([1, 0, 0.5])).toBe(50)
  })
})
