// Why a socket is closed, as its peer sees it. Knows nothing: the browser's client has this file too.

/** The native protocol's name in the handshake. */
export const SUBPROTOCOL = 'gorgon.v1'

/** Codes below 4000 are RFC 6455's; PROTOCOL.md says what a client should do about each. */
export const CloseCode = {
  /** Both sides are done. */
  normal: 1000,
  /** The server stops; connect again, elsewhere or later. */
  goingAway: 1001,
  /** A rule of the server was broken that has no code of its own. */
  policy: 1008,
  /** A message larger than `limits.messageBytes` of the welcome. */
  tooBig: 1009,
  /** The server failed. */
  internal: 1011,
  /** The server has no room; try later. */
  tryLater: 1013,
  /** Not a frame of the protocol: not JSON, no such type, wrong fields. */
  badFrame: 4400,
  /** The key is wrong, or missing. */
  unauthorized: 4401,
  /** No `hello` in time, or nothing said for too long. */
  timeout: 4408,
  /** A response with this id has not ended. */
  idInUse: 4409,
  /** The client sends faster than its frames can be worked on. */
  inboundOverflow: 4413,
  /** More requests than the key may make. */
  rateLimit: 4429,
  /** The client does not read what it asked for. */
  slowConsumer: 4499,
} as const

export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode]
