// A server of the native protocol without a model: what it answers depends on the request alone, and the test decides when it does what.
import { expect } from 'vitest'
import type { ClientFrameInput } from '../../src/server/protocol.js'
import { FakeNetwork, type FakeSocket } from './fake-socket.js'

export const PER_CONNECTION = 2

type Frame<Type extends ClientFrameInput['type']> = Extract<ClientFrameInput, { type: Type }>

/** The one continuation of a text. */
export function answerTo(text: string): string {
  let hash = 7
  for (const character of text) hash = (hash * 31 + character.charCodeAt(0)) % 1_000_003
  return ` ${hash.toString(36)}${(hash * hash).toString(36)}.`
}

interface Held {
  socket: FakeSocket | null
  readonly token: string | null
}

interface Response extends Held {
  readonly id: string
  readonly text: string
  readonly session: Session | null
  readonly input: string
  /** Ends of deltas made so far, in `text`; a delta that was sent is never cut otherwise. */
  readonly cuts: number[]
  sentSeq: number
  allowedSeq: number
  isEnded: boolean
}

interface Session extends Held {
  name: string
  context: string
}

/** Everything happens when it is called for: frames wait in sockets until `work`. */
export class ToyServer {
  readonly network = new FakeNetwork()
  readonly #live = new Set<FakeSocket>()
  #responses: Response[] = []
  #sessions: Session[] = []
  #count = 0
  /** Requests that will be told to come again. */
  refusals = 0

  /** The socket that takes new requests, if there is one. */
  get current(): FakeSocket | null {
    const { latest } = this.network
    return latest && this.#live.has(latest) ? latest : null
  }

  get unopened(): FakeSocket | null {
    const { latest } = this.network
    return latest?.onopen && latest.closedWith === null && !this.#live.has(latest) ? latest : null
  }

  open(): void {
    const socket = this.unopened
    if (!socket) return
    this.#live.add(socket)
    socket.welcome({ perConnection: PER_CONNECTION })
  }

  /** Reads all that was sent. */
  work(): void {
    for (const socket of this.#live) {
      for (let frame = socket.sent.shift(); frame; frame = socket.sent.shift()) this.#take(socket, frame)
    }
  }

  /** Each response says so many characters more, one delta for each, as far as it may. */
  step(characters: number): void {
    for (const response of [...this.#responses]) {
      if (response.isEnded) continue
      const made = response.cuts.at(-1) ?? 0
      if (made < response.text.length) response.cuts.push(Math.min(response.text.length, made + characters))
      this.#send(response)
    }
  }

  /** Says all that is left to say. */
  finish(): void {
    this.work()
    for (let i = 0; i < 1000 && this.#responses.some(({ socket }) => socket); i++) {
      this.step(3)
      this.work()
    }
  }

  /** The connection is gone, for the client at least. */
  break(code: number): void {
    const socket = this.current ?? this.unopened
    if (!socket) return
    this.#leave(socket)
    socket.end(code)
  }

  drain(): void {
    this.current?.say({ type: 'draining', deadlineMs: 1000 })
  }

  /** As after a restart. */
  forget(): void {
    this.#responses = this.#responses.filter(({ socket }) => socket)
    this.#sessions = this.#sessions.filter(({ socket }) => socket)
  }

  /** Gives up a response that runs, as at the end of its time to drain. */
  cutShort(): void {
    const response = this.#responses.find(({ socket, isEnded }) => socket && !isEnded)
    if (response) this.#end(response, 'aborted')
  }

  #leave(socket: FakeSocket): void {
    this.#live.delete(socket)
    for (const held of [...this.#responses, ...this.#sessions]) if (held.socket === socket) held.socket = null
    this.#responses = this.#responses.filter(({ socket: at, token }) => at !== null || token !== null)
  }

  #take(socket: FakeSocket, frame: ClientFrameInput): void {
    if (frame.type === 'generate') this.#generate(socket, frame)
    else if (frame.type === 'resume') this.#resume(socket, frame)
    else if (frame.type === 'cancel') this.#cancel(socket, frame)
    else if (frame.type === 'credit') this.#credit(socket, frame)
    else if (frame.type === 'session.open') this.#openSession(socket, frame)
    else if (frame.type === 'session.resume') this.#resumeSession(socket, frame)
    else if (frame.type === 'session.close') this.#closeSession(socket, frame)
    else if (frame.type === 'finish') this.#finish(socket)
    else if (frame.type === 'ping') socket.say({ type: 'pong', t: frame.t })
    else expect.unreachable(frame.type)
  }

  #cancel(socket: FakeSocket, { id }: Frame<'cancel'>): void {
    const response = this.#responseOf(socket, id)
    if (!response) return
    // What was made is said, without credit, before the end.
    response.allowedSeq = Number.POSITIVE_INFINITY
    this.#send(response)
    if (!response.isEnded) this.#end(response, 'aborted')
  }

  #credit(socket: FakeSocket, { id, chunks }: Frame<'credit'>): void {
    const response = this.#responseOf(socket, id)
    if (!response) return
    response.allowedSeq += chunks
    this.#send(response)
  }

  #openSession(socket: FakeSocket, { session: name }: Frame<'session.open'>): void {
    const token = `session${++this.#count}`
    this.#sessions.push({ name, token, socket, context: '' })
    socket.say({ type: 'session.opened', session: name, model: 'toy', token })
  }

  #resumeSession(socket: FakeSocket, { session: name, token }: Frame<'session.resume'>): void {
    const session = this.#sessions.find((held) => held.token === token && !held.socket)
    if (session) {
      Object.assign(session, { socket, name })
      socket.say({ type: 'session.opened', session: name, model: 'toy', token })
    } else this.#refuseSession(socket, name)
  }

  #closeSession(socket: FakeSocket, { session: name }: Frame<'session.close'>): void {
    const index = this.#sessions.findIndex((open) => open.name === name && open.socket === socket)
    if (index >= 0) {
      this.#sessions.splice(index, 1)
      socket.say({ type: 'session.closed', session: name })
    } else this.#refuseSession(socket, name)
  }

  #finish(socket: FakeSocket): void {
    expect(this.#responses.filter(({ socket: at }) => at === socket)).toEqual([])
    this.#leave(socket)
    socket.end(1000)
  }

  #generate(socket: FakeSocket, { id, input, session: name, credit = 16, resumable }: Frame<'generate'>): void {
    this.#assertRoom(socket, id)
    if (this.refusals > 0) {
      this.refusals--
      socket.say({ type: 'error', id, code: 'ERR_QUEUE_FULL', message: 'Full.', retryable: true, retryAfterMs: 100 })
      return
    }
    const session = this.#sessions.find((open) => open.name === name && open.socket === socket) ?? null
    expect(session === null).toBe(name === undefined)
    // Two turns at once would be a mistake of the client.
    expect(this.#responses.filter((other) => session && other.session === session && !other.isEnded)).toEqual([])
    const token = resumable ? `response${++this.#count}` : null
    const request = input as string
    const text = answerTo((session?.context ?? '') + request)
    const made = { cuts: [], sentSeq: 0, allowedSeq: credit, isEnded: false }
    this.#responses.push({ id, text, input: request, session, token, socket, ...made })
    socket.say({ type: 'accepted', id, model: 'toy', seed: 7, ...(token !== null && { token }) })
  }

  #resume(socket: FakeSocket, { id, token, afterSeq, credit = 16 }: Frame<'resume'>): void {
    this.#assertRoom(socket, id)
    const response = this.#responses.find((held) => held.token === token && !held.socket)
    if (response) {
      expect(response.id).toBe(id)
      expect(afterSeq).toBeLessThanOrEqual(response.sentSeq)
      Object.assign(response, { socket, sentSeq: afterSeq, allowedSeq: afterSeq + credit })
      socket.say({ type: 'accepted', id, model: 'toy', seed: 7, token })
      this.#send(response)
    } else {
      socket.say({ type: 'error', id, code: 'ERR_RESPONSE_NOT_FOUND', message: 'Not here.', retryable: false })
    }
  }

  #send(response: Response): void {
    const { socket, id, text, cuts } = response
    while (socket && response.sentSeq < Math.min(cuts.length, response.allowedSeq)) {
      const from = cuts[response.sentSeq - 1] ?? 0
      socket.deltas(id, [text.slice(from, cuts[response.sentSeq])], ++response.sentSeq)
    }
    if (response.sentSeq === cuts.length && (response.isEnded || cuts.at(-1) === text.length))
      this.#end(response, 'length')
  }

  #end(response: Response, finish: 'length' | 'aborted'): void {
    const { session, text, cuts, socket } = response
    if (!response.isEnded && session) session.context += response.input + text.slice(0, cuts.at(-1) ?? 0)
    response.isEnded = true
    if (!socket) return
    this.#responses.splice(this.#responses.indexOf(response), 1)
    socket.done(response.id, response.sentSeq + 1, { finish })
  }

  #responseOf(socket: FakeSocket, id: string): Response | undefined {
    return this.#responses.find((response) => response.socket === socket && response.id === id)
  }

  #assertRoom(socket: FakeSocket, id: string): void {
    const here = this.#responses.filter(({ socket: at }) => at === socket)
    expect(here.map((response) => response.id)).not.toContain(id)
    expect(here.length).toBeLessThan(PER_CONNECTION)
  }

  #refuseSession(socket: FakeSocket, session: string): void {
    const why = { code: 'ERR_SESSION_NOT_FOUND', message: 'Not here.', retryable: false }
    socket.say({ type: 'error', session, ...why })
  }
}
