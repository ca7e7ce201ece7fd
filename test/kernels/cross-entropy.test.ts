// cross_entropy: loss, rank and gradient against the oracle, and the gradient against finite differences of the loss.
import { describe, expect, it } from 'vitest'
import { crossEntropy } from '../oracle/cross-entropy.js'
import { round } from '../oracle/dtype.js'
import { isCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSame, expectSameBits, rounding } from '../support/compare.js'
import { isas, onEveryIsa, ops, roundUp, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES = ['f32', 'f16', 'bf16'] as const

interface EntropyCase {
  rows: number
  columns: number
  dtype: (typeof DTYPES)[number]
  scale?: number
  /** Default true. */
  wantsGradient?: boolean
}

interface Results {
  losses: Float32Array
  ranks: Float32Array
  gradient: Float32Array
}

function run(isa: string, threads: number, c: EntropyCase, x: ArrayLike<number>, targets: Int32Array): Results {
  const { rows, columns, dtype, scale = 1, wantsGradient = true } = c
  const xStride = columns + 3
  const losses = new Output({ rows: 1, width: rows })
  const ranks = new Int32Array(rows + 2).fill(-77)
  const gradient = new Output({ rows, width: columns, stride: roundUp(columns, 32) + 16 })
  ops.crossEntropy(isa, threads, {
    // What lies between the rows would be likelier than anything.
    x: strided(x, rows, columns, xStride, 3e38),
    xStride,
    rows,
    columns,
    targets,
    scale,
    losses: losses.array,
    ranks: ranks.subarray(1, rows + 1),
    dtype,
    gradient: wantsGradient ? gradient.array : null,
    gradientStride: gradient.stride,
  })
  expect([ranks[0], ranks[rows + 1]], 'around the ranks').toEqual([-77, -77])
  return {
    losses: losses.values(),
    ranks: Float32Array.from(ranks.subarray(1, rows + 1)),
    gradient: wantsGradient ? gradient.values() : new Float32Array(0),
  }
}

/** One array of all results, to compare bits. */
function joined({ losses, ranks, gradient }: Results): Float32Array {
  return Float32Array.from([...losses, ...ranks, ...gradient])
}

function onAll(c: EntropyCase, x: ArrayLike<number>, targets: Int32Array, random: Random): Results {
  const place = { random, axes: { i: 2 * c.rows + c.rows * c.columns }, what: 'losses, ranks, gradient' }
  const all = onEveryIsa(place, (isa, threads) => joined(run(isa, threads, c, x, targets)))
  return {
    losses: all.slice(0, c.rows),
    ranks: all.slice(c.rows, 2 * c.rows),
    gradient: all.slice(2 * c.rows),
  }
}

/** How far what the products take may be from the number it stands for. */
const operandRounding = (dtype: EntropyCase['dtype'], value: number): number =>
  rounding(isCpu && dtype === 'f16' ? 'f32' : dtype, value)

function check(c: EntropyCase, x: ArrayLike<number>, targets: Int32Array, random: Random): void {
  const { rows, columns, dtype, scale = 1 } = c
  const got = onAll(c, x, targets, random)
  const expected = crossEntropy(x, columns, targets, scale)
  expectSame(got.ranks, expected.ranks, { random, axes: { m: rows }, what: 'ranks' })
  expectClose(got.losses, expected.losses, (m) => 4 * EPSILON.f32 * (1 + Math.abs(expected.losses[m]!)), {
    random,
    axes: { m: rows },
    what: 'losses',
  })
  // A probability has the error of an exponential: of its rounded argument, and of the operation. The target's is a difference from 1.
  expectClose(
    got.gradient,
    expected.gradient,
    (i) => {
      const [m, j] = [Math.floor(i / columns), i % columns]
      const value = Math.abs(expected.gradient[i]!)
      const isTarget = targets[m] === j
      const reach = Math.max(0, ...Array.from(rowOf(Float32Array.from(x), m, columns), (logit) => logit - x[i]!))
      const relative = EPSILON.f32 * (8 + reach) * (isTarget ? Math.abs(scale) : value)
      return relative + operandRounding(dtype, value) + 2 ** -100 * Math.abs(scale)
    },
    { random, axes: { m: rows, j: columns }, what: 'gradient' },
  )
}

/** A target for every row but each fourth, from the second on. */
const someTargets = (rows: number, columns: number, random: Random): Int32Array =>
  Int32Array.from({ length: rows }, (_, m) => (m % 4 === 1 ? -1 - m : random.integer(0, columns - 1)))

describe('cross_entropy against the oracle', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: every vocabulary around a vector`, () => {
      for (const columns of [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 300]) {
        for (const rows of [1, 6]) {
          const random = new Random(`cross_entropy M=${rows} V=${columns} ${dtype}`)
          const x = random.normals(rows * columns, 4)
          check({ rows, columns, dtype, scale: 0.8 }, x, someTargets(rows, columns, random), random)
        }
      }
    })
  }

  it('every target of a row, at every place of a vector', () => {
    const columns = 50
    const random = new Random('cross_entropy every target')
    const row = random.normals(columns, 3)
    const x = Float32Array.from({ length: columns * columns }, (_, i) => row[i % columns]!)
    check(
      { rows: columns, columns, dtype: 'f32' },
      x,
      Int32Array.from({ length: columns }, (_, m) => m),
      random,
    )
  })

  it('long rows, and more of them than threads', () => {
    for (const [rows, columns] of [
      [2, 4096],
      [67, 255],
      [2, 32003],
      [1, 128256],
    ] as const) {
      const random = new Random(`cross_entropy long M=${rows} V=${columns}`)
      const x = random.normals(rows * columns, 2)
      const targets = Int32Array.from({ length: rows }, () => random.integer(0, columns - 1))
      const got = onAll({ rows, columns, dtype: 'bf16' }, x, targets, random)
      const expected = crossEntropy(x, columns, targets)
      expectSame(got.ranks, expected.ranks, { random, axes: { m: rows }, what: 'ranks' })
      expectClose(got.losses, expected.losses, (m) => 4 * EPSILON.f32 * (1 + expected.losses[m]!), {
        random,
        axes: { m: rows },
        what: 'losses',
      })
      expectClose(
        got.gradient,
        expected.gradient,
        (i) => (EPSILON.bf16 / 2 + 32 * EPSILON.f32) * Math.abs(expected.gradient[i]!),
        { random, axes: { m: rows, j: columns }, what: 'gradient' },
      )
    }
  })

  it('scales the gradient and nothing else, also by zero and below', () => {
    for (const scale of [0, -2.5, 2 ** -20, 1000]) {
      const random = new Random(`cross_entropy scale=${scale}`)
      check({ rows: 4, columns: 70, dtype: 'f32', scale }, random.normals(280), someTargets(4, 70, random), random)
    }
  })
})

describe('the gradient of cross_entropy', () => {
  it('is what central differences of the loss say', () => {
    const [rows, columns, step] = [3, 37, 1e-4]
    const random = new Random('cross_entropy differences')
    const x = random.normals(rows * columns, 2)
    const targets = Int32Array.of(5, 36, 0)
    const { gradient } = onAll({ rows, columns, dtype: 'f32' }, x, targets, random)
    const lossAt = (i: number, by: number): number => {
      const moved = Float64Array.from(x)
      moved[i]! += by
      return crossEntropy(moved, columns, targets).losses[Math.floor(i / columns)]!
    }
    const expected = Array.from(x, (_, i) => (lossAt(i, step) - lossAt(i, -step)) / (2 * step))
    expectClose(gradient, expected, 1e-7 + step ** 2, { random, axes: { m: rows, j: columns } })
  })

  it('of a target that is almost certain is what is left, not zero', () => {
    const columns = 40
    const random = new Random('cross_entropy certain')
    const x = new Float32Array(columns).fill(-12)
    x[7] = 0
    const { losses, gradient } = onAll({ rows: 1, columns, dtype: 'f32' }, x, Int32Array.of(7), random)
    const rest = 39 * Math.exp(-12)
    expect(losses[0]).toBeCloseTo(rest, 6)
    expectClose([gradient[7]!], [-rest / (1 + rest)], EPSILON.f32, { random, axes: { i: 1 } })
  })

  it('need not be wanted: losses and ranks are the same', () => {
    const c: EntropyCase = { rows: 5, columns: 100, dtype: 'bf16' }
    const random = new Random('cross_entropy without gradient')
    const x = random.normals(500, 3)
    const targets = someTargets(5, 100, random)
    for (const isa of isas) {
      const all = run(isa, 2, c, x, targets)
      const without = run(isa, 2, { ...c, wantsGradient: false }, x, targets)
      const place = { random, axes: { m: c.rows }, what: isa }
      expectSameBits(without.losses, all.losses, place)
      expectSameBits(without.ranks, all.ranks, place)
    }
  })

  it('has values of bf16 and no others where products take those', () => {
    const random = new Random('cross_entropy bf16 values')
    const x = random.normals(300, 2)
    const { gradient } = onAll({ rows: 3, columns: 100, dtype: 'bf16' }, x, someTargets(3, 100, random), random)
    expect(Array.from(gradient)).toEqual(Array.from(gradient, (value) => round('bf16', value)))
  })
})

describe('cross_entropy', () => {
  it('a row alone has the bits it has among 64 others', () => {
    const c: EntropyCase = { rows: 65, columns: 83, dtype: 'bf16' }
    const random = new Random('cross_entropy alone')
    const x = random.normals(c.rows * c.columns, 3)
    const targets = someTargets(c.rows, c.columns, random)
    for (const isa of isas) {
      const together = run(isa, 2, c, x, targets)
      for (let m = 0; m < c.rows; m++) {
        const alone = run(isa, 1, { ...c, rows: 1 }, rowOf(x, m, c.columns), targets.subarray(m, m + 1))
        const same = [together.losses[m]!, together.ranks[m]!, ...rowOf(together.gradient, m, c.columns)]
        const place = { random, axes: { i: 2 + c.columns }, what: `${isa}, row ${m}: loss, rank, gradient` }
        expectSameBits(joined(alone), Float32Array.from(same), place)
      }
    }
  })

  it('of equal logits the lower token ranks first', () => {
    for (const levels of [0, 1, 3]) {
      const [rows, columns] = [60, 75]
      const random = new Random(`cross_entropy ties levels=${levels}`)
      const x = Float32Array.from({ length: rows * columns }, () => random.integer(-levels, levels))
      check({ rows, columns, dtype: 'f32' }, x, someTargets(rows, columns, random), random)
    }
  })

  it('logits of any size have a finite loss', () => {
    const largest = 3.4028234663852886e38
    for (const logits of [
      [largest, largest, -largest],
      [3e38, -3e38, 1],
      [1e30, 1e30 + 1e24, 5],
      [-1e5, -1e5 - 1, -1e5 + 1],
      [0, -0, 0],
    ]) {
      const random = new Random(`cross_entropy logits ${logits}`)
      const x = Float32Array.from(logits)
      for (let target = 0; target < 3; target++) {
        const { losses, gradient } = onAll({ rows: 1, columns: 3, dtype: 'f32' }, x, Int32Array.of(target), random)
        const expected = crossEntropy(x, 3, [target])
        const loss = Math.fround(expected.losses[0]!)
        expectClose(losses, [loss], 4 * EPSILON.f32 * (1 + (Number.isFinite(loss) ? loss : 0)), {
          random,
          axes: { m: 1 },
        })
        expectClose(gradient, expected.gradient, 16 * EPSILON.f32, { random, axes: { j: 3 } })
      }
    }
  })

  it('tokens that cannot be have no gradient; a target that cannot be has an infinite loss', () => {
    const never = Number.NEGATIVE_INFINITY
    const x = Float32Array.of(never, 1, 2, never, never, 1, 2, never)
    const random = new Random('cross_entropy impossible tokens')
    const { losses, ranks, gradient } = onAll({ rows: 2, columns: 4, dtype: 'f32' }, x, Int32Array.of(1, 3), random)
    const [one, two] = [1 / (1 + Math.E), Math.E / (1 + Math.E)]
    expectClose(losses, [-Math.log(one), Number.POSITIVE_INFINITY], 4 * EPSILON.f32, { random, axes: { m: 2 } })
    expect([...ranks]).toEqual([1, 3])
    const wanted = [0, one - 1, two, 0, 0, one, two, -1]
    expectClose(gradient, wanted, 8 * EPSILON.f32, { random, axes: { m: 2, j: 4 } })
  })

  it('NaN spoils its own row, wherever it is, and so do +infinity and nothing but -infinity', () => {
    const [rows, columns] = [6, 40]
    const random = new Random('cross_entropy NaN')
    const x = random.normals(rows * columns, 2)
    const targets = Int32Array.of(3, 7, 9, 0, 39, 5)
    const clean = onAll({ rows, columns, dtype: 'f32' }, x, targets, random)
    x[1 * columns + 7] = Number.NaN // the target's own
    x[2 * columns + 33] = Number.NaN
    x.fill(Number.NEGATIVE_INFINITY, 3 * columns, 4 * columns)
    x[5 * columns + 11] = Number.POSITIVE_INFINITY
    for (const isa of isas) {
      const { losses, gradient } = run(isa, 2, { rows, columns, dtype: 'f32' }, x, targets)
      expect(Array.from(losses, Number.isNaN), isa).toEqual([false, true, true, true, false, true])
      for (const m of [0, 4]) {
        const place = { random, axes: { j: columns }, what: `${isa}, row ${m}` }
        expect(losses[m], isa).toBe(clean.losses[m])
        expectSameBits(rowOf(gradient, m, columns), rowOf(clean.gradient, m, columns), place)
      }
      for (const m of [1, 2, 3, 5])
        expect(rowOf(gradient, m, columns).every(Number.isNaN), `${isa}, row ${m}`).toBe(true)
    }
  })
})
