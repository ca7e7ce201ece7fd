// One peer of the native protocol, socket-free: its frames in, what they ask for, its responses and sessions.
import { GorgonError } from '../errors.js'
import { parse } from '../schema.js'
import type { Principal } from './auth.js'
import { CloseCode } from './close-codes.js'
import type { Detached, Resumable } from './detached.js'
import { errorFrame, isFault, problemOf } from './errors.js'
import type { Intake, ServedSession } from './intake.js'
import { errorFields, type Logger } from './log.js'
import type { ServerLimits } from './options.js'
import { Outbox, type SlowReaders } from './outbox.js'
import type { PeerConnection, PeerSocket } from './peer.js'
import { ClientFrame, type ClientFrameOf, type ServerFrame } from './protocol.js'
import { HIGH_WATER_MARK, StreamedResponse } from './response.js'

/** Frames of one connection that are worked on before others have their turn. */
const FRAMES_PER_TURN = 32

/** Frames that may wait for their turn. */
const MOST_WAITING = 1024

export interface ConnectionHost {
  readonly intake: Pick<Intake, 'start' | 'openSession' | 'models'>
  readonly limits: Pick<
    ServerLimits,
    'messageBytes' | 'perConnection' | 'helloMs' | 'heartbeatMs' | 'idleMs' | 'resumeMs' | 'stallMs'
  >
  readonly detached: Detached
  readonly readers: SlowReaders
  readonly logger?: Logger | undefined
  /** Its name and version. */
  readonly server: string
}

export interface ConnectionOptions {
  readonly id: string
  /** As the handshake has it; null when `hello` is to bring a key. */
  readonly principal: Principal | null
  /** @throws {GorgonError} ERR_UNAUTHORIZED. */
  readonly identify: (token: string | null) => Promise<Principal>
}

/** A response, and the connection that has it. */
class HeldResponse implements Resumable {
  readonly kind = 'response'
  connection: Connection | null = null

  constructor(
    readonly response: StreamedResponse,
    readonly principal: Principal,
  ) {}

  get isSpent(): boolean {
    return this.response.isSent
  }

  get keptBytes(): number {
    return this.response.keptBytes
  }

  release(): void {
    this.connection?.supersede()
  }

  giveUp(): void {
    this.response.drop()
  }
}

/** A session, and the connection that has it. */
class HeldSession implements Resumable {
  readonly kind = 'session'
  readonly isSpent = false
  readonly keptBytes = 0
  connection: Connection | null = null
  isClosing = false

  constructor(
    readonly served: ServedSession,
    readonly principal: Principal,
  ) {}

  release(): void {
    this.connection?.supersede()
  }

  giveUp(): void {
    void this.served.close()
  }
}

/** What an error frame is about. */
type Subject = Parameters<typeof errorFrame>[1]

export class Connection implements PeerConnection {
  readonly id: string
  readonly #host: ConnectionHost
  readonly #socket: PeerSocket
  readonly #identify: ConnectionOptions['identify']
  readonly #outbox: Outbox
  readonly #responses = new Map<string, HeldResponse>()
  readonly #sessions = new Map<string, HeldSession>()
  readonly #helloTimer: NodeJS.Timeout
  #principal: Principal | null
  #state: 'new' | 'greeting' | 'open' | 'closed' = 'new'
  #flow: 'auto' | 'credit' = 'auto'
  #isFinishing = false
  #drainMs: number | null = null
  /** Frames whose turn has not come. */
  #waiting: string[] = []
  #waitingChars = 0
  #turnsLeft = FRAMES_PER_TURN

  constructor(host: ConnectionHost, socket: PeerSocket, { id, principal, identify }: ConnectionOptions) {
    this.id = id
    this.#host = host
    this.#socket = socket
    this.#identify = identify
    this.#principal = principal
    const { stallMs, helloMs } = host.limits
    this.#outbox = new Outbox(socket, {
      stallMs,
      readers: host.readers,
      close: (code, reason) => this.#close(code, reason),
    })
    this.#helloTimer = setTimeout(() => {
      this.#close(CloseCode.timeout, `No hello within ${helloMs} ms`)
    }, helloMs)
  }

  get isBusy(): boolean {
    return this.#responses.size > 0
  }

  /** Bytes that wait to be sent. */
  get waitingBytes(): number {
    return this.#outbox.waitingBytes
  }

  received(message: string): void {
    if (this.#state === 'closed') return
    const mustWait = this.#state === 'greeting' || this.#waiting.length > 0 || this.#turnsLeft === 0
    if (!mustWait) {
      this.#take(message)
      return
    }
    this.#waiting.push(message)
    this.#waitingChars += message.length
    if (this.#waiting.length > MOST_WAITING || this.#waitingChars > 2 * this.#host.limits.messageBytes) {
      this.#close(CloseCode.inboundOverflow, `More than ${MOST_WAITING} frames, or two of the largest, wait to be read`)
    }
  }

  left(): void {
    this.#end()
  }

  drain(deadlineMs: number): void {
    if (this.#state === 'closed') return
    this.#drainMs = deadlineMs
    if (this.#state === 'open') this.#send({ type: 'draining', deadlineMs })
    this.#closeIfDone()
  }

  /** Another connection of the same client has taken over. */
  supersede(): void {
    this.#close(CloseCode.policy, 'Resumed on another connection')
  }

  /** Its last frame was sent, though perhaps not received. */
  ended(held: HeldResponse): void {
    this.#responses.delete(held.response.id)
    held.connection = null
    this.#host.detached.keep(held)
    this.#closeIfDone()
  }

  #take(message: string): void {
    if (this.#turnsLeft === FRAMES_PER_TURN) setImmediate(() => this.#nextTurn())
    this.#turnsLeft--
    this.#read(message)
  }

  #nextTurn(): void {
    this.#turnsLeft = FRAMES_PER_TURN
    this.#takeWaiting()
  }

  #takeWaiting(): void {
    while (this.#state === 'open' && this.#turnsLeft > 0) {
      const message = this.#waiting.shift()
      if (message === undefined) return
      this.#waitingChars -= message.length
      this.#take(message)
    }
  }

  #read(message: string): void {
    let value: unknown
    try {
      value = JSON.parse(message)
    } catch {
      this.#close(CloseCode.badFrame, 'The message is not JSON')
      return
    }
    try {
      this.#handle(parse(ClientFrame, value))
    } catch (error) {
      this.#refuseFrame(value, error)
    }
  }

  /** A request that can be named is answered; anything else costs the connection, since nobody could tell what it was. */
  #refuseFrame(value: unknown, error: unknown): void {
    const { type, id, session } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
    const isName = (name: unknown): name is string => typeof name === 'string' && name.length > 0 && name.length <= 128
    const isOpen = this.#state === 'open'
    if (isOpen && (type === 'generate' || type === 'resume') && isName(id)) {
      if (this.#isFree(id)) this.#refuse({ id }, error)
    } else if (isOpen && typeof type === 'string' && type.startsWith('session.') && isName(session)) {
      this.#refuse({ session }, error)
    } else {
      this.#close(CloseCode.badFrame, problemOf(error, this.id).message)
    }
  }

  #handle(frame: ClientFrame): void {
    if (frame.type === 'hello') this.#hello(frame)
    else if (this.#state === 'new') this.#close(CloseCode.badFrame, 'The first frame must be hello')
    else this.#serve(frame)
  }

  #serve(frame: Exclude<ClientFrame, { type: 'hello' }>): void {
    switch (frame.type) {
      case 'generate':
        this.#generate(frame)
        break
      case 'resume':
        this.#resume(frame)
        break
      // Of a response that has ended, or never was, they change nothing: it may have ended on their way.
      case 'cancel':
        this.#responses.get(frame.id)?.response.cancel()
        break
      case 'credit':
        this.#responses.get(frame.id)?.response.credit(frame.chunks)
        break
      case 'session.open':
        this.#openSession(frame)
        break
      case 'session.resume':
        this.#resumeSession(frame)
        break
      case 'session.close':
        this.#closeSession(frame)
        break
      case 'ping':
        this.#send({ type: 'pong', t: frame.t })
        break
      case 'finish':
        this.#isFinishing = true
        this.#closeIfDone()
    }
  }

  #hello({ token, flow, client }: ClientFrameOf<'hello'>): void {
    if (this.#state !== 'new') {
      this.#close(CloseCode.badFrame, 'There was a hello already')
      return
    }
    clearTimeout(this.#helloTimer)
    this.#flow = flow
    this.#host.logger?.debug({ connection: this.id, client }, 'hello')
    if (this.#principal) {
      this.#welcome()
      return
    }
    this.#state = 'greeting'
    this.#identify(token ?? null).then(
      (principal) => {
        if (this.#state === 'closed') return
        this.#principal = principal
        this.#welcome()
        this.#takeWaiting()
      },
      (error: unknown) => {
        const problem = problemOf(error, this.id)
        this.#logFault(error)
        this.#close(problem.status === 401 ? CloseCode.unauthorized : CloseCode.internal, problem.message)
      },
    )
  }

  #welcome(): void {
    const { intake, limits, server } = this.#host
    const { messageBytes, perConnection, idleMs, resumeMs, heartbeatMs } = limits
    this.#state = 'open'
    this.#send({
      type: 'welcome',
      connection: this.id,
      server,
      models: intake.models().flatMap(({ id, engine }) => {
        return engine ? [{ id, context: engine.info.context, chat: engine.info.hasChatTemplate }] : []
      }),
      limits: { messageBytes, perConnection, idleMs, resumeMs },
      heartbeatMs,
    })
    if (this.#drainMs !== null) this.drain(this.#drainMs)
  }

  #generate(frame: ClientFrameOf<'generate'>): void {
    const { id, model, input, options, credit, minIntervalMs, provenance, ids } = frame
    if (!this.#isFree(id)) return
    try {
      this.#assertRoom(this.#responses, 'responses that have not ended')
      const { detached, intake, limits, readers } = this.#host
      const session = frame.session === undefined ? undefined : this.#sessionNamed(frame.session).served
      const isResumable = frame.resumable && detached.isOpen
      const response = new StreamedResponse({
        asked: { id, minIntervalMs, provenance, ids },
        isResumable,
        allowedSeq: this.#allowed(credit),
        creditMs: limits.idleMs,
        readers,
        onEnd: () => held.connection?.ended(held),
      })
      const held = new HeldResponse(response, this.#principal!)
      const work = intake.start({
        principal: this.#principal!,
        endpoint: 'stream',
        model,
        input,
        session,
        options: {
          ...options,
          onAbort: 'return',
          highWaterMark: HIGH_WATER_MARK,
          onQueue: (progress) => response.queued(progress),
          onPrefill: (progress) => response.prefilled(progress),
        },
      })
      response.run(work)
      this.#accept(held, isResumable ? detached.register(held) : undefined)
    } catch (error) {
      this.#refuse({ id }, error)
    }
  }

  #resume({ id, token, afterSeq, credit }: ClientFrameOf<'resume'>): void {
    if (!this.#isFree(id)) return
    try {
      this.#assertRoom(this.#responses, 'responses that have not ended')
      const { detached } = this.#host
      const held = detached.find(token, this.#principal!)
      if (!(held instanceof HeldResponse) || held.response.id !== id || !detached.take(held)) {
        throw new GorgonError(
          'ERR_RESPONSE_NOT_FOUND',
          `There is no response "${id}" to resume: it was not resumable, its time is over, or it is another server's. Send the request again, with the seed it had.`,
          { path: 'token' },
        )
      }
      if (!held.response.rewind(afterSeq, this.#allowed(afterSeq + credit))) {
        detached.giveUp(held)
        throw new GorgonError(
          'ERR_RESPONSE_NOT_FOUND',
          `What follows frame ${afterSeq} of response "${id}" is not kept. Send the request again, with the seed it had.`,
          { path: 'afterSeq', value: afterSeq },
        )
      }
      this.#accept(held, token)
    } catch (error) {
      this.#refuse({ id }, error)
    }
  }

  #accept(held: HeldResponse, token: string | undefined): void {
    const { response } = held
    const { id, model, seed } = response
    held.connection = this
    this.#responses.set(id, held)
    this.#send({ type: 'accepted', id, model, seed, ...(token !== undefined && { token }) })
    response.connect(this.#outbox)
  }

  #openSession({ session: name, model, options, resumable }: ClientFrameOf<'session.open'>): void {
    try {
      this.#assertFree(name)
      const { intake, detached } = this.#host
      const served = intake.openSession(this.#principal!, model, options)
      const held = new HeldSession(served, this.#principal!)
      this.#acceptSession(name, held, resumable && detached.isOpen ? detached.register(held) : undefined)
    } catch (error) {
      this.#refuse({ session: name }, error)
    }
  }

  #resumeSession({ session: name, token }: ClientFrameOf<'session.resume'>): void {
    try {
      this.#assertFree(name)
      const { detached } = this.#host
      const held = detached.find(token, this.#principal!)
      const isElsewhere = held instanceof HeldSession && held.connection !== this && !held.isClosing
      if (!isElsewhere || !detached.take(held)) {
        throw new GorgonError(
          'ERR_SESSION_NOT_FOUND',
          "There is no such session to resume: it was not resumable, its time is over, or it is another server's. Open a new one.",
          { path: 'token' },
        )
      }
      this.#acceptSession(name, held, token)
    } catch (error) {
      this.#refuse({ session: name }, error)
    }
  }

  #acceptSession(name: string, held: HeldSession, token: string | undefined): void {
    held.connection = this
    this.#sessions.set(name, held)
    const { model } = held.served
    this.#send({ type: 'session.opened', session: name, model, ...(token !== undefined && { token }) })
  }

  #closeSession({ session: name }: ClientFrameOf<'session.close'>): void {
    try {
      const held = this.#sessionNamed(name)
      held.isClosing = true
      this.#host.detached.forget(held)
      held.served.close().then(
        () => {
          this.#sessions.delete(name)
          this.#send({ type: 'session.closed', session: name })
        },
        (error: unknown) => {
          this.#sessions.delete(name)
          this.#refuse({ session: name }, error)
        },
      )
    } catch (error) {
      this.#refuse({ session: name }, error)
    }
  }

  #sessionNamed(name: string): HeldSession {
    const held = this.#sessions.get(name)
    if (held && !held.isClosing) return held
    throw new GorgonError(
      'ERR_SESSION_NOT_FOUND',
      `This connection has no session "${name}". Open it with session.open, or take it over with session.resume.`,
      { path: 'session', value: name },
    )
  }

  #allowed(seq: number): number {
    return this.#flow === 'credit' ? seq : Number.POSITIVE_INFINITY
  }

  /** Frames of two responses with one id could not be told apart: the second costs the connection. */
  #isFree(id: string): boolean {
    if (!this.#responses.has(id)) return true
    this.#close(CloseCode.idInUse, `Response "${id}" has not ended`)
    return false
  }

  #assertFree(name: string): void {
    if (this.#sessions.has(name)) {
      throw new GorgonError('ERR_OPTION', `A session "${name}" is open on this connection. Choose another name.`, {
        path: 'session',
        value: name,
      })
    }
    this.#assertRoom(this.#sessions, 'sessions that are not closed')
  }

  #assertRoom({ size }: ReadonlyMap<string, unknown>, what: string): void {
    if (this.#isFinishing) {
      throw new GorgonError('ERR_OPTION', 'The client said finish on this connection. Send requests on another.', {
        path: 'type',
      })
    }
    const { perConnection } = this.#host.limits
    if (size < perConnection) return
    throw new GorgonError(
      'ERR_RATE_LIMIT',
      `The connection has ${size} ${what}, the most there may be (limits.perConnection). Let one end, or open another connection.`,
      { perConnection },
    )
  }

  #refuse(subject: Subject, error: unknown): void {
    this.#logFault(error)
    this.#send(errorFrame(problemOf(error, this.id), subject))
  }

  #logFault(error: unknown): void {
    if (!isFault(problemOf(error, this.id))) return
    const about = { connection: this.id, principal: this.#principal?.id, ...errorFields(error, false) }
    this.#host.logger?.error(about, 'frame failed')
  }

  #send(frame: ServerFrame): void {
    if (this.#state !== 'closed') this.#outbox.send(JSON.stringify(frame))
  }

  #closeIfDone(): void {
    if (this.#responses.size > 0 || this.#state === 'greeting') return
    if (this.#isFinishing) this.#close(CloseCode.normal, '')
    else if (this.#drainMs !== null) this.#close(CloseCode.goingAway, 'The server stops')
  }

  #close(code: CloseCode, reason: string): void {
    if (this.#state === 'closed') return
    this.#end()
    this.#socket.close(code, reason)
  }

  /** Lets go of everything: what is resumable waits, all else ends within a step. */
  #end(): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    clearTimeout(this.#helloTimer)
    this.#outbox.close()
    this.#waiting = []
    const { detached } = this.#host
    for (const held of this.#responses.values()) {
      held.connection = null
      held.response.disconnect()
      detached.keep(held)
    }
    this.#responses.clear()
    for (const held of this.#sessions.values()) {
      held.connection = null
      if (!held.isClosing) detached.keep(held)
    }
    this.#sessions.clear()
  }
}
