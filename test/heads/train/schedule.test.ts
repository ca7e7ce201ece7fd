// The learning rate rises, falls, and is never beyond its height.
import { describe, expect, test } from 'vitest'
import { learningRateAt } from '../../../heads/train/schedule.js'

const rates = (schedule: Parameters<typeof learningRateAt>[1]) =>
  Array.from({ length: schedule.steps }, (_, i) => learningRateAt(i + 1, schedule))

describe('the learning rate', () => {
  test('rises in a straight line to its height', () => {
    const found = rates({ learningRate: 2, steps: 40, warmup: 0.25, floor: 0.1 })
    expect(found.slice(0, 10)).toEqual([0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8, 2])
  })

  test('falls from there along half a cosine to the floor', () => {
    const found = rates({ learningRate: 2, steps: 21, warmup: 0.05, floor: 0.1 })
    expect(found[1]).toBe(2)
    expect(found[20]).toBeCloseTo(0.2, 12)
    for (let step = 2; step < 21; step++) expect(found[step]).toBeLessThan(found[step - 1]!)
    // As far below the middle as it was above it.
    for (let i = 0; i <= 19; i++) expect(found[1 + i]! + found[20 - i]!).toBeCloseTo(2.2, 12)
  })

  test.each([
    { steps: 1, warmup: 0 },
    { steps: 1, warmup: 1 },
    { steps: 2, warmup: 0.5 },
    { steps: 5, warmup: 1 },
    { steps: 3, warmup: 0 },
  ])('is above zero and at most its height: %o', (given) => {
    const found = rates({ learningRate: 1, floor: 0, ...given })
    expect(Math.max(...found)).toBe(1)
    expect(Math.min(...found)).toBeGreaterThanOrEqual(0)
    expect(found[0]).toBeGreaterThan(0)
  })
})
