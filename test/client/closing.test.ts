// Each way a connection can end, as an error that says what to do.
import { describe, expect, it } from 'vitest'
import { errorOfEnd, isQuiet } from '../../src/client/closing.js'
import { CLIENT_ERROR_CODES, ERROR_CODES, NATIVE_ERROR_CODES } from '../../src/errors.js'
import { CloseCode } from '../../src/server/close-codes.js'

const KNOWN: readonly string[] = [...ERROR_CODES, ...CLIENT_ERROR_CODES, ...NATIVE_ERROR_CODES]

/** What connecting again could not mend. */
const FINAL: readonly number[] = [
  CloseCode.policy,
  CloseCode.tooBig,
  CloseCode.badFrame,
  CloseCode.unauthorized,
  CloseCode.idInUse,
]

describe('an end', () => {
  it.each(Object.entries(CloseCode))(
    'by close code %s has a code of ERRORS.md, and says whether to come back',
    (_, code) => {
      const error = errorOfEnd({ code, reason: '' }, true, 'example.org')
      expect(KNOWN).toContain(error.code)
      expect(error.message).toMatch(/[.]$/)
      expect(error.message).not.toBe(errorOfEnd({ code: 1006, reason: '' }, true, 'example.org').message)
      expect(error.retryable).toBe(!FINAL.includes(code))
      expect(error.details).toMatchObject({ closeCode: code })
    },
  )

  it.each([
    [401, 'ERR_UNAUTHORIZED', false],
    [403, 'ERR_FORBIDDEN', false],
    [404, 'ERR_PROTOCOL', false],
    [426, 'ERR_PROTOCOL', false],
    [200, 'ERR_PROTOCOL', false],
    [429, 'ERR_CONNECTIONS', true],
    [502, 'ERR_DISCONNECTED', true],
    [503, 'ERR_DRAINING', true],
  ])('by HTTP status %i is %s', (status, code, retryable) => {
    const error = errorOfEnd({ code: 1006, reason: '', status, retryAfterMs: 3000 }, false, 'example.org')
    expect(error).toMatchObject({ code, retryable, retryAfterMs: 3000, details: { status } })
  })

  it('without a word is told apart by whether there was a connection', () => {
    const [broken, unreached] = [true, false].map((wasOpen) =>
      errorOfEnd({ code: 1006, reason: '' }, wasOpen, 'example.org'),
    )
    expect([broken?.code, unreached?.code]).toEqual(['ERR_DISCONNECTED', 'ERR_DISCONNECTED'])
    expect(unreached?.message).toContain('example.org could not be reached')
    expect(broken?.message).toBe('The connection broke.')
  })

  it('by a code of the future is a broken connection', () => {
    expect(errorOfEnd({ code: 4777, reason: 'New' }, true, 'example.org')).toMatchObject({
      code: 'ERR_DISCONNECTED',
      retryable: true,
    })
  })

  it('repeats what the server said, and names the cause', () => {
    const cause = new Error('connect ECONNREFUSED')
    const { message } = errorOfEnd({ code: 1006, reason: 'Because.', cause }, false, 'example.org')
    expect(message).toContain('(connect ECONNREFUSED)')
    expect(message).toContain('It said: Because.')
  })

  it('is quiet only when it was said in a connection that nobody used', () => {
    expect([1000, 1001, 1006, 4408, 4499].filter((code) => isQuiet({ code, reason: '' }))).toEqual([1000, 4408])
    expect(isQuiet({ code: 1000, reason: '', status: 503 })).toBe(false)
  })
})
