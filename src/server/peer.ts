// A socket as the protocols see it, and a protocol as a socket sees it: neither knows the other's library.

/** What a connection may do with its socket. */
export interface PeerSocket {
  /** Bytes given to `send` and not yet taken by the network. */
  readonly bufferedBytes: number
  /** @param done called when the message has left, or cannot; never before this returns. */
  send(message: string, done: () => void): void
  /** Closes with a code and a reason, of which 123 bytes are sent. */
  close(code: number, reason: string): void
}

/** What a socket tells its connection. Nothing is told after `left`. */
export interface PeerConnection {
  /** A message of text. */
  received(message: string): void
  /** The peer is gone, however that came. */
  left(): void
  /** The server stops: take nothing new, and close when what runs has ended. */
  drain(deadlineMs: number): void
  /** Has requests that have not ended, so silence is not idleness. */
  readonly isBusy: boolean
}
