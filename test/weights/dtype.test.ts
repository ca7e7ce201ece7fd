// Rounding to the dtypes of weights, beside the oracle's arithmetic.
import { describe, expect, test } from 'vitest'
import { bytesOf, valuesOf } from '../../src/weights/dtype.js'
import { decode, encode } from '../oracle/dtype.js'
import { Random } from '../support/random.js'

const halves = (bytes: Uint8Array) => [...new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)]

describe.each(['bf16', 'f16'] as const)('%s', (dtype) => {
  test('every pattern comes back as it was', () => {
    const patterns = Uint16Array.from({ length: 1 << 16 }, (_, i) => i)
    const values = valuesOf(new Uint8Array(patterns.buffer), dtype)
    expect([...values]).toEqual([...patterns].map((bits) => decode(dtype, bits)))
    const numbers = patterns.filter((_, i) => !Number.isNaN(values[i]))
    expect(
      halves(
        bytesOf(
          values.filter((value) => !Number.isNaN(value)),
          dtype,
        ),
      ),
    ).toEqual([...numbers])
  })

  test('between two patterns the nearer one is taken, and the even one in the middle', () => {
    const random = new Random(`dtype ${dtype}`)
    const view = new DataView(new ArrayBuffer(4))
    const values = Float32Array.from({ length: 20_000 }, (_, i) => {
      view.setUint32(0, i % 2 === 0 ? random.bits() : (random.bits() & 0xfffff000) >>> 0)
      const value = view.getFloat32(0)
      return Number.isNaN(value) ? 0 : value
    })
    // Around the smallest and the largest there are few of these.
    const edges = [65504, 65519, 65520, 65536, 2 ** -24, 2 ** -25, 1.5 * 2 ** -24, 2.5 * 2 ** -24, 2 ** -14, 3.4e38]
    for (const list of [values, Float32Array.from([...edges, ...edges.map((edge) => -edge)])]) {
      expect(halves(bytesOf(list, dtype))).toEqual([...list].map((value) => encode(dtype, value)))
    }
  })

  test('what is no number stays none', () => {
    expect([...valuesOf(bytesOf(Float32Array.of(Number.NaN, -Number.NaN), dtype), dtype)]).toEqual([
      Number.NaN,
      Number.NaN,
    ])
  })
})

test('f32 is as it is, from any place in its buffer', () => {
  const values = Float32Array.of(1, Math.fround(0.1), -0, 3e38)
  const shifted = new Uint8Array(17)
  shifted.set(bytesOf(values, 'f32'), 1)
  expect([...valuesOf(shifted.subarray(1), 'f32')]).toEqual([...values])
  expect([...valuesOf(bytesOf(values.subarray(1, 3), 'f32'), 'f32')]).toEqual([...values.subarray(1, 3)])
})
