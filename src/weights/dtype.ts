// Numbers of weights as bytes and back: f32, and the two dtypes of sixteen bits.
import type { WeightDtype } from '../native.js'

/** Little-endian bytes of values, each rounded to the nearest of the dtype, ties to even; beyond its range, infinity: see `firstBeyond`. */
export function bytesOf(values: Float32Array, dtype: WeightDtype): Uint8Array {
  if (dtype === 'f32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const halves = new Uint16Array(values.length)
  const round = dtype === 'bf16' ? toBf16 : toF16
  for (let i = 0; i < bits.length; i++) halves[i] = round(bits[i]!)
  return new Uint8Array(halves.buffer)
}

/** Where rounding to a dtype makes infinity of a finite value. */
const LIMITS: Readonly<Record<WeightDtype, number>> = {
  f32: Number.POSITIVE_INFINITY,
  f16: 65520,
  bf16: 2 ** 128 - 2 ** 119,
}

/** The first finite value that is too large for a dtype; undefined when none is. */
export function firstBeyond(values: Float32Array, dtype: WeightDtype): number | undefined {
  const limit = LIMITS[dtype]
  return dtype === 'f32' ? undefined : values.find((value) => Math.abs(value) >= limit && Number.isFinite(value))
}

/** The values that little-endian bytes of a dtype hold. */
export function valuesOf(bytes: Uint8Array, dtype: WeightDtype): Float32Array {
  // A view needs its own alignment, which a range of a file does not have.
  const own = bytes.slice()
  if (dtype === 'f32') return new Float32Array(own.buffer)
  const halves = new Uint16Array(own.buffer)
  const bits = new Uint32Array(halves.length)
  for (let i = 0; i < halves.length; i++) bits[i] = dtype === 'bf16' ? halves[i]! << 16 : fromF16(halves[i]!)
  return new Float32Array(bits.buffer)
}

const INFINITY = 0x7f800000

/** Of the bits of an f32: the upper half, rounded. */
function toBf16(bits: number): number {
  // A NaN keeps a bit that makes it one.
  if ((bits & 0x7fffffff) > INFINITY) return (bits >>> 16) | 0x40
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

function toF16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > INFINITY) return sign | 0x7e00
  // Half a step above the largest, 65504, and more.
  if (magnitude >= 0x477ff000) return sign | 0x7c00
  // Below half of the smallest.
  if (magnitude < 0x33000000) return sign
  const isSubnormal = magnitude < 0x38800000
  const exponent = magnitude >>> 23
  // The fraction with its leading one, and how many of its bits the dtype has no room for.
  const fraction = isSubnormal ? (magnitude & 0x7fffff) | 0x800000 : magnitude - 0x38000000
  const dropped = isSubnormal ? 126 - exponent : 13
  const half = 2 ** (dropped - 1)
  const kept = Math.floor(fraction / 2 ** dropped)
  const rest = fraction % 2 ** dropped
  // A carry into the exponent comes out right by itself.
  return sign | (kept + (rest > half || (rest === half && kept % 2 === 1) ? 1 : 0))
}

/** The bits of the same number as f32. */
function fromF16(half: number): number {
  const sign = (half & 0x8000) << 16
  const exponent = (half >>> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0x1f) return sign | INFINITY | (fraction << 13)
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (fraction << 13)
  if (fraction === 0) return sign
  // The highest bit set becomes the leading one.
  const shift = Math.clz32(fraction) - 21
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13)
}
