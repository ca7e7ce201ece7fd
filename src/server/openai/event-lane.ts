// Events of one stream on their way out of a socket: numbered as they leave, deltas put together where a reader is slow.
import { LADDER, type Lane, type Outbox, type SlowReaders } from '../outbox.js'
import { joinDeltas, type ResponseEvent, type TextDelta } from './responses-events.js'

/** A request that became no response; both where the events' types have it, and where the specification of the socket does. */
export interface RefusalEvent {
  readonly type: 'error'
  readonly status: number
  readonly code: string
  readonly message: string
  readonly param: string | null
  readonly error: object
}

export type SocketEvent = ResponseEvent | RefusalEvent

const isDelta = (event: SocketEvent): event is TextDelta => event.type === 'response.output_text.delta'

interface Held {
  event: SocketEvent
  /** As it would be sent now; of deltas put together, a few more. */
  bytes: number
}

export class EventLane implements Lane {
  readonly #outbox: Outbox
  readonly #readers: Pick<SlowReaders, 'coalesced'>
  /** In every event of a named stream. */
  readonly #label: { readonly stream_id?: string }
  readonly #held: Held[] = []
  #sequence = 0
  #isClosed = false
  #wakes: (() => void)[] = []

  /** @param streamId null for the stream without a name. */
  constructor(outbox: Outbox, readers: Pick<SlowReaders, 'coalesced'>, streamId: string | null) {
    this.#outbox = outbox
    this.#readers = readers
    this.#label = streamId === null ? {} : { stream_id: streamId }
    outbox.add(this)
  }

  get heldBytes(): number {
    return this.#held.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** Sends it, or holds it until there is room. Make the next one when the promise resolves; it does when the connection is gone, too. */
  async push(event: SocketEvent): Promise<void> {
    if (this.#isClosed || (this.#held.length === 0 && this.#offer(event))) return
    this.#hold(event)
    this.#outbox.held()
    if (this.#outbox.isParked) await this.#woken()
  }

  /** Resolves when all of it was sent, or the connection is gone. */
  async flushed(): Promise<void> {
    while (this.#held.length > 0 && !this.#isClosed) await this.#woken()
  }

  sendNext(): boolean {
    const next = this.#held[0]
    if (!next || !this.#offer(next.event)) return false
    this.#held.shift()
    if (this.#held.length === 0) this.unparked()
    return true
  }

  unparked(): void {
    for (const wake of this.#wakes.splice(0)) wake()
  }

  /** Nothing of it is sent any more, and nobody waits. */
  close(): void {
    this.#isClosed = true
    this.#held.length = 0
    this.unparked()
  }

  #hold(event: SocketEvent): void {
    const bytes = Buffer.byteLength(this.#written(event))
    const last = this.#held.at(-1)
    if (isDelta(event) && last && isDelta(last.event) && last.bytes < LADDER.frameBytes) {
      last.event = joinDeltas(last.event, event)
      last.bytes += bytes
      this.#readers.coalesced(1)
    } else {
      this.#held.push({ event, bytes })
    }
  }

  #offer(event: SocketEvent): boolean {
    // Numbers begin anew with each response.
    if (event.type === 'response.created') this.#sequence = 0
    const message = this.#written(event)
    if (!this.#outbox.offer(message, Buffer.byteLength(message))) return false
    this.#sequence++
    return true
  }

  #written(event: SocketEvent): string {
    return JSON.stringify({ ...event, sequence_number: this.#sequence, ...this.#label })
  }

  #woken(): Promise<void> {
    return new Promise((wake) => this.#wakes.push(wake))
  }
}
