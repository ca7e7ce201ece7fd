// What a connection still has to send: who may send now, who waits for room, and when a reader is too slow.
import { CloseCode } from './close-codes.js'
import type { PeerSocket } from './peer.js'

const KIB = 1024

/** The ladder of back-pressure, in bytes that wait: in the socket, and in what responses hold back. */
export const LADDER = {
  /** Below: what was held back is sent, whoever was parked goes on. */
  resumeBytes: 32 * KIB,
  /** Above: responses hold back, and put what they hold into as few frames as they can. */
  coalesceBytes: 64 * KIB,
  /** Above: responses are parked in the engine. */
  parkBytes: 256 * KIB,
  /** A frame that has grown to this takes no other in. */
  frameBytes: 16 * KIB,
  /** Of answers, which wait for no room; more means that the client asks and does not read. */
  answerBytes: 256 * KIB,
} as const

/** What one response has to send. */
export interface Lane {
  /** Bytes it holds back for want of room. */
  readonly heldBytes: number
  /** Offers the next thing it holds; false when nothing was sent. Called when there is room. */
  sendNext(): boolean
  /** May make more again. */
  unparked(): void
}

/** Whoever counts what slow readers cost. */
export interface SlowReaders {
  /** @param frames that were put into others instead of being sent. */
  coalesced(frames: number): void
  /** A response was paused in the engine. */
  parked(): void
  slowClosed(): void
}

export interface OutboxOptions {
  readonly stallMs: number
  readonly readers: SlowReaders
  /** Closes the connection; nothing is sent after it. */
  readonly close: (code: CloseCode, reason: string) => void
}

/**
 * The way out of one connection. Answers are sent at once. Responses are lanes: they offer frames, hold back what finds no room, and are
 * asked again when there is some, in turn and a frame each.
 *
 * A parked connection that takes less than `LADDER.resumeBytes` in `stallMs` is closed: one that reads on, slowly, is served slowly.
 */
export class Outbox {
  readonly #socket: PeerSocket
  readonly #options: OutboxOptions
  /** In order of their turns. */
  readonly #lanes = new Set<Lane>()
  #isCongested = false
  #isParked = false
  #isClosed = false
  /** Messages that have not left. */
  #leaving = 0
  #givenBytes = 0
  #answerBytes = 0
  #stall: NodeJS.Timeout | undefined

  constructor(socket: PeerSocket, options: OutboxOptions) {
    this.#socket = socket
    this.#options = options
  }

  /** Of all that waits, in the socket and in lanes. */
  get waitingBytes(): number {
    let bytes = this.#socket.bufferedBytes
    for (const lane of this.#lanes) bytes += lane.heldBytes
    return bytes
  }

  /** Whether offers find no room. */
  get isCongested(): boolean {
    return this.#isCongested
  }

  /** Whether lanes should make no more. */
  get isParked(): boolean {
    return this.#isParked
  }

  add(lane: Lane): void {
    this.#lanes.add(lane)
  }

  remove(lane: Lane): void {
    this.#lanes.delete(lane)
    this.#settle()
  }

  /** An answer: sent at once, whatever waits. */
  send(message: string): void {
    const bytes = Buffer.byteLength(message)
    this.#answerBytes += bytes
    this.#give(message, bytes, () => {
      this.#answerBytes -= bytes
    })
    if (this.#answerBytes > LADDER.answerBytes) this.#closeSlow('The client does not read the answers it asks for')
  }

  /**
   * Sends a lane's frame if there is room for all of it; one that is larger than any room goes when nothing else waits.
   *
   * @param bytes of the message, or a few more.
   */
  offer(message: string, bytes: number): boolean {
    if (this.#isClosed || this.#isCongested) return false
    if (this.#leaving > 0 && this.#socket.bufferedBytes + bytes > LADDER.coalesceBytes) {
      this.#isCongested = true
      return false
    }
    this.#give(message, bytes)
    return true
  }

  /** To be called by a lane that holds back more than before. */
  held(): void {
    if (this.#isParked || this.#isClosed || this.waitingBytes <= LADDER.parkBytes) return
    this.#isParked = true
    for (const _ of this.#lanes) this.#options.readers.parked()
    this.#watch()
  }

  /** Nothing is sent from now on, and nobody waits for room. */
  close(): void {
    this.#isClosed = true
    this.#isParked = false
    clearTimeout(this.#stall)
    for (const lane of this.#lanes) lane.unparked()
    this.#lanes.clear()
  }

  #give(message: string, bytes: number, done?: () => void): void {
    if (this.#isClosed) return
    this.#leaving++
    this.#givenBytes += bytes
    this.#socket.send(message, () => {
      this.#leaving--
      done?.()
      this.#settle()
    })
  }

  /** Is there room again? */
  #settle(): void {
    if (this.#isClosed) return
    if (this.#isCongested && this.#socket.bufferedBytes < LADDER.resumeBytes) {
      this.#isCongested = false
      this.#sendHeld()
    }
    if (this.#isParked && this.waitingBytes < LADDER.resumeBytes) {
      this.#isParked = false
      clearTimeout(this.#stall)
      for (const lane of this.#lanes) lane.unparked()
    }
  }

  /** A set's iteration comes to what is added while it runs: a lane that has sent queues up again. */
  #sendHeld(): void {
    for (const lane of this.#lanes) {
      if (this.#isCongested) return
      if (lane.sendNext() && this.#lanes.delete(lane)) this.#lanes.add(lane)
    }
  }

  #watch(): void {
    const taken = () => this.#givenBytes - this.#socket.bufferedBytes
    const before = taken()
    this.#stall = setTimeout(() => {
      if (taken() - before < LADDER.resumeBytes) this.#closeSlow('The client does not read what it asked for')
      else this.#watch()
    }, this.#options.stallMs)
  }

  #closeSlow(reason: string): void {
    if (this.#isClosed) return
    this.#options.readers.slowClosed()
    this.close()
    this.#options.close(CloseCode.slowConsumer, reason)
  }
}
