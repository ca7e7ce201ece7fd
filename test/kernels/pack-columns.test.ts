// packColumns: row-major weights of any dtype and alignment to tiles.
import { describe, expect, it } from 'vitest'
import { type Dtype, elementAt, round, sizeOf, toBytes } from '../oracle/dtype.js'
import { kBytes, packedElement } from '../oracle/kv.js'
import { ops } from '../support/ops.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']

/** A copy that starts `shift` bytes into its memory. */
function shifted(bytes: Uint8Array, shift: number): Uint8Array {
  const memory = new Uint8Array(bytes.length + shift)
  memory.set(bytes, shift)
  return memory.subarray(shift)
}

describe('packColumns', () => {
  for (const from of DTYPES) {
    for (const to of DTYPES) {
      it(`${from} to ${to}: every element in its place, rounded once, zeros elsewhere`, () => {
        for (const [columns, depth, offset] of [
          [1, 1, 0],
          [16, 32, 0],
          [17, 33, 0],
          [5, 70, 14],
          [40, 8, 32],
        ] as const) {
          const random = new Random(`pack ${from} ${to} ${columns} ${depth} ${offset}`)
          const values = random.normals(columns * depth).map((value) => round(from, value))
          // Tiles are a matrix [offset + columns, depth]; K of a cache has the same layout and size.
          const tiles = new Uint8Array(kBytes(to, depth, Math.ceil((offset + columns) / 32) * 32))
          ops.packColumns({
            source: shifted(toBytes(from, values), 1),
            from,
            tiles,
            to,
            depth,
            offset,
            first: 0,
            last: columns,
          })
          const expected = new Array<number>(tiles.length / sizeOf(to)).fill(0)
          for (let n = 0; n < columns; n++) {
            for (let k = 0; k < depth; k++) {
              expected[packedElement(to, depth, offset + n, k)] = round(to, values[n * depth + k]!)
            }
          }
          const got = expected.map((_, i) => elementAt(to, tiles, i))
          expect(got, `[${columns}, ${depth}] at column ${offset}`).toEqual(expected)
        }
      })
    }
  }

  it('a range of columns leaves the others alone', () => {
    const values = Float32Array.from({ length: 20 * 40 }, (_, i) => i + 1)
    const whole = new Uint8Array(kBytes('f32', 40, 32))
    const parts = new Uint8Array(whole.length)
    const pack = (tiles: Uint8Array, first: number, last: number) =>
      ops.packColumns({
        source: toBytes('f32', values),
        from: 'f32',
        tiles,
        to: 'f32',
        depth: 40,
        offset: 0,
        first,
        last,
      })
    pack(whole, 0, 20)
    pack(parts, 16, 20)
    pack(parts, 0, 16)
    expect(parts).toEqual(whole)
  })

  it('rounds to the nearest value, ties to even, at every edge of a dtype', () => {
    const edges: Record<'f16' | 'bf16', number[]> = {
      f16: [65504, 65519, 65520, 1e30, 2 ** -14, 2 ** -24, 2 ** -25, 1.5 * 2 ** -25, 3 * 2 ** -25, 2 ** -26, 6.1e-5, 0],
      bf16: [3.3895313892515355e38, 3.4e38, 2 ** -126, 2 ** -133, 1.5 * 2 ** -133, 2 ** -134, 2 ** -135, 0],
    }
    for (const to of ['f16', 'bf16'] as const) {
      const ulp = to === 'f16' ? 2 ** -10 : 2 ** -7
      const halves = [1, 1 + ulp / 2, 1 + 1.5 * ulp, 1 + ulp / 2 + 2 ** -23, 2 - ulp / 2, 2 - 2 ** -23]
      const positive = [...edges[to], ...halves, Number.POSITIVE_INFINITY, Number.NaN]
      const values = Float32Array.from([...positive, ...positive.map((value) => -value)])
      const tiles = new Uint8Array(kBytes(to, values.length, 32))
      ops.packColumns({
        source: toBytes('f32', values),
        from: 'f32',
        tiles,
        to,
        depth: values.length,
        offset: 0,
        first: 0,
        last: 1,
      })
      values.forEach((value, k) => {
        expect(elementAt(to, tiles, packedElement(to, values.length, 0, k)), `${value} as ${to}`).toBe(round(to, value))
      })
    }
  })
})
