// Oracle of the element types: what their bits mean, and which of their values is nearest to a number.

export type Dtype = 'f32' | 'f16' | 'bf16'

interface Format {
  exponentBits: number
  fractionBits: number
}
const FORMATS: Record<Dtype, Format> = {
  f32: { exponentBits: 8, fractionBits: 23 },
  f16: { exponentBits: 5, fractionBits: 10 },
  bf16: { exponentBits: 8, fractionBits: 7 },
}

/** The value of an IEEE pattern: sign, exponent, fraction. */
export function decode(dtype: Dtype, bits: number): number {
  const { exponentBits, fractionBits } = FORMATS[dtype]
  const fraction = bits % 2 ** fractionBits
  const exponent = Math.floor(bits / 2 ** fractionBits) % 2 ** exponentBits
  const sign = bits >= 2 ** (exponentBits + fractionBits) ? -1 : 1
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias - fractionBits)
  return sign * (1 + fraction / 2 ** fractionBits) * 2 ** (exponent - bias)
}

/** The pattern of the nearest value, ties to the even fraction; too large becomes infinity, NaN a quiet NaN. */
export function encode(dtype: Dtype, value: number): number {
  const { exponentBits, fractionBits } = FORMATS[dtype]
  const bias = 2 ** (exponentBits - 1) - 1
  const infinity = (2 ** exponentBits - 1) * 2 ** fractionBits
  if (Number.isNaN(value)) return infinity + 2 ** (fractionBits - 1)
  const sign = value < 0 || Object.is(value, -0) ? 2 ** (exponentBits + fractionBits) : 0
  const magnitude = Math.abs(value)
  if (magnitude === Number.POSITIVE_INFINITY) return sign + infinity
  let exponent = Math.max(1 - bias, Math.min(bias, Math.floor(Math.log2(magnitude))))
  if (exponent < bias && magnitude >= 2 ** (exponent + 1)) exponent++ // the logarithm was rounded
  if (exponent > 1 - bias && magnitude < 2 ** exponent) exponent--
  // In units of the last place; a carry into the next exponent, or to infinity, comes out right by itself.
  const units = magnitude / 2 ** (exponent - fractionBits)
  const down = Math.floor(units)
  const rest = units - down
  const rounded = rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down
  return sign + Math.min(rounded + (exponent - 1 + bias) * 2 ** fractionBits, infinity)
}

/** The nearest value of the dtype. */
export function round(dtype: Dtype, value: number): number {
  return dtype === 'f32' ? Math.fround(value) : decode(dtype, encode(dtype, value))
}

/** Bytes of an element. */
export const sizeOf = (dtype: Dtype): number => (dtype === 'f32' ? 4 : 2)

/** Little-endian bytes of values, each rounded to the dtype. */
export function toBytes(dtype: Dtype, values: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(values.length * sizeOf(dtype))
  const view = new DataView(bytes.buffer)
  for (let i = 0; i < values.length; i++) {
    if (dtype === 'f32') view.setFloat32(4 * i, values[i]!, true)
    else view.setUint16(2 * i, encode(dtype, values[i]!), true)
  }
  return bytes
}

/** The element at an index of such bytes. */
export function elementAt(dtype: Dtype, bytes: Uint8Array, index: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return dtype === 'f32' ? view.getFloat32(4 * index, true) : decode(dtype, view.getUint16(2 * index, true))
}
