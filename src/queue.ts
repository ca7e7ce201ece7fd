// Who waits for a place among the running generations, and whose turn is next.
import { GorgonError } from './errors.js'
import type { GenerateOptions } from './options.js'

/** What a generation says about its turn. */
export type Claim = Pick<GenerateOptions, 'priority' | 'client' | 'onQueue'>

/** One that waits. */
export interface Ticket {
  readonly priority: number
  readonly client: string
  /** Since when, in milliseconds of a clock that never goes back. */
  readonly since: number
}

/** A client's tickets of one level. */
interface Line {
  readonly running: number
  readonly served: number
  /** When its first came, among the level's. */
  readonly arrived: number
  length: number
}

/** Waiting this long counts as one priority more, so that nobody waits for ever. */
const AGEING_MS = 60_000

/** Clients whose last turn is remembered. One that is forgotten was served longest ago of all, and comes first as if it were new. */
const REMEMBERED_CLIENTS = 4096

/** Positions are told no more often than this: of thousands that wait, each moves whenever one is served. */
const TELL_INTERVAL_MS = 250

/**
 * Whose turn it is. A higher priority goes first, age included. Within one, clients take turns: the one with the fewest running, then the
 * one served longest ago. Within a client, in order of arrival.
 */
export class Turns {
  #running = new Map<string, number>()
  /** The number of each client's last turn, lowest first. */
  #served = new Map<string, number>()
  #count = 0

  /** One of a client's is served: it runs from here on. */
  begin(client: string): void {
    this.#running.set(client, this.#runningOf(client) + 1)
    this.#served.delete(client)
    this.#served.set(client, ++this.#count)
    if (this.#served.size > REMEMBERED_CLIENTS) {
      const [oldest] = this.#served.keys()
      this.#served.delete(oldest!)
    }
  }

  /** One of a client's has ended. */
  end(client: string): void {
    const left = this.#runningOf(client) - 1
    if (left > 0) this.#running.set(client, left)
    else this.#running.delete(client)
  }

  /** @param waiting in order of arrival. */
  next<T extends Ticket>(waiting: Iterable<T>, now: number): T | null {
    let first: T | null = null
    for (const ticket of waiting) if (!first || this.#compare(ticket, first, now) < 0) first = ticket
    return first
  }

  /**
   * All, in the order in which they are served if nobody comes and nobody ends: as `next` and `begin` give it one by one.
   *
   * @param waiting in order of arrival.
   */
  order<T extends Ticket>(waiting: Iterable<T>, now: number): T[] {
    const levels = new Map<number, T[]>()
    for (const ticket of waiting) {
      const level = levelOf(ticket, now)
      const tickets = levels.get(level)
      if (tickets) tickets.push(ticket)
      else levels.set(level, [ticket])
    }
    const ahead = this.#copy()
    const ordered: T[] = []
    for (const [, level] of [...levels].sort(([a], [b]) => b - a)) {
      for (const ticket of ahead.#rounds(level)) {
        ahead.begin(ticket.client)
        ordered.push(ticket)
      }
    }
    return ordered
  }

  /**
   * Tickets of one level. Round n serves each client that has n running by then. Those that came to n by earlier rounds were served just now,
   * in the order of the round before; so those that had n to begin with go before them, the one served longest ago first.
   */
  #rounds<T extends Ticket>(level: readonly T[]): T[] {
    const lines = new Map<string, Line>()
    const turns = level.map((ticket, arrived) => {
      const { client } = ticket
      const line = lines.get(client) ?? {
        running: this.#runningOf(client),
        served: this.#servedOf(client),
        arrived,
        length: 0,
      }
      lines.set(client, line)
      return { ticket, line, round: line.running + line.length++ }
    })
    turns.sort(
      (a, b) =>
        a.round - b.round ||
        b.line.running - a.line.running ||
        a.line.served - b.line.served ||
        a.line.arrived - b.line.arrived,
    )
    return turns.map((turn) => turn.ticket)
  }

  #copy(): Turns {
    const copy = new Turns()
    copy.#running = new Map(this.#running)
    copy.#served = new Map(this.#served)
    copy.#count = this.#count
    return copy
  }

  #compare(a: Ticket, b: Ticket, now: number): number {
    return (
      levelOf(b, now) - levelOf(a, now) ||
      this.#runningOf(a.client) - this.#runningOf(b.client) ||
      this.#servedOf(a.client) - this.#servedOf(b.client)
    )
  }

  #runningOf(client: string): number {
    return this.#running.get(client) ?? 0
  }

  #servedOf(client: string): number {
    return this.#served.get(client) ?? 0
  }
}

function levelOf({ priority, since }: Ticket, now: number): number {
  return priority + Math.floor((now - since) / AGEING_MS)
}

interface Waiting extends Ticket {
  readonly onQueue: Claim['onQueue']
  /** As last told. */
  position: number | null
  admit(free: () => void): void
  refuse(reason: unknown): void
}

/** Places for sequences: at most `places` at once. The rest wait for their turns, at most `maxQueue` of them. */
export class Places {
  readonly #places: number
  readonly #maxQueue: number
  readonly #now: () => number
  readonly #turns = new Turns()
  /** In order of arrival. */
  readonly #queue = new Set<Waiting>()
  #taken = 0
  #isTelling = false
  #toldAt = Number.NEGATIVE_INFINITY

  /** @param now milliseconds of a clock that never goes back. */
  constructor(places: number, maxQueue: number, now: () => number = () => performance.now()) {
    this.#places = places
    this.#maxQueue = maxQueue
    this.#now = now
  }

  get taken(): number {
    return this.#taken
  }

  get queued(): number {
    return this.#queue.size
  }

  /**
   * A place, at once if one is free.
   *
   * @param beside what is done while waiting; its failure ends the waiting.
   * @returns what gives the place back; calling it again does nothing.
   * @throws {GorgonError} ERR_QUEUE_FULL when nobody more may wait; the signal's reason when it fires before the turn comes; what `onQueue`
   *   throws, or what `beside` rejects with.
   */
  async take(claim: Claim, signal: AbortSignal, beside?: Promise<unknown>): Promise<() => void> {
    // Whoever asks sees its failure in the end; here it can only end the waiting.
    beside?.catch(() => undefined)
    signal.throwIfAborted()
    if (this.#taken < this.#places) return this.#give(claim.client)
    this.#assertRoom()
    return new Promise((resolve, reject) => {
      const { priority, client, onQueue } = claim
      const settle = () => {
        signal.removeEventListener('abort', onAbort)
        this.#queue.delete(ticket)
        this.#tellSoon()
      }
      const ticket: Waiting = {
        priority,
        client,
        onQueue,
        since: this.#now(),
        position: null,
        admit(free) {
          settle()
          resolve(free)
        },
        refuse(reason) {
          settle()
          reject(reason)
        },
      }
      const onAbort = () => ticket.refuse(signal.reason)
      signal.addEventListener('abort', onAbort, { once: true })
      beside?.catch((reason: unknown) => this.#queue.has(ticket) && ticket.refuse(reason))
      this.#queue.add(ticket)
      this.#tellSoon()
    })
  }

  #assertRoom(): void {
    if (this.#queue.size < this.#maxQueue) return
    throw new GorgonError(
      'ERR_QUEUE_FULL',
      `The queue is full: ${this.#taken} running (limits.maxSequences is ${this.#places}), ${this.#queue.size} waiting ` +
        `(limits.maxQueue is ${this.#maxQueue}). Try again later, or raise a limit.`,
      { running: this.#taken, maxSequences: this.#places, queued: this.#queue.size, maxQueue: this.#maxQueue },
    )
  }

  #give(client: string): () => void {
    this.#taken++
    this.#turns.begin(client)
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.#taken--
      this.#turns.end(client)
      const next = this.#turns.next(this.#queue, this.#now())
      next?.admit(this.#give(next.client))
    }
  }

  /** Everyone whose position has changed hears of it: at once after a quiet time, or else when the next telling is due. */
  #tellSoon(): void {
    if (this.#isTelling || this.#queue.size === 0) return
    this.#isTelling = true
    const wait = this.#toldAt + TELL_INTERVAL_MS - this.#now()
    // Those who come in one breath are told together, each its own position.
    if (wait <= 0) queueMicrotask(() => this.#tell())
    else setTimeout(() => this.#tell(), wait).unref()
  }

  #tell(): void {
    this.#isTelling = false
    this.#toldAt = this.#now()
    if (![...this.#queue].some((ticket) => ticket.onQueue)) return
    for (const [position, ticket] of this.#turns.order(this.#queue, this.#toldAt).entries()) {
      // A callback may have ended the waiting of others.
      if (position === ticket.position || !this.#queue.has(ticket)) continue
      ticket.position = position
      try {
        ticket.onQueue?.({ position })
      } catch (error) {
        if (this.#queue.has(ticket)) ticket.refuse(error)
      }
    }
  }
}
