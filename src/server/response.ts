// One response of the native protocol: its frames in order, made at the pace at which whoever is connected may get them.
import { GorgonError } from '../errors.js'
import type { Chunk, PrefillProgress, QueueProgress, Result } from '../index.js'
import { errorFrame, problemOf } from './errors.js'
import type { Work } from './intake.js'
import { LADDER, type Lane, type Outbox, type SlowReaders } from './outbox.js'
import type { ClientFrameOf, ServerFrameOf, Summary } from './protocol.js'

/** Steps that the engine may be ahead of what was read: enough to keep it busy, little to hold. */
export const HIGH_WATER_MARK = 8

/** Least time between two `prefill` frames. */
const PREFILL_INTERVAL_MS = 50

/** Of frames a resumable response keeps for `resume`: those sent last, while it is connected; all it makes, while it is not. */
const KEPT_BYTES = 128 * 1024

type Delta = ServerFrameOf<'delta'>
type Ending = ServerFrameOf<'done'> | ServerFrameOf<'error'>
type Progress = ServerFrameOf<'queued'> | ServerFrameOf<'prefill'>

interface Entry {
  readonly frame: Delta | Ending
  /** The frame as JSON, while that is known. */
  message: string | null
  /** Of the message; an upper bound once other frames were put into it. */
  bytes: number
}

export interface ResponseOptions {
  readonly asked: Pick<ClientFrameOf<'generate'>, 'id' | 'minIntervalMs' | 'provenance' | 'ids'>
  /** What was sent may be asked for again. */
  readonly isResumable: boolean
  /** The last delta that the client allows; infinity where it does not count. */
  readonly allowedSeq: number
  /** How long it waits for credit before it ends with an error. */
  readonly creditMs: number
  readonly readers: Pick<SlowReaders, 'coalesced'>
  /** Its last frame was sent; after a `resume`, perhaps again. */
  readonly onEnd: (response: StreamedResponse) => void
}

/**
 * A response gives one end, `done` or `error`, as its last frame. It is a lane of whichever outbox it is connected to; without one, it goes
 * on until it holds as much as it may, and parks.
 */
export class StreamedResponse implements Lane {
  readonly id: string
  readonly isResumable: boolean
  readonly #options: ResponseOptions
  /** Oldest first: what was sent and may be asked for again, then what was not sent. */
  readonly #entries: Entry[] = []
  /** Of `#entries`: the next to be sent. */
  #next = 0
  #keptBytes = 0
  /** Of the frame made last. */
  #seq = 0
  /** Of the last frame that was ever sent: those up to it do not change any more. */
  #sentSeq = 0
  #allowedSeq: number
  #outbox: Outbox | null = null
  /** Null before it runs, and after: a response that is kept does not keep what it was made of. */
  #work: Work | null = null
  #model = ''
  #seed: Work['seed'] = null
  #progress: Progress | null = null
  #prefillAt = Number.NEGATIVE_INFINITY
  /** When the next delta may be sent. */
  #dueAt = 0
  #dueTimer: NodeJS.Timeout | undefined
  #creditTimer: NodeJS.Timeout | undefined
  #wake: (() => void) | null = null
  #isCancelled = false
  #isDropped = false
  /** Its end is made, though perhaps not sent. */
  #isMade = false

  constructor(options: ResponseOptions) {
    this.id = options.asked.id
    this.isResumable = options.isResumable
    this.#options = options
    this.#allowedSeq = options.allowedSeq
  }

  get model(): string {
    return this.#model
  }

  get seed(): Work['seed'] {
    return this.#seed
  }

  /** Its end was sent, if only to a connection that broke. */
  get isSent(): boolean {
    return this.#isMade && this.#sentSeq === this.#seq
  }

  /** Of the frames it keeps. */
  get keptBytes(): number {
    return this.#keptBytes
  }

  /** Reads the work to its end. To be called in the tick in which the work began. */
  run(work: Work): void {
    this.#work = work
    this.#model = work.model
    this.#seed = work.seed
    void this.#read(work).finally(() => {
      this.#work = null
    })
  }

  queued({ position }: QueueProgress): void {
    this.#tell({ type: 'queued', id: this.id, position })
  }

  /** Tells the first, the last, and some between. */
  prefilled({ done, total, tokens, cached }: PrefillProgress): void {
    const now = performance.now()
    if (done < total && now - this.#prefillAt < PREFILL_INTERVAL_MS) return
    this.#prefillAt = now
    this.#tell({ type: 'prefill', id: this.id, done, total, tokens, cached })
  }

  /** Sends what it has through here from now on. */
  connect(outbox: Outbox): void {
    this.#outbox = outbox
    outbox.add(this)
    this.#sendAll()
  }

  /**
   * Goes back to what follows a frame, while it is not connected. False when it cannot: what followed is forgotten, or was never sent.
   *
   * @param afterSeq the last that the client has; 0 for none.
   */
  rewind(afterSeq: number, allowedSeq: number): boolean {
    const firstSeq = this.#entries[0]?.frame.seq ?? this.#seq + 1
    const isOver = this.#isMade && afterSeq === this.#seq
    if (afterSeq < firstSeq - 1 || afterSeq > this.#sentSeq || isOver) return false
    this.#next = afterSeq - firstSeq + 1
    this.#allowedSeq = allowedSeq
    this.#dueAt = 0
    return true
  }

  /** Its connection is gone. It goes on, unless it is dropped too. */
  disconnect(): void {
    const outbox = this.#outbox
    this.#outbox = null
    outbox?.remove(this)
    this.#clearTimers()
    this.#goOn()
  }

  /** Ends it within a step. What it has made is sent at once, with its end. */
  cancel(): void {
    this.#isCancelled = true
    this.#clearTimers()
    this.#work?.abort()
    this.#sendAll()
  }

  /** Allows so many more deltas. */
  credit(chunks: number): void {
    this.#allowedSeq = Math.min(this.#allowedSeq + chunks, Number.MAX_SAFE_INTEGER)
    clearTimeout(this.#creditTimer)
    this.#creditTimer = undefined
    this.#sendAll()
  }

  /** Nobody will ask for it again. */
  drop(): void {
    if (this.#isDropped) return
    this.#isDropped = true
    this.disconnect()
    this.#entries.length = 0
    this.#next = 0
    this.#keptBytes = 0
    this.#work?.abort()
  }

  get heldBytes(): number {
    const next = this.#entries[this.#next]
    if (!next || this.#lacks(next) !== null) return 0
    let bytes = 0
    for (let i = this.#next; i < this.#entries.length; i++) bytes += this.#entries[i]!.bytes
    return bytes
  }

  sendNext(): boolean {
    const outbox = this.#outbox
    if (!outbox) return false
    if (this.#progress) {
      const message = JSON.stringify(this.#progress)
      if (!outbox.offer(message, Buffer.byteLength(message))) return false
      this.#progress = null
      return true
    }
    const next = this.#entries[this.#next]
    if (!next) return false
    const lack = this.#lacks(next)
    if (lack !== null) {
      this.#await(lack)
      return false
    }
    next.message ??= JSON.stringify(next.frame)
    if (!outbox.offer(next.message, next.bytes)) return false
    this.#sent(next)
    return true
  }

  unparked(): void {
    this.#goOn()
  }

  async #read(work: Work): Promise<void> {
    try {
      for await (const chunk of work.chunks) {
        this.#add(chunk)
        while (!this.#mayRead()) {
          await new Promise<void>((wake) => {
            this.#wake = wake
          })
        }
      }
      const summary = summaryOf(await work.result)
      this.#end({ type: 'done', id: this.id, seq: 0, ...summary })
    } catch (error) {
      this.#fail(error)
    }
  }

  #add(chunk: Chunk): void {
    if (this.#isDropped || this.#isMade || (chunk.text === '' && chunk.tokens.length === 0)) return
    const delta = this.#deltaOf(chunk)
    const last = this.#entries.at(-1)
    if (last?.frame.type === 'delta' && last.frame.seq > this.#sentSeq && last.bytes < LADDER.frameBytes) {
      join(last.frame, delta)
      const bytes = Buffer.byteLength(JSON.stringify(delta))
      last.message = null
      last.bytes += bytes
      this.#keptBytes += bytes
      if (this.#outbox?.isCongested) this.#options.readers.coalesced(1)
    } else {
      this.#push(delta)
    }
    this.#sendAll()
  }

  #push(frame: Entry['frame']): void {
    frame.seq = ++this.#seq
    const message = JSON.stringify(frame)
    const bytes = Buffer.byteLength(message)
    this.#entries.push({ frame, message, bytes })
    this.#keptBytes += bytes
  }

  #deltaOf({ text, tokens, drafted, atMs, step, pieces, logprobs }: Chunk): Delta {
    const { provenance, ids } = this.#options.asked
    return {
      type: 'delta',
      id: this.id,
      seq: 0,
      text,
      n: tokens.length,
      drafted,
      at: Math.round(atMs * 1000) / 1000,
      ...(provenance && { spans: [{ step, chars: pieces.map((piece) => piece.length) }] }),
      ...(ids && { ids: [...tokens] }),
      ...(logprobs && { logprobs: [...logprobs] as Delta['logprobs'] }),
    }
  }

  #end(frame: Ending): void {
    if (this.#isMade) return
    this.#isMade = true
    if (this.#isDropped) return
    this.#progress = null
    this.#push(frame)
    this.#sendAll()
  }

  #fail(error: unknown): void {
    this.#end(errorFrame(problemOf(error, this.#work?.id ?? this.id), { id: this.id }))
  }

  #tell(progress: Progress): void {
    if (this.#seq > 0 || this.#isMade) return
    this.#progress = progress
    this.#sendAll()
  }

  #sendAll(): void {
    if (!this.#outbox) return
    while (this.sendNext()) {
      // Until something is lacking.
    }
    if (this.heldBytes > 0) this.#outbox?.held()
    this.#goOn()
  }

  #sent(entry: Entry): void {
    const { frame } = entry
    entry.message = null
    this.#next++
    this.#sentSeq = Math.max(this.#sentSeq, frame.seq!)
    this.#dueAt = performance.now() + this.#options.asked.minIntervalMs
    while (this.#next > 0 && (!this.isResumable || this.#keptBytes > KEPT_BYTES)) {
      this.#keptBytes -= this.#entries.shift()!.bytes
      this.#next--
    }
    if (frame.type === 'delta') return
    this.disconnect()
    this.#options.onEnd(this)
  }

  /** What a frame still needs before it may be offered: credit, or time. */
  #lacks({ frame }: Entry): 'credit' | 'time' | null {
    if (frame.type !== 'delta' || this.#isCancelled) return null
    if (frame.seq > this.#allowedSeq) return 'credit'
    return !this.#isMade && performance.now() < this.#dueAt ? 'time' : null
  }

  #await(lack: 'credit' | 'time'): void {
    if (lack === 'time') {
      this.#dueTimer ??= setTimeout(
        () => {
          this.#dueTimer = undefined
          this.#sendAll()
        },
        Math.max(1, this.#dueAt - performance.now()),
      )
      return
    }
    const { creditMs } = this.#options
    this.#creditTimer ??= setTimeout(() => {
      const waited = new GorgonError(
        'ERR_STALLED',
        `The response waited ${creditMs} ms for credit (limits.idleMs). Send it again, and credit for what you read.`,
        { creditMs },
      )
      this.#giveUp(waited)
    }, creditMs)
  }

  /** Ends with an error in place of what waits. */
  #giveUp(error: GorgonError): void {
    const unsent = this.#entries.splice(this.#next)
    for (const { bytes } of unsent) this.#keptBytes -= bytes
    this.#seq = unsent[0]!.frame.seq! - 1
    this.#sentSeq = this.#seq
    this.#isMade = false
    this.#fail(error)
    this.#work?.abort(error)
  }

  /** Whether another chunk may be read. The engine pauses when nobody reads. */
  #mayRead(): boolean {
    if (this.#isCancelled || this.#isDropped || this.#isMade) return true
    if (!this.#outbox) return this.#keptBytes < 2 * KEPT_BYTES
    if (this.#outbox.isParked) return false
    const next = this.#entries[this.#next]
    if (!next) return true
    const lack = this.#lacks(next)
    return lack === null || (lack === 'time' && next.bytes < LADDER.frameBytes)
  }

  #goOn(): void {
    if (!this.#wake || !this.#mayRead()) return
    this.#wake()
    this.#wake = null
  }

  #clearTimers(): void {
    clearTimeout(this.#dueTimer)
    clearTimeout(this.#creditTimer)
    this.#dueTimer = undefined
    this.#creditTimer = undefined
  }
}

/** Puts what came later behind what came before. */
function join(delta: Delta, later: Delta): void {
  delta.text += later.text
  delta.n += later.n
  delta.drafted += later.drafted
  delta.at = later.at
  delta.spans?.push(...later.spans!)
  delta.ids?.push(...later.ids!)
  if (later.logprobs) delta.logprobs?.push(...later.logprobs)
}

/** A result as a `done` frame has it. */
export function summaryOf({ finish, stopString, seed, usage, timing, speculation, kv }: Result): Summary {
  return {
    finish,
    ...(stopString !== undefined && { stopString }),
    seed: typeof seed === 'bigint' ? String(seed) : seed,
    usage,
    timing,
    speculation,
    kv,
  } as Summary
}
