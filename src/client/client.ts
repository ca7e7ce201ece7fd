// A client of one server: its connections, and who gets a place on them.
import { backoffMs } from './backoff.js'
import { abortError, ClientError } from './errors.js'
import { ArrivingGeneration, type Generation } from './generation.js'
import { Link, type LinkListener } from './link.js'
import {
  type ClientPlan,
  type ClientState,
  type ConnectOptions,
  clientPlanOf,
  type GenerateOptions,
  type ModelInfo,
  type Prompt,
  planOf,
  writtenInput,
} from './options.js'
import { type Order, Request } from './request.js'
import { type ClientSessionOptions, Session } from './session.js'
import { type Platform, standardPlatform } from './socket.js'
import { socketUrl } from './url.js'

/** The longest that a server may ask a client to stay away. */
const LONGEST_ABSENCE_MS = 60_000

/** How often it is looked whether a congested socket has room again: sockets do not tell. */
const CONGESTION_MS = 10

/**
 * A client of a gorgon server, over one connection that it makes, keeps and makes again.
 *
 *     await using client = connect('ws://127.0.0.1:8080')
 *     const { text } = await client.generate('export function add(')
 *
 * Any number of generations may run at once; those beyond what the server allows one connection wait here. Generations and sessions outlive
 * connections, see there.
 */
export class Client implements AsyncDisposable {
  readonly #platform: Platform
  readonly #plan: ClientPlan
  readonly #url: string
  readonly #listener: LinkListener = {
    welcomed: () => this.#welcomed(),
    draining: (link) => this.#draining(link),
    freed: (link) => this.#freed(link),
    lost: (link, error, isQuiet) => this.#lost(link, error, isQuiet),
  }
  #state: ClientState = 'connecting'
  #models: readonly ModelInfo[] = []
  /** Takes new requests, or will. */
  #current: Link | null = null
  /** Draining: what runs there ends there. */
  readonly #retired = new Set<Link>()
  /** Requests that were at a server before. */
  readonly #returning: Request[] = []
  readonly #waiting: Request[] = []
  readonly #live = new Set<Request>()
  readonly #sessions = new Set<Session>()
  #idCount = 0
  #hasBeenOpen = false
  /** In a row, without anything useful between. */
  #failures = 0
  #dialTimer: ReturnType<typeof setTimeout> | undefined
  #congestionTimer: ReturnType<typeof setTimeout> | undefined
  #readiness: { resolve: () => void; reject: (error: unknown) => void }[] = []
  #closing: Promise<void> | null = null
  /** Wakes `close` when something has ended. */
  #ended: (() => void) | null = null
  #unlisten: () => void = () => undefined

  /** Made by `connect()`. */
  constructor(platform: Platform, url: string | URL, options: ConnectOptions, base?: string) {
    this.#plan = clientPlanOf(options)
    this.#platform = options.WebSocket ? standardPlatform(options.WebSocket) : platform
    const { affinity = randomName(), signal } = options
    this.#url = socketUrl(url, affinity === false ? null : affinity, base)
    if (signal?.aborted) this.#terminate(signal.reason)
    else {
      this.#dial()
      if (signal) this.#listen(signal)
    }
  }

  get state(): ClientState {
    return this.#state
  }

  /** Of the server, as it said last; empty before the first connection. */
  get models(): readonly ModelInfo[] {
    return this.#models
  }

  /**
   * Resolves when there is a connection.
   *
   * @throws {ClientError} what attempts were given up with: ERR_UNAUTHORIZED, ERR_DISCONNECTED …; ERR_CLOSED.
   */
  ready(): Promise<void> {
    if (this.#current?.isOpen) return Promise.resolve()
    if (this.#closing || this.#state === 'closed') return Promise.reject(clientClosed())
    const opened = new Promise<void>((resolve, reject) => {
      this.#readiness.push({ resolve, reject })
    })
    this.#dialIfResting()
    return opened
  }

  /**
   * Starts a generation; text, token ids, or the messages of a chat. What goes wrong, it rejects with: the server's errors by their codes,
   * ERR_DISCONNECTED and ERR_NOT_REPRODUCED (see `Generation`), ERR_TOO_LARGE, ERR_CLOSED after close.
   */
  generate(input: Prompt, options: GenerateOptions = {}): Generation {
    const id = this.#newId('r')
    try {
      const order = { id, input: writtenInput(input), plan: planOf(options), turn: null }
      return this.#run(order).generation
    } catch (error) {
      return ArrivingGeneration.failed(id, error)
    }
  }

  /** A conversation whose cache stays at the server. It is opened with its first turn. */
  session(options: ClientSessionOptions = {}): Session {
    const session = new Session(options, {
      newId: () => this.#newId('s'),
      run: (order) => this.#run(order),
      closed: (closed) => this.#sessions.delete(closed),
    })
    this.#sessions.add(session)
    return session
  }

  /**
   * Takes nothing new, waits for all that runs, closes sessions and connections. What runs is finished without waiting for its readers, who
   * find the rest in their buffers.
   *
   * @param options.drainMs after which what still runs is aborted. Default: never.
   */
  close(options: { readonly drainMs?: number } = {}): Promise<void> {
    this.#closing ??= this.#shut(options.drainMs)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #run(order: Order): Request {
    if (this.#closing || this.#state === 'closed') throw clientClosed()
    const { signal } = order.plan.local
    if (signal) this.#platform.expectListeners?.(signal)
    const request = new Request(order, {
      retries: this.#plan.retries,
      backoff: this.#plan.reconnect,
      enqueue: (queued, turn) => this.#enqueue(queued, turn),
      dequeue: (queued) => this.#dequeue(queued),
      ended: (ended) => {
        this.#live.delete(ended)
        this.#ended?.()
      },
    })
    if (request.generation.hasEnded) return request
    this.#live.add(request)
    this.#enqueue(request, 'new')
    return request
  }

  #enqueue(request: Request, turn: 'returning' | 'new'): void {
    const queue = turn === 'returning' ? this.#returning : this.#waiting
    queue.push(request)
    this.#pump()
  }

  #dequeue(request: Request): void {
    for (const queue of [this.#returning, this.#waiting]) {
      const index = queue.indexOf(request)
      if (index >= 0) queue.splice(index, 1)
    }
  }

  /** Starts what waits, as long as there are places. */
  #pump(): void {
    while (this.#hasWaiting && this.#state !== 'closed') {
      const link = this.#current
      if (!link) this.#dialIfResting()
      if (!link?.hasPlace) return
      if (link.isCongested) {
        clearTimeout(this.#congestionTimer)
        this.#congestionTimer = setTimeout(() => this.#pump(), CONGESTION_MS)
        return
      }
      const request = this.#returning.shift() ?? this.#waiting.shift()
      request?.start(link)
    }
  }

  get #hasWaiting(): boolean {
    return this.#returning.length + this.#waiting.length > 0
  }

  #dialIfResting(): void {
    if (!this.#current && this.#dialTimer === undefined) this.#dial()
  }

  #dial(): void {
    this.#dialTimer = undefined
    this.#change(this.#hasBeenOpen ? 'reconnecting' : 'connecting')
    this.#current = new Link(this.#platform, { ...this.#plan, url: this.#url }, this.#listener)
  }

  #dialLater(error: ClientError): void {
    if (this.#state === 'open') this.#change('reconnecting')
    this.#failures++
    const askedMs = Math.min(error.retryAfterMs ?? 0, LONGEST_ABSENCE_MS)
    const delayMs = Math.max(askedMs, backoffMs(this.#failures, this.#plan.reconnect))
    this.#dialTimer = setTimeout(() => this.#dial(), delayMs)
  }

  #welcomed(): void {
    this.#hasBeenOpen = true
    this.#models = this.#current?.welcome?.models ?? []
    this.#change('open')
    for (const { resolve } of this.#readiness.splice(0)) resolve()
    this.#pump()
  }

  #draining(link: Link): void {
    this.#retired.add(link)
    if (link === this.#current) {
      this.#current = null
      this.#change('draining')
      // A server that drains whoever comes is not asked again at once.
      if (link.wasUseful) this.#failures = 0
      else this.#dialLater(new ClientError('ERR_DRAINING', 'The server stops.', { retryable: true }))
    }
    if (link.isIdle) link.finish()
    this.#pump()
  }

  #freed(link: Link): void {
    if (this.#retired.has(link) && link.isIdle) link.finish()
    this.#pump()
  }

  #lost(link: Link, error: ClientError, isQuiet: boolean): void {
    const wasRetired = this.#retired.delete(link)
    if (link === this.#current) this.#current = null
    this.#ended?.()
    if (this.#current || this.#dialTimer !== undefined || this.#state === 'closed') return
    const hasWork = this.#hasWaiting || this.#readiness.length > 0
    if (this.#closing && !hasWork) return
    if (link.wasUseful) this.#failures = 0
    const { retries, firstRetries } = this.#plan.reconnect
    const allowed = this.#hasBeenOpen ? retries : firstRetries
    const isHopeless = (!error.retryable && !wasRetired) || this.#failures >= allowed
    if (isQuiet && !wasRetired && !hasWork) this.#change('idle')
    else if (isHopeless) this.#giveUp(error)
    else this.#dialLater(error)
  }

  #giveUp(error: ClientError): void {
    this.#failures = 0
    this.#change('idle', error)
    for (const { reject } of this.#readiness.splice(0)) reject(error)
    for (const request of [...this.#returning.splice(0), ...this.#waiting.splice(0)]) request.dismiss(error)
  }

  #change(state: ClientState, error?: ClientError): void {
    if (this.#state === state && !error) return
    this.#state = state
    const { onState } = this.#plan
    // What it throws is its own affair, and must not stop what is going on here.
    if (onState) queueMicrotask(() => onState({ state, ...(error && { error }) }))
  }

  async #shut(drainMs: number | undefined): Promise<void> {
    for (const request of this.#live) request.hurry()
    const timer = drainMs === undefined ? undefined : setTimeout(() => this.#abortAll(), drainMs)
    await this.#until(() => this.#live.size === 0)
    clearTimeout(timer)
    await Promise.all([...this.#sessions].map((session) => session.close()))
    clearTimeout(this.#dialTimer)
    for (const link of this.#links()) link.finish()
    await this.#until(() => this.#links().length === 0)
    this.#terminate(clientClosed())
  }

  #links(): Link[] {
    return this.#current ? [this.#current, ...this.#retired] : [...this.#retired]
  }

  #abortAll(): void {
    const reason = abortError('The client was closed')
    for (const request of this.#live) request.generation.abort(reason)
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      await new Promise<void>((ended) => {
        this.#ended = ended
      })
    }
  }

  #terminate(reason: unknown): void {
    if (this.#state === 'closed') return
    this.#unlisten()
    clearTimeout(this.#dialTimer)
    clearTimeout(this.#congestionTimer)
    this.#change('closed')
    for (const { reject } of this.#readiness.splice(0)) reject(reason)
    for (const request of this.#live) {
      // So that the server is told, and does not keep it for someone who comes back.
      request.generation.abort(reason)
      request.dismiss(reason)
    }
    for (const link of this.#links()) link.leave()
  }

  #listen(signal: AbortSignal): void {
    this.#platform.expectListeners?.(signal)
    const onAbort = () => this.#terminate(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    this.#unlisten = () => signal.removeEventListener('abort', onAbort)
  }

  #newId(kind: 'r' | 's'): string {
    return `${kind}${++this.#idCount}`
  }
}

function clientClosed(): ClientError {
  return new ClientError('ERR_CLOSED', 'The client is closed. Make a new one with connect().')
}

/** `crypto.randomUUID` is not there for pages that came over plain http. */
function randomName(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(8))
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
