// Who runs when: batches, alignment, turns between prefill and decode, failures.
import { describe, expect, it } from 'vitest'
import type { SessionHandle } from '../../src/native.js'
import { Scheduler } from '../../src/scheduler.js'
import { FakeNative, nativeError } from '../support/fake-native.js'
import { GREEDY } from '../support/native-session.js'

/** Plain decoding of `steps` tokens, after `length` of prompt. */
async function decode(native: FakeNative, scheduler: Scheduler, length: number, steps: number): Promise<number[]> {
  const session: SessionHandle = native.openSession({} as never)
  const tokens = Int32Array.from({ length }, (_, i) => i % 90)
  native.beginPrefill({ session, tokens, sampling: GREEDY, compression: null, medusaHeads: 0, topK: 0 })
  const made: number[] = []
  try {
    let step = await scheduler.prefill({ session, tokens: length, left: length })
    while (!step.result) {
      step = await scheduler.prefill({ session, tokens: length, left: length * (1 - step.done / step.total) })
    }
    let { root } = step.result.drafts
    for (let i = 0; i < steps; i++) {
      made.push(root)
      await scheduler.verify({ session, tokens: Int32Array.of(root), parents: Int32Array.of(-1), typical: false })
      const drafts = await scheduler.commit({ session, path: Int32Array.of(0), medusaHeads: 0, topK: 0 })
      root = drafts.root
    }
    return made
  } finally {
    scheduler.leave(session)
    await native.close(session)
  }
}

const members = (native: FakeNative, phase: string) =>
  native.calls.filter((call) => call.phase === phase).map((call) => call.sessions.length)

/** Sessions of each prefill call. */
const prompts = (native: FakeNative) =>
  native.calls.filter((call) => call.phase === 'prefill').map((call) => call.sessions.join(' '))

describe('batches', () => {
  it('verifies and commits together what waits together', async () => {
    const native = new FakeNative()
    const scheduler = new Scheduler(native)
    await Promise.all(Array.from({ length: 8 }, () => decode(native, scheduler, 10, 5)))
    expect(Math.max(...members(native, 'verify'))).toBeGreaterThan(1)
    expect(members(native, 'commit')).toEqual(members(native, 'verify'))
    expect(native.breaches).toEqual([])
  })

  it('prefills long prompts alone, and short ones together up to the tokens of a chunk', async () => {
    const native = new FakeNative({ chunk: 512 })
    const scheduler = new Scheduler(native)
    await Promise.all([100, 100, 600, 100, 100, 100, 100].map((length) => decode(native, scheduler, length, 1)))
    // Of two layers each; one of the short ones is too much for the first call.
    expect(prompts(native)).toEqual(['1 2 4 5 6', '1 2 4 5 6', '7', '3', '7', '3', '3', '3'])
  })

  it('brings sequences into step that began at different times', async () => {
    const native = new FakeNative()
    const scheduler = new Scheduler(native)
    const running = [decode(native, scheduler, 10, 40)]
    for (let i = 0; i < 3; i++) {
      while (native.calls.length < (i + 1) * 7) await new Promise((resolve) => setImmediate(resolve))
      running.push(decode(native, scheduler, 10 + i, 40))
    }
    await Promise.all(running)
    const verified = members(native, 'verify')
    expect(verified.slice(20, 30)).toEqual(new Array(10).fill(4))
    expect(verified.length).toBeLessThan(60)
  })

  it('gives each what it gets alone', async () => {
    const alone: number[][] = []
    for (let length = 1; length <= 6; length++) {
      const native = new FakeNative()
      alone.push(await decode(native, new Scheduler(native), length, 12))
    }
    const native = new FakeNative()
    const scheduler = new Scheduler(native)
    const together = await Promise.all([1, 2, 3, 4, 5, 6].map((length) => decode(native, scheduler, length, 12)))
    expect(together).toEqual(alone)
  })

  it('does not wait for one that has gone quiet', async () => {
    const native = new FakeNative()
    const scheduler = new Scheduler(native)
    const quiet = native.openSession({} as never)
    native.beginPrefill({
      session: quiet,
      tokens: Int32Array.of(1),
      sampling: GREEDY,
      compression: null,
      medusaHeads: 0,
      topK: 0,
    })
    const both = [scheduler.prefill({ session: quiet, tokens: 1, left: 1 }), decode(native, scheduler, 5, 10)] as const
    await both[0]
    expect(await both[1]).toHaveLength(10)
  })
})

describe('turns', () => {
  it('interleaves chunks of a long prompt with decode steps', async () => {
    const native = new FakeNative({ chunk: 4 })
    const scheduler = new Scheduler(native)
    const short = decode(native, scheduler, 4, 30)
    while (!native.calls.some((call) => call.phase === 'verify')) await new Promise((resolve) => setImmediate(resolve))
    const before = native.calls.length
    await Promise.all([short, decode(native, scheduler, 40, 1)])
    const between = native.calls.slice(before, before + 45).map((call) => call.phase[0])
    expect(between.join('')).toMatch(/(pvc){10}/)
  })

  it('come to running streams between any two chunks, however many long prompts there are', async () => {
    const native = new FakeNative({ chunk: 64 })
    const scheduler = new Scheduler(native)
    const stream = decode(native, scheduler, 4, 600)
    while (!native.calls.some((call) => call.phase === 'verify')) await new Promise((resolve) => setImmediate(resolve))
    const begin = native.calls.length
    await Promise.all([stream, ...Array.from({ length: 8 }, () => decode(native, scheduler, 1000, 1))])
    const phases = native.calls.slice(begin).map((call) => call.phase[0])
    expect(phases.filter((phase) => phase === 'p')).toHaveLength(8 * 2 * Math.ceil(1000 / 64))
    expect(phases.join('')).not.toContain('pp')
  })

  it('come to the prompt with the least left first', async () => {
    const native = new FakeNative({ chunk: 600, layers: 3 })
    const scheduler = new Scheduler(native)
    const done: number[] = []
    const lengths = [1800, 1200, 1800, 600]
    await Promise.all(lengths.map((length) => decode(native, scheduler, length, 1).then(() => done.push(length))))
    expect(done).toEqual([600, 1200, 1800, 1800])
    // Those of 1800 one after the other, rather than both at the end.
    expect(prompts(native).lastIndexOf('1')).toBeLessThan(prompts(native).indexOf('3'))
  })

  it('come to the oldest prompt too, while shorter ones keep coming', async () => {
    const native = new FakeNative({ chunk: 600 })
    const scheduler = new Scheduler(native)
    let isDone = false
    const long = decode(native, scheduler, 3000, 1).then(() => {
      isDone = true
    })
    const endless = Array.from({ length: 3 }, async () => {
      for (let i = 0; i < 100 && !isDone; i++) await decode(native, scheduler, 600, 1)
    })
    await Promise.all([long, ...endless])
    // Ten chunks of its own, one in four calls.
    expect(prompts(native).indexOf('1')).toBe(3)
    expect(prompts(native).lastIndexOf('1')).toBeLessThan(4 * 10)
  })

  it('are given up by a prompt that is withdrawn, unless it is being read', async () => {
    const native = new FakeNative({ chunk: 600 })
    const scheduler = new Scheduler(native)
    const begin = (length: number) => {
      const session: SessionHandle = native.openSession({} as never)
      const tokens = new Int32Array(length)
      native.beginPrefill({ session, tokens, sampling: GREEDY, compression: null, medusaHeads: 0, topK: 0 })
      return { session, step: scheduler.prefill({ session, tokens: length, left: length }) }
    }
    const read = begin(600)
    const waiting = begin(1200)
    while (native.calls.length === 0) await new Promise((resolve) => setImmediate(resolve))
    scheduler.withdraw(read.session, 'too late')
    scheduler.withdraw(waiting.session, 'enough')
    await expect(waiting.step).rejects.toBe('enough')
    expect((await read.step).done).toBe(600)
    scheduler.leave(read.session)
    // Withdrawn before anything was asked of the native side: there is nobody to call for.
    const hasty = begin(600)
    scheduler.withdraw(hasty.session, 'at once')
    await expect(hasty.step).rejects.toBe('at once')
    expect(await decode(native, scheduler, 5, 3)).toHaveLength(3)
    expect(prompts(native)).toEqual(['1', '4', '4'])
  })
})

describe('failures', () => {
  it('are those of the member that caused them', async () => {
    const native = new FakeNative()
    const scheduler = new Scheduler(native)
    native.onCall = ({ phase, sessions }) => {
      if (phase === 'verify' && sessions.includes(2)) throw nativeError('ERR_OUT_OF_MEMORY', 'no room')
    }
    const outcomes = await Promise.allSettled([1, 2, 3].map((length) => decode(native, scheduler, length, 4)))
    expect(outcomes.map((outcome) => outcome.status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(outcomes[1]).toMatchObject({ reason: { code: 'ERR_OUT_OF_MEMORY' } })
    expect(native.openSessions).toBe(0)
  })

  it('are shared with whom the failed call left in the middle', async () => {
    const native = new FakeNative()
    const scheduler = new Scheduler(native)
    const { commit } = FakeNative.prototype
    native.commit = async (batch) => {
      const drafts = await commit.call(native, batch)
      if (batch.length > 1) throw nativeError('ERR_DEVICE', 'gone after the first')
      return drafts
    }
    const outcomes = await Promise.allSettled([1, 2].map((length) => decode(native, scheduler, length, 4)))
    for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { code: 'ERR_DEVICE' } })
  })

  it('of a call that throws at once reach the caller too', async () => {
    const native = new FakeNative()
    native.verify = () => {
      throw nativeError('ERR_ARGUMENT', 'at once')
    }
    await expect(decode(native, new Scheduler(native), 3, 1)).rejects.toMatchObject({ code: 'ERR_ARGUMENT' })
  })

  it('include an answer for somebody missing', async () => {
    const native = new FakeNative()
    native.verify = async () => []
    await expect(decode(native, new Scheduler(native), 3, 1)).rejects.toMatchObject({ code: 'ERR_INTERNAL' })
  })

  it('leave the scheduler working', async () => {
    const native = new FakeNative()
    const scheduler = new Scheduler(native)
    native.onCall = () => {
      throw nativeError('ERR_DEVICE', 'gone')
    }
    await expect(decode(native, scheduler, 3, 1)).rejects.toMatchObject({ code: 'ERR_DEVICE' })
    native.onCall = () => undefined
    expect(await decode(native, scheduler, 3, 5)).toHaveLength(5)
  })
})
