// What one principal may ask for, by a clock of the test's.
import { describe, expect, test } from 'vitest'
import { Rates } from '../../src/server/rate.js'
import { failure } from '../support/errors.js'

const ALICE = { id: 'alice', maxPriority: 0 }
const BOB = { id: 'bob', maxPriority: 0 }

function ratesOf(limits: { concurrent?: number; requestsPerMinute?: number }) {
  const clock = { ms: 0 }
  const rates = new Rates({ concurrent: 64, requestsPerMinute: 0, ...limits }, () => clock.ms)
  return { rates, clock }
}

describe('requests at once', () => {
  test('one more than allowed is refused, until one ends', async () => {
    const { rates } = ratesOf({ concurrent: 2 })
    const leave = rates.enter(ALICE)
    rates.enter(ALICE)
    const error = await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT', /limits\.perKey\.concurrent/)
    expect(error.details['retryAfterMs']).toBeGreaterThan(0)
    leave()
    rates.enter(ALICE)
  })

  test('ending twice counts once', async () => {
    const { rates } = ratesOf({ concurrent: 1 })
    const leave = rates.enter(ALICE)
    leave()
    leave()
    rates.enter(ALICE)
    await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT')
  })

  test('principals do not count for each other', () => {
    const { rates } = ratesOf({ concurrent: 1 })
    rates.enter(ALICE)
    rates.enter(BOB)
  })
})

describe('requests a minute', () => {
  test('a minute’s worth may come at once, the next when its share of the minute has passed', async () => {
    const { rates, clock } = ratesOf({ requestsPerMinute: 60 })
    for (let i = 0; i < 60; i++) rates.enter(ALICE)()
    const { details } = await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT', /requestsPerMinute/)
    expect(details['retryAfterMs']).toBe(1000)
    clock.ms += 999
    await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT')
    clock.ms += 1
    rates.enter(ALICE)()
    await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT')
  })

  test('waiting for longer than a minute saves nothing up', async () => {
    const { rates, clock } = ratesOf({ requestsPerMinute: 3 })
    clock.ms += 3_600_000
    for (let i = 0; i < 3; i++) rates.enter(ALICE)()
    await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT')
  })

  test('being refused costs nothing', async () => {
    const { rates, clock } = ratesOf({ concurrent: 1, requestsPerMinute: 2 })
    const leave = rates.enter(ALICE)
    await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT', /concurrent/)
    leave()
    rates.enter(ALICE)()
    await failure(() => rates.enter(ALICE), 'ERR_RATE_LIMIT', /requestsPerMinute/)
    clock.ms += 30_000
    rates.enter(ALICE)()
  })
})

test('principals who left are forgotten, however many came', () => {
  const { rates, clock } = ratesOf({ requestsPerMinute: 10 })
  for (let i = 0; i < 10_000; i++) {
    clock.ms += 10
    rates.enter({ id: `address:${i}`, maxPriority: 0 })()
  }
  // Each has its allowance back after 6 s: those are the last 600.
  expect(rates.size).toBeLessThanOrEqual(700)
})
