// linear: against its oracle, against the bit-level specification of its sums, on every instruction set.
import { describe, expect, it } from 'vitest'
import { type Dtype, round } from '../oracle/dtype.js'
import { fromInt8, toInt8 } from '../oracle/int8.js'
import { linear } from '../oracle/linear.js'
import { flush, product } from '../oracle/reduction-order.js'
import { describeOnCpu, isCpu, itOnCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, tolerance } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops, type PackedDtype, roundUp, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES: PackedDtype[] = ['f32', 'f16', 'bf16', 'int8']

interface LinearCase {
  rows: number
  depth: number
  columns: number
  dtype: PackedDtype
  bias?: boolean
  add?: boolean
  prompt?: boolean
}

const nameOf = ({ rows, depth, columns, dtype, bias, add, prompt }: LinearCase): string =>
  `${dtype} M=${rows} K=${depth} N=${columns}${bias ? ' bias' : ''}${add ? ' add' : ''}${prompt ? ' prompt' : ''}`

interface Inputs {
  x: Float32Array
  w: Float32Array
  bias: Float32Array | null
  residual: Float32Array
}

/** bf16 and int8 products take bf16 values; on a device f16 ones take f16; others any f32. */
const inputDtype = (dtype: PackedDtype): Dtype =>
  dtype === 'bf16' || dtype === 'int8' ? 'bf16' : dtype === 'f16' && !isCpu ? 'f16' : 'f32'

/** The weights that are multiplied: int8 holds others than it was given. */
const heldOf = (w: Float32Array, { dtype, columns, depth }: LinearCase): ArrayLike<number> =>
  dtype === 'int8' ? fromInt8(toInt8(w, columns, depth)) : w

function inputsOf(c: LinearCase, random: Random): Inputs {
  const values = (count: number, dtype: Dtype) => random.normals(count).map((value) => round(dtype, value))
  return {
    x: values(c.rows * c.depth, inputDtype(c.dtype)),
    w: values(c.columns * c.depth, c.dtype === 'int8' ? 'f32' : c.dtype),
    bias: c.bias ? values(c.columns, 'f32') : null,
    residual: values(c.rows * c.columns, 'f32'),
  }
}

/** [M, N], with strides larger than the rows and guarded outputs. */
function run(isa: string, threads: number, c: LinearCase, { x, w, bias, residual }: Inputs): Float32Array {
  const xStride = roundUp(c.depth, 32) + 16
  const out = new Output({
    rows: c.rows,
    width: c.columns,
    stride: c.columns + 5,
    ...(c.add ? { initial: residual } : {}),
  })
  ops.linear(isa, threads, {
    x: strided(x, c.rows, c.depth, xStride),
    xStride,
    rows: c.rows,
    depth: c.depth,
    w,
    dtype: c.dtype,
    columns: c.columns,
    bias,
    out: out.array,
    outStride: out.stride,
    add: c.add ?? false,
    prompt: c.prompt ?? false,
  })
  return out.values()
}

function check(c: LinearCase): void {
  const random = new Random(`linear ${nameOf(c)}`)
  const inputs = inputsOf(c, random)
  const place = { random, axes: { m: c.rows, n: c.columns } }
  const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
  const extra = c.add ? inputs.residual : new Float32Array(c.rows * c.columns)
  const held = heldOf(inputs.w, c)
  const expected = linear(inputs.x, held, c, inputs.bias).map((value, i) => value + extra[i]!)
  const squared = (values: ArrayLike<number>) => Array.from(values, (value) => value * value)
  const squares = linear(squared(inputs.x), squared(held), c, inputs.bias && squared(inputs.bias))
  expectClose(
    got,
    expected,
    (i) =>
      tolerance({
        epsilon: EPSILON.f32,
        reduction: c.depth + 2,
        magnitude: Math.sqrt(squares[i]! + extra[i]! ** 2),
        // Matrix units of a device cut off what the processor rounds.
        factor: isCpu ? 2 : 4,
      }),
    place,
  )
}

describe('linear against the oracle', () => {
  const boundaries = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65]
  for (const dtype of DTYPES) {
    it(`${dtype}: every depth around a tile`, () => {
      for (const depth of [...boundaries, 127, 129]) check({ rows: 3, depth, columns: 17, dtype })
    })
    it(`${dtype}: every number of columns around a block`, () => {
      for (const columns of [...boundaries, 127, 129, 257]) check({ rows: 2, depth: 40, columns, dtype, bias: true })
    })
    it(`${dtype}: every number of rows around the register tile and the pass`, () => {
      for (const rows of [...boundaries, 3, 4, 5, 6, 7, 8, 12, 13, 95, 96, 97]) {
        check({ rows, depth: 33, columns: 70, dtype, add: rows % 2 === 0 })
      }
    })
    it(`${dtype}: prompts: rows, columns and depth around every cut of them`, () => {
      for (const prompt of [false, true]) {
        for (const rows of [66, 511, 513, 530]) check({ rows, depth: 40, columns: 20, dtype, prompt })
        for (const columns of [190, 200, 400]) check({ rows: 67, depth: 32, columns, dtype, bias: true, prompt })
        for (const depth of [480, 512, 513, 1060]) check({ rows: 70, depth, columns: 18, dtype, add: true, prompt })
      }
    })
    it(`${dtype}: bias, residual, both`, () => {
      for (const bias of [false, true]) {
        for (const add of [false, true]) check({ rows: 7, depth: 96, columns: 50, dtype, bias, add })
      }
    })
  }
})

describe('linear, row by row', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: a row alone has the bits it has among 64 others`, () => {
      const c: LinearCase = { rows: 65, depth: 97, columns: 83, dtype, bias: true }
      const random = new Random(`linear alone ${nameOf(c)}`)
      const inputs = inputsOf(c, random)
      for (const isa of isas) {
        const together = run(isa, 2, c, inputs)
        for (let m = 0; m < c.rows; m++) {
          const alone = run(isa, 1, { ...c, rows: 1 }, { ...inputs, x: rowOf(inputs.x, m, c.depth) })
          const place = { random, axes: { n: c.columns }, what: `${isa}, row ${m}` }
          expectSameBits(alone, rowOf(together, m, c.columns), place)
        }
      }
    })
  }

  itOnCpu(
    'a column is the same whichever columns are beside it',
    'the number of columns decides how depth is cut',
    () => {
      const c: LinearCase = { rows: 5, depth: 64, columns: 150, dtype: 'bf16' }
      const random = new Random(`linear columns ${nameOf(c)}`)
      const inputs = inputsOf(c, random)
      const all = run(fastestIsa, 1, c, inputs)
      for (const columns of [1, 16, 48, 64, 65, 80]) {
        const some = run(fastestIsa, 1, { ...c, columns }, { ...inputs, w: inputs.w.slice(0, columns * c.depth) })
        const same = new Float32Array(c.rows * columns)
        for (let m = 0; m < c.rows; m++) same.set(all.subarray(m * c.columns, m * c.columns + columns), m * columns)
        expectSameBits(some, same, { random, axes: { m: c.rows, n: columns } })
      }
    },
  )
})

describeOnCpu('linear, bit for bit as specified', 'it sums in an order of its own', () => {
  /** Values whose exponents spread over 2^-range to 2^range, so that sums round in every place. */
  function spread(count: number, range: number, random: Random, dtype: Dtype): Float32Array {
    return Float32Array.from({ length: count }, () =>
      round(dtype, random.normal() * 2 ** Math.round(random.uniform(-range, range))),
    )
  }

  const CASES: { dtype: PackedDtype; depth: number; range: number }[] = [
    { dtype: 'bf16', depth: 32, range: 2 },
    { dtype: 'bf16', depth: 200, range: 0 },
    { dtype: 'bf16', depth: 200, range: 20 },
    { dtype: 'bf16', depth: 64, range: 62 },
    { dtype: 'f16', depth: 100, range: 3 },
    { dtype: 'f32', depth: 100, range: 0 },
    { dtype: 'f32', depth: 100, range: 12 },
    { dtype: 'f32', depth: 64, range: 62 },
    { dtype: 'int8', depth: 200, range: 0 },
    { dtype: 'int8', depth: 100, range: 6 },
    { dtype: 'int8', depth: 64, range: 40 },
  ]
  for (const { dtype, depth, range } of CASES) {
    it(`${dtype} K=${depth}, exponents within ${range}: two chains per 32 of depth, then c + (even + odd)`, () => {
      const c: LinearCase = { rows: 9, depth, columns: 40, dtype }
      const random = new Random(`linear order ${nameOf(c)} range ${range}`)
      const x = spread(c.rows * depth, range, random, inputDtype(dtype))
      const w = spread(c.columns * depth, range, random, dtype === 'int8' ? 'f32' : dtype)
      // int8: the same sums of the whole numbers, times the scale.
      const { q, scale } = dtype === 'int8' ? toInt8(w, c.columns, depth) : { q: w, scale: null }
      const expected = new Float32Array(c.rows * c.columns)
      for (let m = 0; m < c.rows; m++) {
        for (let n = 0; n < c.columns; n++) {
          const sum = product(rowOf(x, m, depth), rowOf(q, n, depth))
          expected[m * c.columns + n] = scale === null ? sum : flush(Math.fround(sum * scale[n]!))
        }
      }
      const place = { random, axes: { m: c.rows, n: c.columns } }
      const got = onEveryIsa(place, (isa, threads) =>
        run(isa, threads, c, { x, w, bias: null, residual: new Float32Array(0) }),
      )
      expectSameBits(got, expected, place)
    })
  }

  it('subnormal weights, inputs, products and sums are zeros, on every thread', () => {
    const tiny = 2 ** -133
    const half = 2 ** -63
    // By k; what is left out is 0. Rows 0 and 1 of a tile are its two chains, row 32 is the next tile's.
    const cases: [string, Record<number, [x: number, w: number]>, number][] = [
      ['a subnormal weight', { 0: [1, tiny] }, 0],
      ['a subnormal input', { 0: [tiny, 1] }, 0],
      ['a product', { 0: [2 ** -70, 2 ** -70] }, 0],
      ['the sum of two chains', { 0: [half, half], 1: [-half, 1.0078125 * half] }, 0],
      ['the sum of two tiles', { 0: [half, half], 32: [-half, 1.0078125 * half] }, 0],
      ['the smallest normal product', { 0: [half, half] }, 2 ** -126],
    ]
    for (const [name, products, expected] of cases) {
      for (const dtype of ['f32', 'bf16'] as const) {
        // Wide enough that every thread has columns.
        const c: LinearCase = { rows: 1, depth: 33, columns: 512, dtype }
        const inputs = {
          x: new Float32Array(33),
          w: new Float32Array(512 * 33),
          bias: null,
          residual: new Float32Array(0),
        }
        for (const [k, [x, w]] of Object.entries(products)) {
          inputs.x[Number(k)] = x
          for (let n = 0; n < c.columns; n++) inputs.w[n * 33 + Number(k)] = w
        }
        for (const isa of isas) {
          for (const threads of [1, 4]) {
            const got = new Set(Array.from(run(isa, threads, c, inputs), Math.abs))
            expect([...got], `${name}, ${dtype}, ${isa} with ${threads} threads`).toEqual([expected])
          }
        }
      }
    }
  })
})

describe('linear with values that are not numbers', () => {
  it('NaN and infinity stay in their rows and columns', () => {
    for (const dtype of DTYPES) {
      const c: LinearCase = { rows: 9, depth: 40, columns: 33, dtype }
      const random = new Random(`linear odd ${nameOf(c)}`)
      const inputs = inputsOf(c, random)
      const clean = run(fastestIsa, 1, c, inputs)
      inputs.x[2 * c.depth + 7] = Number.NaN
      inputs.x[5 * c.depth + 39] = Number.POSITIVE_INFINITY
      inputs.w[3 * c.depth + 11] = Number.NaN
      const held = heldOf(inputs.w, c)
      const place = { random, axes: { m: c.rows, n: c.columns } }
      const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
      const expected = clean.map((value, i) => {
        const [m, n] = [Math.floor(i / c.columns), i % c.columns]
        if (m === 2 || n === 3) return Number.NaN
        if (m === 5) return Number.POSITIVE_INFINITY * held[n * c.depth + 39]!
        return value
      })
      expectSameBits(got, expected, place)
    }
  })

  it('sums past the largest float are infinite', () => {
    for (const isa of isas) {
      const c: LinearCase = { rows: 1, depth: 4, columns: 1, dtype: 'f32' }
      const huge = Float32Array.from([3e38, 0, 3e38, 0])
      const got = run(isa, 1, c, { x: huge, w: new Float32Array(4).fill(1), bias: null, residual: huge })
      expect(got[0], isa).toBe(Number.POSITIVE_INFINITY)
    }
  })
})

describe('linear with int8 weights', () => {
  it('a column of zeros, or of next to nothing, gives its bias', () => {
    for (const value of [0, -0, 2 ** -126, 2 ** -140, 0.99 * 2 ** -110]) {
      const c: LinearCase = { rows: 3, depth: 40, columns: 20, dtype: 'int8', bias: true }
      const random = new Random(`linear int8 column of ${value}`)
      const inputs = inputsOf(c, random)
      inputs.w.fill(value, 5 * c.depth, 6 * c.depth)
      const place = { random, axes: { m: c.rows, n: c.columns } }
      const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
      for (let m = 0; m < c.rows; m++) expect(got[m * c.columns + 5], `${value}, row ${m}`).toBe(inputs.bias![5])
    }
  })

  it('weights of any size have the error of their largest one', () => {
    for (const exponent of [-100, -30, 30, 100]) {
      const c: LinearCase = { rows: 1, depth: 96, columns: 33, dtype: 'int8' }
      const random = new Random(`linear int8 of 2^${exponent}`)
      const inputs = inputsOf(c, random)
      const scaled = { ...inputs, w: inputs.w.map((value) => value * 2 ** exponent) }
      const place = { random, axes: { n: c.columns } }
      const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, scaled))
      expectSameBits(
        got,
        run(fastestIsa, 1, c, inputs).map((value) => value * 2 ** exponent),
        place,
      )
      // Half a step of the scale for each term, at most.
      const exact = linear(inputs.x, inputs.w, c)
      const { scale } = toInt8(inputs.w, c.columns, c.depth)
      const reach = inputs.x.reduce((sum, value) => sum + Math.abs(value), 0)
      expectClose(run(fastestIsa, 1, c, inputs), exact, (n) => 0.501 * scale[n]! * reach, place)
    }
  })
})
