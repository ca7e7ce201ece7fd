// /v1/responses over a WebSocket: one peer, socket-free. As OpenAI's and the Open Responses' specifications have it.
import { GorgonError, isGorgonError } from '../../errors.js'
import { parse } from '../../schema.js'
import type { Principal } from '../auth.js'
import { CloseCode } from '../close-codes.js'
import { errorBody, isFault, openaiCodeOf, problemOf } from '../errors.js'
import { errorFields, type Logger } from '../log.js'
import type { ServerLimits } from '../options.js'
import { Outbox, type SlowReaders } from '../outbox.js'
import type { PeerConnection, PeerSocket } from '../peer.js'
import { EventLane, type RefusalEvent } from './event-lane.js'
import { untilBegun } from './patience.js'
import type { KeptResponse } from './response-store.js'
import type { ResponseRequest, Responses } from './responses.js'
import { type ResponseBody, ResponseCreate } from './responses-input.js'

/** After this a client connects anew: what the connection alone knows is gone then. */
const LIFETIME_MS = 60 * 60_000

/** Streams with a name, beside the one without. */
const MOST_STREAMS = 32

/** Requests that may wait for those before them. */
const MOST_WAITING = 64

export interface ResponsesHost {
  readonly responses: Responses
  readonly limits: Pick<ServerLimits, 'messageBytes' | 'perConnection' | 'stallMs'>
  readonly readers: SlowReaders
  readonly logger?: Logger | undefined
  /** Default: an hour. */
  readonly lifetimeMs?: number
}

/** Requests of one stream are answered one after another; streams go on side by side. */
interface Stream {
  readonly lane: EventLane
  isBusy: boolean
  /** What a next request may go on from, stored or not. */
  latest: KeptResponse | null
}

type Create = ResponseBody & { readonly generate?: boolean | null | undefined }

/** A request whose turn has not come: also one that will only be told why it is refused, lest its stream's answers change places. */
interface Waiting {
  readonly stream: Stream
  readonly request: Create | GorgonError
  readonly characters: number
}

export class ResponsesConnection implements PeerConnection {
  readonly #id: string
  readonly #host: ResponsesHost
  readonly #socket: PeerSocket
  readonly #principal: Principal
  readonly #outbox: Outbox
  readonly #streams = new Map<string | null, Stream>()
  readonly #gone = new AbortController()
  readonly #lifetime: NodeJS.Timeout
  #waiting: Waiting[] = []
  #running = 0
  /** Why nothing new is taken. */
  #closing: GorgonError | null = null
  #isClosed = false

  constructor(host: ResponsesHost, socket: PeerSocket, about: { readonly id: string; readonly principal: Principal }) {
    this.#id = about.id
    this.#host = host
    this.#socket = socket
    this.#principal = about.principal
    this.#outbox = new Outbox(socket, {
      stallMs: host.limits.stallMs,
      readers: host.readers,
      close: (code, reason) => this.#close(code, reason),
    })
    this.#lifetime = setTimeout(() => this.#expire(), host.lifetimeMs ?? LIFETIME_MS)
  }

  get isBusy(): boolean {
    return this.#running > 0 || this.#waiting.length > 0
  }

  received(message: string): void {
    if (this.#isClosed) return
    let value: unknown
    try {
      value = JSON.parse(message)
    } catch {
      this.#refuse(new GorgonError('ERR_BODY', 'The message is not JSON. Send one JSON object, as text.'))
      return
    }
    try {
      const stream = this.#streamOf(value)
      this.#take({ stream, request: this.#closing ?? requestIn(value), characters: message.length })
    } catch (error) {
      this.#refuse(error)
    }
  }

  left(): void {
    this.#end()
  }

  drain(): void {
    this.#closing ??= new GorgonError(
      'ERR_DRAINING',
      'The server is about to stop and takes nothing new. Connect again, and send the request there.',
    )
    this.#refuseWaiting(this.#closing)
    this.#closeIfDone()
  }

  /** The stream a message names, if it names any. */
  #streamOf(value: unknown): Stream {
    const name = (value as { stream_id?: unknown } | null)?.stream_id ?? null
    if (name !== null && (typeof name !== 'string' || !/^[\w.-]{1,256}$/.test(name))) {
      throw new GorgonError(
        'ERR_OPTION',
        'stream_id is not the name of a stream: use 1 to 256 letters, digits, underscores, hyphens and periods.',
        { path: 'stream_id', openaiCode: 'invalid_stream_id' },
      )
    }
    const known = this.#streams.get(name)
    if (known) return known
    if (name !== null && this.#streams.size - (this.#streams.has(null) ? 1 : 0) >= MOST_STREAMS) {
      throw new GorgonError(
        'ERR_OPTION',
        `This connection has ${MOST_STREAMS} streams, and may have no more. Use one of them, or another connection.`,
        { path: 'stream_id', openaiCode: 'websocket_stream_limit_reached' },
      )
    }
    const stream: Stream = { lane: new EventLane(this.#outbox, this.#host.readers, name), isBusy: false, latest: null }
    this.#streams.set(name, stream)
    return stream
  }

  #take(waiting: Waiting): void {
    this.#waiting.push(waiting)
    this.#startWaiting()
    const characters = this.#waiting.reduce((sum, one) => sum + one.characters, 0)
    if (this.#waiting.length > MOST_WAITING || characters > 2 * this.#host.limits.messageBytes) {
      this.#close(CloseCode.inboundOverflow, `More than ${MOST_WAITING} requests, or two of the largest, wait`)
    }
  }

  /** Starts what may start, in order: one of each stream, and not too many at once. */
  #startWaiting(): void {
    const { perConnection } = this.#host.limits
    this.#waiting = this.#waiting.filter((waiting) => {
      if (waiting.stream.isBusy || this.#running >= perConnection) return true
      void this.#run(waiting)
      return false
    })
  }

  /** Never rejects. */
  async #run({ stream, request }: Waiting): Promise<void> {
    stream.isBusy = true
    this.#running++
    try {
      if (request instanceof GorgonError) throw request
      await this.#answer(stream, request)
    } catch (error) {
      if (!(request instanceof GorgonError)) this.#evict(stream, request)
      await stream.lane.push(this.#refusalOf(error))
    }
    await stream.lane.flushed()
    stream.isBusy = false
    this.#running--
    if (this.#isClosed) return
    this.#startWaiting()
    this.#closeIfDone()
  }

  /** Throws what makes it no response; a response that fails says so itself. */
  async #answer(stream: Stream, { generate, ...body }: Create): Promise<void> {
    const { responses } = this.#host
    const { lane } = stream
    const request = this.#requestOf(stream, body)
    if (generate === false) {
      const response = responses.prepare(request)
      const begun = { ...response, status: 'in_progress', completed_at: null } as const
      await lane.push({ type: 'response.created', response: begun })
      await lane.push({ type: 'response.in_progress', response: begun })
      await lane.push({ type: 'response.completed', response })
      return
    }
    const running = await responses.begin(request)
    await untilBegun(running.begun)
    for await (const event of running.events()) {
      // Its end says it; a client would take both for the ends of two requests.
      if (event.type !== 'error') await lane.push(event)
    }
    if ((await running.ended).problem) this.#evict(stream, body)
  }

  #requestOf(stream: Stream, body: ResponseBody): ResponseRequest {
    return {
      principal: this.#principal,
      endpoint: 'responses-socket',
      body,
      signal: this.#gone.signal,
      local: {
        find: (id) => [...this.#streams.values()].find(({ latest }) => latest?.response.id === id)?.latest ?? null,
        keep: (kept) => this.#remember(stream, kept),
      },
    }
  }

  #remember(stream: Stream, kept: KeptResponse | null): void {
    const { latest } = stream
    stream.latest = kept
    const isKnown = [...this.#streams.values()].some((other) => other.latest === latest)
    if (latest && !isKnown) this.#host.responses.forget(latest)
  }

  /** What a failed request wanted to go on from is not tried again: its stream begins anew. A fork leaves the stream it comes from alone. */
  #evict(stream: Stream, { previous_response_id }: ResponseBody): void {
    if (stream.latest?.response.id === previous_response_id) this.#remember(stream, null)
  }

  #refusalOf(error: unknown): RefusalEvent {
    const problem = problemOf(error, this.#id)
    if (isFault(problem)) {
      this.#host.logger?.error({ connection: this.#id, ...errorFields(error, false) }, 'response failed')
    }
    const { status, message, param = null } = problem
    const known = isGorgonError(error) ? error.details['openaiCode'] : undefined
    const code = typeof known === 'string' ? known : openaiCodeOf(problem)
    return { type: 'error', status, code, message, param, error: { ...errorBody(problem).error, code } }
  }

  /** Of a message that belongs to no stream. */
  #refuse(error: unknown): void {
    this.#outbox.send(JSON.stringify({ ...this.#refusalOf(error), sequence_number: 0 }))
  }

  #refuseWaiting(why: GorgonError): void {
    this.#waiting = this.#waiting.map((waiting) => ({ ...waiting, request: why }))
    this.#startWaiting()
  }

  #expire(): void {
    this.#closing ??= new GorgonError(
      'ERR_CONNECTIONS',
      'Responses websocket connection limit reached (60 minutes). Create a new websocket connection to continue.',
      { status: 400, openaiCode: 'websocket_connection_limit_reached' },
    )
    this.#refuseWaiting(this.#closing)
    this.#closeIfDone()
  }

  #closeIfDone(): void {
    if (!this.#closing || this.isBusy || this.#isClosed) return
    if (this.#closing.code === 'ERR_CONNECTIONS') this.#refuse(this.#closing)
    this.#close(CloseCode.goingAway, this.#closing.message)
  }

  #close(code: CloseCode, reason: string): void {
    if (this.#isClosed) return
    this.#end()
    this.#socket.close(code, reason)
  }

  #end(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#lifetime)
    this.#waiting = []
    this.#gone.abort(new DOMException('The client is gone', 'AbortError'))
    this.#outbox.close()
    for (const stream of this.#streams.values()) {
      stream.lane.close()
      this.#remember(stream, null)
    }
  }
}

/** What a message asks for, or why that cannot be. */
function requestIn(value: unknown): Create | GorgonError {
  try {
    const { type, stream_id, background, ...body } = parse(ResponseCreate, value)
    return body
  } catch (error) {
    if (error instanceof GorgonError) return error
    throw error
  }
}
