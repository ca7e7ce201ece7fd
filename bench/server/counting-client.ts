// A client of the native protocol that counts how often each of its requests ended.
import { once } from 'node:events'
import { type RawData, WebSocket } from 'ws'
import type { BadFrame } from './bad-frames.js'

type Frame = Readonly<Record<string, unknown>> & { readonly type: string; readonly id?: string }

/** How a request ended: with a result of that finish, an error of that code, or the connection's close. */
export type End = string

/** Of a slow reader. */
const READS_PER_SECOND = 20

export class CountingClient {
  readonly socket: WebSocket
  /** Requests sent, and how each ended so far: exactly one end is right. */
  readonly ends = new Map<string, End[]>()
  readonly #tokens = new Map<string, number[]>()
  readonly #watchers = new Set<() => void>()
  #frames = 0
  #pings = 0
  #pong = 0
  #isDraining = false
  #closeCode: number | null = null

  private constructor(socket: WebSocket) {
    this.socket = socket
    socket.on('message', (data) => this.#received(data))
    // What went wrong is told by the close that follows.
    socket.on('error', () => undefined)
    socket.on('close', (code) => {
      this.#closeCode = code
      this.#wake()
    })
  }

  /** @param url of the server: `http://127.0.0.1:8080`. */
  static async connect(url: string): Promise<CountingClient> {
    const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/v1/stream`, 'gorgon.v1', { perMessageDeflate: false })
    const client = new CountingClient(socket)
    await once(socket, 'open')
    client.send({ type: 'hello', client: 'faults' })
    await client.until(() => client.frames > 0)
    return client
  }

  /** Received so far. */
  get frames(): number {
    return this.#frames
  }

  /** Null while the socket is open. */
  get closeCode(): number | null {
    return this.#closeCode
  }

  /** The server has said that it stops, or has closed the connection. */
  get isDraining(): boolean {
    return this.#isDraining || this.#closeCode !== null
  }

  /** Requests that have not ended. */
  get running(): number {
    return [...this.ends.values()].filter((ends) => ends.length === 0).length
  }

  /** Token ids of a request so far. */
  tokensOf(id: string): readonly number[] {
    return this.#tokens.get(id) ?? []
  }

  send(frame: object | string): void {
    this.socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame))
  }

  /** Also what the socket would not take any more. */
  sendBad(frame: BadFrame): void {
    const { socket } = this
    const ignored = (): void => undefined
    if (typeof frame === 'string' || Buffer.isBuffer(frame)) socket.send(frame, ignored)
    else
      for (const [i, part] of frame.fragments.entries())
        socket.send(part, { fin: i === frame.fragments.length - 1 }, ignored)
  }

  generate(id: string, input: string | readonly number[], options: object = {}): void {
    if (!this.ends.has(id)) this.ends.set(id, [])
    this.send({ type: 'generate', id, input, options, ids: true })
  }

  /** Resolves when this holds, looked at after each frame; also when the socket has closed. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds() && this.#closeCode === null) {
      await new Promise<void>((wake) => {
        this.#watchers.add(wake)
      })
    }
  }

  /** Reads no faster than this from now on, until the function returned is called. */
  readAt(bytesPerSecond: number): () => void {
    const { socket } = this
    const share = bytesPerSecond / READS_PER_SECOND
    let left = share
    const onMessage = (data: RawData): void => {
      left -= (data as Buffer).length
      if (left < 0) socket.pause()
    }
    const refill = setInterval(() => {
      left = Math.min(share, left + share)
      if (left > 0) socket.resume()
    }, 1000 / READS_PER_SECOND)
    socket.on('message', onMessage)
    return () => {
      clearInterval(refill)
      socket.off('message', onMessage)
      socket.resume()
    }
  }

  /** Everything sent before has been looked at: a ping was answered. */
  async answered(): Promise<void> {
    const t = ++this.#pings
    this.socket.send(JSON.stringify({ type: 'ping', t }), () => undefined)
    await this.until(() => this.#pong >= t)
  }

  async closed(): Promise<number> {
    await this.until(() => this.#closeCode !== null)
    return this.#closeCode!
  }

  async close(): Promise<void> {
    this.socket.close()
    await this.closed()
  }

  #received(data: RawData): void {
    this.#frames++
    const frame = JSON.parse(String(data)) as Frame
    if (frame.type === 'draining') this.#isDraining = true
    if (frame.type === 'pong') this.#pong = frame['t'] as number
    if (frame.id !== undefined) this.#count(frame.id, frame)
    this.#wake()
  }

  #count(id: string, frame: Frame): void {
    if (frame.type === 'done') this.ends.get(id)?.push(String(frame['finish']))
    if (frame.type === 'error') this.ends.get(id)?.push(String(frame['code']))
    if (frame.type === 'delta') {
      const tokens = this.#tokens.get(id) ?? []
      tokens.push(...((frame['ids'] ?? []) as number[]))
      this.#tokens.set(id, tokens)
    }
  }

  #wake(): void {
    const watchers = [...this.#watchers]
    this.#watchers.clear()
    for (const wake of watchers) wake()
  }
}

/** How many requests ended in which way. `never` and `twice` are what must not be; with its connection, a request ends by the close. */
export function tallyOf(clients: readonly CountingClient[]): Record<string, number> {
  const tally: Record<string, number> = {}
  for (const { ends, closeCode } of clients) {
    const unended = closeCode === null ? 'never' : `closed ${closeCode}`
    for (const [how = unended, ...more] of ends.values()) {
      const end = more.length > 0 ? 'twice' : how
      tally[end] = (tally[end] ?? 0) + 1
    }
  }
  return tally
}
