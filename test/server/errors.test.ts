// Errors as answers: statuses, kinds, and what may not leave the server.
import { describe, expect, test } from 'vitest'
import { ERROR_CODES, GorgonError, NATIVE_ERROR_CODES } from '../../src/errors.js'
import { errorBody, errorHeaders, isFault, problemOf } from '../../src/server/errors.js'

const SECRET = '/home/somebody/model'

test.each([...ERROR_CODES, ...NATIVE_ERROR_CODES])('%s has an answer that fits it', (code) => {
  const problem = problemOf(new GorgonError(code, `It is at ${SECRET}.`), 'req-1')
  expect(problem.code).toBe(code)
  expect(problem.status).toBeGreaterThanOrEqual(400)
  expect(problem.message).toMatch(/\.$/)
  expect(problem.retryable).toBe(problem.retryAfterMs !== undefined)
  if (isFault(problem)) {
    expect(problem.status).toBeGreaterThanOrEqual(500)
    expect(problem.message).not.toContain(SECRET)
    expect(problem.message).toContain('req-1')
  }
})

test.each([
  ['an error of no kind', new Error(`ENOENT ${SECRET}`)],
  ['a mistake in the program', new TypeError(`Cannot read properties of undefined (reading '${SECRET}')`)],
  ['text', SECRET],
  ['nothing', undefined],
  ['a code of another version', Object.assign(new GorgonError('ERR_OPTION', SECRET), { code: 'ERR_FUTURE' })],
])('%s is a fault that says nothing but where to look', (_, error) => {
  const problem = problemOf(error, 'req-1')
  expect(problem).toEqual({
    status: 500,
    code: 'ERR_INTERNAL',
    message: 'The server failed. Its log says more under req-1.',
    retryable: false,
  })
  expect(isFault(problem)).toBe(true)
})

test('an abort is nobody’s fault', () => {
  const problem = problemOf(new DOMException('x', 'AbortError'), 'req-1')
  expect(problem).toMatchObject({ code: 'ERR_CANCELLED', status: 499, retryable: false })
  expect(isFault(problem)).toBe(false)
})

test('details name the field, the status and when to come back', () => {
  const error = new GorgonError('ERR_RATE_LIMIT', 'Wait.', { retryAfterMs: 1500, path: 'x', status: 503 })
  expect(problemOf(error, '')).toEqual({
    status: 503,
    code: 'ERR_RATE_LIMIT',
    message: 'Wait.',
    retryable: true,
    retryAfterMs: 1500,
    param: 'x',
  })
})

describe('for OpenAI’s clients', () => {
  test.each([
    ['ERR_OPTION', 'invalid_request_error'],
    ['ERR_UNAUTHORIZED', 'authentication_error'],
    ['ERR_FORBIDDEN', 'permission_error'],
    ['ERR_MODEL_UNKNOWN', 'not_found_error'],
    ['ERR_QUEUE_FULL', 'rate_limit_error'],
    ['ERR_INTERNAL', 'server_error'],
  ] as const)('%s is a %s', (code, type) => {
    const problem = problemOf(new GorgonError(code, 'Words.', { path: 'field' }), 'req-1')
    const param = code === 'ERR_INTERNAL' ? null : 'field'
    expect(errorBody(problem).error).toEqual({ message: problem.message, type, code, param })
  })

  test('headers say when to try again, in whole seconds and in milliseconds', () => {
    const later = problemOf(new GorgonError('ERR_RATE_LIMIT', 'Wait.', { retryAfterMs: 1200.5 }), '')
    expect(errorHeaders(later)).toEqual({ 'retry-after': '2', 'retry-after-ms': '1201', 'x-should-retry': 'true' })
    const never = problemOf(new GorgonError('ERR_UNAUTHORIZED', 'No.'), '')
    expect(errorHeaders(never)).toEqual({ 'x-should-retry': 'false', 'www-authenticate': 'Bearer' })
  })
})
