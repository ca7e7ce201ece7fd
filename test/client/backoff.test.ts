// Delays that grow, are bounded, and differ between clients.
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { backoffMs } from '../../src/client/backoff.js'

const limits = { minDelayMs: 100, maxDelayMs: 5000 }

it('doubles from failure to failure up to the longest', () => {
  expect([1, 2, 3, 6, 7, 1000].map((failures) => backoffMs(failures, limits, 1))).toEqual([
    100, 200, 400, 3200, 5000, 5000,
  ])
})

it('is between half of it and all of it, by chance', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), fc.double({ min: 0, max: 1, noNaN: true }), (failures, random) => {
      const full = backoffMs(failures, limits, 1)
      expect(backoffMs(failures, limits, random)).toBeCloseTo(full / 2 + (full / 2) * random)
    }),
  )
})
