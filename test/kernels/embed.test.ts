// embed: rows of the table, every value of every dtype.
import { describe, expect, it } from 'vitest'
import { type Dtype, decode, round, sizeOf, toBytes } from '../oracle/dtype.js'
import { embed } from '../oracle/embed.js'
import { expectSame, expectSameBits } from '../support/compare.js'
import { isas, onEveryIsa, ops } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']

interface EmbedCase {
  dtype: Dtype
  tokens: number
  width: number
  vocab: number
}

function run(isa: string, threads: number, c: EmbedCase, ids: Int32Array, table: Uint8Array): Float32Array {
  const out = new Output({ rows: c.tokens, width: c.width, stride: c.width + 7 })
  ops.embed(isa, threads, { ...c, ids, table, out: out.array, outStride: out.stride })
  return out.values()
}

describe('embed', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: rows of a table of any alignment, for any number of tokens`, () => {
      for (const [tokens, width] of [
        [1, 1],
        [2, 15],
        [63, 16],
        [64, 17],
        [65, 33],
        [129, 8],
      ] as const) {
        const c: EmbedCase = { dtype, tokens, width, vocab: 37 }
        const random = new Random(`embed ${dtype} T=${tokens} C=${width}`)
        const values = random.normals(c.vocab * width).map((value) => round(dtype, value))
        const ids = Int32Array.from({ length: tokens }, () => random.integer(0, c.vocab - 1))
        ids[0] = c.vocab - 1
        const bytes = toBytes(dtype, values)
        const memory = new Uint8Array(bytes.length + sizeOf(dtype) - 1)
        memory.set(bytes, sizeOf(dtype) - 1)
        const place = { random, axes: { t: tokens, i: width } }
        const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, ids, memory.subarray(sizeOf(dtype) - 1)))
        expectSame(got, embed(ids, values, width), place)
      }
    })
  }

  for (const dtype of ['f16', 'bf16'] as const) {
    it(`${dtype}: all 65,536 patterns`, () => {
      const c: EmbedCase = { dtype, tokens: 1, width: 65536, vocab: 1 }
      const patterns = Uint16Array.from({ length: 65536 }, (_, bits) => bits)
      const expected = Float32Array.from(patterns, (bits) => decode(dtype, bits))
      const random = new Random(`embed patterns ${dtype}`)
      for (const isa of isas) {
        const got = run(isa, 1, c, Int32Array.of(0), new Uint8Array(patterns.buffer))
        expectSameBits(got, expected, { random, axes: { bits: 65536 }, what: isa })
      }
    })
  }

  it('the oracle of the dtypes agrees with typed arrays', () => {
    const floats = new Float32Array([
      1,
      -0,
      2 ** -149,
      3.4028234663852886e38,
      -1.17549435e-38,
      Number.POSITIVE_INFINITY,
    ])
    const bits = new Uint32Array(floats.buffer)
    expect(Array.from(bits, (word) => decode('f32', word))).toEqual(Array.from(floats))
  })
})
