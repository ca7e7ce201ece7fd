// GorgonError, its codes, and the lifting of native errors into it.

/** Codes raised by TypeScript. Native codes are in kernels/common/status.def; ERRORS.md explains both. */
export const ERROR_CODES = [
  'ERR_ADDON_MISSING',
  'ERR_BODY',
  'ERR_CHAT_TEMPLATE',
  'ERR_CHECKPOINT',
  'ERR_CONNECTIONS',
  'ERR_CONSUMED',
  'ERR_CONTEXT_OVERFLOW',
  'ERR_DATA',
  'ERR_DIVERGED',
  'ERR_DRAINING',
  'ERR_EMPTY_PROMPT',
  'ERR_FILE',
  'ERR_FORBIDDEN',
  'ERR_HEADS_FORMAT',
  'ERR_HEADS_MISMATCH',
  'ERR_LISTEN',
  'ERR_LOAD_FAILED',
  'ERR_LOADING',
  'ERR_METHOD',
  'ERR_MODEL_CONFIG',
  'ERR_MODEL_NOT_FOUND',
  'ERR_MODEL_UNKNOWN',
  'ERR_OPTION',
  'ERR_QUEUE_FULL',
  'ERR_RATE_LIMIT',
  'ERR_REQUEST_TIMEOUT',
  'ERR_RESPONSE_NOT_FOUND',
  'ERR_ROUTE',
  'ERR_SAFETENSORS',
  'ERR_SESSION_NOT_FOUND',
  'ERR_STALLED',
  'ERR_TENSOR',
  'ERR_TOKEN_RANGE',
  'ERR_TOKENIZER',
  'ERR_TOO_LARGE',
  'ERR_TREE',
  'ERR_UNAUTHORIZED',
  'ERR_UNSUPPORTED',
  'ERR_WRITE',
] as const

/** Codes of kernels/common/status.def; a test holds the two lists together. */
export const NATIVE_ERROR_CODES = [
  'ERR_ARGUMENT',
  'ERR_BUSY',
  'ERR_CANCELLED',
  'ERR_CLOSED',
  'ERR_DEVICE',
  'ERR_DTYPE',
  'ERR_INTERNAL',
  'ERR_IO',
  'ERR_OUT_OF_MEMORY',
  'ERR_SHAPE',
  'ERR_STATE',
] as const

/** Codes that `gorgon/client` adds to those the server sends it. */
export const CLIENT_ERROR_CODES = [
  'ERR_DISCONNECTED',
  'ERR_NOT_REPRODUCED',
  'ERR_PROTOCOL',
  'ERR_SESSION_LOST',
  'ERR_SLOW_CONSUMER',
] as const

export type ErrorCode = (typeof ERROR_CODES)[number] | (typeof NATIVE_ERROR_CODES)[number]

const brand = Symbol.for('gorgon.error')

/** Every error the engine raises on purpose: what happened, with which value, what to do. */
export class GorgonError extends Error {
  override readonly name = 'GorgonError'
  /** Stable; see ERRORS.md. */
  readonly code: ErrorCode
  /** The values the message speaks of. */
  readonly details: Readonly<Record<string, unknown>>

  constructor(code: ErrorCode, message: string, details: Readonly<Record<string, unknown>> = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.code = code
    this.details = details
    Object.defineProperty(this, brand, { value: true })
  }
}

/** True for a GorgonError of any copy of this package. */
export function isGorgonError(error: unknown): error is GorgonError {
  return typeof error === 'object' && error !== null && brand in error
}

function lift(error: unknown, callSite: Error): unknown {
  if (!(error instanceof Error) || isGorgonError(error)) return error
  const code = (error as { code?: unknown }).code
  if (typeof code !== 'string' || !(NATIVE_ERROR_CODES as readonly string[]).includes(code)) return error
  const lifted = new GorgonError(code as ErrorCode, error.message, {}, error)
  // A promise rejects from the event loop; the stack worth reading is the caller's.
  lifted.stack = `GorgonError: ${error.message}\n${(callSite.stack ?? '').split('\n').slice(2).join('\n')}`
  return lifted
}

/** The same object with every function's native errors, thrown or rejected, lifted to GorgonError with the caller's stack. */
export function liftNativeErrors<T extends object>(addon: T): T {
  const lifted: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(addon)) {
    if (typeof value !== 'function') {
      lifted[name] = typeof value === 'object' && value !== null ? liftNativeErrors(value) : value
      continue
    }
    lifted[name] = (...args: unknown[]) => {
      const callSite = new Error('native call')
      try {
        const result: unknown = value(...args)
        if (!(result instanceof Promise)) return result
        return result.catch((error: unknown) => {
          throw lift(error, callSite)
        })
      } catch (error) {
        throw lift(error, callSite)
      }
    }
  }
  return lifted as T
}
