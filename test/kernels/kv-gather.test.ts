// kv_gather: chosen rows moved together in place, bits and positions kept.
import { describe, expect, it } from 'vitest'
import { type Dtype, round } from '../oracle/dtype.js'
import { gather, kBytes, kElement, vBytes, vElement, writeRow } from '../oracle/kv.js'
import { isas, ops } from '../support/ops.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']

interface GatherCase {
  dtype: Dtype
  kvHeads: number
  headDim: number
  capacity: number
  first: number
  /** [Hkv] of rows, ascending; or one list for all heads. */
  keep: number[][]
}

interface Row {
  k: Float32Array
  v: Float32Array
  position: number
}

function check(c: GatherCase, random: Random): void {
  const { dtype, kvHeads, headDim, capacity, first, keep } = c
  const values = () => random.normals(headDim).map((value) => round(dtype, value))
  const heads = Array.from({ length: kvHeads }, () =>
    Array.from({ length: capacity }, (): Row => ({ k: values(), v: values(), position: random.integer(0, 9999) })),
  )
  const layOut = (rowsOf: (head: number) => readonly Row[]) => {
    const [kSize, vSize] = [kBytes(dtype, headDim, capacity), vBytes(dtype, headDim, capacity)]
    const cacheK = new Uint8Array(kvHeads * kSize).fill(0x5a)
    const cacheV = new Uint8Array(kvHeads * vSize).fill(0x5a)
    const positions = new Int32Array(kvHeads * capacity)
    for (let head = 0; head < kvHeads; head++) {
      rowsOf(head).forEach(({ k, v, position }, row) => {
        writeRow(dtype, cacheK.subarray(head * kSize, (head + 1) * kSize), kElement, headDim, row, k)
        writeRow(dtype, cacheV.subarray(head * vSize, (head + 1) * vSize), vElement, headDim, row, v)
        positions[head * capacity + row] = position
      })
    }
    return { cacheK, cacheV, positions }
  }
  const shared = keep.length === 1 && kvHeads > 1
  const start = layOut((head) => heads[head]!)
  const expected = layOut((head) => gather(heads[head]!, first, keep[shared ? 0 : head]!))
  const count = keep[0]!.length
  for (const isa of isas) {
    for (const threads of [1, 3]) {
      const got = { cacheK: start.cacheK.slice(), cacheV: start.cacheV.slice(), positions: start.positions.slice() }
      ops.kvGather(isa, threads, {
        dtype,
        kvHeads,
        headDim,
        capacity,
        first,
        count,
        ...got,
        keep: Int32Array.from(keep.flat()),
        rowsStride: shared ? 0 : count,
      })
      const where = `${random.name}, ${isa}, seed ${random.seed}`
      expect(Buffer.compare(got.cacheK, expected.cacheK), `K of ${where}`).toBe(0)
      expect(Buffer.compare(got.cacheV, expected.cacheV), `V of ${where}`).toBe(0)
      expect(got.positions, where).toEqual(expected.positions)
    }
  }
}

describe('kv_gather', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: compression, each KV head its own rows`, () => {
      for (const [rows, count] of [
        [1, 1],
        [2, 1],
        [33, 16],
        [64, 33],
        [100, 65],
        [129, 128],
      ] as const) {
        const random = new Random(`kv_gather ${dtype} rows=${rows} count=${count}`)
        const keep = Array.from({ length: 3 }, () => random.choose(rows, count))
        check({ dtype, kvHeads: 3, headDim: 17, capacity: Math.ceil(rows / 32) * 32, first: 0, keep }, random)
      }
    })

    it(`${dtype}: commit, all heads the same path behind the committed rows`, () => {
      for (const first of [0, 15, 31, 32, 60]) {
        for (const path of [[0], [0, 1, 2], [0, 3, 7], [2, 31]]) {
          const random = new Random(`kv_gather ${dtype} first=${first} path=${path.join()}`)
          check({ dtype, kvHeads: 2, headDim: 16, capacity: 96, first, keep: [path] }, random)
        }
      }
    })
  }

  it('nothing, everything, and all but one', () => {
    const all = Array.from({ length: 40 }, (_, row) => row)
    for (const keep of [[], all, all.slice(1), all.slice(0, -1)]) {
      const random = new Random(`kv_gather ${keep.length} of 40`)
      check({ dtype: 'bf16', kvHeads: 1, headDim: 80, capacity: 64, first: 0, keep: [keep] }, random)
    }
  })
})
