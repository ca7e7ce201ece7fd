// Oracle of int8 weights: which whole numbers and scales stand for a column, and where they lie.

const SMALLEST = 2 ** -110

export interface Int8Weight {
  /** [N, K] whole numbers from -127 to 127. */
  readonly q: Float32Array
  /** [N]. */
  readonly scale: Float32Array
}

const roundHalfToEven = (x: number): number => {
  const down = Math.floor(x)
  const rest = x - down
  return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down
}

/** scale = largest magnitude / 127, q = w / scale to the nearest, each quotient an f32, of w [N, K] f32. */
export function toInt8(w: ArrayLike<number>, columns: number, depth: number): Int8Weight {
  const q = new Float32Array(columns * depth)
  const scale = new Float32Array(columns)
  for (let n = 0; n < columns; n++) {
    const column = Array.from({ length: depth }, (_, k) => w[n * depth + k]!)
    if (!column.every(Number.isFinite)) {
      scale[n] = Number.NaN
      continue
    }
    const largest = Math.max(...column.map(Math.abs))
    if (largest < SMALLEST) continue
    scale[n] = largest / 127
    column.forEach((value, k) => {
      q[n * depth + k] = roundHalfToEven(Math.fround(value / scale[n]!)) + 0
    })
  }
  return { q, scale }
}

/** [N, K]: what the numbers and scales stand for, exactly. */
export function fromInt8({ q, scale }: Int8Weight): Float64Array {
  const depth = q.length / scale.length
  return Float64Array.from(q, (value, i) => value * scale[Math.floor(i / depth)]!)
}

const TILE_DEPTH = 32
const BLOCK_COLUMNS = 16
const SCALE_BYTES = 4

const blockBytes = (depth: number): number => (Math.ceil(depth / TILE_DEPTH) * TILE_DEPTH + SCALE_BYTES) * BLOCK_COLUMNS

/** Bytes of a packed weight: column blocks of 16, each all of its depth and then the scales. */
export const int8Bytes = (columns: number, depth: number): number =>
  Math.ceil(columns / BLOCK_COLUMNS) * blockBytes(depth)

/** Byte of (column n, depth k). */
export const int8Element = (depth: number, n: number, k: number): number =>
  Math.floor(n / BLOCK_COLUMNS) * blockBytes(depth) + k * BLOCK_COLUMNS + (n % BLOCK_COLUMNS)

/** First byte of the f32 scale of column n. */
export const int8Scale = (depth: number, n: number): number =>
  Math.floor(n / BLOCK_COLUMNS) * blockBytes(depth) +
  Math.ceil(depth / TILE_DEPTH) * TILE_DEPTH * BLOCK_COLUMNS +
  (n % BLOCK_COLUMNS) * SCALE_BYTES
