// residual_silu and residual_silu_gradient: against their oracle, against medusa_heads, and against finite differences.
import { describe, expect, it } from 'vitest'
import { round } from '../oracle/dtype.js'
import { residualSilu, residualSiluGradient } from '../oracle/residual-silu.js'
import { silu } from '../oracle/silu-mul.js'
import { isCpu, itOnCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, rounding } from '../support/compare.js'
import { isas, onEveryIsa, ops, roundUp, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES = ['f32', 'f16', 'bf16'] as const

interface BlockCase {
  rows: number
  width: number
  dtype: (typeof DTYPES)[number]
}

const operandRounding = (dtype: BlockCase['dtype'], value: number): number =>
  rounding(isCpu && dtype === 'f16' ? 'f32' : dtype, value)

/** z [M, C], then what the next product takes [M, C]. */
function forward(isa: string, threads: number, c: BlockCase, a: Float32Array, z: Float32Array): Float32Array {
  const { rows, width, dtype } = c
  const aStride = width + 3
  const sum = new Output({ rows, width, stride: width + 5, initial: z })
  const out = new Output({ rows, width, stride: roundUp(width, 32) + 16 })
  ops.residualSilu(isa, threads, {
    a: strided(a, rows, width, aStride, Number.NaN),
    aStride,
    rows,
    width,
    z: sum.array,
    zStride: sum.stride,
    dtype,
    out: out.array,
    outStride: out.stride,
  })
  return Float32Array.from([...sum.values(), ...out.values()])
}

/** [M, C]. */
function backward(isa: string, threads: number, c: BlockCase, a: Float32Array, dz: Float32Array): Float32Array {
  const { rows, width, dtype } = c
  const [aStride, dzStride] = [width + 3, width + 7]
  const da = new Output({ rows, width, stride: roundUp(width, 32) + 16 })
  ops.residualSiluGradient(isa, threads, {
    a: strided(a, rows, width, aStride, Number.NaN),
    aStride,
    dz: strided(dz, rows, width, dzStride, Number.NaN),
    dzStride,
    rows,
    width,
    dtype,
    da: da.array,
    daStride: da.stride,
  })
  return da.values()
}

const WIDTHS = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 513]

/** Every width with few and many rows. */
function eachCase(name: string, dtype: BlockCase['dtype'], check: (c: BlockCase, random: Random) => void): void {
  for (const width of WIDTHS) {
    for (const rows of [1, 3, 70]) check({ rows, width, dtype }, new Random(`${name} M=${rows} C=${width} ${dtype}`))
  }
}

describe('residual_silu', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: matches the oracle at every width around a vector`, () => {
      eachCase('residual_silu', dtype, (c, random) => {
        const count = c.rows * c.width
        const [a, z] = [random.normals(count, 3), random.normals(count)]
        const place = { random, axes: { part: 2, m: c.rows, i: c.width }, what: 'z, then out' }
        const got = onEveryIsa(place, (isa, threads) => forward(isa, threads, c, a, z))
        const expected = Array.from(a, (value, i) => residualSilu(value, z[i]!))
        expectClose(
          got,
          [...expected, ...expected],
          (i) => {
            const at = i % count
            const exact = 4 * EPSILON.f32 * (Math.abs(silu(a[at]!)) + Math.abs(z[at]!))
            return exact + (i < count ? 0 : operandRounding(dtype, expected[at]!) * 1.01)
          },
          place,
        )
      })
    })
  }

  it('gives the z of medusa_heads, bit for bit', () => {
    const width = 48
    const random = new Random('residual_silu as medusa_heads')
    const x = random.normals(5 * width, 2)
    const identity = Float32Array.from({ length: width * width }, (_, i) => (i % (width + 1) === 0 ? 1 : 0))
    const place = { random, axes: { m: 5, i: width } }
    for (const isa of isas) {
      // A block that multiplies by one, and a projection that shows its result.
      const logits = new Float32Array(5 * width)
      ops.medusaHeads(isa, 1, {
        x: strided(x, 5, width, 64),
        xStride: 64,
        rows: 5,
        width,
        dtype: 'f32',
        headCount: 1,
        blockCount: 1,
        blocks: identity,
        biases: null,
        projection: identity,
        sharedProjection: false,
        columns: width,
        logits,
        logitsStride: width,
      })
      const z = forward(isa, 1, { rows: 5, width, dtype: 'f32' }, x, x).slice(0, 5 * width)
      expectSameBits(z, logits, { ...place, what: isa })
    }
  })

  it('a row alone has the bits it has among 64 others', () => {
    const c: BlockCase = { rows: 65, width: 83, dtype: 'bf16' }
    const random = new Random('residual_silu alone')
    const [a, z] = [random.normals(c.rows * c.width, 2), random.normals(c.rows * c.width)]
    for (const isa of isas) {
      const together = forward(isa, 2, c, a, z)
      for (let m = 0; m < c.rows; m++) {
        const alone = forward(isa, 1, { ...c, rows: 1 }, rowOf(a, m, c.width), rowOf(z, m, c.width))
        const same = [...rowOf(together, m, c.width), ...rowOf(together, c.rows + m, c.width)]
        const place = { random, axes: { i: 2 * c.width }, what: `${isa}, row ${m}: z, out` }
        expectSameBits(alone, Float32Array.from(same), place)
      }
    }
  })
})

describe('residual_silu_gradient', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: matches the oracle at every width around a vector`, () => {
      eachCase('residual_silu_gradient', dtype, (c, random) => {
        const count = c.rows * c.width
        const [a, dz] = [random.normals(count, 3), random.normals(count)]
        const place = { random, axes: { m: c.rows, i: c.width } }
        const got = onEveryIsa(place, (isa, threads) => backward(isa, threads, c, a, dz))
        const expected = Array.from(a, (value, i) => residualSiluGradient(value, dz[i]!))
        // s (1 + a (1 - s)) is a sum of two terms, which may cancel.
        const terms = (value: number) => {
          const s = 1 / (1 + Math.exp(-value))
          return s * (1 + Math.abs(value) * (1 - s))
        }
        expectClose(
          got,
          expected,
          (i) => 8 * EPSILON.f32 * terms(a[i]!) * Math.abs(dz[i]!) + operandRounding(dtype, expected[i]!) * 1.01,
          place,
        )
      })
    })
  }

  it('is what central differences of a loss behind residual_silu say', () => {
    const step = 1e-4
    const random = new Random('residual_silu_gradient differences')
    const a = Float32Array.from({ length: 121 }, (_, i) => (i - 60) / 6)
    const z = random.normals(a.length)
    const loss = (value: number, i: number) => Math.sin(residualSilu(value, z[i]!))
    const dz = Float32Array.from(a, (value, i) => Math.cos(residualSilu(value, z[i]!)))
    const expected = Array.from(a, (value, i) => (loss(value + step, i) - loss(value - step, i)) / (2 * step))
    const c: BlockCase = { rows: 1, width: a.length, dtype: 'f32' }
    const place = { random, axes: { i: a.length } }
    const got = onEveryIsa(place, (isa, threads) => backward(isa, threads, c, a, dz))
    expectClose(got, expected, 1e-6, place)
  })

  it('far from zero is the gradient itself, or nothing', () => {
    const a = Float32Array.of(-1e30, -1000, -90, 0, 90, 1000, 1e30)
    const random = new Random('residual_silu_gradient far')
    const place = { random, axes: { i: a.length } }
    const c: BlockCase = { rows: 1, width: a.length, dtype: 'f32' }
    const got = onEveryIsa(place, (isa) => backward(isa, 1, c, a, new Float32Array(a.length).fill(2)))
    expectClose(got, [0, 0, 0, 1, 2, 2, 2], 2 ** -100, place)
  })

  itOnCpu('has values of bf16 and no others where products take those', 'its operand is of bf16', () => {
    const random = new Random('residual_silu_gradient bf16 values')
    const [a, dz] = [random.normals(120, 2), random.normals(120)]
    for (const isa of isas) {
      const got = backward(isa, 1, { rows: 3, width: 40, dtype: 'bf16' }, a, dz)
      expect(Array.from(got), isa).toEqual(Array.from(got, (value) => round('bf16', value)))
    }
  })
})
