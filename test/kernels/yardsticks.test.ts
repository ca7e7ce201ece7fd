// stream_read, multiply_add and the timing of operations: what a benchmark divides by has to be what it says it is.
import { describe, expect, it } from 'vitest'
import { describeOnCpu, isCpu, itOnCpu } from '../support/backend.js'
import { isas, ops, referenceIsa } from '../support/ops.js'

const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0)

/** The sum of `count` elements of a list that starts over at its end. */
function cyclicSum(values: readonly number[], count: number): number {
  let total = 0
  for (let i = 0; i < count; i++) total += values[i % values.length]!
  return total
}

describe.each(isas)('stream_read on %s', (isa) => {
  it('reads every element once, for any number of lines, threads and streams', () => {
    // Small whole numbers: their sums are exact in any order.
    const values = [1, -2, 3, 5, 8]
    for (const lines of [1, 2, 7, 8, 9, 63, 64, 1000]) {
      for (const threads of [1, 3]) {
        for (const streams of [1, 2, 4]) {
          const sums = ops.streamRead(isa, threads, {
            values: Float32Array.from(values),
            lines,
            streams,
            prefetchLines: streams * 16,
          })
          expect(sums).toHaveLength(isCpu ? threads : 1)
          expect(sum(sums), `${lines} lines, ${threads} threads, ${streams} streams`).toBe(
            cyclicSum(values, lines * 16),
          )
        }
      }
    }
  })

  itOnCpu('gives a thread without lines a sum of zero', 'it has no threads', () => {
    const sums = ops.streamRead(isa, 4, { values: Float32Array.of(1), lines: 2, streams: 1, prefetchLines: 0 })
    expect(sums.filter((share) => share === 0)).toHaveLength(2)
    expect(sum(sums)).toBe(32)
  })

  it('refuses what it cannot read', () => {
    const args = { values: Float32Array.of(1), lines: 4, streams: 1, prefetchLines: 0 }
    expect(() => ops.streamRead(isa, 1, { ...args, streams: 3 })).toThrow(/streams/)
    expect(() => ops.streamRead(isa, 1, { ...args, lines: 0 })).toThrow(/lines/)
    expect(() => ops.streamRead(isa, 1, { ...args, values: new Float32Array(0) })).toThrow(/values/)
  })
})

describeOnCpu('multiply_add', 'it measures processors', () => {
  it.each(isas)('on %s does as many multiply-adds as it counts, on every thread', (isa) => {
    for (const steps of [1, 5, 64]) {
      for (const threads of [1, 3]) {
        for (const x of [1, 0.25, -3]) {
          const { flops, sums } = ops.multiplyAdd(isa, threads, { steps, x })
          // Two operations make one multiply-add, and each of them added x.
          expect(Array.from(sums)).toEqual(Array.from({ length: threads }, () => (flops / 2 / threads) * x))
        }
      }
    }
  })

  it.each(isas)('on %s counts in proportion to the steps', (isa) => {
    const one = ops.multiplyAdd(isa, 1, { steps: 1, x: 1 }).flops
    expect(one).toBeGreaterThan(0)
    expect(ops.multiplyAdd(isa, 2, { steps: 10, x: 1 }).flops).toBe(20 * one)
  })
})

describeOnCpu('timing', 'calls are recorded and repeated together', () => {
  const depth = 32
  const columns = 16
  const w = Float32Array.from({ length: columns * depth }, (_, i) => (i % 7) - 3)
  const x = Float32Array.from({ length: depth }, (_, i) => (i % 5) - 2)
  const shape = { rows: 1, depth, columns, dtype: 'f32', xStride: depth, outStride: columns, bias: null } as const

  it('runs an operation once, and then once for each sample when no time is asked for', () => {
    const expected = new Float32Array(columns)
    ops.linear(referenceIsa, 1, { ...shape, x, w, out: expected, add: false })
    const nanoseconds = new Float64Array(4).fill(-1)
    const out = new Float32Array(columns)
    // Each call adds the product once more.
    ops.linear(referenceIsa, 1, { ...shape, x, w, out, add: true, timing: { leastMs: 0, nanoseconds } })
    expect(out).toEqual(expected.map((value) => 5 * value))
    expect(nanoseconds.every((value) => value >= 0)).toBe(true)
  })

  it('runs an operation for as long as is asked for', () => {
    const nanoseconds = new Float64Array(1)
    const out = new Float32Array(columns)
    const one = Float32Array.from({ length: columns * depth }, (_, i) => (i % depth === 0 ? 1 : 0))
    const args = { ...shape, x: Float32Array.from({ length: depth }, () => 1), w: one, out, add: true }
    const start = performance.now()
    ops.linear(referenceIsa, 1, { ...args, timing: { leastMs: 5, nanoseconds } })
    expect(performance.now() - start).toBeGreaterThanOrEqual(5)
    // Each call added one: so many, at this length, make the time that was asked for.
    expect((out[0]! - 1) * nanoseconds[0]!).toBeGreaterThanOrEqual(5e6)
    expect(out[0]! - 1).toBeGreaterThan(1)
  })

  it('goes through the copies of a packed weight, which are all alike', () => {
    const expected = new Float32Array(columns)
    ops.linear(referenceIsa, 1, { ...shape, x, w, out: expected, add: false })
    const packed = ops.packCopies({ w, dtype: 'f32', columns, depth, copies: 3 })
    const out = new Float32Array(columns)
    const nanoseconds = new Float64Array(6)
    ops.linear(referenceIsa, 1, { ...shape, x, w: packed, out, add: true, timing: { leastMs: 0, nanoseconds } })
    expect(out).toEqual(expected.map((value) => 7 * value))
  })

  it('refuses a packed weight of another shape, other values in its place, and no length of time', () => {
    const packed = ops.packCopies({ w, dtype: 'f32', columns, depth })
    const out = new Float32Array(columns)
    expect(() => ops.linear(referenceIsa, 1, { ...shape, x, w: packed, columns: 8, out, add: false })).toThrow(/shape/)
    const timing = { leastMs: Number.NaN, nanoseconds: new Float64Array(1) }
    expect(() => ops.linear(referenceIsa, 1, { ...shape, x, w, out, add: false, timing })).toThrow(/leastMs/)
    expect(() => ops.packCopies({ w, dtype: 'f32', columns, depth, copies: 0 })).toThrow(/copies/)
  })
})
