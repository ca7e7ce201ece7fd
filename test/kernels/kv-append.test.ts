// kv_append: rows in their places, rounded once; nothing else touched.
import { expect, it } from 'vitest'
import { type Dtype, decode, round } from '../oracle/dtype.js'
import { append, type ElementOf, kBytes, kElement, readRow, vBytes, vElement } from '../oracle/kv.js'
import { describeOnCpu } from '../support/backend.js'
import { isas, ops, rowOf, strided } from '../support/ops.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']

interface AppendCase {
  dtype: Dtype
  kvHeads: number
  headDim: number
  rows: number
  tokens: number
}

interface Caches {
  cacheK: Uint8Array
  cacheV: Uint8Array
  positions: Int32Array
}

const capacityOf = (c: AppendCase): number => (Math.ceil((c.rows + c.tokens) / 32) + 1) * 32

/** Caches that hold anything at all. */
function anything(c: AppendCase, random: Random): Caches {
  const bytes = (count: number) => new Uint8Array(Uint32Array.from({ length: count / 4 }, () => random.bits()).buffer)
  const capacity = capacityOf(c)
  return {
    cacheK: bytes(c.kvHeads * kBytes(c.dtype, c.headDim, capacity)),
    cacheV: bytes(c.kvHeads * vBytes(c.dtype, c.headDim, capacity)),
    positions: Int32Array.from({ length: c.kvHeads * capacity }, () => random.integer(-9, -1)),
  }
}

/** [T][D] of one KV head, of values [T, Hkv, D]. */
const headRows = ({ tokens, kvHeads, headDim }: AppendCase, values: Float32Array, head: number): Float32Array[] =>
  Array.from({ length: tokens }, (_, t) => rowOf(values, t * kvHeads + head, headDim))

function check(c: AppendCase, depths: Int32Array | null = null): void {
  const { dtype, kvHeads, headDim, rows, tokens } = c
  const capacity = capacityOf(c)
  const random = new Random(
    `kv_append ${dtype} T=${tokens} R=${rows} Hkv=${kvHeads} D=${headDim} tree=${depths !== null}`,
  )
  const start = anything(c, random)
  const width = kvHeads * headDim
  const k = random.normals(tokens * width)
  const v = random.normals(tokens * width)
  const position = rows + random.integer(0, 1000)

  const expected = { cacheK: start.cacheK.slice(), cacheV: start.cacheV.slice(), positions: start.positions.slice() }
  const each = (bytes: Uint8Array, of: typeof kBytes, element: ElementOf, values: Float32Array, head: number) => {
    const size = of(dtype, headDim, capacity)
    append(dtype, bytes.subarray(head * size, (head + 1) * size), element, headDim, rows, headRows(c, values, head))
  }
  for (let head = 0; head < kvHeads; head++) {
    each(expected.cacheK, kBytes, kElement, k, head)
    each(expected.cacheV, vBytes, vElement, v, head)
    for (let t = 0; t < tokens; t++) expected.positions[head * capacity + rows + t] = position + (depths?.[t] ?? t)
  }

  for (const isa of isas) {
    for (const threads of [1, 3]) {
      const got = { cacheK: start.cacheK.slice(), cacheV: start.cacheV.slice(), positions: start.positions.slice() }
      const strides = { kStride: width + 3, vStride: width + 7 }
      ops.kvAppend(isa, threads, {
        ...c,
        ...got,
        ...strides,
        capacity,
        position,
        depths,
        k: strided(k, tokens, width, strides.kStride, Number.NaN),
        v: strided(v, tokens, width, strides.vStride, Number.NaN),
      })
      const where = `${random.name}, ${isa}, seed ${random.seed}`
      expect(Buffer.compare(got.cacheK, expected.cacheK), `K of ${where}`).toBe(0)
      expect(Buffer.compare(got.cacheV, expected.cacheV), `V of ${where}`).toBe(0)
      expect(got.positions, where).toEqual(expected.positions)
    }
  }
}

describeOnCpu('kv_append', 'it is a part of rope_append there', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: every row, zeros to the end of its group, nothing else`, () => {
      for (const rows of [0, 1, 15, 16, 17, 31, 32, 33, 63, 64]) {
        for (const tokens of [1, 2, 31, 32, 33]) check({ dtype, kvHeads: 2, headDim: 8, rows, tokens })
      }
    })

    it(`${dtype}: every head width; many tokens, which are split over threads`, () => {
      for (const headDim of [1, 15, 16, 17, 31, 32, 33, 64, 80])
        check({ dtype, kvHeads: 3, headDim, rows: 5, tokens: 3 })
      for (const tokens of [63, 64, 65, 130]) check({ dtype, kvHeads: 1, headDim: 8, rows: 7, tokens })
    })
  }

  it("a tree's nodes have the positions of their depths", () => {
    check({ dtype: 'bf16', kvHeads: 2, headDim: 8, rows: 30, tokens: 5 }, Int32Array.of(0, 1, 1, 2, 2))
  })

  it('positions may be left out', () => {
    for (const isa of isas) {
      const cache = { cacheK: new Uint8Array(kBytes('f32', 8, 32)), cacheV: new Uint8Array(vBytes('f32', 8, 32)) }
      const shape = { dtype: 'f32', kvHeads: 1, headDim: 8, rows: 0, tokens: 1, capacity: 32 } as const
      const values = { k: new Float32Array(8).fill(3), kStride: 8, v: new Float32Array(8).fill(4), vStride: 8 }
      ops.kvAppend(isa, 1, { ...shape, ...cache, ...values, positions: null, position: 0, depths: null })
      expect(readRow('f32', cache.cacheK, kElement, 8, 0)).toEqual(new Array(8).fill(3))
      expect(readRow('f32', cache.cacheV, vElement, 8, 0)).toEqual(new Array(8).fill(4))
    }
  })

  it('values are rounded to the nearest of the dtype, infinities and NaN kept', () => {
    const values = Float32Array.from([
      1.00390625,
      1.01171875,
      3.4e38,
      65520,
      -1e-40,
      -0,
      Number.POSITIVE_INFINITY,
      Number.NaN,
    ])
    for (const dtype of DTYPES) {
      for (const isa of isas) {
        const cache = { cacheK: new Uint8Array(kBytes(dtype, 8, 32)), cacheV: new Uint8Array(vBytes(dtype, 8, 32)) }
        const shape = { dtype, kvHeads: 1, headDim: 8, rows: 0, tokens: 1, capacity: 32 }
        const rows = { k: values, kStride: 8, v: values, vStride: 8 }
        ops.kvAppend(isa, 1, { ...shape, ...cache, ...rows, positions: null, position: 0, depths: null })
        const expected = Array.from(values, (value) => round(dtype, value))
        expect(readRow(dtype, cache.cacheK, kElement, 8, 0), `${dtype}, ${isa}`).toEqual(expected)
        expect(readRow(dtype, cache.cacheV, vElement, 8, 0), `${dtype}, ${isa}`).toEqual(expected)
      }
    }
    expect(decode('bf16', 0x3f80)).toBe(1)
  })
})
