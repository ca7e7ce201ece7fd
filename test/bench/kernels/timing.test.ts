// What the kernel benchmarks compute around the clock: rooflines, calls, comparisons, and which cases are left out.
import { describe, expect, it } from 'vitest'
import {
  firstDifference,
  MOST_COPIES,
  packCopies,
  timeOperation,
  usableIsas,
} from '../../../bench/kernels/native-ops.js'
import { coldCopies, timeLinear, weightBytes } from '../../../bench/kernels/time-linear.js'
import { floorOf, multiplyAddPeak, readBandwidth } from '../../../bench/kernels/yardsticks.js'

const isas = usableIsas()

describe('a roofline', () => {
  const limits = { bytesPerSecond: 10, flopsPerSecond: 100 }

  it('is the longer of the two times', () => {
    expect(floorOf({ bytes: 20, flops: 100 }, limits)).toEqual({ seconds: 2, bound: 'memory' })
    expect(floorOf({ bytes: 20, flops: 300 }, limits)).toEqual({ seconds: 3, bound: 'compute' })
    expect(floorOf({ bytes: 0, flops: 50 }, limits)).toEqual({ seconds: 0.5, bound: 'compute' })
  })
})

describe('timing', () => {
  it('returns a time for each sample', () => {
    const ns = timeOperation(
      'multiplyAdd',
      { isa: 'portable', threads: 1 },
      { steps: 10, x: 1 },
      { sampleMs: 0, samples: 5 },
    )
    expect(ns).toHaveLength(5)
    expect(ns.every((value) => value > 0)).toBe(true)
  })

  it('finds the first difference, bit for bit', () => {
    expect(firstDifference(Float32Array.of(1, 2, 3), Float32Array.of(1, 2, 3))).toBe(-1)
    expect(firstDifference(Float32Array.of(1, 2, 3), Float32Array.of(1, 2, 4))).toBe(2)
    expect(firstDifference(Float32Array.of(0), Float32Array.of(-0))).toBe(0)
    expect(firstDifference(Float32Array.of(Number.NaN), Float32Array.of(Number.NaN))).toBe(-1)
    expect(firstDifference(new Uint8Array(3), new Uint8Array(4))).toBe(3)
    // Views into the middle of a buffer.
    const values = Float32Array.of(9, 1, 2, 9)
    expect(firstDifference(values.subarray(1, 3), Float32Array.of(1, 2))).toBe(-1)
  })
})

describe('yardsticks', () => {
  it('are measured once for each size and team', () => {
    const first = readBandwidth(1 << 16, 1)
    expect(first.bytesPerSecond).toBeGreaterThan(0)
    expect(readBandwidth(1 << 16, 1)).toBe(first)
    expect(readBandwidth(1 << 16, 2)).not.toBe(first)
    const peak = multiplyAddPeak({ isa: isas.at(-1)!, threads: 1 })
    expect(peak).toBeGreaterThan(0)
    expect(multiplyAddPeak({ isa: isas.at(-1)!, threads: 1 })).toBe(peak)
  })
})

describe('the packed product', () => {
  const request = { columns: 50, depth: 40, copies: 2, isas, threads: 1, rounds: 3, sampleMs: 1 }

  it.each(['bf16', 'int8', 'f32'] as const)(
    'is timed for every number of rows and instruction set: %s',
    async (dtype) => {
      const times = await timeLinear({ ...request, dtype, rows: [1, 5], slowestMs: 1e6 })
      expect(times.map(({ rows, isa }) => `${rows} ${isa}`)).toEqual(
        [1, 5].flatMap((rows) => isas.map((isa) => `${rows} ${isa}`)),
      )
      for (const { rows, ns, bytes, flops, floorNs } of times) {
        expect(ns).toMatchObject({ n: 3 })
        expect(flops).toBe(2 * rows * 50 * 40)
        expect(bytes).toBe(weightBytes({ ...request, dtype }))
        expect(floorNs).toBeGreaterThan(0)
      }
    },
  )

  it('leaves out what would take too long, and says so', async () => {
    const times = await timeLinear({ ...request, dtype: 'bf16', rows: [1], slowestMs: 0 })
    expect(times).toHaveLength(isas.length)
    expect(times.every(({ ns }) => ns === null)).toBe(true)
  })

  it('has as many copies as leave nothing in a cache, and no more than the addon makes', () => {
    expect(coldCopies(1000, 4000, 1000)).toBe(4)
    expect(coldCopies(1000, 4001, 1000)).toBe(5)
    expect(coldCopies(1000, 10, 1000)).toBe(1)
    // A cache of 300 MB: 2560 copies of this weight would be four times as much.
    expect(coldCopies(480_000, 1_228_800_000, 300e6)).toBe(MOST_COPIES)
    expect(coldCopies(200_000, 1_228_800_000, 300e6)).toBeNull()
    const tiny = { w: new Float32Array(1), dtype: 'f32', columns: 1, depth: 1 }
    expect(() => packCopies({ isa: 'auto', ...tiny, copies: MOST_COPIES })).not.toThrow()
    expect(() => packCopies({ isa: 'auto', ...tiny, copies: MOST_COPIES + 1 })).toThrow(/copies is 1025/)
  })

  it('streams a byte for each int8 weight and a scale for each column', () => {
    expect(weightBytes({ columns: 16, depth: 32, dtype: 'int8' })).toBe(16 * 32 + 16 * 4)
    expect(weightBytes({ columns: 16, depth: 32, dtype: 'bf16' })).toBe(16 * 32 * 2)
    expect(weightBytes({ columns: 16, depth: 32, dtype: 'f32' })).toBe(16 * 32 * 4)
  })
})
