// Advice is for errors that there are.
import { expect, test } from 'vitest'
import { CLIENT_ERROR_CODES, ERROR_CODES, NATIVE_ERROR_CODES } from '../../../src/errors.js'
import { ADVICE, adviceFor } from '../../../src/server/playground/advice.js'

test('every code that has advice is one that is raised', () => {
  const known: readonly string[] = [...CLIENT_ERROR_CODES, ...ERROR_CODES, ...NATIVE_ERROR_CODES]
  expect(Object.keys(ADVICE).filter((code) => !known.includes(code))).toEqual([])
})

test('an error whose message says all has none', () => {
  expect(adviceFor('ERR_QUEUE_FULL')).toMatch(/again/)
  expect(adviceFor('ERR_OPTION')).toBeUndefined()
})
