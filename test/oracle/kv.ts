// Oracle of the cache: where an element of a row lies, what an append and a gather leave behind.
import { type Dtype, elementAt, encode, sizeOf } from './dtype.js'

const TILE_ROWS = 32
const TILE_COLUMNS = 16

/** Element of a tile of 32 of depth by 16 columns: f32 by depth; f16 and bf16 in pairs of depth. */
export function tileElement(dtype: Dtype, depth: number, column: number): number {
  if (dtype === 'f32') return depth * TILE_COLUMNS + column
  const pair = Math.floor(depth / 2)
  return pair * 2 * TILE_COLUMNS + column * 2 + (depth % 2)
}

/** Element index of (column n, depth k) in a matrix of tiles, the depth tiles of a column block next to each other. */
export function packedElement(dtype: Dtype, depth: number, n: number, k: number): number {
  const tile = Math.floor(n / TILE_COLUMNS) * Math.ceil(depth / TILE_ROWS) + Math.floor(k / TILE_ROWS)
  return tile * TILE_ROWS * TILE_COLUMNS + tileElement(dtype, k % TILE_ROWS, n % TILE_COLUMNS)
}

/** K: rows of the cache are columns, the head width is depth. */
export const kElement = (dtype: Dtype, headDim: number, row: number, d: number): number =>
  packedElement(dtype, headDim, row, d)

/** V: the head width is columns, rows of the cache are depth; the column blocks of 32 rows lie next to each other. */
export function vElement(dtype: Dtype, headDim: number, row: number, d: number): number {
  const tile = Math.floor(row / TILE_ROWS) * Math.ceil(headDim / TILE_COLUMNS) + Math.floor(d / TILE_COLUMNS)
  return tile * TILE_ROWS * TILE_COLUMNS + tileElement(dtype, row % TILE_ROWS, d % TILE_COLUMNS)
}

/** Bytes of K, or of V, of one KV head of `capacity` rows. */
export const kBytes = (dtype: Dtype, headDim: number, capacity: number): number =>
  Math.ceil(capacity / TILE_ROWS) * TILE_ROWS * Math.ceil(headDim / TILE_ROWS) * TILE_ROWS * sizeOf(dtype)
export const vBytes = (dtype: Dtype, headDim: number, capacity: number): number =>
  Math.ceil(capacity / TILE_ROWS) * TILE_ROWS * Math.ceil(headDim / TILE_COLUMNS) * TILE_COLUMNS * sizeOf(dtype)

export type ElementOf = typeof kElement

/** [D] of a row. */
export function readRow(dtype: Dtype, bytes: Uint8Array, element: ElementOf, headDim: number, row: number): number[] {
  return Array.from({ length: headDim }, (_, d) => elementAt(dtype, bytes, element(dtype, headDim, row, d)))
}

/** Values behind D that a row of K, or of V, has in its tiles. */
const padding = (element: ElementOf, headDim: number): number => {
  const width = element === kElement ? TILE_ROWS : TILE_COLUMNS
  return Math.ceil(headDim / width) * width - headDim
}

/** Writes a row, rounded, and zeros behind it. */
export function writeRow(
  dtype: Dtype,
  bytes: Uint8Array,
  element: ElementOf,
  headDim: number,
  row: number,
  values: ArrayLike<number>,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let d = 0; d < headDim + padding(element, headDim); d++) {
    const at = element(dtype, headDim, row, d)
    const value = d < headDim ? values[d]! : 0
    if (dtype === 'f32') view.setFloat32(4 * at, value, true)
    else view.setUint16(2 * at, encode(dtype, value), true)
  }
}

/** Appends rows [T][D] behind `rows` of one KV head, in place, and zeros up to the end of the last group of 32. */
export function append(
  dtype: Dtype,
  bytes: Uint8Array,
  element: ElementOf,
  headDim: number,
  rows: number,
  values: readonly ArrayLike<number>[],
): void {
  values.forEach((row, t) => {
    writeRow(dtype, bytes, element, headDim, rows + t, row)
  })
  const zeros = new Array<number>(headDim).fill(0)
  for (let row = rows + values.length; row % TILE_ROWS !== 0; row++)
    writeRow(dtype, bytes, element, headDim, row, zeros)
}

/** The rows of a list after a gather: row first + i is what row first + keep[i] was; all others stay. */
export function gather<T>(rows: readonly T[], first: number, keep: readonly number[]): T[] {
  const out = [...rows]
  keep.forEach((row, i) => {
    out[first + i] = rows[first + row]!
  })
  return out
}
