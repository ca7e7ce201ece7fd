// The error a client rejects with: what happened, and whether to try again.
import type { CLIENT_ERROR_CODES, ErrorCode } from '../errors.js'

/** Known codes are in ERRORS.md; a newer server may send others. */
export type ClientErrorCode = ErrorCode | (typeof CLIENT_ERROR_CODES)[number] | (string & {})

export interface ClientErrorFields {
  readonly retryable?: boolean
  readonly retryAfterMs?: number | undefined
  readonly details?: Readonly<Record<string, unknown>>
  readonly cause?: unknown
}

// GorgonError's own, so that `isGorgonError` knows this one without this file's having to carry the engine's.
const brand = Symbol.for('gorgon.error')

/** What the server refused, or what became of the connection. `isGorgonError` is true for it. */
export class ClientError extends Error {
  override readonly name = 'ClientError'
  /** Stable; see ERRORS.md. */
  readonly code: ClientErrorCode
  /** Whether the same request may succeed later. The client has tried again by then, as often as it was allowed to. */
  readonly retryable: boolean
  /** When, in milliseconds, where the server said so. */
  readonly retryAfterMs: number | undefined
  /** The values the message speaks of. */
  readonly details: Readonly<Record<string, unknown>>

  constructor(code: ClientErrorCode, message: string, fields: ClientErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause })
    this.code = code
    this.retryable = fields.retryable ?? false
    this.retryAfterMs = fields.retryAfterMs
    this.details = fields.details ?? {}
    Object.defineProperty(this, brand, { value: true })
  }
}

/** The platform's own, as the library rejects with. */
export function abortError(message: string): DOMException {
  return new DOMException(message, 'AbortError')
}
