// What the server says about itself: the logger it takes, and one that writes JSON lines.
import { pino } from 'pino'
import { isGorgonError } from '../index.js'
import { isFault } from './errors.js'
import type { LogLevel } from './options.js'

/** Where log lines go: pino and most other loggers are one. */
export interface Logger {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** Never written, wherever in a line they would stand: at its top, or in an object there. */
const SECRETS = ['authorization', 'cookie', 'key', 'keys', 'apiKey', 'token', 'password']

/** One JSON object a line: `{"level":"info","time":"2030-01-01T00:00:00.000Z","msg":"…", …}`. */
export function createLogger(level: LogLevel, output: { write(line: string): void }): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRETS.flatMap((name) => [name, `*.${name}`]), censor: '[secret]' },
    },
    output,
  )
}

/**
 * An error as fields of a log line. Messages of users' mistakes quote what the user wrote, so they are left out unless contents may be
 * logged; the code says what kind of mistake it was. What was nobody's mistake comes with its stack.
 */
export function errorFields(error: unknown, logContent: boolean): { readonly error: object } {
  if (!isGorgonError(error)) {
    const { name, message, stack, code } = toError(error)
    return { error: { code: code ?? 'ERR_INTERNAL', name, message, stack } }
  }
  const { code, message, details, stack } = error
  if (isFault(error)) return { error: { code, message, stack } }
  const { path } = details
  return { error: { code, ...(typeof path === 'string' && { path }), ...(logContent && { message }) } }
}

const toError = (error: unknown): NodeJS.ErrnoException => (error instanceof Error ? error : new Error(String(error)))
