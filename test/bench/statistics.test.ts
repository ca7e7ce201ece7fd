// What is reported of samples.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { harmonicMeanOf, medianOf, pairedRatiosOf, quantileOf, summaryOf } from '../../bench/support/statistics.js'

test('the median is the middle value, or the mean of the two', () => {
  expect(medianOf([5, 1, 3])).toBe(3)
  expect(medianOf([4, 1, 3, 2])).toBe(2.5)
  expect(medianOf([])).toBeNaN()
})

test('quantiles lie between neighbours', () => {
  const values = [40, 10, 30, 20, 50]
  expect([0, 0.1, 0.25, 0.9, 1].map((q) => quantileOf(values, q))).toEqual([10, 14, 20, 46, 50])
})

test('a summary is ordered, within its samples, and does not depend on their order', () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 1 }), (samples) => {
      const summary = summaryOf(samples)
      expect(summary.n).toBe(samples.length)
      expect(summary.p10).toBeLessThanOrEqual(summary.median)
      expect(summary.median).toBeLessThanOrEqual(summary.p90)
      expect(summary.p10).toBeGreaterThanOrEqual(Math.min(...samples))
      expect(summary.p90).toBeLessThanOrEqual(Math.max(...samples))
      expect(summaryOf(samples.toReversed())).toEqual(summary)
    }),
  )
})

test('samples are not reordered', () => {
  const samples = [3, 1, 2]
  summaryOf(samples)
  expect(samples).toEqual([3, 1, 2])
})

test('rates over equal work have the harmonic mean', () => {
  // 60 tokens in 30 steps and 60 in 20: 120 in 50.
  expect(harmonicMeanOf([2, 3])).toBeCloseTo(2.4, 12)
})

test('ratios pair samples of the same round', () => {
  expect(pairedRatiosOf([10, 20, 30], [5, 4, 10])).toEqual([2, 5, 3])
  expect(pairedRatiosOf([10, 20, 30], [5])).toEqual([2])
})
