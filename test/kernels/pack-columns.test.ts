// packColumns: row-major weights of any dtype and alignment to tiles.
import { describe, expect, it } from 'vitest'
import { type Dtype, elementAt, round, sizeOf, toBytes } from '../oracle/dtype.js'
import { int8Bytes, int8Element, int8Scale, toInt8 } from '../oracle/int8.js'
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

describe('packColumns to int8', () => {
  /** The tiles of f32 values [columns, depth], filled with `fill` before. */
  function pack(values: Float32Array, columns: number, depth: number, fill = 0): Uint8Array {
    const tiles = new Uint8Array(int8Bytes(columns, depth)).fill(fill)
    const source = toBytes('f32', values)
    ops.packColumns({ source, from: 'f32', tiles, to: 'int8', depth, offset: 0, first: 0, last: columns })
    return tiles
  }
  const numberAt = (tiles: Uint8Array, depth: number, n: number, k: number) =>
    new Int8Array(tiles.buffer)[int8Element(depth, n, k)]
  const scaleAt = (tiles: Uint8Array, depth: number, n: number) =>
    new DataView(tiles.buffer).getFloat32(int8Scale(depth, n), true)

  for (const from of DTYPES) {
    it(`${from}: every number and scale in its place, zeros elsewhere`, () => {
      for (const [columns, depth, offset] of [
        [1, 1, 0],
        [16, 32, 0],
        [17, 33, 0],
        [5, 70, 14],
        [40, 8, 32],
      ] as const) {
        const random = new Random(`pack int8 ${from} ${columns} ${depth} ${offset}`)
        const values = random.normals(columns * depth).map((value) => round(from, value))
        const tiles = new Uint8Array(int8Bytes(offset + columns, depth))
        const source = shifted(toBytes(from, values), 1)
        ops.packColumns({ source, from, tiles, to: 'int8', depth, offset, first: 0, last: columns })
        const expected = new Uint8Array(tiles.length)
        const view = new DataView(expected.buffer)
        const { q, scale } = toInt8(values, columns, depth)
        for (let n = 0; n < columns; n++) {
          view.setFloat32(int8Scale(depth, offset + n), scale[n]!, true)
          for (let k = 0; k < depth; k++) view.setInt8(int8Element(depth, offset + n, k), q[n * depth + k]!)
        }
        expect(tiles, `[${columns}, ${depth}] at column ${offset}`).toEqual(expected)
      }
    })
  }

  it('rounds to the nearest step, ties to even, and the largest magnitude to 127', () => {
    // The scale is 1.
    const values = Float32Array.of(127, -127, 0.5, -0.5, 1.5, -1.5, 2.5, 0.49999997, 0.50000006, -126.5, 125.5, 0, -0)
    const tiles = pack(values, 1, values.length)
    expect(scaleAt(tiles, values.length, 0)).toBe(1)
    const expected = [127, -127, 0, 0, 2, -2, 2, 0, 1, -126, 126, 0, 0]
    expect(expected.map((_, k) => numberAt(tiles, values.length, 0, k))).toEqual(expected)
  })

  it('every magnitude of f32 has a scale, and its largest value is never past 127', () => {
    for (const largest of [3.4028234663852886e38, 1e30, 3, 0.1, 1e-30, 2 ** -110]) {
      for (const sign of [1, -1]) {
        const tiles = pack(Float32Array.of(sign * largest, largest / 3, 2 ** -149), 1, 3)
        expect(scaleAt(tiles, 3, 0), `${largest}`).toBe(Math.fround(Math.fround(largest) / 127))
        expect([0, 1, 2].map((k) => numberAt(tiles, 3, 0, k))).toEqual([sign * 127, 42, 0])
      }
    }
  })

  it('a column of next to nothing is zeros with the scale 0, one that is not finite zeros with the scale NaN', () => {
    const bad = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
    const columns = [0, 2 ** -149, 0.99 * 2 ** -110, ...bad].map((odd) => [1e-38, odd, -1e-40])
    // Into memory that is not zero: every number of a column is written.
    const tiles = pack(Float32Array.from(columns.flat()), columns.length, 3, 0x55)
    for (const n of columns.keys()) {
      expect(
        [0, 1, 2].map((k) => numberAt(tiles, 3, n, k)),
        `column ${n}`,
      ).toEqual([0, 0, 0])
      expect(scaleAt(tiles, 3, n)).toBe(n < 3 ? 0 : Number.NaN)
    }
  })

  it('a range of columns leaves the others alone', () => {
    const values = Float32Array.from({ length: 20 * 40 }, (_, i) => i + 1)
    const whole = pack(values, 20, 40)
    const parts = new Uint8Array(whole.length)
    for (const [first, last] of [
      [16, 20],
      [0, 16],
    ] as const) {
      const source = toBytes('f32', values)
      ops.packColumns({ source, from: 'f32', tiles: parts, to: 'int8', depth: 40, offset: 0, first, last })
    }
    expect(parts).toEqual(whole)
  })
})
