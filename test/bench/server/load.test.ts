// Loops of requests, on a clock of the test's own.
import { describe, expect, test } from 'vitest'
import { type Answer, type Clock, dueTimes, runLoad } from '../../../bench/server/load.js'

/** Time passes when everybody waits. */
class ManualClock implements Clock {
  #now = 0
  readonly #sleepers: { readonly until: number; readonly wake: () => void }[] = []

  now(): number {
    return this.#now
  }

  sleep(ms: number): Promise<void> {
    return new Promise((wake) => {
      this.#sleepers.push({ until: this.#now + ms, wake })
      this.#sleepers.sort((a, b) => a.until - b.until)
    })
  }

  /** Runs until nobody sleeps. */
  async run(): Promise<void> {
    for (let turn = 0; turn < 10_000; turn++) {
      await new Promise((settled) => setImmediate(settled))
      const next = this.#sleepers.shift()
      if (!next) return
      this.#now = Math.max(this.#now, next.until)
      next.wake()
    }
    throw new Error('the clock never came to rest')
  }
}

const answerAt = (endMs: number): Answer => ({ firstByteMs: null, arrivals: [], endMs, tokens: 0, text: '', ids: null })

describe('a closed loop', () => {
  test('has each client ask again when it has its answer, and each question once', async () => {
    const clock = new ManualClock()
    let running = 0
    let most = 0
    const run = runLoad(
      { loop: 'closed', clients: 3, requestsEach: 4 },
      async (question) => {
        most = Math.max(most, ++running)
        await clock.sleep(10 + question)
        running--
        return answerAt(clock.now())
      },
      clock,
    )
    await clock.run()
    const { answers, wallMs } = await run
    expect(most).toBe(3)
    expect(answers.map(({ question }) => question).sort((a, b) => a - b)).toEqual([...Array(12).keys()])
    // The slowest client waits for 12, 15, 18 and 21 milliseconds.
    expect(wallMs).toBe(12 + 15 + 18 + 21)
  })

  test('a request that fails fails the run', async () => {
    const failing = runLoad({ loop: 'closed', clients: 1, requestsEach: 1 }, () => Promise.reject(new Error('no')))
    await expect(failing).rejects.toThrow('no')
  })
})

describe('an open loop', () => {
  test('asks when it is time, however many have no answer yet', async () => {
    const clock = new ManualClock()
    const plan = { loop: 'open', perSecond: 100, requests: 50 } as const
    const asked: number[] = []
    const run = runLoad(
      plan,
      async () => {
        asked.push(clock.now())
        await clock.sleep(60_000)
        return answerAt(clock.now())
      },
      clock,
    )
    await clock.run()
    const { answers } = await run
    expect(asked).toEqual(dueTimes(plan))
    expect(answers.every(({ dueMs, endMs }) => endMs - dueMs === 60_000)).toBe(true)
  })

  test('counts from when a request was due, not from when it could be sent', async () => {
    const clock = new ManualClock()
    const plan = { loop: 'open', perSecond: 1000, requests: 3 } as const
    // The first request holds up the asking process itself for 50 milliseconds.
    let passed = 0
    const late: Clock = { now: () => clock.now() + passed, sleep: (ms) => clock.sleep(ms) }
    const run = runLoad(
      plan,
      async () => {
        if (passed === 0) passed = 50
        return answerAt(late.now())
      },
      late,
    )
    await clock.run()
    const due = dueTimes(plan)
    const { answers } = await run
    expect(answers.map(({ dueMs }) => dueMs)).toEqual(due)
    expect(answers[2]!.endMs - answers[2]!.dueMs).toBeCloseTo(due[0]! + 50 - due[2]!, 9)
  })

  test('a failure is told once all have been asked', async () => {
    const clock = new ManualClock()
    let asked = 0
    const ask = async () => {
      asked++
      throw new Error('no')
    }
    const run = runLoad({ loop: 'open', perSecond: 100, requests: 5 }, ask, clock)
    const failed = expect(run).rejects.toThrow('no')
    await clock.run()
    await failed
    expect(asked).toBe(5)
  })

  test('arrives like a Poisson process, and the same each time', () => {
    const plan = { perSecond: 50, requests: 20_000 }
    const times = dueTimes(plan)
    expect(dueTimes(plan)).toEqual(times)
    const gaps = times.map((at, i) => at - (times[i - 1] ?? 0))
    const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length
    const deviation = Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length)
    // Four standard errors of 20,000 gaps: three parts in a hundred.
    expect(Math.abs(mean / 20 - 1)).toBeLessThan(0.03)
    // Exponential gaps vary by as much as their mean.
    expect(Math.abs(deviation / mean - 1)).toBeLessThan(0.05)
  })
})
