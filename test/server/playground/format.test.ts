// Numbers are shown with the digits that matter.
import { expect, test } from 'vitest'
import { showBytes, showMs, showNumber, showShare } from '../../../src/server/playground/format.js'

test.each([
  [0.1234, '0.12'],
  [1.23456, '1.23'],
  [12.3456, '12.3'],
  [123.456, '123'],
  [12345.6, '12,346'],
  [null, '–'],
  [Number.NaN, '–'],
])('the number %d is %s', (value, shown) => {
  expect(showNumber(value)).toBe(shown)
})

test.each([
  [4.2, '4.20 ms'],
  [999, '999 ms'],
  [1500, '1.50 s'],
  [null, '–'],
])('%d ms are %s', (ms, shown) => {
  expect(showMs(ms)).toBe(shown)
})

test.each([
  [0, 4, '0 %'],
  [1, 4, '25 %'],
  [1, 1000, '< 1 %'],
  [999, 1000, '> 99 %'],
  [4, 4, '100 %'],
  [0, 0, '–'],
])('%d of %d are %s', (part, whole, shown) => {
  expect(showShare(part, whole)).toBe(shown)
})

test.each([
  [1023, '1023 B'],
  [1024, '1.00 KiB'],
  [5 * 2 ** 20, '5.00 MiB'],
])('%d bytes are %s', (bytes, shown) => {
  expect(showBytes(bytes)).toBe(shown)
})
