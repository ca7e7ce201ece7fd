// pack_weight and unpack_weight: the bytes that loading a model gives, and back.
import { describe, expect, it } from 'vitest'
import { type Dtype, elementAt, round } from '../oracle/dtype.js'
import { toInt8 } from '../oracle/int8.js'
import { packedElement } from '../oracle/kv.js'
import { itOnCpu } from '../support/backend.js'
import { expectSame, expectSameBits } from '../support/compare.js'
import { isas, onEveryIsa, ops, type PackedDtype, referenceIsa } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']
const GUARD = 64

interface PackCase {
  rows: number
  depth: number
  transposed: boolean
  dtype: Dtype
}

const nameOf = ({ rows, depth, transposed, dtype }: PackCase): string =>
  `${dtype} N=${rows} K=${depth}${transposed ? ' transposed' : ''}`

const transpose = (values: Float32Array, rows: number, width: number): Float32Array =>
  Float32Array.from({ length: values.length }, (_, i) => values[(i % rows) * width + Math.floor(i / rows)]!)

/** As a model's weights are packed when it is loaded. */
function loaded(isa: string, { rows, depth, transposed, dtype }: PackCase, source: Float32Array): Uint8Array {
  return transposed
    ? ops.packedBytes({ isa, w: transpose(source, rows, depth), dtype, columns: depth, depth: rows })
    : ops.packedBytes({ isa, w: source, dtype, columns: rows, depth })
}

function run(isa: string, threads: number, c: PackCase, source: Float32Array, bytes: number): Uint8Array {
  // What is there before means nothing, and all of it is written.
  const guarded = new Uint8Array(bytes + 2 * GUARD).fill(0xa5)
  ops.packWeight(isa, threads, { ...c, source, tiles: guarded.subarray(GUARD, GUARD + bytes) })
  const around = [...guarded.subarray(0, GUARD), ...guarded.subarray(GUARD + bytes)]
  expect(
    around.every((byte) => byte === 0xa5),
    `${isa}: written outside`,
  ).toBe(true)
  return guarded.slice(GUARD, GUARD + bytes)
}

function check(c: PackCase, source: Float32Array, random: Random): void {
  const expected = loaded(referenceIsa, c, source)
  for (const isa of isas) {
    for (const threads of [1, 3]) {
      const place = { random, axes: { byte: expected.length }, what: `${isa}, ${threads} threads` }
      expectSame(run(isa, threads, c, source, expected.length), expected, place)
    }
  }
}

describe('pack_weight', () => {
  const sizes = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]
  for (const dtype of DTYPES) {
    for (const transposed of [false, true]) {
      it(`${dtype}${transposed ? ', transposed' : ''}: has the bytes that loading gives, at every size around a tile`, () => {
        for (const [rows, depth] of [
          ...sizes.map((rows) => [rows, 37] as const),
          ...sizes.map((depth) => [21, depth] as const),
          [200, 200] as const,
        ]) {
          const c = { rows, depth, transposed, dtype }
          const random = new Random(`pack_weight ${nameOf(c)}`)
          check(c, random.normals(rows * depth), random)
        }
      })
    }

    it(`${dtype}: rounds to nearest, ties to even, past the ends of its values too`, () => {
      const bits = new Uint32Array(33 * 40)
      const random = new Random(`pack_weight rounding ${dtype}`)
      // Any pattern at all, half of them ties of f16 or bf16; every NaN is the usual one.
      for (let i = 0; i < bits.length; i++) {
        const pattern = random.bits()
        bits[i] = i % 4 === 1 ? (pattern & ~0xffff) | 0x8000 : i % 4 === 3 ? (pattern & ~0x1fff) | 0x1000 : pattern
      }
      const source = new Float32Array(bits.buffer).map((value) => (Number.isNaN(value) ? Number.NaN : value))
      for (const transposed of [false, true]) check({ rows: 33, depth: 40, transposed, dtype }, source, random)
    })
  }

  itOnCpu('keeps NaN not a number, whatever its bits', 'its tiles lie elsewhere', () => {
    const bits = Uint32Array.of(0x7f800001, 0xff800001, 0x7fffffff, 0x7fc00000, 0x3f800000, 0x7f80ffff)
    const source = new Float32Array(bits.buffer)
    for (const dtype of DTYPES) {
      for (const isa of isas) {
        const c = { rows: 1, depth: bits.length, transposed: false, dtype }
        const tiles = run(isa, 1, c, source, loaded(isa, c, source).length)
        const back = Array.from(source, (_, k) => elementAt(dtype, tiles, packedElement(dtype, bits.length, 0, k)))
        expect(back.map(Number.isNaN), `${dtype} ${isa}`).toEqual([true, true, true, true, false, true])
        expect(back[4]).toBe(1)
      }
    }
  })
})

/** unpack_weight of a weight packed when it is loaded. */
function unpack(isa: string, threads: number, w: Float32Array, dtype: PackedDtype, columns: number, depth: number) {
  const out = new Output({ rows: 1, width: columns * depth })
  ops.unpackWeight(isa, threads, { w, dtype, columns, depth, out: out.array })
  return out.values()
}

describe('unpack_weight', () => {
  for (const dtype of [...DTYPES, 'int8'] as const) {
    it(`${dtype}: gives back what the packed weight stands for, at every size around a tile`, () => {
      const sizes = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]
      for (const [columns, depth] of [
        ...sizes.map((size) => [size, 37] as const),
        ...sizes.map((size) => [21, size] as const),
      ]) {
        const random = new Random(`unpack_weight ${dtype} N=${columns} K=${depth}`)
        const w = random.normals(columns * depth)
        const place = { random, axes: { n: columns, k: depth } }
        const got = onEveryIsa(place, (isa, threads) => unpack(isa, threads, w, dtype, columns, depth))
        const int8 = toInt8(w, columns, depth)
        const expected = w.map((value, i) =>
          dtype === 'int8' ? int8.q[i]! * int8.scale[Math.floor(i / depth)]! : round(dtype, value),
        )
        expectSameBits(got, expected, place)
      }
    })
  }

  it('packed again, gives the same bytes', () => {
    for (const dtype of DTYPES) {
      const [columns, depth] = [50, 70]
      const random = new Random(`unpack_weight again ${dtype}`)
      const w = random.normals(columns * depth)
      for (const isa of isas) {
        const plain = unpack(isa, 2, w, dtype, columns, depth)
        check({ rows: columns, depth, transposed: false, dtype }, plain, random)
        const bytes = ops.packedBytes({ isa, w, dtype, columns, depth })
        expect(ops.packedBytes({ isa, w: plain, dtype, columns, depth }), `${dtype} ${isa}`).toEqual(bytes)
      }
    }
  })
})
