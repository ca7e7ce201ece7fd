// One request, over as many connections as it takes: asked, resumed, asked again; each token delivered once.
import type { ServerFrame, ServerFrameOf } from '../server/protocol.js'
import { type Backoff, backoffMs } from './backoff.js'
import { abortError, ClientError } from './errors.js'
import { ArrivingGeneration, type Delta, type Result, type TokenLogprob } from './generation.js'
import type { Correspondent, Link } from './link.js'
import type { GenerateFrame, RequestPlan } from './options.js'
import { Differs, Replay } from './replay.js'

/** Who gives requests their turns on a connection. */
export interface RequestHost {
  readonly retries: number
  readonly backoff: Backoff
  /** To be started when there is a connection with a place. */
  enqueue(request: Request, turn: 'returning' | 'new'): void
  /** It need not be started any more. */
  dequeue(request: Request): void
  /** It has no business on any connection any more. */
  ended(request: Request): void
}

/** The session that a request is a turn of. */
export interface TurnHost {
  readonly name: string
  /** Makes sure that the session is on this connection; the turn's `entered` or `refused` follows, at once or later. */
  enter(link: Link, turn: Request): void
  /** What the turn sends: with the turns before it, where the server's session does not hold them. */
  input(): GenerateFrame['input']
  /** What the server holds of it is no longer known. */
  abandon(): void
  /** @param result null when it came to none. */
  turnEnded(turn: Request, result: Result | null): void
}

/** Whether a session is as it was, or was opened anew. */
export type Entrance = 'same' | 'anew'

export interface Order {
  readonly id: string
  readonly input: GenerateFrame['input']
  readonly plan: RequestPlan
  readonly turn: TurnHost | null
}

type Phase =
  /** For a place on a connection, or for the time to try again. */
  | 'waiting'
  /** For its session. */
  | 'entering'
  /** Sent; the server has not said that it takes it. */
  | 'asked'
  | 'resuming'
  | 'running'
  | 'ended'

const ALL_CREDIT = 1_000_000

export class Request implements Correspondent {
  readonly id: string
  readonly generation: ArrivingGeneration
  readonly #order: Order
  readonly #host: RequestHost
  readonly #startedAt = performance.now()
  #phase: Phase = 'waiting'
  #link: Link | null = null
  #timer: ReturnType<typeof setTimeout> | undefined
  #unlisten: () => void = () => undefined
  /** Attempts since the last progress. */
  #attempts = 0
  #isAborted = false
  #abortReason: unknown

  // What the last attempt was told.
  #acceptedAt: number | null = null
  #firstAcceptedAt: number | null = null
  #model: string | null = null
  #seed: number | string | null = null
  #token: string | null = null
  #lastSeq = 0
  /** Of deltas, how far the server may go. */
  #allowedSeq = 0
  #window: number
  #replay: Replay | null = null

  // What was delivered.
  #text = ''
  #tokens = 0
  readonly #ids: number[] = []
  readonly #logprobs: TokenLogprob[] = []

  constructor(order: Order, host: RequestHost) {
    this.id = order.id
    this.#order = order
    this.#host = host
    const { highWaterMark, signal } = order.plan.local
    this.#window = Math.min(highWaterMark, ALL_CREDIT)
    this.generation = new ArrivingGeneration(order.id, highWaterMark, {
      abort: (reason) => this.#abort(reason),
      consumed: () => this.#extendCredit(),
    })
    if (signal) this.#listen(signal)
  }

  /** On a connection that has a place. */
  start(link: Link): void {
    this.#link = link
    link.hold(this.id, this)
    const { turn } = this.#order
    if (turn) {
      this.#phase = 'entering'
      turn.enter(link, this)
    } else this.#begin()
  }

  /** The session is there. */
  entered(how: Entrance): void {
    if (this.#phase !== 'entering') return
    if (how === 'anew' && this.#token !== null) this.#fail(sessionLost())
    else this.#begin()
  }

  /** The session is not to be had. */
  refused(error: ClientError): void {
    if (this.#phase === 'entering') this.#again(error)
  }

  received(frame: ServerFrame): void {
    try {
      this.#take(frame)
    } catch (error) {
      // A callback's, or the texts of two attempts differ: the server goes on with nothing for it.
      this.#link?.send({ type: 'cancel', id: this.id })
      this.#fail(error)
    }
  }

  lost(error: ClientError): void {
    const was = this.#phase
    if (was === 'ended') return
    this.#link = null
    this.#phase = 'waiting'
    // The server may have run this turn, or a part of it: its session is not resumed, or the turn might be in it twice.
    const isKnown = this.#token !== null || was === 'waiting' || was === 'entering'
    if (!isKnown) this.#order.turn?.abandon()
    const isOver = this.#isAborted && this.#token === null
    const isHopeless = !error.retryable || ++this.#attempts > this.#host.retries
    if (isOver || isHopeless) this.#fail(isOver ? this.#abortReason : error)
    else if (was === 'running' && this.#token === null) this.#restart(error, 0)
    else this.#host.enqueue(this, 'returning')
  }

  /** No connection is to be had, or wanted. */
  dismiss(error: unknown): void {
    if (this.#phase !== 'ended') this.#fail(error)
  }

  /** Goes on without waiting for its reader, who finds the rest in the buffer. */
  hurry(): void {
    this.#window = ALL_CREDIT
    this.#extendCredit()
  }

  #take(frame: ServerFrame): void {
    if (frame.type === 'accepted') this.#accepted(frame)
    else if (frame.type === 'delta') this.#delta(frame)
    else if (frame.type === 'done') {
      if (frame.finish !== 'aborted' || this.#isAborted) this.#done(frame)
      else this.#cutShort()
    } else if (frame.type === 'error') this.#error(frame)
    else if (this.generation.hasEnded) return
    else if (frame.type === 'queued') this.#order.plan.local.onQueue?.({ position: frame.position })
    else if (frame.type === 'prefill') {
      const { done, total, tokens, cached } = frame
      this.#order.plan.local.onPrefill?.({ done, total, tokens, cached })
    }
  }

  #begin(): void {
    if (this.#token !== null) this.#resume(this.#token)
    else if (this.#isAborted) this.#fail(this.#abortReason)
    else this.#ask()
  }

  #resume(token: string): void {
    const credit = Math.max(0, this.#window - this.generation.buffered)
    this.#phase = 'resuming'
    this.#allowedSeq = this.#lastSeq + credit
    this.#link?.send({ type: 'resume', id: this.id, token, afterSeq: this.#lastSeq, credit })
    // Its cancel may have been lost with the connection.
    if (this.#isAborted) this.#link?.send({ type: 'cancel', id: this.id })
  }

  #ask(): void {
    try {
      const frame = this.#frame()
      this.#link?.sendWithinLimit(frame)
      this.#phase = 'asked'
      this.#lastSeq = 0
      this.#allowedSeq = frame.credit ?? 0
    } catch (error) {
      this.#fail(error)
    }
  }

  #frame(): GenerateFrame {
    const { input, plan, turn } = this.#order
    const { timeoutMs } = plan.options
    const spentMs = Math.round(performance.now() - this.#startedAt)
    const leftMs = timeoutMs === undefined ? undefined : Math.max(1, timeoutMs - spentMs)
    return {
      type: 'generate',
      id: this.id,
      ...plan.frame,
      // The same model and the same seed make the same tokens.
      ...(this.#model !== null && { model: this.#model }),
      input: turn ? turn.input() : input,
      ...(turn && { session: turn.name }),
      options: {
        ...plan.options,
        ...(this.#seed !== null && { seed: this.#seed as number }),
        ...(leftMs !== undefined && { timeoutMs: this.#acceptedAt === null ? timeoutMs : leftMs }),
      },
      credit: Math.max(0, this.#window - this.generation.buffered),
    }
  }

  #accepted({ model, seed, token }: ServerFrameOf<'accepted'>): void {
    if (this.#model !== null && this.#model !== model) {
      throw new ClientError(
        'ERR_NOT_REPRODUCED',
        `The response began with model "${this.#model}", and now "${model}" answers. Send the request again.`,
        { retryable: true },
      )
    }
    if (this.#phase === 'asked') this.#acceptedAt = performance.now()
    this.#firstAcceptedAt ??= this.#acceptedAt
    this.#phase = 'running'
    this.#model = model
    this.#seed = seed
    this.#token = token ?? null
  }

  #delta(delta: Delta): void {
    // Sent again although it had arrived.
    if (delta.seq <= this.#lastSeq) return
    this.#lastSeq = delta.seq
    const fresh = this.#replay ? this.#replay.next(delta) : delta
    if (this.#replay?.isOver) this.#replay = null
    if (fresh) {
      this.#attempts = 0
      this.#deliver(fresh)
    }
    this.#extendCredit()
  }

  #deliver({ text, n, drafted, at, spans, ids, logprobs }: Delta): void {
    this.#text += text
    this.#tokens += n
    if (ids) this.#ids.push(...ids)
    if (logprobs) this.#logprobs.push(...logprobs)
    const { local } = this.#order.plan
    // An attempt's clock begins with it; the first one's goes on.
    const lateMs = (this.#acceptedAt ?? 0) - (this.#firstAcceptedAt ?? 0)
    this.generation.push({
      text,
      n,
      drafted,
      at: at + lateMs,
      ...(spans && { spans }),
      ...(ids && local.ids && { ids }),
      ...(logprobs && { logprobs }),
    })
  }

  #done({ type, id, seq, ...summary }: ServerFrameOf<'done'>): void {
    const isCutShort = summary.finish === 'aborted' || summary.finish === 'timeout'
    if (this.#replay && !isCutShort) throw notReproduced(this.#tokens)
    const { local, options } = this.#order.plan
    const result: Result = {
      text: this.#text,
      model: this.#model ?? '',
      ...(local.ids && { ids: this.#ids }),
      ...(typeof options.logprobs === 'number' && { logprobs: this.#logprobs }),
      ...summary,
    }
    this.#end({ ...result, ids: this.#ids })
    this.generation.finish(result)
  }

  #error({ code, message, retryable, retryAfterMs }: ServerFrameOf<'error'>): void {
    const error = new ClientError(code, message, { retryable, retryAfterMs, details: { id: this.id } })
    const { turn } = this.#order
    // Who answers is another replica, or the same one after a restart or after too long.
    const isForgotten = this.#phase === 'resuming'
    this.#token = null
    if (isForgotten) turn?.abandon()
    if (this.#isAborted) this.#fail(this.#abortReason)
    else if (!isForgotten) this.#again(error)
    else if (turn) this.#fail(sessionLost(error))
    else this.#restart(error, 0)
  }

  /** By the server, as at the end of its time to drain. */
  #cutShort(): void {
    this.#order.turn?.abandon()
    this.#again(new ClientError('ERR_DRAINING', 'The server ended the response too early.', { retryable: true }))
  }

  /** The server is done with it, and it is not at its end. */
  #again(error: ClientError): void {
    this.#token = null
    // A part of this turn may be in its session.
    if (this.#lastSeq > 0) this.#order.turn?.abandon()
    const { retries, backoff } = this.#host
    const isTooLate = (error.retryAfterMs ?? 0) > backoff.maxDelayMs
    if (!error.retryable || isTooLate || ++this.#attempts > retries) this.#fail(error)
    else this.#restart(error, Math.max(error.retryAfterMs ?? 0, backoffMs(this.#attempts, backoff)))
  }

  /** From its beginning, if what was delivered can be made again. */
  #restart(error: ClientError, delayMs: number): void {
    const { turn, plan } = this.#order
    const hasDelivered = this.#tokens > 0 || this.#text !== ''
    const isTypical = plan.options.speculation?.accept?.rule === 'typical'
    if (hasDelivered && (turn || isTypical)) {
      this.#fail(turn ? sessionLost(error) : notReproduced(this.#tokens, error))
      return
    }
    const ids = this.#ids.length > 0 ? this.#ids : null
    this.#replay = hasDelivered ? new Replay({ text: this.#text, tokens: this.#tokens, ids }) : null
    this.#lastSeq = 0
    this.#leave()
    this.#phase = 'waiting'
    try {
      if (hasDelivered) plan.local.onRestart?.({ tokens: this.#tokens, error })
    } catch (thrown) {
      this.#fail(thrown)
      return
    }
    const enqueue = () => this.#host.enqueue(this, 'returning')
    if (delayMs > 0) this.#timer = setTimeout(enqueue, delayMs)
    else enqueue()
  }

  #abort(reason: unknown): void {
    if (this.#isAborted || this.#phase === 'ended') return
    this.#isAborted = true
    this.#abortReason = reason
    if (this.#order.plan.local.onAbort === 'throw') this.generation.fail(reason)
    if (this.#phase === 'entering' || (this.#phase === 'waiting' && this.#token === null)) this.#fail(reason)
    else this.#link?.send({ type: 'cancel', id: this.id })
  }

  /** Lets the server go on as far as there is room here; in few frames, not in one per chunk. */
  #extendCredit(): void {
    if (!this.#link || this.#phase !== 'running') return
    const target = this.#lastSeq + Math.max(0, this.#window - this.generation.buffered)
    const chunks = target - this.#allowedSeq
    if (chunks < Math.ceil(this.#window / 2)) return
    this.#allowedSeq = target
    this.#link.send({ type: 'credit', id: this.id, chunks })
  }

  #fail(error: unknown): void {
    const failure = error instanceof Differs ? notReproduced(this.#tokens, error) : error
    this.#end(null)
    this.generation.fail(failure)
  }

  #end(result: Result | null): void {
    if (this.#phase === 'ended') return
    clearTimeout(this.#timer)
    if (this.#phase === 'waiting') this.#host.dequeue(this)
    this.#phase = 'ended'
    this.#unlisten()
    try {
      this.#order.turn?.turnEnded(this, result)
    } finally {
      this.#leave()
      this.#host.ended(this)
    }
  }

  #leave(): void {
    const link = this.#link
    this.#link = null
    link?.release(this.id)
  }

  #listen(signal: AbortSignal): void {
    const onAbort = () => this.#abort(signal.reason ?? abortError('The generation was aborted'))
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    this.#unlisten = () => signal.removeEventListener('abort', onAbort)
  }
}

function sessionLost(cause?: unknown): ClientError {
  return new ClientError(
    'ERR_SESSION_LOST',
    'The server that held the session is gone, and with it the turn that ran. Send the turn again: it goes on from the turns before.',
    { retryable: true, cause },
  )
}

function notReproduced(tokens: number, cause?: unknown): ClientError {
  return new ClientError(
    'ERR_NOT_REPRODUCED',
    `The connection broke after ${tokens} tokens, and the request made again gave others: another model answers, or accept is "typical". Send the request again.`,
    { retryable: true, details: { tokens }, cause },
  )
}
