// linear_gradient: against its oracle, the order of its sums, and finite differences of linear.
import { describe, expect, it } from 'vitest'
import { type Dtype, round } from '../oracle/dtype.js'
import { linear } from '../oracle/linear.js'
import { linearGradient } from '../oracle/linear-gradient.js'
import { flush, product } from '../oracle/reduction-order.js'
import { describeOnCpu, isCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, tolerance } from '../support/compare.js'
import { fastestIsa, onEveryIsa, ops, roundUp } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES = ['f32', 'f16', 'bf16'] as const

interface GradientCase {
  rows: number
  columns: number
  depth: number
  dtype: (typeof DTYPES)[number]
  /** Default true. */
  bias?: boolean
}

interface Inputs {
  dy: Float32Array
  x: Float32Array
  /** What is known already. */
  dw: Float32Array
  db: Float32Array
}

const nameOf = ({ rows, columns, depth, dtype }: GradientCase): string => `${dtype} M=${rows} N=${columns} K=${depth}`

/** What products take: on the processor f16 weights meet any f32. */
const operandDtype = (dtype: GradientCase['dtype']): Dtype => (dtype === 'f16' && isCpu ? 'f32' : dtype)

function inputsOf(c: GradientCase, random: Random): Inputs {
  const values = (count: number) => random.normals(count).map((value) => round(operandDtype(c.dtype), value))
  return {
    dy: values(c.rows * c.columns),
    x: values(c.rows * c.depth),
    dw: random.normals(c.columns * c.depth),
    db: random.normals(c.columns),
  }
}

/** Rows as products take them, zeros up to a multiple of 32; behind that, NaN. */
function operand(values: Float32Array, rows: number, width: number): { array: Float32Array; stride: number } {
  const padded = roundUp(width, 32)
  const stride = padded + 16
  const array = new Float32Array(rows * stride).fill(Number.NaN)
  for (let row = 0; row < rows; row++) {
    array.fill(0, row * stride, row * stride + padded)
    array.set(values.subarray(row * width, (row + 1) * width), row * stride)
  }
  return { array, stride }
}

/** [N, K] and then [N], if there is a bias. */
function run(isa: string, threads: number, c: GradientCase, inputs: Inputs): Float32Array {
  const { rows, columns, depth, dtype, bias = true } = c
  const dy = operand(inputs.dy, rows, columns)
  const x = operand(inputs.x, rows, depth)
  const dw = new Output({ rows: 1, width: columns * depth, initial: inputs.dw })
  const db = new Output({ rows: 1, width: columns, initial: inputs.db })
  ops.linearGradient(isa, threads, {
    dy: dy.array,
    dyStride: dy.stride,
    x: x.array,
    xStride: x.stride,
    rows,
    columns,
    depth,
    dtype,
    dw: dw.array,
    db: bias ? db.array : null,
  })
  return Float32Array.from([...dw.values(), ...(bias ? db.values() : [])])
}

const squared = (values: ArrayLike<number>): number[] => Array.from(values, (value) => value * value)

function check(c: GradientCase): void {
  const { rows, columns, depth, bias = true } = c
  const random = new Random(`linear_gradient ${nameOf(c)}`)
  const inputs = inputsOf(c, random)
  const place = { random, axes: { i: columns * depth + (bias ? columns : 0) }, what: 'dw, db' }
  const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
  const sums = linearGradient(inputs.dy, inputs.x, c)
  const squares = linearGradient(squared(inputs.dy), squared(inputs.x), c)
  const [known, added, size] = [
    [...inputs.dw, ...inputs.db],
    [...sums.dw, ...sums.db],
    [...squares.dw, ...squares.db],
  ].map((values) => values.slice(0, got.length)) as [number[], number[], number[]]
  expectClose(
    got,
    known.map((value, i) => value + added[i]!),
    (i) =>
      tolerance({
        epsilon: EPSILON.f32,
        reduction: rows + 2,
        magnitude: Math.sqrt(size[i]! + known[i]! ** 2),
        // Matrix units of a device cut off what the processor rounds.
        factor: isCpu ? 2 : 4,
      }),
    place,
  )
}

describe('linear_gradient against the oracle', () => {
  const boundaries = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65]
  for (const dtype of DTYPES) {
    it(`${dtype}: every number of rows around a tile`, () => {
      for (const rows of [...boundaries, 127, 128, 129]) check({ rows, columns: 19, depth: 35, dtype })
    })
    it(`${dtype}: every number of columns around a vector and a task`, () => {
      for (const columns of [...boundaries, 95, 96, 97, 193]) check({ rows: 9, columns, depth: 20, dtype })
    })
    it(`${dtype}: every depth around a block`, () => {
      for (const depth of [...boundaries, 47, 48, 49, 97, 193]) check({ rows: 9, columns: 18, depth, dtype })
    })
    it(`${dtype}: rows and columns around every cut of them`, () => {
      for (const rows of [255, 257, 530]) check({ rows, columns: 33, depth: 40, dtype })
      check({ rows: 140, columns: 400, depth: 34, dtype })
      check({ rows: 70, columns: 34, depth: 400, dtype })
    })
    it(`${dtype}: no bias`, () => {
      for (const columns of [1, 40, 100]) check({ rows: 33, columns, depth: 17, dtype, bias: false })
    })
  }
})

describeOnCpu('linear_gradient, bit for bit as specified', 'it sums in an order of its own', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: two chains per 32 rows, then c + (even + odd), and that to what is known`, () => {
      const c: GradientCase = { rows: 150, columns: 21, depth: 50, dtype, bias: false }
      const random = new Random(`linear_gradient order ${nameOf(c)}`)
      const inputs = inputsOf(c, random)
      const columnOf = (values: Float32Array, width: number, at: number): Float32Array =>
        Float32Array.from({ length: c.rows }, (_, m) => values[m * width + at]!)
      const expected = new Float32Array(c.columns * c.depth)
      for (let n = 0; n < c.columns; n++) {
        for (let k = 0; k < c.depth; k++) {
          const sum = product(columnOf(inputs.dy, c.columns, n), columnOf(inputs.x, c.depth, k))
          expected[n * c.depth + k] = flush(Math.fround(inputs.dw[n * c.depth + k]! + sum))
        }
      }
      const place = { random, axes: { n: c.columns, k: c.depth } }
      expectSameBits(
        onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs)),
        expected,
        place,
      )
    })
  }
})

describe('linear_gradient', () => {
  it('is what central differences of a loss behind linear say', () => {
    const c: GradientCase = { rows: 7, columns: 5, depth: 6, dtype: 'f32' }
    const step = 1e-4
    const random = new Random('linear_gradient differences')
    const x = random.normals(c.rows * c.depth)
    const w = Float64Array.from(random.normals(c.columns * c.depth))
    const bias = Float64Array.from(random.normals(c.columns))
    // The loss is the sum of the sines of linear's results.
    const results = (weight: Float64Array, offset: Float64Array) => linear(x, weight, c, offset)
    const loss = (weight: Float64Array, offset: Float64Array) =>
      results(weight, offset).reduce((sum, y) => sum + Math.sin(y), 0)
    const difference = (values: Float64Array, i: number, lossOf: (moved: Float64Array) => number): number => {
      const at = (by: number) => lossOf(values.map((value, j) => (j === i ? value + by : value)))
      return (at(step) - at(-step)) / (2 * step)
    }
    const expected = [
      ...Array.from(w, (_, i) => difference(w, i, (moved) => loss(moved, bias))),
      ...Array.from(bias, (_, i) => difference(bias, i, (moved) => loss(w, moved))),
    ]
    const dy = Float32Array.from(results(w, bias), Math.cos)
    const inputs = { dy, x, dw: new Float32Array(w.length), db: new Float32Array(bias.length) }
    const place = { random, axes: { i: expected.length }, what: 'dw, db' }
    const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
    // A step's square times the third derivative, which is at most the sum of the cubes of a column of x.
    expectClose(got, expected, 1e-5, place)
  })

  it('adds to what the call before it left', () => {
    const c: GradientCase = { rows: 40, columns: 20, depth: 33, dtype: 'bf16' }
    const random = new Random('linear_gradient twice')
    const inputs = inputsOf(c, random)
    const once = run(fastestIsa, 1, c, inputs)
    const known = { ...inputs, dw: once.slice(0, 20 * 33), db: once.slice(20 * 33) }
    const twice = run(fastestIsa, 1, c, known)
    const sums = linearGradient(inputs.dy, inputs.x, c)
    const first = [...inputs.dw, ...inputs.db]
    const expected = [...sums.dw, ...sums.db].map((sum, i) => first[i]! + 2 * sum)
    expectClose(twice, expected, 1e-4, { random, axes: { i: expected.length } })
    expect(Array.from(twice)).not.toEqual(Array.from(once))
  })

  it('NaN of a gradient stays in its row of the weight, NaN of an input in its column', () => {
    for (const dtype of DTYPES) {
      const c: GradientCase = { rows: 40, columns: 20, depth: 33, dtype }
      const random = new Random(`linear_gradient NaN ${dtype}`)
      const inputs = inputsOf(c, random)
      const clean = run(fastestIsa, 1, c, inputs)
      inputs.dy[7 * c.columns + 3] = Number.NaN
      inputs.x[39 * c.depth + 32] = Number.NaN
      const expected = clean.map((value, i) => {
        const [n, k] = i < 20 * 33 ? [Math.floor(i / 33), i % 33] : [i - 20 * 33, -1]
        return n === 3 || k === 32 ? Number.NaN : value
      })
      const place = { random, axes: { i: expected.length }, what: 'dw, db' }
      expectSameBits(
        onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs)),
        expected,
        place,
      )
    }
  })
})
