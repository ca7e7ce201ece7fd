// Bit-level specification of a product of tiles: what AMX gives for bf16, and every instruction set for every dtype.
//
// Per tile of 32 of depth: one chain of fused multiply-adds from zero over the even k and one over the odd k, each in rising k; then
// c + (even + odd). Tiles in rising depth. Every operation is rounded once to f32; subnormal inputs and results count as zero.

const SMALLEST_NORMAL = 2 ** -126

/** Subnormals as zeros of their sign. */
export function flush(x: number): number {
  return Math.abs(x) < SMALLEST_NORMAL ? x * 0 : x
}

const scratch = new DataView(new ArrayBuffer(8))

/** The f64 next to `x`, away from zero or towards it. */
function neighbour(x: number, awayFromZero: boolean): number {
  scratch.setFloat64(0, x)
  scratch.setBigUint64(0, scratch.getBigUint64(0) + (awayFromZero ? 1n : -1n))
  return scratch.getFloat64(0)
}

const hasEvenFraction = (x: number): boolean => {
  scratch.setFloat64(0, x)
  return scratch.getUint8(7) % 2 === 0
}

/** The f32 nearest to a + b, of f64 values, rounded once; tiny results are zero. */
function addOnce(a: number, b: number): number {
  // The f64 sum, and exactly what its rounding dropped.
  const sum = a + b
  const back = sum - a
  const dropped = a - (sum - back) + (b - back)
  // Rounding to odd keeps in the last bit whether anything was dropped: the second rounding then sees the exact sum's side of a tie.
  const odd = dropped !== 0 && hasEvenFraction(sum) ? neighbour(sum, dropped > 0 === sum > 0) : sum
  // Whether a result is tiny is decided on 24 bits with any exponent.
  const scaled = Math.fround(odd * 2 ** 64)
  return Math.abs(scaled) < SMALLEST_NORMAL * 2 ** 64 ? odd * 0 : Math.fround(odd)
}

/** a * b + c of f32 values, rounded once. */
export function fma(a: number, b: number, c: number): number {
  return addOnce(flush(a) * flush(b), flush(c)) // 24 bits times 24 bits are exact in f64
}

export const add = (a: number, b: number): number => addOnce(flush(a), flush(b))

/** Sum over k of x[k] w[k] onto `c`, of rows of any depth. */
export function product(x: ArrayLike<number>, w: ArrayLike<number>, c = 0): number {
  let sum = c
  for (let tile = 0; tile < x.length; tile += 32) {
    let even = 0
    let odd = 0
    for (let k = tile; k < tile + 32; k += 2) {
      even = fma(x[k] ?? 0, w[k] ?? 0, even)
      odd = fma(x[k + 1] ?? 0, w[k + 1] ?? 0, odd)
    }
    sum = add(sum, add(even, odd))
  }
  return sum
}
