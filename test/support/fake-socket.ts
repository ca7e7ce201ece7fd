// A socket without a network: the test is the server, frame by frame, and holds both sides to the protocol's schemas.
import { expect } from 'vitest'
import type { StandardSocket } from '../../src/client/socket.js'
import { ClientFrame, type ClientFrameInput, ServerFrame, type Summary } from '../../src/server/protocol.js'
import { SUMMARY } from './summary.js'

type Sent<Type extends ClientFrameInput['type']> = Extract<ClientFrameInput, { type: Type }>

/** One side of a connection; the test has the other. */
export class FakeSocket implements StandardSocket {
  bufferedAmount = 0
  onopen: StandardSocket['onopen'] = null
  onmessage: StandardSocket['onmessage'] = null
  onclose: StandardSocket['onclose'] = null
  onerror: StandardSocket['onerror'] = null
  /** Of the client, which have not been taken by `expect`. */
  readonly sent: ClientFrameInput[] = []
  /** By the client: the code it gave, or 0 for none. */
  closedWith: number | null = null

  constructor(
    readonly url: string,
    readonly protocols: readonly string[],
  ) {}

  send(message: string): void {
    const frame = JSON.parse(message) as ClientFrameInput
    expect(ClientFrame.safeParse(frame).error).toBeUndefined()
    this.sent.push(frame)
  }

  close(code = 0): void {
    this.closedWith ??= code
  }

  open(): void {
    this.onopen?.({} as never)
  }

  /** The server says. */
  say(frame: ServerFrame): void {
    expect(ServerFrame.safeParse(frame).error).toBeUndefined()
    this.sayRaw(JSON.stringify(frame))
  }

  sayRaw(data: unknown): void {
    this.onmessage?.({ data } as never)
  }

  /** The connection ends, by the server or on its way. */
  end(code: number, reason = ''): void {
    this.onclose?.({ code, reason } as never)
  }

  /** The next frame that the client has sent, which is of this type. */
  next<Type extends ClientFrameInput['type']>(type: Type): Sent<Type> {
    const frame = this.sent.shift()
    expect(frame?.type).toBe(type)
    return frame as Sent<Type>
  }

  /** Opens, and welcomes the client. */
  welcome(overrides: Partial<Extract<ServerFrame, { type: 'welcome' }>['limits']> = {}, heartbeatMs = 20_000): this {
    this.open()
    this.next('hello')
    this.say({
      type: 'welcome',
      connection: 'c1',
      server: 'gorgon/0',
      models: [{ id: 'demo', context: 100, chat: true }],
      limits: { messageBytes: 100_000, perConnection: 8, idleMs: 300_000, resumeMs: 30_000, ...overrides },
      heartbeatMs,
    })
    return this
  }

  /** Takes the next `generate` and accepts it. */
  accept(fields: { model?: string; seed?: number | null; token?: string } = {}): Sent<'generate'> {
    const frame = this.next('generate')
    this.say({ type: 'accepted', id: frame.id, model: 'demo', seed: 7, ...fields })
    return frame
  }

  /** One token per character, in steps of the given texts. */
  deltas(id: string, texts: readonly string[], firstSeq = 1): void {
    for (const [i, text] of texts.entries()) {
      const chars = Array.from(text, () => 1)
      this.say({
        type: 'delta',
        id,
        seq: firstSeq + i,
        text,
        n: text.length,
        drafted: Math.max(0, text.length - 1),
        at: i,
        spans: [{ step: firstSeq + i - 1, chars }],
        ids: Array.from(text, (character) => character.charCodeAt(0)),
      })
    }
  }

  done(id: string, seq: number, overrides: Partial<Summary> = {}): void {
    this.say({ type: 'done', id, seq, ...SUMMARY, ...overrides })
  }

  /** Accepts the next request, says these texts, and ends it. */
  answer(...texts: string[]): Sent<'generate'> {
    const frame = this.accept()
    this.deltas(frame.id, texts)
    this.done(frame.id, texts.length + 1)
    return frame
  }
}

/** Sockets as they are made; the class goes into `connect` as `WebSocket`. */
export class FakeNetwork {
  readonly sockets: FakeSocket[] = []
  readonly WebSocket: new (
    url: string,
    protocols: string[],
  ) => FakeSocket

  constructor() {
    const { sockets } = this
    this.WebSocket = class extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols)
        sockets.push(this)
      }
    }
  }

  reset(): void {
    this.sockets.length = 0
  }

  /** The socket that was made last. */
  get latest(): FakeSocket {
    return this.sockets.at(-1)!
  }
}
