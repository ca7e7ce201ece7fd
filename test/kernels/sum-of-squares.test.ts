// sum_of_squares: exact to what f64 sums round, in one order for any team.
import { describe, expect, it } from 'vitest'
import { expectClose } from '../support/compare.js'
import { isas, onEveryIsa, ops } from '../support/ops.js'
import { Random } from '../support/random.js'

function run(isa: string, threads: number, x: Float32Array, count = x.length): number {
  const guarded = Float64Array.of(-7, Number.NaN, -7)
  ops.sumOfSquares(isa, threads, { x, count, out: guarded.subarray(1, 2) })
  expect([guarded[0], guarded[2]], 'around the sum').toEqual([-7, -7])
  return guarded[1]!
}

/** Its bits as two f32. */
const bitsOf = (value: number): Float32Array => new Float32Array(Float64Array.of(value).buffer)

describe('sum_of_squares', () => {
  it('has all elements and none besides, at every count around a vector and a piece', () => {
    for (const count of [1, 2, 15, 16, 17, 31, 33, 1000, 16383, 16384, 16385, 70001, 300000]) {
      const random = new Random(`sum_of_squares count=${count}`)
      const x = random.normals(count + 20).fill(Number.NaN, count)
      const place = { random, axes: { half: 2 } }
      onEveryIsa(place, (isa, threads) => bitsOf(run(isa, threads, x, count)))
      const expected = x.subarray(0, count).reduce((sum, value) => sum + value * value, 0)
      for (const isa of isas) {
        const allowed = 2 ** -52 * Math.sqrt(count) * expected
        expectClose([run(isa, 2, x, count)], [expected], allowed, { random, axes: { i: 1 }, what: isa })
      }
    }
  })

  it('squares that f32 does not hold are held', () => {
    for (const isa of isas) {
      expect(run(isa, 1, Float32Array.of(2 ** 100, 2 ** 99)), isa).toBe(1.25 * 2 ** 200)
      expect(run(isa, 1, Float32Array.of(2 ** -100, 2 ** -101)), isa).toBe(1.25 * 2 ** -200)
    }
  })

  it('NaN and infinities come through, wherever they are', () => {
    for (const count of [3, 20, 40000]) {
      for (const at of [0, count >> 1, count - 1]) {
        for (const [odd, expected] of [
          [Number.NaN, Number.NaN],
          [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
          [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY],
        ] as const) {
          const x = new Float32Array(count).fill(1)
          x[at] = odd
          for (const isa of isas) expect(run(isa, 2, x), `${isa}, ${odd} at ${at} of ${count}`).toBe(expected)
        }
      }
    }
  })
})
