// rms_norm: rows over their root mean square.
import { describe, expect, it } from 'vitest'
import { round } from '../oracle/dtype.js'
import { rmsNorm } from '../oracle/rms-norm.js'
import { EPSILON, expectClose, expectSameBits, tolerance } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

interface NormCase {
  rows: number
  width: number
  eps: number
  dtype: 'f32' | 'bf16'
}

function run(isa: string, threads: number, c: NormCase, x: Float32Array, weight: Float32Array): Float32Array {
  const xStride = c.width + 3
  const out = new Output({ rows: c.rows, width: c.width, stride: c.width + 5 })
  const args = { ...c, operand: false, x: strided(x, c.rows, c.width, xStride, Number.NaN), xStride, weight }
  ops.rmsNorm(isa, threads, { ...args, out: out.array, outStride: out.stride })
  return out.values()
}

function check(c: NormCase, scale = 1): void {
  const random = new Random(`rms_norm M=${c.rows} C=${c.width} eps=${c.eps} ${c.dtype} scale=${scale}`)
  const x = random.normals(c.rows * c.width, scale)
  const weight = random.normals(c.width)
  const place = { random, axes: { m: c.rows, i: c.width } }
  const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, x, weight))
  const expected = rmsNorm(x, weight, c.eps)
  expectClose(
    got,
    expected,
    // The mean of squares is the one long sum, and enters by its root; a few roundings come after it.
    (i) =>
      tolerance({
        epsilon: c.dtype === 'bf16' ? EPSILON.bf16 / 2 + EPSILON.f32 : EPSILON.f32,
        reduction: c.dtype === 'bf16' ? 1 : 4 + c.width / 16,
        magnitude: Math.abs(expected[i]!),
        factor: 1.01,
      }),
    place,
  )
}

describe('rms_norm', () => {
  for (const dtype of ['f32', 'bf16'] as const) {
    it(`matches the oracle at every width around a vector${dtype === 'bf16' ? ', rounded to bf16' : ''}`, () => {
      for (const width of [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 1000]) {
        for (const rows of [1, 3]) check({ rows, width, eps: 1e-5, dtype })
      }
    })
  }

  it('matches the oracle for many rows, which are split over threads', () => {
    check({ rows: 64, width: 200, eps: 1e-6, dtype: 'f32' })
    check({ rows: 5, width: 4096, eps: 1e-6, dtype: 'f32' })
    check({ rows: 3, width: 5000, eps: 1e-6, dtype: 'f32' })
  })

  it('matches the oracle for small and large values, where eps rules and where it does not', () => {
    for (const scale of [1e-12, 1e-4, 1e4, 1e15]) check({ rows: 3, width: 100, eps: 1e-5, dtype: 'f32' }, scale)
  })

  it('a row alone has the bits it has among 64 others', () => {
    const c: NormCase = { rows: 65, width: 83, eps: 1e-5, dtype: 'f32' }
    const random = new Random('rms_norm alone')
    const x = random.normals(c.rows * c.width)
    const weight = random.normals(c.width)
    for (const isa of isas) {
      const together = run(isa, 2, c, x, weight)
      for (let m = 0; m < c.rows; m++) {
        const alone = run(isa, 1, { ...c, rows: 1 }, rowOf(x, m, c.width), weight)
        expectSameBits(alone, rowOf(together, m, c.width), { random, axes: { i: c.width }, what: `${isa}, row ${m}` })
      }
    }
  })

  it('may write over its input', () => {
    const random = new Random('rms_norm in place')
    const weight = random.normals(50)
    for (const isa of isas) {
      const x = new Output({ rows: 3, width: 50, stride: 60, initial: random.normals(150) })
      const apart = run(isa, 1, { rows: 3, width: 50, eps: 1e-5, dtype: 'f32' }, x.values(), weight)
      const args = {
        x: x.array,
        xStride: 60,
        rows: 3,
        width: 50,
        weight,
        eps: 1e-5,
        dtype: 'f32',
        operand: false,
      } as const
      ops.rmsNorm(isa, 1, { ...args, out: x.array, outStride: 60 })
      expectSameBits(x.values(), apart, { random, axes: { m: 3, i: 50 }, what: isa })
    }
  })

  it('a row of zeros stays zeros; NaN and infinity stay in their rows', () => {
    const c: NormCase = { rows: 4, width: 40, eps: 1e-5, dtype: 'f32' }
    const random = new Random('rms_norm odd')
    const weight = random.normals(c.width)
    const x = random.normals(c.rows * c.width)
    const clean = run(fastestIsa, 1, c, x, weight)
    x.fill(0, 0, c.width)
    x[c.width + 5] = Number.NaN
    x[2 * c.width + 39] = Number.POSITIVE_INFINITY
    const place = { random, axes: { m: c.rows, i: c.width } }
    const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, x, weight))
    expect(Array.from(got.subarray(0, c.width), Math.abs)).toEqual(new Array(c.width).fill(0))
    expect(got.subarray(c.width, 2 * c.width).every(Number.isNaN)).toBe(true)
    // An infinite root leaves nothing of the finite values, and not a number of infinity over itself.
    const third = Array.from(got.subarray(2 * c.width, 3 * c.width), Math.abs)
    expect(third).toEqual([...new Array(c.width - 1).fill(0), Number.NaN])
    expectSameBits(rowOf(got, 3, c.width), rowOf(clean, 3, c.width), place)
  })

  it('gives the values of bf16 and no others when asked to', () => {
    const random = new Random('rms_norm bf16 values')
    const got = run(
      fastestIsa,
      1,
      { rows: 4, width: 50, eps: 0, dtype: 'bf16' },
      random.normals(200),
      random.normals(50),
    )
    expect(Array.from(got)).toEqual(Array.from(got, (value) => round('bf16', value)))
  })
})
