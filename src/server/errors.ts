// What a failed request is answered with, whatever failed: a status, a code and a sentence that may leave the server.
import { type ErrorCode, isGorgonError } from '../errors.js'
import type { ServerFrameOf } from './protocol.js'

/** An error as a client sees it, over HTTP or a socket. */
export interface Problem {
  readonly status: number
  /** ERRORS.md has them. */
  readonly code: string
  readonly message: string
  /** Whether the same request may succeed later. */
  readonly retryable: boolean
  readonly retryAfterMs?: number
  /** The field of the request it is about. */
  readonly param?: string
}

interface Answer {
  readonly status: number
  readonly retryAfterMs?: number
  /** Said instead of the error's own words, which are for whoever runs the server. */
  readonly instead?: string
}

const CLIENT: Answer = { status: 400 }
const SERVER: Answer = { status: 500, instead: 'The server failed.' }
const SOON_MS = 1000

/** A code is what the client can mend, or it is not; a request that may succeed later has `retryAfterMs`. */
const ANSWERS: Readonly<Record<ErrorCode, Answer>> = {
  ERR_ADDON_MISSING: SERVER,
  ERR_ARGUMENT: SERVER,
  ERR_BODY: CLIENT,
  ERR_BUSY: { status: 409, retryAfterMs: SOON_MS },
  ERR_CANCELLED: { status: 499, instead: 'The request was cancelled.' },
  ERR_CHAT_TEMPLATE: CLIENT,
  ERR_CHECKPOINT: SERVER,
  ERR_CLOSED: { status: 503, instead: 'The model, or the session, was closed.' },
  ERR_CONNECTIONS: { status: 429, retryAfterMs: SOON_MS },
  ERR_CONSUMED: SERVER,
  ERR_CONTEXT_OVERFLOW: CLIENT,
  ERR_DATA: SERVER,
  ERR_DEVICE: SERVER,
  ERR_DIVERGED: SERVER,
  ERR_DRAINING: { status: 503, retryAfterMs: SOON_MS },
  ERR_DTYPE: SERVER,
  ERR_EMPTY_PROMPT: CLIENT,
  ERR_FILE: SERVER,
  ERR_FORBIDDEN: { status: 403 },
  ERR_HEADS_FORMAT: SERVER,
  ERR_HEADS_MISMATCH: SERVER,
  ERR_INTERNAL: SERVER,
  ERR_IO: SERVER,
  ERR_LISTEN: SERVER,
  ERR_LOAD_FAILED: { status: 503 },
  ERR_LOADING: { status: 503, retryAfterMs: SOON_MS },
  ERR_METHOD: { status: 405 },
  ERR_MODEL_CONFIG: SERVER,
  ERR_MODEL_NOT_FOUND: SERVER,
  ERR_MODEL_UNKNOWN: { status: 404 },
  ERR_OPTION: CLIENT,
  ERR_OUT_OF_MEMORY: { status: 503, retryAfterMs: SOON_MS, instead: 'The server has no memory left for this request.' },
  ERR_QUEUE_FULL: { status: 429, retryAfterMs: SOON_MS },
  ERR_RATE_LIMIT: { status: 429, retryAfterMs: SOON_MS },
  ERR_REQUEST_TIMEOUT: { status: 408, retryAfterMs: 0 },
  ERR_RESPONSE_NOT_FOUND: { status: 404 },
  ERR_ROUTE: { status: 404 },
  ERR_SAFETENSORS: SERVER,
  ERR_SESSION_NOT_FOUND: { status: 404 },
  ERR_SHAPE: SERVER,
  ERR_STALLED: { status: 408 },
  ERR_STATE: SERVER,
  ERR_TENSOR: SERVER,
  ERR_TOKEN_RANGE: CLIENT,
  ERR_TOKENIZER: CLIENT,
  ERR_TOO_LARGE: { status: 413 },
  ERR_TREE: CLIENT,
  ERR_UNAUTHORIZED: { status: 401 },
  ERR_UNSUPPORTED: CLIENT,
  ERR_WRITE: SERVER,
}

/**
 * Any error as a problem. `details` of a GorgonError may carry a `status` and a `retryAfterMs` that say more than the table.
 *
 * @param requestId with which the log says more, where the answer must not.
 */
export function problemOf(error: unknown, requestId: string): Problem {
  const code = codeOf(error)
  const { status, instead, ...answer } = ANSWERS[code]
  const details = isGorgonError(error) ? error.details : {}
  const retryAfterMs = numberOr(details['retryAfterMs'], answer.retryAfterMs)
  const words = instead ?? (error as Error).message
  const param = details['path']
  return {
    status: numberOr(details['status'], status),
    code,
    message: status >= 500 && instead ? `${words} Its log says more under ${requestId}.` : words,
    retryable: retryAfterMs !== undefined,
    ...(retryAfterMs !== undefined && { retryAfterMs }),
    ...(instead === undefined && typeof param === 'string' && param !== '' && { param }),
  }
}

/** A problem in the native protocol: of the response or session named in `subject`, or of neither. */
export function errorFrame(
  { status: _, ...problem }: Problem,
  subject: Pick<ServerFrameOf<'error'>, 'id' | 'session'>,
): ServerFrameOf<'error'> {
  return { type: 'error', ...subject, ...problem }
}

function numberOr<T>(value: unknown, otherwise: T): number | T {
  return typeof value === 'number' ? value : otherwise
}

function codeOf(error: unknown): ErrorCode {
  if (isGorgonError(error)) return error.code in ANSWERS ? error.code : 'ERR_INTERNAL'
  const name = (error as Partial<Error> | null | undefined)?.name
  return name === 'AbortError' || name === 'TimeoutError' ? 'ERR_CANCELLED' : 'ERR_INTERNAL'
}

/** Whether the server is at fault, so that its log must say what happened. */
export function isFault({ code }: { readonly code: string }): boolean {
  return ANSWERS[code as ErrorCode] === SERVER || code === 'ERR_OUT_OF_MEMORY'
}

/** OpenAI's names for kinds of errors, by status. */
const OPENAI_TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  429: 'rate_limit_error',
}

/**
 * A code as OpenAI's clients know it. Few have a word of theirs: those that clients act on, by shortening a context, or sending it anew.
 */
export function openaiCodeOf({ code, param }: Pick<Problem, 'code' | 'param'>): string {
  if (code === 'ERR_CONTEXT_OVERFLOW') return 'context_length_exceeded'
  const isToGoOn = code === 'ERR_RESPONSE_NOT_FOUND' && param === 'previous_response_id'
  return isToGoOn ? 'previous_response_not_found' : code
}

/** The body that OpenAI's clients read an error from. */
export interface ErrorBody {
  readonly error: {
    readonly message: string
    readonly type: string
    readonly param: string | null
    readonly code: string
  }
}

export function errorBody(problem: Problem): ErrorBody {
  const { status, message, param } = problem
  const type = OPENAI_TYPES[status] ?? (status >= 500 ? 'server_error' : 'invalid_request_error')
  return { error: { message, type, param: param ?? null, code: openaiCodeOf(problem) } }
}

/** How an HTTP client is told when, and whether, to try again: in the standard's header and in those OpenAI's clients read. */
export function errorHeaders({ retryable, retryAfterMs, status }: Problem): Record<string, string> {
  return {
    ...(retryAfterMs !== undefined && {
      'retry-after': String(Math.ceil(retryAfterMs / 1000)),
      'retry-after-ms': String(Math.ceil(retryAfterMs)),
    }),
    'x-should-retry': String(retryable),
    ...(status === 401 && { 'www-authenticate': 'Bearer' }),
  }
}
