// What the end of a socket means for a client: an error that says what to do, and whether connecting again makes sense.
import { CloseCode } from '../server/close-codes.js'
import { ClientError } from './errors.js'
import type { SocketEnd } from './socket.js'

interface Meaning {
  readonly code: string
  readonly message: string
  /** Connect again, and go on with what ran. */
  readonly retryable: boolean
}

const MEANINGS: Readonly<Record<number, Meaning>> = {
  [CloseCode.normal]: { code: 'ERR_DISCONNECTED', message: 'The server closed the connection.', retryable: true },
  [CloseCode.goingAway]: { code: 'ERR_DRAINING', message: 'The server stopped.', retryable: true },
  [CloseCode.policy]: {
    code: 'ERR_FORBIDDEN',
    message: 'The server does not allow this connection. Check that it lists the origin of this page.',
    retryable: false,
  },
  [CloseCode.tooBig]: {
    code: 'ERR_TOO_LARGE',
    message: 'A message was larger than the server takes. Send a shorter prompt, or raise its limits.messageBytes.',
    retryable: false,
  },
  [CloseCode.internal]: { code: 'ERR_INTERNAL', message: 'The server failed. Its log says why.', retryable: true },
  [CloseCode.tryLater]: {
    code: 'ERR_CONNECTIONS',
    message: 'The server has no room for a connection.',
    retryable: true,
  },
  [CloseCode.badFrame]: {
    code: 'ERR_PROTOCOL',
    message: 'The server did not understand a message of this client. Use the same version of gorgon on both sides.',
    retryable: false,
  },
  [CloseCode.unauthorized]: {
    code: 'ERR_UNAUTHORIZED',
    message: 'The server does not know the key, or wants one and got none. Give connect() a `key` of the server.',
    retryable: false,
  },
  [CloseCode.timeout]: {
    code: 'ERR_DISCONNECTED',
    message: 'The server closed the connection because nothing was said for too long.',
    retryable: true,
  },
  [CloseCode.idInUse]: {
    code: 'ERR_PROTOCOL',
    message: 'The server got a request with an id that is in use. This is a bug in gorgon, please report it.',
    retryable: false,
  },
  [CloseCode.inboundOverflow]: {
    code: 'ERR_RATE_LIMIT',
    message: 'The server got messages faster than it could work on them. Send requests more slowly.',
    retryable: true,
  },
  [CloseCode.rateLimit]: {
    code: 'ERR_RATE_LIMIT',
    message: 'The key makes more requests than it may. Send requests more slowly, or raise its limits.',
    retryable: true,
  },
  [CloseCode.slowConsumer]: {
    code: 'ERR_SLOW_CONSUMER',
    message: 'The network took what the server sent too slowly, and it closed the connection.',
    retryable: true,
  },
}

const BROKEN: Meaning = { code: 'ERR_DISCONNECTED', message: 'The connection broke.', retryable: true }
const unreached = (host: string): Meaning => ({
  code: 'ERR_DISCONNECTED',
  message: `The server at ${host} could not be reached. Check the address, and that it runs.`,
  retryable: true,
})

/** Refusals of the handshake, by HTTP status. */
function refusal(status: number, host: string): Meaning {
  if (status === 401) return MEANINGS[CloseCode.unauthorized]!
  if (status === 403) return MEANINGS[CloseCode.policy]!
  if (status === 429) return MEANINGS[CloseCode.tryLater]!
  if (status === 503) return { code: 'ERR_DRAINING', message: 'The server takes no connections now.', retryable: true }
  if (status >= 500) {
    return { ...unreached(host), message: `The server at ${host}, or a proxy before it, answered with ${status}.` }
  }
  return {
    code: 'ERR_PROTOCOL',
    message: `What answers at ${host} is no gorgon server of this version: it said ${status}. Check the URL.`,
    retryable: false,
  }
}

/**
 * @param wasOpen whether the handshake had succeeded.
 * @param host of the URL, for the message.
 */
export function errorOfEnd(end: SocketEnd, wasOpen: boolean, host: string): ClientError {
  const { code, reason, status, retryAfterMs, cause } = end
  const meaning =
    status !== undefined ? refusal(status, host) : (MEANINGS[code] ?? (wasOpen ? BROKEN : unreached(host)))
  const said = reason === '' ? '' : ` It said: ${reason}`
  const why = cause instanceof Error ? ` (${cause.message})` : ''
  return new ClientError(meaning.code, `${meaning.message}${why}${said}`, {
    retryable: meaning.retryable,
    retryAfterMs,
    details: { closeCode: code, ...(status !== undefined && { status }) },
    cause,
  })
}

/** Ends that are no failure: an idle client is left alone until it wants something. */
export function isQuiet({ code, status }: SocketEnd): boolean {
  return status === undefined && (code === CloseCode.normal || code === CloseCode.timeout)
}
