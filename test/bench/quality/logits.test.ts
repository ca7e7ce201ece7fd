// Distances between two models' logits, on values whose distances are known.
import { describe, expect, test } from 'vitest'
import { commonPrefix, compareLogits } from '../../../bench/quality/logits.js'
import { uniform } from '../../support/tiny-model.js'

describe('compareLogits', () => {
  test('of a model with itself is nothing, and the loss of a uniform one is ln V', () => {
    const random = uniform(2)
    const logits = Float32Array.from({ length: 24 }, random)
    expect(compareLogits([1, 2, 3], logits, logits)).toMatchObject({ rows: 3, error: 0, divergence: 0, agreements: 3 })
    const uniformLogits = new Float32Array(24).fill(5)
    expect(compareLogits([1, 2, 3], uniformLogits, logits).loss).toBeCloseTo(Math.log(8), 12)
  })

  test('the error is relative to the reference, over all rows together', () => {
    // Less their means: 3, -3 and 4, -4; ours are off by 1, -1 in the first row.
    const reference = Float32Array.of(6, 0, 0, -8)
    const logits = Float32Array.of(7, -1, 0, -8)
    expect(compareLogits([0, 0], logits, reference).error).toBeCloseTo(Math.sqrt(2 / 50), 12)
  })

  test('probabilities are those of a softmax', () => {
    // Row 0: reference 1/2, 1/4, 1/4 and ours 1/4, 1/4, 1/2. Row 1: alike.
    const ln = (values: number[]) => values.map(Math.log)
    const reference = Float32Array.from([...ln([0.5, 0.25, 0.25]), ...ln([0.2, 0.3, 0.5])])
    const logits = Float32Array.from([...ln([0.25, 0.25, 0.5]), ...ln([0.2, 0.3, 0.5])])
    const { divergence, agreements, loss } = compareLogits([9, 2], logits, reference)
    expect(divergence).toBeCloseTo((0.25 * Math.log(2)) / 2, 6)
    expect(agreements).toBe(1)
    expect(loss).toBeCloseTo(Math.log(2), 6)
  })

  test('a constant added to all logits of a row changes no probability', () => {
    const random = uniform(1)
    const reference = Float32Array.from({ length: 40 }, () => 6 * random())
    const shifted = reference.map((value) => value + 100)
    const { error, divergence, agreements, loss } = compareLogits([1, 2, 3, 4], shifted, reference)
    expect(error).toBeLessThan(1e-5)
    expect(Math.abs(divergence)).toBeLessThan(1e-5)
    expect(agreements).toBe(4)
    expect(loss).toBeCloseTo(compareLogits([1, 2, 3, 4], reference, reference).loss, 4)
  })

  test('logits of any size overflow nothing', () => {
    const reference = Float32Array.of(1e30, -1e30, 0)
    const { divergence, error } = compareLogits([0], reference, reference)
    expect([Math.abs(divergence), error]).toEqual([0, 0])
  })

  test('of one token there is no loss, and a logit that is no number shows', () => {
    const reference = Float32Array.of(1, 2)
    expect(compareLogits([0], reference, reference).loss).toBeNaN()
    expect(compareLogits([0], Float32Array.of(1, Number.NaN), reference).error).toBeNaN()
  })
})

test('commonPrefix counts tokens up to the first that differs', () => {
  expect(commonPrefix([1, 2, 3], [1, 2, 3])).toBe(3)
  expect(commonPrefix([1, 2, 3], [1, 9, 3])).toBe(1)
  expect(commonPrefix([7], [8, 7])).toBe(0)
  expect(commonPrefix([1, 2], [1, 2, 3])).toBe(2)
  expect(commonPrefix([], [1])).toBe(0)
})
