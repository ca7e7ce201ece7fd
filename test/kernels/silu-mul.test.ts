// silu_mul: the gated activation, and through it the exponential that every operation shares.
import { describe, expect, it } from 'vitest'
import { round } from '../oracle/dtype.js'
import { silu, siluMul } from '../oracle/silu-mul.js'
import { itOnCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, tolerance } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

interface SiluCase {
  rows: number
  width: number
  dtype: 'f32' | 'bf16'
}

function run(isa: string, threads: number, c: SiluCase, x: Float32Array): Float32Array {
  const xStride = 2 * c.width + 3
  const out = new Output({ rows: c.rows, width: c.width, stride: c.width + 5 })
  const args = { ...c, x: strided(x, c.rows, 2 * c.width, xStride, Number.NaN), xStride }
  ops.siluMul(isa, threads, { ...args, out: out.array, outStride: out.stride })
  return out.values()
}

/** silu of each value: an up projection of ones. */
function siluOf(isa: string, values: ArrayLike<number>): Float32Array {
  const width = values.length
  const x = new Float32Array(2 * width).fill(1)
  x.set(Float32Array.from(values))
  return run(isa, 1, { rows: 1, width, dtype: 'f32' }, x)
}

describe('silu_mul', () => {
  for (const dtype of ['f32', 'bf16'] as const) {
    it(`matches the oracle at every width around a vector${dtype === 'bf16' ? ', rounded to bf16' : ''}`, () => {
      for (const width of [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 511, 513]) {
        for (const rows of [1, 3]) {
          const c: SiluCase = { rows, width, dtype }
          const random = new Random(`silu_mul M=${rows} F=${width} ${dtype}`)
          const x = random.normals(rows * 2 * width, 3)
          const place = { random, axes: { m: rows, i: width } }
          const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, x))
          const expected = siluMul(x, width)
          expectClose(
            got,
            expected,
            (i) =>
              tolerance({ epsilon: EPSILON.f32, reduction: 4, magnitude: Math.abs(expected[i]!), factor: 1 }) +
              (dtype === 'bf16' ? (EPSILON.bf16 / 2) * Math.abs(expected[i]!) : 0),
            place,
          )
        }
      }
    })
  }

  it('a row alone has the bits it has among 64 others', () => {
    const c: SiluCase = { rows: 65, width: 83, dtype: 'f32' }
    const random = new Random('silu_mul alone')
    const x = random.normals(c.rows * 2 * c.width)
    for (const isa of isas) {
      const together = run(isa, 2, c, x)
      for (let m = 0; m < c.rows; m++) {
        const alone = run(isa, 1, { ...c, rows: 1 }, rowOf(x, m, 2 * c.width))
        expectSameBits(alone, rowOf(together, m, c.width), { random, axes: { i: c.width }, what: `${isa}, row ${m}` })
      }
    }
  })

  itOnCpu('a product too small for a normal float is zero', 'it keeps subnormal numbers', () => {
    for (const isa of isas) {
      const got = run(isa, 1, { rows: 1, width: 2, dtype: 'f32' }, Float32Array.of(-80, 1, 1e-6, 2 ** -130))
      expect(Array.from(got, Math.abs), isa).toEqual([0, 0])
    }
  })

  it('gives the values of bf16 and no others when asked to', () => {
    const random = new Random('silu_mul bf16 values')
    const got = run(fastestIsa, 1, { rows: 3, width: 40, dtype: 'bf16' }, random.normals(240))
    expect(Array.from(got)).toEqual(Array.from(got, (value) => round('bf16', value)))
  })
})

describe('the exponential', () => {
  it('is within 3 units of the last place wherever it is a normal float', () => {
    // Far below zero silu(x) is x e^x: the relative error is that of the exponential, one sum, one quotient.
    const xs = Float32Array.from({ length: 40001 }, (_, i) => -87.25 + (i * 175.25) / 40000)
    const random = new Random('exp sweep')
    const place = { random, axes: { i: xs.length } }
    const got = onEveryIsa(place, (isa) => siluOf(isa, xs))
    expectClose(got, Array.from(xs, silu), (i) => 3 * EPSILON.f32 * Math.abs(silu(xs[i]!)), place)
  })

  it('is 1 at 0', () => {
    for (const isa of isas) {
      const got = siluOf(isa, [2 ** -100, 0, -0])
      expect(Array.from(got), isa).toEqual([2 ** -101, 0, -0])
    }
  })

  it('is as good for every float near its ends and near the edges of its polynomial', () => {
    // |r| = ln 2 / 2 is where one power of two gives way to the next.
    for (const edge of [-88.28, -87.3, -10.5 * Math.LN2, -0.5 * Math.LN2, 0.5 * Math.LN2, 10.5 * Math.LN2]) {
      const step = Math.max(2 ** -22, Math.abs(edge) * 2 ** -23)
      const xs = Float32Array.from({ length: 2001 }, (_, i) => edge + (i - 1000) * step)
      const random = new Random(`exp near ${edge}`)
      const place = { random, axes: { i: xs.length } }
      const got = onEveryIsa(place, (isa) => siluOf(isa, xs))
      expectClose(got, Array.from(xs, silu), (i) => 3 * EPSILON.f32 * Math.abs(silu(xs[i]!)), place)
    }
  })

  it('saturates: past its range silu is within 2^-126 of |x| of the oracle, and never loses its sign', () => {
    const xs = Float32Array.from([-88, -88.3, -88.5, -90, -100, -104, -1e3, -1e10, -1e38, 88.5, 100, 1e3, 1e38])
    const random = new Random('exp saturation')
    const place = { random, axes: { i: xs.length } }
    const got = onEveryIsa(place, (isa) => siluOf(isa, xs))
    expectClose(
      got,
      Array.from(xs, silu),
      (i) => 2 ** -126 * Math.abs(xs[i]!) + 2 * EPSILON.f32 * Math.abs(silu(xs[i]!)),
      place,
    )
    xs.forEach((x, i) => {
      expect(Math.sign(got[i]!) * Math.sign(x), `silu(${x})`).toBeGreaterThanOrEqual(0)
    })
  })

  itOnCpu('of NaN is NaN, of infinity infinity, of a subnormal zero', 'it keeps subnormal numbers', () => {
    for (const isa of isas) {
      const got = siluOf(isa, [Number.NaN, Number.POSITIVE_INFINITY, 2 ** -130, -(2 ** -140), 5])
      expect(Array.from(got.subarray(0, 4), Math.abs), isa).toEqual([Number.NaN, Number.POSITIVE_INFINITY, 0, 0])
      expect(got[4]!, isa).toBeCloseTo(silu(5), 5)
    }
  })
})
