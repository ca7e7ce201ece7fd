// A client of the native protocol that keeps every frame, held against the schemas as it comes in.
import { once } from 'node:events'
import { expect } from 'vitest'
import { type ClientOptions, WebSocket } from 'ws'
import {
  type ClientFrameInput,
  type ServerFrame,
  ServerFrame as ServerFrameSchema,
  SUBPROTOCOL,
} from '../../src/server/index.js'

type FrameOf<Type extends ServerFrame['type']> = Extract<ServerFrame, { type: Type }>

/** Resolves when a condition holds; it is asked again whenever something has come in. */
interface Waiter {
  readonly isMet: () => boolean
  readonly resolve: () => void
}

export class NativePeer {
  readonly ws: WebSocket
  readonly frames: ServerFrame[] = []
  closed: { readonly code: number; readonly reason: string } | null = null
  readonly #waiters = new Set<Waiter>()

  private constructor(ws: WebSocket) {
    this.ws = ws
    ws.on('message', (data) => {
      this.frames.push(ServerFrameSchema.parse(JSON.parse(String(data))))
      this.#wake()
    })
    ws.on('close', (code, reason) => {
      this.closed = { code, reason: reason.toString() }
      this.#wake()
    })
    ws.on('error', () => undefined)
  }

  /** Connected, nothing said. */
  static async connect(
    port: number,
    { path = '/v1/stream', protocols = [SUBPROTOCOL], ...options }: PeerOptions = {},
  ): Promise<NativePeer> {
    const peer = new NativePeer(new WebSocket(`ws://127.0.0.1:${port}${path}`, [...protocols], options))
    await once(peer.ws, 'open')
    return peer
  }

  /** Connected and welcomed. */
  static async open(
    port: number,
    { hello = {}, ...options }: PeerOptions & { readonly hello?: object } = {},
  ): Promise<NativePeer> {
    const peer = await NativePeer.connect(port, options)
    peer.say({ type: 'hello', ...hello })
    await peer.first('welcome')
    return peer
  }

  say(...frames: ClientFrameInput[]): void {
    for (const frame of frames) this.ws.send(JSON.stringify(frame))
  }

  /** Anything at all. */
  write(message: string | Buffer): void {
    this.ws.send(message)
  }

  /** Resolves when it holds; rejects when the connection closes before. */
  async until(isMet: () => boolean): Promise<void> {
    if (!isMet() && !this.closed) {
      await new Promise<void>((resolve) => this.#waiters.add({ isMet: () => isMet() || this.closed !== null, resolve }))
    }
    if (!isMet())
      throw new Error(`closed with ${JSON.stringify(this.closed)} after ${JSON.stringify(this.frames.at(-1))}`)
  }

  /** The first frame of a type, of a response where one is named. */
  async first<Type extends ServerFrame['type']>(type: Type, id?: string): Promise<FrameOf<Type>> {
    await this.until(() => this.of(type, id).length > 0)
    return this.of(type, id)[0]!
  }

  of<Type extends ServerFrame['type']>(type: Type, id?: string): FrameOf<Type>[] {
    return this.frames.filter(
      (frame): frame is FrameOf<Type> =>
        frame.type === type && (id === undefined || ('id' in frame && frame.id === id)),
    )
  }

  /** The frame that ended a response. */
  async end(id: string): Promise<FrameOf<'done'> | FrameOf<'error'>> {
    const found = () => [...this.of('done', id), ...this.of('error', id)]
    await this.until(() => found().length > 0)
    return found()[0]!
  }

  /** Of a response's deltas so far. */
  text(id: string): string {
    return this.of('delta', id)
      .map(({ text }) => text)
      .join('')
  }

  async closing(): Promise<{ readonly code: number; readonly reason: string }> {
    await this.until(() => this.closed !== null)
    return this.closed!
  }

  /** Without a closing handshake, as when a cable is cut. */
  cut(): void {
    this.ws.terminate()
  }

  #wake(): void {
    for (const waiter of this.#waiters) {
      if (!waiter.isMet()) continue
      this.#waiters.delete(waiter)
      waiter.resolve()
    }
  }
}

export interface PeerOptions extends ClientOptions {
  readonly path?: string
  readonly protocols?: readonly string[]
}

/** A handshake that is refused: its status, headers and body. */
export function refusedHandshake(
  port: number,
  { path = '/v1/stream', protocols = [SUBPROTOCOL], ...options }: PeerOptions,
) {
  return new Promise<{
    readonly status: number
    readonly headers: NodeJS.Dict<string | string[]>
    readonly body: string
  }>((resolve, reject) => {
    const ws = new WebSocket(`ws://127.0.0.1:${port}${path}`, [...protocols], options)
    ws.on('open', () => {
      ws.terminate()
      reject(new Error('the handshake was accepted'))
    })
    ws.on('error', reject)
    ws.on('unexpected-response', (_, response) => {
      let body = ''
      response.on('data', (part) => {
        body += part
      })
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body }))
    })
  })
}

/**
 * Every response of these frames is well formed: accepted first, seq without gaps, one end at most, and nothing after it.
 *
 * @param afterSeq of a response that was resumed: the last frame that the client had.
 */
export function expectWellFormed(
  frames: readonly ServerFrame[],
  afterSeq: number | ((id: string) => number) = 0,
): void {
  const seqs = new Map<string, { seq: number; isOver: boolean }>()
  const known = new Set<string>()
  for (const frame of frames) {
    if (!('id' in frame) || frame.id === undefined) continue
    const { id } = frame
    if (frame.type === 'accepted') {
      expect(seqs.has(id), `${id} accepted before its end`).toBe(false)
      // An id that is used again begins anew.
      const isFirst = !known.has(id)
      known.add(id)
      const first = typeof afterSeq === 'number' ? afterSeq : afterSeq(id)
      seqs.set(id, { seq: isFirst ? first : 0, isOver: false })
      continue
    }
    const state = seqs.get(id)
    if (!state) {
      // A refused request has no more than its error.
      expect(frame.type).toBe('error')
      continue
    }
    expect(state.isOver, `${frame.type} after the end of ${id}`).toBe(false)
    if ('seq' in frame) expect(frame.seq).toBe(++state.seq)
    state.isOver = frame.type === 'done' || frame.type === 'error'
    if (state.isOver) seqs.delete(id)
  }
}
