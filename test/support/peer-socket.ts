// A socket without a network: what was sent, and a reader who may stop reading.
import type { PeerSocket } from '../../src/server/peer.js'
import { ServerFrame } from '../../src/server/protocol.js'

interface Sent {
  readonly message: string
  readonly done: () => void
}

export class FakePeerSocket implements PeerSocket {
  readonly messages: string[] = []
  closed: { readonly code: number; readonly reason: string } | null = null
  /** Whether what is sent leaves at once. */
  isRead = true
  #waiting: Sent[] = []

  get bufferedBytes(): number {
    return this.#waiting.reduce((bytes, { message }) => bytes + Buffer.byteLength(message), 0)
  }

  send(message: string, done: () => void): void {
    if (this.closed) throw new Error(`sent after close: ${message}`)
    this.messages.push(message)
    this.#waiting.push({ message, done })
    // As a library does: never before this returns.
    queueMicrotask(() => {
      if (this.isRead) this.take(Number.POSITIVE_INFINITY)
    })
  }

  close(code: number, reason: string): void {
    if (this.closed) throw new Error(`closed twice: ${code} ${reason}`)
    this.closed = { code, reason }
  }

  /** The network takes so many messages. */
  take(count: number): void {
    for (const { done } of this.#waiting.splice(0, count)) done()
  }

  /** All frames sent, held against the protocol. */
  frames(): ServerFrame[] {
    return this.messages.map((message) => ServerFrame.parse(JSON.parse(message)))
  }
}
