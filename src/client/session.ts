// A conversation whose cache stays on the server: turn after turn, over as many connections as it takes.
import type { ServerFrame } from '../server/protocol.js'
import { abortError, ClientError } from './errors.js'
import { ArrivingGeneration, type Generation, type Result } from './generation.js'
import type { Correspondent, Link } from './link.js'
import {
  type GenerateFrame,
  type GenerateOptions,
  type Message,
  planOf,
  type SessionInput,
  type SessionOptions,
  writtenInput,
} from './options.js'
import type { Entrance, Order, Request, TurnHost } from './request.js'

/** What all turns of a session share. */
export interface ClientSessionOptions extends SessionOptions {
  /** Default: the server's first. */
  readonly model?: string
  /** The server keeps it for a while when the connection breaks. Default true. */
  readonly resumable?: boolean
}

export interface SessionHost {
  newId(): string
  /** Queues a turn. */
  run(order: Order): Request
  closed(session: Session): void
}

/** What the turns so far said, enough to begin a session like this one elsewhere. */
type Transcript =
  | { readonly kind: 'chat'; readonly messages: readonly Message[] }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'ids'; readonly ids: readonly number[] }
  /** Text and token ids in one context: what the server made of the text is not known here. */
  | { readonly kind: 'mixed' }

/**
 * Several turns over one cache at the server, as the library's session.
 *
 * When a connection breaks, session and turn go on over the next one, if the same server answers in time. If the server has lost it, the turn
 * that ran rejects with ERR_SESSION_LOST (`retryable`), and the next `send` opens another session that begins with the messages (or the
 * text, or the ids) so far. What it answers is as good, but need not be the same: the cache of several turns, compressed turn by turn, is
 * not that of one long prompt.
 */
export class Session implements AsyncDisposable, Correspondent {
  readonly #host: SessionHost
  readonly #options: ClientSessionOptions
  #name: string
  #link: Link | null = null
  #status: 'none' | 'opening' | 'resuming' | 'open' = 'none'
  #token: string | null = null
  /** What a server may still keep, and need not. */
  #left: { readonly name: string; readonly token: string } | null = null
  #transcript: Transcript | null = null
  /** The server's session holds nothing yet of the transcript. */
  #isEmpty = true
  /** The last turn, while it has not been settled. */
  #latest: Request | null = null
  /** The turn that a server may be at; it outlives its settling, until the server has confirmed the end. */
  #running: Request | null = null
  /** Turns that want in. */
  #entering: Request | null = null
  #isClosed = false
  #closing: Promise<void> | null = null
  #onClosed: (() => void) | null = null

  /** Made by `client.session()`. */
  constructor(options: ClientSessionOptions, host: SessionHost) {
    this.#options = options
    this.#host = host
    this.#name = host.newId()
  }

  /**
   * The next turn. A message or messages continue a chat by the model's template; text and token ids are appended as they are.
   *
   * The generation rejects with ERR_BUSY while another turn runs, ERR_CLOSED after close, ERR_SESSION_LOST when its server is gone, and as
   * `client.generate` does.
   */
  send(input: SessionInput, options: GenerateOptions = {}): Generation {
    const id = this.#host.newId()
    try {
      if (this.#isClosed) {
        throw new ClientError('ERR_CLOSED', 'The session is closed. Open a new one with client.session().')
      }
      if (this.#latest && !this.#latest.generation.hasEnded) {
        throw new ClientError(
          'ERR_BUSY',
          'The session is still at its last turn. Await its result, or abort it, first.',
        )
      }
      const written = writtenInput(input)
      const plan = planOf(options)
      // The ids of a turn of ids are part of what the next one continues.
      const frame = typeof written !== 'string' && !isChat(written) ? { ...plan.frame, ids: true } : plan.frame
      const request = this.#host.run({
        id,
        input: written,
        plan: { ...plan, frame },
        turn: this.#turn(written),
      })
      if (!request.generation.hasEnded) this.#latest = request
      return request.generation
    } catch (error) {
      return ArrivingGeneration.failed(id, error)
    }
  }

  /** Of a chat, the answers among them; empty otherwise. */
  get messages(): readonly Message[] {
    return this.#transcript?.kind === 'chat' ? this.#transcript.messages : []
  }

  /** Aborts a running turn and frees the cache; calling it again does nothing. */
  close(): Promise<void> {
    this.#closing ??= this.#shut()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  received(frame: ServerFrame): void {
    if (frame.type === 'session.opened') {
      const how = this.#status === 'resuming' ? 'same' : 'anew'
      this.#isEmpty ||= how === 'anew'
      this.#status = 'open'
      this.#token = frame.token ?? null
      this.#admit(how)
    } else if (frame.type === 'error' && this.#status === 'resuming') {
      const link = this.#link!
      this.#forget()
      this.#open(link)
    } else if (frame.type === 'error' || frame.type === 'session.closed') {
      const waiting = this.#entering
      this.#entering = null
      this.#forget()
      if (frame.type === 'error') waiting?.refused(new ClientError(frame.code, frame.message, frame))
      this.#onClosed?.()
    }
  }

  lost(): void {
    this.#link = null
    this.#status = 'none'
    this.#entering = null
    this.#onClosed?.()
  }

  #turn(input: GenerateFrame['input']): TurnHost {
    const session = this
    return {
      get name() {
        return session.#name
      },
      enter: (link, turn) => this.#enter(link, turn),
      input: () => this.#inputAfter(input),
      abandon: () => this.#abandon(),
      turnEnded: (turn, result) => this.#turnEnded(turn, input, result),
    }
  }

  #enter(link: Link, turn: Request): void {
    this.#entering = turn
    // An aborted turn that the server is still at: the session is free when that has ended.
    if (this.#running && this.#running !== turn) return
    this.#running = turn
    if (this.#link !== link) this.#move(link)
    else if (this.#status === 'open') this.#admit('same')
  }

  #move(link: Link): void {
    // One that drains takes no more turns.
    if (this.#link) this.#abandon()
    if (this.#token === null) this.#open(link)
    else {
      this.#join(link, 'resuming')
      link.send({ type: 'session.resume', session: this.#name, token: this.#token })
    }
  }

  #open(link: Link): void {
    const { model, resumable = true, ...options } = this.#options
    if (this.#left) {
      // Closed in passing: it would be kept in vain, with its cache. Nobody here hears the answers.
      const { name: session, token } = this.#left
      link.send({ type: 'session.resume', session, token })
      link.send({ type: 'session.close', session })
      this.#left = null
    }
    this.#name = this.#host.newId()
    this.#join(link, 'opening')
    const named = model === undefined ? {} : { model }
    link.send({ type: 'session.open', session: this.#name, ...named, options, resumable })
  }

  #join(link: Link, status: 'opening' | 'resuming'): void {
    this.#link = link
    this.#status = status
    link.holdSession(this.#name, this)
  }

  #admit(how: Entrance): void {
    const turn = this.#entering
    this.#entering = null
    turn?.entered(how)
  }

  /** With what was said before, where the server's session does not hold it. */
  #inputAfter(input: GenerateFrame['input']): GenerateFrame['input'] {
    if (!this.#isEmpty || this.#transcript === null) return input
    const before = this.#transcript
    if (before.kind === 'chat' && isChat(input)) return [...before.messages, ...input]
    if (before.kind === 'text' && typeof input === 'string') return before.text + input
    if (before.kind === 'ids' && typeof input !== 'string' && !isChat(input)) return [...before.ids, ...input]
    throw new ClientError(
      'ERR_SESSION_LOST',
      'The server that held the session is gone, and a context of text, token ids and messages together cannot be begun anew. Open another session.',
    )
  }

  #turnEnded(turn: Request, input: GenerateFrame['input'], result: Result | null): void {
    // A turn that was cut short before its prompt was read has left nothing.
    if (result && result.usage.prompt > 0) {
      this.#transcript = continued(this.#transcript, input, result)
      this.#isEmpty = false
    }
    if (this.#latest === turn) this.#latest = null
    if (this.#entering === turn) this.#entering = null
    if (this.#running !== turn) return
    this.#running = null
    const next = this.#entering
    if (next && this.#link) this.#enter(this.#link, next)
  }

  /** The server's copy is given up. */
  #abandon(): void {
    if (this.#link) this.#link.send({ type: 'session.close', session: this.#name })
    else if (this.#token !== null) this.#left = { name: this.#name, token: this.#token }
    this.#forget()
  }

  #forget(): void {
    this.#link?.releaseSession(this.#name)
    this.#link = null
    this.#status = 'none'
    this.#token = null
  }

  async #shut(): Promise<void> {
    this.#isClosed = true
    this.#latest?.generation.abort(abortError('The session was closed'))
    if (this.#link) {
      const left = new Promise<void>((resolve) => {
        this.#onClosed = resolve
      })
      this.#link.send({ type: 'session.close', session: this.#name })
      await left
    }
    this.#host.closed(this)
  }
}

function isChat(input: GenerateFrame['input']): input is { role: string; content: string }[] {
  return typeof input !== 'string' && typeof input[0] === 'object'
}

function continued(before: Transcript | null, input: GenerateFrame['input'], result: Result): Transcript {
  if (isChat(input) && (before === null || before.kind === 'chat')) {
    const answer = { role: 'assistant', content: result.text }
    return { kind: 'chat', messages: [...(before?.messages ?? []), ...input, answer] }
  }
  if (typeof input === 'string' && (before === null || before.kind === 'text')) {
    return { kind: 'text', text: `${before?.text ?? ''}${input}${result.text}` }
  }
  if (typeof input !== 'string' && !isChat(input) && (before === null || before.kind === 'ids')) {
    return { kind: 'ids', ids: [...(before?.ids ?? []), ...input, ...(result.ids ?? [])] }
  }
  return { kind: 'mixed' }
}
