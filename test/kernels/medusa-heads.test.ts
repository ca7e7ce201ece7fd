// medusa_heads: residual blocks and projection, shared or not.
import { describe, it } from 'vitest'
import { type Dtype, round } from '../oracle/dtype.js'
import { fromInt8, toInt8 } from '../oracle/int8.js'
import { linear } from '../oracle/linear.js'
import { medusaHead } from '../oracle/medusa-heads.js'
import { isCpu, itOnCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, tolerance } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops, type PackedDtype, roundUp, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES: PackedDtype[] = ['f32', 'f16', 'bf16', 'int8']

/** Of the rows that products take. */
const inputDtype = (dtype: PackedDtype): Dtype =>
  dtype === 'bf16' || dtype === 'int8' ? 'bf16' : dtype === 'f16' && !isCpu ? 'f16' : 'f32'

interface HeadsCase {
  dtype: PackedDtype
  rows: number
  width: number
  headCount: number
  blockCount: number
  columns: number
  sharedProjection: boolean
  bias: boolean
}

interface Inputs {
  x: Float32Array
  blocks: Float32Array
  biases: Float32Array | null
  projection: Float32Array
}

const nameOf = (c: HeadsCase): string =>
  `${c.dtype} S=${c.rows} C=${c.width} M=${c.headCount} R=${c.blockCount} V=${c.columns}${c.sharedProjection ? ' shared' : ''}${c.bias ? ' bias' : ''}`

function inputsOf(c: HeadsCase, random: Random): Inputs {
  const values = (count: number, deviation: number, dtype: Dtype) =>
    random.normals(count, deviation).map((value) => round(dtype, value))
  const scale = 1 / Math.sqrt(c.width)
  const stored = c.dtype === 'int8' ? 'f32' : c.dtype
  return {
    x: values(c.rows * c.width, 1, inputDtype(c.dtype)),
    blocks: values(c.headCount * c.blockCount * c.width * c.width, scale, stored),
    biases: c.bias ? values(c.headCount * c.blockCount * c.width, 0.3, 'f32') : null,
    projection: values((c.sharedProjection ? 1 : c.headCount) * c.columns * c.width, scale, stored),
  }
}

/** [M, S, V']. */
function run(isa: string, threads: number, c: HeadsCase, inputs: Inputs): Float32Array {
  const xStride = roundUp(c.width, 32) + 32
  const out = new Output({ rows: c.headCount * c.rows, width: c.columns, stride: c.columns + 5 })
  const { bias: _, ...shape } = c
  const x = strided(inputs.x, c.rows, c.width, xStride)
  ops.medusaHeads(isa, threads, { ...shape, ...inputs, x, xStride, logits: out.array, logitsStride: out.stride })
  return out.values()
}

/** The head as the oracle takes it. */
function headOf(c: HeadsCase, { blocks, biases, projection }: Inputs, head: number) {
  const own = c.sharedProjection ? 0 : head
  const at = (block: number) => head * c.blockCount + block
  // The weights that are multiplied: int8 holds others than it was given.
  const held = (w: Float32Array, columns: number) =>
    c.dtype === 'int8' ? fromInt8(toInt8(w, columns, c.width)) : Float64Array.from(w)
  return {
    blocks: Array.from({ length: c.blockCount }, (_, r) => held(rowOf(blocks, at(r), c.width * c.width), c.width)),
    biases: Array.from({ length: c.blockCount }, (_, r) => biases && rowOf(biases, at(r), c.width)),
    projection: held(rowOf(projection, own, c.columns * c.width), c.columns),
  }
}

function check(c: HeadsCase): void {
  const random = new Random(`medusa_heads ${nameOf(c)}`)
  const inputs = inputsOf(c, random)
  const place = { random, axes: { head: c.headCount, s: c.rows, v: c.columns } }
  const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
  const expected: number[] = []
  const sizes: number[] = []
  for (let head = 0; head < c.headCount; head++) {
    const weights = headOf(c, inputs, head)
    // z itself comes out of a projection by the identity.
    const identity = Float32Array.from({ length: c.width ** 2 }, (_, i) => Number(i % (c.width + 1) === 0))
    for (let s = 0; s < c.rows; s++) {
      const x = rowOf(inputs.x, s, c.width)
      expected.push(...medusaHead(x, weights))
      // Every z_r on the way: what a block adds may cancel in the next.
      const sizesOfZ = new Array<number>(c.width).fill(0)
      for (let r = 0; r <= c.blockCount; r++) {
        const z = medusaHead(x, { ...weights, blocks: weights.blocks.slice(0, r), projection: identity })
        z.forEach((value, i) => {
          sizesOfZ[i]! += Math.abs(value)
        })
      }
      const squares = linear(
        sizesOfZ.map((value) => value ** 2),
        weights.projection.map((value) => value ** 2),
        { rows: 1, depth: c.width, columns: c.columns },
      )
      sizes.push(...squares.map(Math.sqrt))
    }
  }
  // Rounded are the input of every product, or where those are f32 only the sums.
  const input = inputDtype(c.dtype)
  const epsilon = input === 'f32' ? EPSILON.f32 : EPSILON[input] / 2
  const reduction = input === 'f32' ? c.width * (1 + c.blockCount) : 1 + c.blockCount
  expectClose(got, expected, (i) => tolerance({ epsilon, reduction, magnitude: sizes[i]!, factor: 3 }), place)
}

describe('medusa_heads against the oracle', () => {
  for (const dtype of DTYPES) {
    for (const sharedProjection of [true, false]) {
      it(`${dtype}, ${sharedProjection ? 'one projection for all' : 'a projection each'}: any number of blocks`, () => {
        for (const blockCount of [0, 1, 2, 3]) {
          for (const bias of [true, false]) {
            check({ dtype, rows: 2, width: 40, headCount: 3, blockCount, columns: 50, sharedProjection, bias })
          }
        }
      })

      it(`${dtype}, ${sharedProjection ? 'one projection for all' : 'a projection each'}: any width, rows and heads`, () => {
        const shape = { dtype, blockCount: 1, sharedProjection, bias: true }
        for (const width of [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65]) {
          check({ ...shape, rows: 1, width, headCount: 2, columns: 33 })
        }
        for (const [rows, headCount, columns] of [
          [1, 1, 1],
          [3, 5, 17],
          [17, 4, 64],
        ] as const) {
          check({ ...shape, rows, width: 24, headCount, columns })
        }
      })
    }
  }
})

describe('medusa_heads', () => {
  for (const sharedProjection of [true, false]) {
    it(`a row alone has the bits it has among 64 others${sharedProjection ? ', one projection for all' : ''}`, () => {
      const c: HeadsCase = {
        dtype: 'bf16',
        rows: 65,
        width: 40,
        headCount: 2,
        blockCount: 1,
        columns: 33,
        sharedProjection,
        bias: true,
      }
      const random = new Random(`medusa_heads alone ${nameOf(c)}`)
      const inputs = inputsOf(c, random)
      for (const isa of isas) {
        const together = run(isa, 2, c, inputs)
        for (let s = 0; s < c.rows; s++) {
          const alone = run(isa, 1, { ...c, rows: 1 }, { ...inputs, x: rowOf(inputs.x, s, c.width) })
          for (let head = 0; head < c.headCount; head++) {
            expectSameBits(rowOf(alone, head, c.columns), rowOf(together, head * c.rows + s, c.columns), {
              random,
              axes: { v: c.columns },
              what: `${isa}, head ${head}, row ${s}`,
            })
          }
        }
      }
    })
  }

  itOnCpu('one projection for all has the bits of copies of it', 'rows and columns decide how depth is cut', () => {
    for (const dtype of DTYPES) {
      const c: HeadsCase = {
        dtype,
        rows: 3,
        width: 40,
        headCount: 3,
        blockCount: 2,
        columns: 33,
        sharedProjection: true,
        bias: true,
      }
      const random = new Random(`medusa_heads copies ${nameOf(c)}`)
      const inputs = inputsOf(c, random)
      const copies = new Float32Array(3 * inputs.projection.length)
      for (let head = 0; head < 3; head++) copies.set(inputs.projection, head * inputs.projection.length)
      const shared = run(fastestIsa, 1, c, inputs)
      const own = run(fastestIsa, 1, { ...c, sharedProjection: false }, { ...inputs, projection: copies })
      expectSameBits(own, shared, { random, axes: { head: 3, s: 3, v: 33 } })
    }
  })

  itOnCpu('without blocks a head is its projection: linear has the same bits', 'it has a kernel of its own', () => {
    const c: HeadsCase = {
      dtype: 'bf16',
      rows: 4,
      width: 70,
      headCount: 1,
      blockCount: 0,
      columns: 33,
      sharedProjection: false,
      bias: false,
    }
    const random = new Random(`medusa_heads linear ${nameOf(c)}`)
    const inputs = inputsOf(c, random)
    const out = new Output({ rows: 4, width: 33 })
    ops.linear(fastestIsa, 1, {
      x: strided(inputs.x, 4, 70, 96),
      xStride: 96,
      rows: 4,
      depth: 70,
      w: inputs.projection,
      dtype: 'bf16',
      columns: 33,
      bias: null,
      out: out.array,
      outStride: 33,
      add: false,
    })
    expectSameBits(run(fastestIsa, 1, c, inputs), out.values(), { random, axes: { s: 4, v: 33 } })
  })

  it.each(['bf16', 'int8'] as const)(
    'every product takes bf16 values when weights are %s: z is rounded before it is projected',
    (dtype) => {
      const c: HeadsCase = {
        dtype,
        rows: 3,
        width: 40,
        headCount: 2,
        blockCount: 2,
        columns: 40,
        sharedProjection: true,
        bias: true,
      }
      const random = new Random(`medusa_heads bf16 ${nameOf(c)}`)
      const projection = Float32Array.from({ length: 1600 }, (_, i) => Number(i % 41 === 0))
      const z = run(fastestIsa, 1, c, { ...inputsOf(c, random), projection })
      expectSameBits(
        z,
        z.map((value) => round('bf16', value)),
        { random, axes: { head: 2, s: 3, i: 40 } },
      )
    },
  )

  it('NaN stays in its row', () => {
    const c: HeadsCase = {
      dtype: 'f32',
      rows: 3,
      width: 20,
      headCount: 2,
      blockCount: 1,
      columns: 9,
      sharedProjection: true,
      bias: true,
    }
    const random = new Random(`medusa_heads odd ${nameOf(c)}`)
    const inputs = inputsOf(c, random)
    const clean = run(fastestIsa, 1, c, inputs)
    inputs.x[c.width + 3] = Number.NaN
    const place = { random, axes: { head: 2, s: 3, v: 9 } }
    const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
    expectSameBits(
      got,
      clean.map((value, i) => (Math.floor(i / 9) % 3 === 1 ? Number.NaN : value)),
      place,
    )
  })
})
