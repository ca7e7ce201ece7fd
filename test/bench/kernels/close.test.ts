// When a GPU's results pass for the CPU's.
import { expect, test } from 'vitest'
import { areMostlyEqual, isClose, relativeDistance } from '../../../bench/kernels/close.js'

const reference = Float32Array.from({ length: 256 }, (_, i) => Math.sin(i))

test('rounding is close, a wrong row is not', () => {
  expect(
    isClose(
      reference.map((x) => x * (1 + 2 ** -9)),
      reference,
    ),
  ).toBe(true)
  expect(
    isClose(
      reference.map((x, i) => (i < 8 ? 0 : x)),
      reference,
    ),
  ).toBe(false)
  expect(isClose(reference.subarray(1), reference)).toBe(false)
  expect(
    isClose(
      reference.map((x, i) => (i === 7 ? Number.NaN : x)),
      reference,
    ),
  ).toBe(false)
})

test('nothing but zeros is close to zeros', () => {
  expect(relativeDistance([0, 0], [0, 0])).toBe(0)
  expect(isClose([0, 1e-9], [0, 0])).toBe(false)
})

test('ids may differ here and there', () => {
  const ids = Int32Array.from({ length: 100 }, (_, i) => i)
  expect(
    areMostlyEqual(
      ids.map((id) => (id === 5 ? 500 : id)),
      ids,
    ),
  ).toBe(true)
  expect(
    areMostlyEqual(
      ids.map((id) => id + 1),
      ids,
    ),
  ).toBe(false)
  expect(areMostlyEqual(ids.subarray(1), ids)).toBe(false)
})
