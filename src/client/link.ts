// One connection: its handshake, its signs of life, and whose frames travel over it.
import { SUBPROTOCOL } from '../server/close-codes.js'
import type { ClientFrameInput, ServerFrame, ServerFrameOf } from '../server/protocol.js'
import { errorOfEnd, isQuiet } from './closing.js'
import { ClientError } from './errors.js'
import type { Platform, Socket, SocketEnd } from './socket.js'

/** Above this much unsent, new requests wait: a prompt is large, and a cancel behind it would wait too. */
const SEND_HIGH_BYTES = 1024 * 1024

/** A connection that carried nothing is a success only when it lasted. */
const STEADY_MS = 5000

/** How long the server may take to close a connection that is finished. */
const FINISH_MS = 5000

const STRANGE_SERVER =
  'What the server said is not of the protocol. Check the URL, and use the same version of gorgon on both sides.'

export type Welcome = ServerFrameOf<'welcome'>

/** Whose id or session frames carry. */
export interface Correspondent {
  received(frame: ServerFrame): void
  /** The connection is gone. */
  lost(error: ClientError): void
}

export interface LinkListener {
  welcomed(link: Link): void
  /** The server takes no new requests over it. */
  draining(link: Link): void
  /** A response has ended: there is a place for another. */
  freed(link: Link): void
  /** @param isQuiet when it ended as connections should. */
  lost(link: Link, error: ClientError, isQuiet: boolean): void
}

export interface LinkOptions {
  readonly url: string
  readonly key: string | undefined
  readonly client: string
  readonly openTimeoutMs: number
  readonly heartbeatMs: number | undefined
}

export class Link {
  readonly #listener: LinkListener
  readonly #options: LinkOptions
  readonly #responses = new Map<string, Correspondent>()
  readonly #sessions = new Map<string, Correspondent>()
  readonly #platform: Platform
  #socket: Socket | null = null
  #state: 'opening' | 'open' | 'draining' | 'finishing' | 'gone' = 'opening'
  #welcome: Welcome | null = null
  #welcomedAt = 0
  #hasCarried = false
  #openTimer: ReturnType<typeof setTimeout> | undefined
  #heartbeat: ReturnType<typeof setInterval> | undefined
  #finishTimer: ReturnType<typeof setTimeout> | undefined
  /** Since the heartbeat before the last. */
  #silentBeats = 0

  /** Connects at once; the listener hears nothing before the constructor returns. */
  constructor(platform: Platform, options: LinkOptions, listener: LinkListener) {
    this.#platform = platform
    this.#options = options
    this.#listener = listener
    this.#openTimer = setTimeout(() => {
      const message = `${new URL(options.url).host} did not welcome this client within ${options.openTimeoutMs} ms. Check that a gorgon server is there.`
      this.#drop(new ClientError('ERR_DISCONNECTED', message, { retryable: true }))
    }, options.openTimeoutMs)
    this.#dial()
  }

  get welcome(): Welcome | null {
    return this.#welcome
  }

  /** Whether requests can be sent over it. */
  get isOpen(): boolean {
    return this.#state === 'open'
  }

  get isIdle(): boolean {
    return this.#responses.size === 0
  }

  get hasPlace(): boolean {
    return this.isOpen && this.#responses.size < (this.#welcome?.limits.perConnection ?? 0)
  }

  /** Whether what was sent is still on its way out. */
  get isCongested(): boolean {
    return (this.#socket?.bufferedBytes ?? 0) > SEND_HIGH_BYTES
  }

  /** Whether connecting was worth it: requests were carried, or it lasted. */
  get wasUseful(): boolean {
    return this.#hasCarried || (this.#welcome !== null && performance.now() - this.#welcomedAt >= STEADY_MS)
  }

  hold(id: string, response: Correspondent): void {
    this.#responses.set(id, response)
  }

  release(id: string): void {
    if (this.#responses.delete(id)) this.#listener.freed(this)
  }

  holdSession(name: string, session: Correspondent): void {
    this.#sessions.set(name, session)
  }

  releaseSession(name: string): void {
    this.#sessions.delete(name)
  }

  send(frame: ClientFrameInput): void {
    if (this.#state !== 'gone') this.#socket?.send(JSON.stringify(frame))
  }

  /** @throws {ClientError} ERR_TOO_LARGE: sent, it would cost the connection, and all that runs over it. */
  sendWithinLimit(frame: ClientFrameInput): void {
    const message = JSON.stringify(frame)
    const limit = this.#welcome?.limits.messageBytes ?? 0
    // A UTF-16 unit takes 3 bytes at most.
    const bytes = message.length * 3 <= limit ? 0 : new TextEncoder().encode(message).length
    if (bytes > limit) {
      throw new ClientError(
        'ERR_TOO_LARGE',
        `The request is ${bytes} bytes, and the server takes at most ${limit}. Send a shorter prompt, or raise its limits.messageBytes.`,
        { details: { bytes, limit } },
      )
    }
    if (this.#state !== 'gone') this.#socket?.send(message)
  }

  /** Nothing more will be asked: the server closes when what runs has ended. */
  finish(): void {
    if (this.#state === 'opening') this.leave()
    if (this.#state === 'finishing' || this.#state === 'gone') return
    this.#state = 'finishing'
    this.send({ type: 'finish' })
    if (this.isIdle) this.#awaitClose()
  }

  /** Closes it now, and waits for nothing. */
  leave(): void {
    if (this.#state === 'gone') return
    this.#socket?.leave()
    this.#lost(new ClientError('ERR_CLOSED', 'The client was closed.'), false)
  }

  #dial(): void {
    const { url, key } = this.#options
    try {
      this.#socket = this.#platform.dial(
        { url, protocol: SUBPROTOCOL, key },
        {
          opened: () => this.#hello(),
          received: (message) => this.#received(message),
          ended: (end) => this.#ended(end),
        },
      )
    } catch (cause) {
      const message = `A socket to ${url} cannot be made: ${cause instanceof Error ? cause.message : String(cause)}`
      queueMicrotask(() => this.#drop(new ClientError('ERR_DISCONNECTED', message, { cause })))
    }
  }

  #hello(): void {
    const { key, client } = this.#options
    const token = key !== undefined && !this.#platform.dialsWithKey ? { token: key } : {}
    this.send({ type: 'hello', client, flow: 'credit', ...token })
  }

  /** Throws nothing: a frame that lacks what its type promises costs the connection, not the process. */
  #received(message: unknown): void {
    this.#silentBeats = 0
    try {
      const frame = parsed(message)
      if (!frame || !this.#isExpected(frame)) this.#drop(new ClientError('ERR_PROTOCOL', STRANGE_SERVER))
      else if (frame.type === 'welcome') this.#welcomed(frame)
      else if (frame.type === 'draining') this.#draining()
      else this.#route(frame)
    } catch (cause) {
      this.#drop(new ClientError('ERR_PROTOCOL', STRANGE_SERVER, { cause }))
    }
  }

  /** Once the server has welcomed the client as servers do, its frames are believed; types this client does not know are left alone. */
  #isExpected(frame: ServerFrame): boolean {
    if (this.#state !== 'opening') return frame.type !== 'welcome'
    return frame.type === 'error' || (frame.type === 'welcome' && isWhole(frame))
  }

  #welcomed(welcome: Welcome): void {
    clearTimeout(this.#openTimer)
    this.#welcome = welcome
    this.#welcomedAt = performance.now()
    this.#state = 'open'
    const heartbeatMs = this.#options.heartbeatMs ?? welcome.heartbeatMs
    if (heartbeatMs > 0) this.#heartbeat = setInterval(() => this.#beat(), heartbeatMs)
    this.#listener.welcomed(this)
  }

  #draining(): void {
    if (this.#state !== 'open') return
    this.#state = 'draining'
    this.#listener.draining(this)
  }

  #route(frame: ServerFrame): void {
    // An answer about a response that nobody waits for any more was on its way when that ended.
    const { id, session } = frame as { id?: string; session?: string }
    if (id !== undefined) {
      this.#hasCarried ||= frame.type !== 'error'
      this.#responses.get(id)?.received(frame)
    } else if (session !== undefined) {
      this.#hasCarried ||= frame.type !== 'error'
      this.#sessions.get(session)?.received(frame)
    }
    if (this.#state === 'finishing' && this.isIdle) this.#awaitClose()
  }

  /** A browser's page sees no pings of the server, so it asks by itself whether anybody is there. */
  #beat(): void {
    if (++this.#silentBeats >= 3) {
      this.#drop(
        new ClientError('ERR_DISCONNECTED', 'The server gives no sign of life. The connection is given up.', {
          retryable: true,
        }),
      )
    } else if (this.#silentBeats === 2) this.send({ type: 'ping', t: Date.now() })
  }

  #awaitClose(): void {
    this.#finishTimer ??= setTimeout(() => this.leave(), FINISH_MS)
  }

  #ended(end: SocketEnd): void {
    const wasOpen = this.#welcome !== null
    this.#lost(errorOfEnd(end, wasOpen, new URL(this.#options.url).host), wasOpen && isQuiet(end))
  }

  #drop(error: ClientError): void {
    if (this.#state === 'gone') return
    this.#socket?.drop()
    this.#lost(error, false)
  }

  #lost(error: ClientError, isQuiet: boolean): void {
    if (this.#state === 'gone') return
    this.#state = 'gone'
    clearTimeout(this.#openTimer)
    clearTimeout(this.#finishTimer)
    clearInterval(this.#heartbeat)
    for (const correspondent of [...this.#sessions.values(), ...this.#responses.values()]) correspondent.lost(error)
    this.#listener.lost(this, error, isQuiet)
  }
}

function parsed(message: unknown): ServerFrame | null {
  if (typeof message !== 'string') return null
  try {
    const frame: unknown = JSON.parse(message)
    return typeof frame === 'object' && frame !== null && 'type' in frame ? (frame as ServerFrame) : null
  } catch {
    return null
  }
}

function isWhole({ models, limits, heartbeatMs }: Welcome): boolean {
  const numbers = [limits?.perConnection, limits?.messageBytes, heartbeatMs]
  return Array.isArray(models) && numbers.every((value) => typeof value === 'number')
}
