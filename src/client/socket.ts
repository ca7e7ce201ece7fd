// What the client needs of a platform's sockets.
import { CloseCode } from '../server/close-codes.js'

/** Where a connection goes. */
export interface Target {
  readonly url: string
  readonly protocol: string
  readonly key: string | undefined
}

/** How a socket ended. */
export interface SocketEnd {
  /** 1006 where there was no closing handshake. */
  readonly code: number
  readonly reason: string
  /** The HTTP status a server refused the handshake with, where the platform tells. */
  readonly status?: number | undefined
  readonly retryAfterMs?: number | undefined
  readonly cause?: unknown
}

/** Is told nothing after `ended`. */
export interface SocketListener {
  opened(): void
  received(message: unknown): void
  ended(end: SocketEnd): void
}

export interface Socket {
  /** Bytes given to `send` and not yet taken by the network. */
  readonly bufferedBytes: number
  send(message: string): void
  /** Says what is still to be said, and closes. The listener hears nothing any more. */
  leave(): void
  /** Ends it without the peer, who may be gone. The listener hears nothing any more. */
  drop(): void
}

export interface Platform {
  /** Whether `dial` brings the key; where it cannot, the first frame does. */
  readonly dialsWithKey: boolean
  dial(target: Target, listener: SocketListener): Socket
  /** Told of a signal that may end many things, where the platform would take that for a leak. */
  expectListeners?(signal: AbortSignal): void
}

/** The part of the DOM's WebSocket that is used: the browser's own, or any class with the same face. */
export interface StandardSocket {
  readonly bufferedAmount: number
  onopen: ((event: never) => void) | null
  onmessage: ((event: never) => void) | null
  onclose: ((event: never) => void) | null
  onerror: ((event: never) => void) | null
  send(message: string): void
  close(code?: number, reason?: string): void
}
export type StandardSocketClass = new (url: string, protocols: string[]) => StandardSocket

/** Sockets of a class like the DOM's. Pages can set no headers, so the key is left to the first frame. */
export function standardPlatform(WebSocket: StandardSocketClass): Platform {
  return {
    dialsWithKey: false,
    dial({ url, protocol }, listener) {
      const socket = new WebSocket(url, [protocol])
      const deafen = () => {
        socket.onopen = null
        socket.onmessage = null
        socket.onclose = null
        // A class that throws errors nobody listens to is left someone who does.
        socket.onerror = () => undefined
      }
      socket.onopen = () => listener.opened()
      socket.onmessage = ({ data }: { readonly data: unknown }) => listener.received(data)
      // Says nothing that `close`, which follows, does not say too.
      socket.onerror = () => undefined
      socket.onclose = ({ code, reason }: { readonly code: number; readonly reason: string }) => {
        deafen()
        listener.ended({ code, reason })
      }
      return {
        get bufferedBytes() {
          return socket.bufferedAmount
        },
        send: (message) => socket.send(message),
        leave() {
          deafen()
          socket.close(CloseCode.normal)
        },
        drop() {
          deafen()
          socket.close()
        },
      }
    },
  }
}
