// Catching the GorgonError a call must give.
import { expect } from 'vitest'
import { type ErrorCode, type GorgonError, isGorgonError } from '../../src/errors.js'

/** The error of a call that must fail with `code`; its message must match `says`, if given, and end as a sentence. */
export async function failure(call: () => unknown, code: ErrorCode, says?: RegExp): Promise<GorgonError> {
  let error: unknown
  try {
    await call()
  } catch (thrown) {
    error = thrown
  }
  if (error === undefined) expect.fail(`expected ${code}, but nothing failed`)
  if (!isGorgonError(error)) throw error
  expect(error.code, error.message).toBe(code)
  if (says) expect(error.message).toMatch(says)
  expect(error.message).toMatch(/[.?!]$/)
  return error
}
