// Log lines: one JSON object each, without secrets and without what users wrote.
import { describe, expect, test } from 'vitest'
import { GorgonError } from '../../src/errors.js'
import { parseGenerateOptions } from '../../src/options.js'
import { createLogger, errorFields } from '../../src/server/log.js'
import type { LogLevel } from '../../src/server/options.js'

function logOf(level: LogLevel) {
  const lines: string[] = []
  const logger = createLogger(level, { write: (line) => lines.push(line) })
  return { logger, lines, objects: () => lines.map((line) => JSON.parse(line)) }
}

test('a line is one JSON object with its level, time and message', () => {
  const { logger, lines, objects } = logOf('info')
  logger.info({ requestId: 'r1', count: 3 }, 'request done')
  expect(lines[0]).toMatch(/^{"level":"info","time":"\d{4}-\d\d-\d\dT[\d:.]+Z",.*}\n$/)
  expect(objects()).toEqual([expect.objectContaining({ requestId: 'r1', count: 3, msg: 'request done' })])
})

test('what is below the level is not written', () => {
  const { logger, objects } = logOf('warn')
  logger.debug({}, 'a')
  logger.info({}, 'b')
  logger.warn({}, 'c')
  logger.error({}, 'd')
  expect(objects().map((line) => line.msg)).toEqual(['c', 'd'])
})

test('silent writes nothing', () => {
  const { logger, lines } = logOf('silent')
  logger.error({}, 'a')
  expect(lines).toEqual([])
})

test('secrets are blotted out, at the top and one level down', () => {
  const { logger, lines } = logOf('info')
  logger.info({ authorization: 'Bearer s3cret', headers: { authorization: 's3cret', cookie: 's3cret' } }, 'x')
  logger.info({ key: 's3cret', hello: { token: 's3cret' }, principal: 'team-a' }, 'y')
  expect(lines.join('')).not.toContain('s3cret')
  expect(lines.join('')).toContain('team-a')
})

describe('errors', () => {
  test("of the user's making are logged without the words of the user", () => {
    let error: unknown
    try {
      parseGenerateOptions({ stop: 'a', seed: 'my secret prompt' as never })
    } catch (thrown) {
      error = thrown
    }
    expect(errorFields(error, false)).toEqual({ error: { code: 'ERR_OPTION', path: 'seed' } })
    expect(JSON.stringify(errorFields(error, true))).toContain('my secret prompt')
  })

  test('that are nobody’s mistake come with message and stack', () => {
    const { error } = errorFields(new TypeError('x is not a function'), false) as { error: Record<string, string> }
    expect(error).toMatchObject({ code: 'ERR_INTERNAL', name: 'TypeError', message: 'x is not a function' })
    expect(error['stack']).toContain('log.test.ts')
    expect(errorFields(new GorgonError('ERR_INTERNAL', 'a bug'), false)).toMatchObject({ error: { message: 'a bug' } })
    expect(errorFields('thrown text', false)).toMatchObject({ error: { message: 'thrown text' } })
  })
})
