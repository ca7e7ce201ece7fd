// Measuring step costs, on a machine that is a clock: each call takes what a formula says.
import { describe, expect, it } from 'vitest'
import { stepMs } from '../src/decode/step-costs.js'
import { type Measured, measureStepCosts } from '../src/measure-costs.js'
import type { CommitRequest, SessionHandle, VerifyRequest } from '../src/native.js'
import { FakeNative, nativeError } from './support/fake-native.js'

interface Machine {
  readonly ms: (rows: number) => number
  readonly perCacheRow?: number
  readonly draftMs?: number
  readonly sequenceMs?: number
  readonly noise?: () => number
}

/** A fake native side whose calls move a clock. */
class TimedNative extends FakeNative {
  now = 0
  assumed: number[] = []
  readonly #machine: Machine
  readonly #rows = new Map<SessionHandle, number>()

  constructor(machine: Machine) {
    super({ maxPositions: 100_000, medusaHeads: 4 })
    this.#machine = machine
  }

  override async assumePrefill(request: { session: SessionHandle; tokens: number }): Promise<void> {
    this.assumed.push(request.tokens)
    this.#rows.set(request.session, request.tokens)
    await super.assumePrefill(request)
  }

  override async verify(batch: readonly VerifyRequest[]) {
    const { ms, perCacheRow = 0, sequenceMs = 0, noise = () => 1 } = this.#machine
    const rows = batch.reduce((sum, { tokens }) => sum + tokens.length, 0)
    const attended = batch.reduce((sum, { session, tokens }) => sum + tokens.length * this.#rows.get(session)!, 0)
    this.now += (ms(rows) + attended * perCacheRow + (batch.length - 1) * sequenceMs) * noise()
    return super.verify(batch)
  }

  override async commit(batch: readonly CommitRequest[]) {
    const { draftMs = 0, noise = () => 1 } = this.#machine
    this.now += (0.05 + batch.reduce((sum, { medusaHeads }) => sum + medusaHeads * draftMs, 0)) * noise()
    return super.commit(batch)
  }
}

const measure = (native: TimedNative, others: Partial<Measured> = {}) =>
  measureStepCosts({
    native,
    model: native.openToyModel(),
    vocab: 97,
    medusaHeads: 4,
    context: 50_000,
    kvBytesPerToken: 1000,
    now: () => native.now,
    ...others,
  })

describe('measuring', () => {
  it('finds what steps cost, by rows, cache, heads and sequences', async () => {
    const machine = { ms: (rows: number) => 0.5 + 0.01 * rows, perCacheRow: 1e-6, draftMs: 0.1, sequenceMs: 0.02 }
    const native = new TimedNative(machine)
    const { costs, isSteady } = await measure(native)
    expect(isSteady).toBe(true)
    expect(costs.rows).toEqual([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256])
    for (const nodes of [1, 5, 16, 50, 64]) {
      for (const cacheRows of [32, 5000]) {
        for (const medusaHeads of [0, 2, 4]) {
          const expected = 0.55 + 0.01 * nodes + nodes * cacheRows * 1e-6 + 0.1 * medusaHeads
          const found = stepMs(costs, { nodes, medusaHeads, cacheRows, sequences: 1 })
          expect(found / expected, `${nodes} nodes, ${cacheRows} rows, ${medusaHeads} heads`).toBeCloseTo(1, 2)
        }
      }
    }
    const crowd = stepMs(costs, { nodes: 8, medusaHeads: 0, cacheRows: 32, sequences: 6 })
    expect(crowd).toBeCloseTo(0.55 + 0.48 + 5 * 0.02 + 48 * 32e-6, 1)
    expect(native.openSessions).toBe(0)
    expect(native.breaches).toEqual([])
  })

  it('takes 150 ms of a small model', async () => {
    const native = new TimedNative({ ms: (rows) => 1 + 0.02 * rows })
    await measure(native)
    expect(native.now).toBeGreaterThan(75)
    expect(native.now).toBeLessThan(170)
  })

  it('takes some thirty plain steps of a large one, and finds the lines all the same', async () => {
    for (const perRow of [0.5, 50, 400]) {
      const native = new TimedNative({ ms: (rows) => 400 + perRow * rows, draftMs: 20 })
      const { costs } = await measure(native)
      expect(native.now / (400 + perRow)).toBeLessThan(36)
      const found = stepMs(costs, { nodes: 32, medusaHeads: 0, cacheRows: 32, sequences: 1 })
      expect(found / (400 + 32 * perRow)).toBeCloseTo(1, 1)
    }
  })

  it('leaves out trees that cannot pay, whatever the heads', async () => {
    const native = new TimedNative({ ms: (rows) => 2 * rows })
    const { costs } = await measure(native)
    expect(costs.rows.at(-1)).toBeLessThan(16)
    expect(stepMs(costs, { nodes: 64, medusaHeads: 0, cacheRows: 32, sequences: 1 })).toBeCloseTo(128, -1)
  })

  it('sees through disturbances, and says when there were many', async () => {
    let calls = 0
    const some = new TimedNative({ ms: (rows) => 1 + 0.02 * rows, noise: () => (++calls % 5 === 0 ? 3 : 1) })
    const { costs } = await measure(some)
    for (const nodes of [1, 4, 16]) {
      const found = stepMs(costs, { nodes, medusaHeads: 0, cacheRows: 32, sequences: 1 })
      expect(found / (1.05 + 0.02 * nodes)).toBeLessThan(1.1)
    }
    const busy = new TimedNative({ ms: (rows) => 1 + 0.02 * rows, noise: () => 1 + 4 * ((++calls * 0.618) % 1) })
    expect((await measure(busy)).isSteady).toBe(false)
    expect(busy.now).toBeLessThan(600)
  })

  it('never finds that more rows take less time', async () => {
    let calls = 0
    const native = new TimedNative({ ms: (rows) => 1 + 0.001 * rows, noise: () => 1 + ((++calls * 0.618) % 1) })
    const { ms, draftMs, attention } = (await measure(native)).costs
    for (const values of [ms, draftMs, attention.msPerCacheRow]) {
      expect(values).toEqual(values.toSorted((a, b) => a - b))
    }
    expect(draftMs[0]).toBe(0)
  })

  it('stays within the context, and within a bound of memory', async () => {
    const assumed = async (others: Partial<Measured>): Promise<number[]> => {
      const native = new TimedNative({ ms: () => 1 })
      const { costs } = await measure(native, others)
      expect(costs.attention.msPerCacheRow[0]).toBe(0)
      return native.assumed
    }
    expect(Math.max(...(await assumed({ context: 700 })))).toBeLessThanOrEqual(350)
    expect(Math.max(...(await assumed({ context: 300 })))).toBe(32)
    expect(Math.max(...(await assumed({ kvBytesPerToken: 100_000 })))).toBeLessThanOrEqual(503)
  })

  it('goes without a long cache where there is no memory for one', async () => {
    const native = new TimedNative({ ms: () => 1 })
    const assume = native.assumePrefill.bind(native)
    native.assumePrefill = async (request) => {
      if (request.tokens > 32) throw nativeError('ERR_OUT_OF_MEMORY', 'none left')
      await assume(request)
    }
    expect((await measure(native)).costs.attention).toEqual({ rows: [1], msPerCacheRow: [0] })
    expect(native.openSessions).toBe(0)
  })

  it('ends when it is told to, and leaves nothing open', async () => {
    const controller = new AbortController()
    const native = new TimedNative({ ms: () => 1 })
    native.onCall = () => {
      if (native.calls.length === 9) controller.abort('enough')
    }
    await expect(measure(native, { signal: controller.signal })).rejects.toBe('enough')
    expect(native.openSessions).toBe(0)
  })

  it('hands on what a call raises', async () => {
    const native = new TimedNative({ ms: () => 1 })
    native.onCall = () => {
      throw nativeError('ERR_INTERNAL', 'broken')
    }
    await expect(measure(native)).rejects.toMatchObject({ code: 'ERR_INTERNAL' })
    expect(native.openSessions).toBe(0)
  })
})
