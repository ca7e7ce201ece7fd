// Comparing what an operation wrote with what it should have, and saying where they part.
import { relative } from 'node:path'
import { expect } from 'vitest'
import { packageRoot } from '../../src/native.js'
import type { Random } from './random.js'

/** Distance from 1 to the next value of each dtype. */
export const EPSILON = { f32: 2 ** -23, f16: 2 ** -10, bf16: 2 ** -7 } as const

/**
 * How far a result may be from its oracle: rounding errors of a sum of `reduction` terms grow with the square root of their number.
 * `magnitude` is the size of the result (or of what cancels in it), `factor` what the formula leaves out.
 */
export function tolerance(of: { epsilon: number; reduction: number; magnitude: number; factor: number }): number {
  return of.epsilon * Math.sqrt(of.reduction) * of.magnitude * of.factor
}

/** How far the nearest value of a dtype may be; f32 is taken as exact. Below its normal values f16 has steps of one size. */
export const rounding = (dtype: keyof typeof EPSILON, value: number): number =>
  dtype === 'f32' ? 0 : (EPSILON[dtype] / 2) * Math.abs(value) + (dtype === 'f16' ? 2 ** -25 : 0)

/** What is compared: the case, and the names and sizes of the array's axes, slowest first. */
export interface Place {
  readonly random: Random
  readonly axes: Readonly<Record<string, number>>
  /** Where the values come from: instruction set, threads, variant. */
  readonly what?: string
}

/** Fails with the first bad coordinate, both values, the seed, and the command that runs this case alone. */
function fail(place: Place, index: number, bad: number, count: number, got: string, wanted: string): never {
  let rest = index
  const coordinates = Object.entries(place.axes)
    .reverse()
    .map(([name, size]) => {
      const at = rest % size
      rest = Math.floor(rest / size)
      return `${name}=${at}`
    })
    .reverse()
  const { currentTestName = '', testPath = '' } = expect.getState()
  const test = (currentTestName.split(' > ').pop() ?? '').replace(/[.*+?^${}()|[\]\\"]/g, '\\$&')
  expect.fail(
    `${place.random.name}${place.what ? ` (${place.what})` : ''}: ${bad} of ${count} values are wrong, the first at ${coordinates.join(' ')}: got ${got}, expected ${wanted}\n` +
      `rerun with GORGON_TEST_SEED=${place.random.seed} npx vitest run ${relative(packageRoot(), testPath)} -t "${test}"`,
  )
}

/** Every value within `allowed` of its expected one; NaN and infinities where, and only where, they are expected. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  allowed: number | ((index: number) => number),
  place: Place,
): void {
  expect(actual.length, `${place.random.name}: number of values`).toBe(expected.length)
  const limit = typeof allowed === 'number' ? () => allowed : allowed
  const isGood = (i: number) =>
    Object.is(actual[i]! + 0, expected[i]! + 0) || Math.abs(actual[i]! - expected[i]!) <= limit(i)
  let first = -1
  let bad = 0
  for (let i = 0; i < expected.length; i++) {
    if (isGood(i)) continue
    if (bad++ === 0) first = i
  }
  if (bad === 0) return
  fail(place, first, bad, expected.length, `${actual[first]}`, `${expected[first]} within ${limit(first)}`)
}

/** The same bits everywhere; of a NaN only that it is one. */
export function expectSameBits(actual: Float32Array, expected: Float32Array, place: Place): void {
  expect(actual.length, `${place.random.name}: number of values`).toBe(expected.length)
  const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length)
  const [got, wanted] = [bits(actual), bits(expected)]
  const isGood = (i: number) => got[i] === wanted[i] || (Number.isNaN(actual[i]!) && Number.isNaN(expected[i]!))
  let first = -1
  let bad = 0
  for (let i = 0; i < wanted.length; i++) {
    if (isGood(i)) continue
    if (bad++ === 0) first = i
  }
  if (bad === 0) return
  const show = (values: Float32Array, word: Uint32Array) =>
    `${values[first]} (0x${word[first]!.toString(16).padStart(8, '0')})`
  fail(place, first, bad, wanted.length, show(actual, got), show(expected, wanted))
}

/** The same numbers everywhere, for ids, rows and bytes. */
export function expectSame(actual: ArrayLike<number>, expected: ArrayLike<number>, place: Place): void {
  expectClose(actual, expected, 0, place)
}
