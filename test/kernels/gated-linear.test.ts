// gated_linear: both products of the feed-forward block and what is between them, against the oracles of its parts.
import { describe, expect, it } from 'vitest'
import { type Dtype, round } from '../oracle/dtype.js'
import { fromInt8, toInt8 } from '../oracle/int8.js'
import { linear } from '../oracle/linear.js'
import { silu } from '../oracle/silu-mul.js'
import { isRounded } from '../support/attention.js'
import { isCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, rounding, tolerance } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops, type PackedDtype, roundUp, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES: PackedDtype[] = ['f32', 'f16', 'bf16', 'int8']

interface GatedCase {
  rows: number
  depth: number
  ffn: number
  dtype: PackedDtype
  bias: boolean
  prompt: boolean
}

interface Inputs {
  x: Float32Array
  w: Float32Array
  bias: Float32Array | null
}

const nameOf = (c: GatedCase): string =>
  `${c.dtype} M=${c.rows} K=${c.depth} F=${c.ffn}${c.bias ? ' bias' : ''}${c.prompt ? ' prompt' : ''}`

/** Of the rows that products take, and give. */
const rowDtype = (dtype: PackedDtype): Dtype => {
  const operand = dtype === 'int8' ? 'bf16' : dtype
  return isRounded(operand) ? operand : 'f32'
}

function inputsOf(c: GatedCase, random: Random): Inputs {
  const values = (count: number, dtype: Dtype, deviation = 1) =>
    random.normals(count, deviation).map((value) => round(dtype, value))
  return {
    x: values(c.rows * c.depth, rowDtype(c.dtype)),
    // Gates of both signs, near and far from zero.
    w: values(2 * c.ffn * c.depth, c.dtype === 'int8' ? 'f32' : c.dtype, 2 / Math.sqrt(c.depth)),
    bias: c.bias ? values(2 * c.ffn, 'f32') : null,
  }
}

/** [M, F]. */
function run(isa: string, threads: number, c: GatedCase, { x, w, bias }: Inputs): Float32Array {
  const { rows, depth, ffn, dtype, prompt } = c
  const xStride = roundUp(depth, 32) + 16
  const out = new Output({ rows, width: ffn, stride: ffn + 5 })
  const args = { x: strided(x, rows, depth, xStride), xStride, rows, depth, w, dtype, ffn, bias, prompt }
  ops.gatedLinear(isa, threads, { ...args, out: out.array, outStride: out.stride })
  return out.values()
}

function check(c: GatedCase): void {
  const { rows, depth, ffn, dtype } = c
  const random = new Random(`gated_linear ${nameOf(c)}`)
  const inputs = inputsOf(c, random)
  const place = { random, axes: { m: rows, i: ffn } }
  const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))

  // The weights that are multiplied: int8 holds others than it was given.
  const held = dtype === 'int8' ? fromInt8(toInt8(inputs.w, 2 * ffn, depth)) : inputs.w
  const columns = 2 * ffn
  const squared = (values: ArrayLike<number>) => Array.from(values, (value) => value * value)
  const products = linear(inputs.x, held, { rows, depth, columns }, inputs.bias)
  const squares = linear(
    squared(inputs.x),
    squared(held),
    { rows, depth, columns },
    inputs.bias && squared(inputs.bias),
  )
  const errors = squares.map((square) =>
    tolerance({ epsilon: EPSILON.f32, reduction: depth + 2, magnitude: Math.sqrt(square), factor: isCpu ? 2 : 4 }),
  )
  const parts = (values: readonly number[], at: number) => {
    const row = Math.floor(at / ffn) * columns
    return [values[row + (at % ffn)]!, values[row + ffn + (at % ffn)]!] as const
  }
  const expected = Array.from({ length: rows * ffn }, (_, i) => {
    const [gate, up] = parts(products, i)
    return silu(gate) * up
  })
  expectClose(
    got,
    expected,
    (i) => {
      const [gate, up] = parts(products, i)
      const [ofGate, ofUp] = parts(errors, i)
      // silu is nowhere steeper than 1.1.
      return (
        1.1 * ofGate * Math.abs(up) +
        ofUp * Math.abs(silu(gate)) +
        rounding(rowDtype(dtype), expected[i]!) +
        5 * EPSILON.f32 * Math.abs(expected[i]!)
      )
    },
    place,
  )
}

describe('gated_linear against the oracles', () => {
  const around = [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65]
  for (const dtype of DTYPES) {
    for (const prompt of [false, true]) {
      const title = `${dtype}${prompt ? ', a prompt' : ''}`
      it(`${title}: every width around a block`, () => {
        for (const ffn of [...around, 127, 129]) check({ rows: 3, depth: 40, ffn, dtype, bias: ffn % 2 === 0, prompt })
      })
      it(`${title}: every depth around a tile`, () => {
        for (const depth of [...around, 127, 129, 600]) check({ rows: 2, depth, ffn: 20, dtype, bias: false, prompt })
      })
      it(`${title}: every number of rows around a pass`, () => {
        for (const rows of [...around, 16, 17, 130, 300]) check({ rows, depth: 72, ffn: 24, dtype, bias: true, prompt })
      })
    }
  }
})

describe('gated_linear, row by row', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: a row alone has the bits it has among 64 others`, () => {
      const c: GatedCase = { rows: 65, depth: 97, ffn: 43, dtype, bias: true, prompt: false }
      const random = new Random(`gated_linear alone ${nameOf(c)}`)
      const inputs = inputsOf(c, random)
      for (const isa of isas) {
        const together = run(isa, 2, c, inputs)
        for (let m = 0; m < c.rows; m++) {
          const alone = run(isa, 1, { ...c, rows: 1 }, { ...inputs, x: rowOf(inputs.x, m, c.depth) })
          expectSameBits(alone, rowOf(together, m, c.ffn), { random, axes: { i: c.ffn }, what: `${isa}, row ${m}` })
        }
      }
    })
  }

  it('NaN stays in its row, and a weight that is NaN in its column', () => {
    const c: GatedCase = { rows: 5, depth: 40, ffn: 12, dtype: 'bf16', bias: false, prompt: false }
    const random = new Random(`gated_linear odd ${nameOf(c)}`)
    const inputs = inputsOf(c, random)
    const clean = run(fastestIsa, 1, c, inputs)
    inputs.x[2 * c.depth + 7] = Number.NaN
    inputs.w[(c.ffn + 3) * c.depth + 11] = Number.NaN
    const place = { random, axes: { m: c.rows, i: c.ffn } }
    const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
    const isSpoiled = (i: number) => Math.floor(i / c.ffn) === 2 || i % c.ffn === 3
    expectSameBits(
      got,
      clean.map((value, i) => (isSpoiled(i) ? Number.NaN : value)),
      place,
    )
  })

  it('gives values of bf16 and no others where weights are bf16 or int8', () => {
    for (const dtype of ['bf16', 'int8'] as const) {
      const c: GatedCase = { rows: 4, depth: 50, ffn: 30, dtype, bias: true, prompt: false }
      const got = run(fastestIsa, 1, c, inputsOf(c, new Random(`gated_linear bf16 values ${nameOf(c)}`)))
      expect(Array.from(got)).toEqual(Array.from(got, (value) => round('bf16', value)))
    }
  })
})
