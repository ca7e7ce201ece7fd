// Responses over a WebSocket: with OpenAI's own client, and message by message.
import { once } from 'node:events'
import type OpenAI from 'openai'
import { ResponsesWS } from 'openai/resources/responses/ws'
import { afterEach, describe, expect, it } from 'vitest'
import { WebSocket } from 'ws'
import { loadEngine } from '../../../src/index.js'
import { ResponsesConnection } from '../../../src/server/openai/responses-socket.js'
import type { PeerSocket } from '../../../src/server/peer.js'
import { countingReaders } from '../../support/counting-readers.js'
import { allOf, openaiOf } from '../../support/openai.js'
import { type RunningServer, runningServers } from '../../support/server.js'

const start = runningServers({ speculation: { mode: 'medusa' } })

const INPUT = 'export function add(a: number, b: number): number {'
const CREATE = { type: 'response.create', model: 'demo', input: INPUT, temperature: 0, max_output_tokens: 24 } as const
const SECOND = [{ role: 'user', content: 'export function sub(a: number, b: number)' }] as const
const ENDLESS = { ...CREATE, max_output_tokens: 15_000, gorgon: { ignoreEos: true } } as const

const ENDS = ['response.completed', 'response.incomplete', 'response.failed', 'error']

type Event = Record<string, unknown> & {
  readonly type: string
  readonly sequence_number: number
  readonly stream_id?: string
  readonly code?: string
  readonly delta?: string
  readonly response?: OpenAI.Responses.Response & { readonly gorgon?: object }
}

/** Keeps every event, and waits for those that are to come. */
class Peer {
  readonly ws: WebSocket
  readonly events: Event[] = []
  code: number | null = null
  #read = 0
  #wake: (() => void) | null = null

  private constructor(ws: WebSocket) {
    this.ws = ws
    ws.on('message', (data) => {
      this.events.push(JSON.parse(String(data)))
      this.#wake?.()
    })
    ws.on('close', (code) => {
      this.code = code
      this.#wake?.()
    })
  }

  static async open({ port }: Pick<RunningServer, 'port'>, headers: Record<string, string> = {}): Promise<Peer> {
    const peer = new Peer(new WebSocket(`ws://127.0.0.1:${port}/v1/responses`, { headers }))
    await once(peer.ws, 'open')
    opened.push(peer)
    return peer
  }

  say(...messages: object[]): void {
    for (const message of messages) this.ws.send(JSON.stringify(message))
  }

  /** The next event, of any type. */
  async next(): Promise<Event> {
    while (this.#read === this.events.length) {
      if (this.code !== null) throw new Error(`closed with ${this.code}`)
      await new Promise<void>((wake) => {
        this.#wake = wake
      })
    }
    return this.events[this.#read++]!
  }

  /** The next event of a type, past all others. */
  async nextOf(...types: string[]): Promise<Event> {
    for (let event = await this.next(); ; event = await this.next()) if (types.includes(event.type)) return event
  }

  /** The end of the next response, or a refusal. */
  end(): Promise<Event> {
    return this.nextOf(...ENDS)
  }

  async closed(): Promise<number> {
    if (this.code === null) await once(this.ws, 'close')
    return this.code!
  }
}

const opened: Peer[] = []
afterEach(() => {
  for (const { ws } of opened.splice(0)) ws.terminate()
})

const textOf = ({ response }: Event): string => {
  const [message] = response!.output as OpenAI.Responses.ResponseOutputMessage[]
  const [part] = message!.content as OpenAI.Responses.ResponseOutputText[]
  return part!.text
}

/** Types of events, those that repeat once. */
const kindsOf = (events: readonly { readonly type: string }[]): string[] =>
  events.map(({ type }) => type).filter((type, i, types) => type !== types[i - 1])

describe('OpenAI’s client', () => {
  it('has the events of the stream, and the text of the library', async () => {
    const server = await start()
    const { text } = await server.engine.generate([{ role: 'user', content: INPUT }], { maxTokens: 24 })
    const ws = new ResponsesWS(openaiOf(server))
    await once(ws.socket, 'open')
    const events: OpenAI.Responses.ResponsesServerEvent[] = []
    ws.on('event', (event) => events.push(event))
    const ended = new Promise<OpenAI.Responses.ResponseIncompleteEvent>((resolve) =>
      ws.on('response.incomplete', resolve),
    )
    ws.send(CREATE)
    const { response } = await ended
    ws.close()
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, i) => i))
    const { type: _, ...body } = CREATE
    const http = await allOf(await openaiOf(server).responses.create({ ...body, stream: true }))
    // How many deltas there are depends on what was drafted.
    expect(kindsOf(events)).toEqual(kindsOf(http))
    expect(textOf({ response } as never)).toBe(text)
  })

  it('is told of errors as errors', async () => {
    const ws = new ResponsesWS(openaiOf(await start()))
    await once(ws.socket, 'open')
    const failed = new Promise<{ error?: object | undefined }>((resolve) => ws.on('error', resolve))
    ws.send({ ...CREATE, previous_response_id: 'resp_gone' })
    expect((await failed).error).toMatchObject({
      type: 'error',
      status: 400,
      code: 'previous_response_not_found',
      param: 'previous_response_id',
      error: { type: 'invalid_request_error', code: 'previous_response_not_found', param: 'previous_response_id' },
    })
    ws.close()
  })
})

describe('a conversation', () => {
  it('goes on on its cache, without being stored', async () => {
    const server = await start()
    const peer = await Peer.open(server)
    peer.say({ ...CREATE, store: false })
    const first = await peer.end()
    peer.say({ ...CREATE, store: false, previous_response_id: first.response!.id, input: SECOND })
    const second = await peer.end()
    const { text } = await server.engine.generate(
      [{ role: 'user', content: INPUT }, { role: 'assistant', content: textOf(first) }, ...SECOND],
      { maxTokens: 24 },
    )
    expect(textOf(second)).toBe(text)
    expect(second.response!.usage!.input_tokens_details.cached_tokens).toBeGreaterThan(0)
    await expect(openaiOf(server).responses.retrieve(first.response!.id)).rejects.toMatchObject({ status: 404 })
  })

  it('knows only its latest response where nothing is stored', async () => {
    const peer = await Peer.open(await start())
    peer.say({ ...CREATE, store: false })
    const first = await peer.end()
    peer.say({ ...CREATE, store: false })
    await peer.end()
    peer.say({ ...CREATE, store: false, previous_response_id: first.response!.id, input: SECOND })
    expect(await peer.end()).toMatchObject({ type: 'error', code: 'previous_response_not_found' })
  })

  it('goes on from what was stored, by any connection or request', async () => {
    const server = await start()
    const { type: _, ...body } = CREATE
    const stored = await openaiOf(server).responses.create(body)
    const peer = await Peer.open(server)
    peer.say({ ...CREATE, previous_response_id: stored.id, input: SECOND })
    expect((await peer.end()).response!.usage!.input_tokens_details.cached_tokens).toBeGreaterThan(0)
  })

  it('can be prepared, and goes on from there', async () => {
    const server = await start()
    const before = server.engine.stats().totals.finished
    const peer = await Peer.open(server)
    peer.say({ ...CREATE, generate: false, store: false })
    const prepared = await peer.end()
    expect(peer.events.map(({ type }) => type)).toEqual([
      'response.created',
      'response.in_progress',
      'response.completed',
    ])
    expect(prepared.response).toMatchObject({ status: 'completed', output: [], usage: null })
    expect(server.engine.stats().totals.finished).toBe(before)
    peer.say({ ...CREATE, previous_response_id: prepared.response!.id, input: SECOND })
    const { text } = await server.engine.generate([{ role: 'user', content: INPUT }, ...SECOND], { maxTokens: 24 })
    expect(textOf(await peer.end())).toBe(text)
  })

  it('counts against the limits of its key when it is only prepared', async () => {
    const peer = await Peer.open(await start({ limits: { perKey: { requestsPerMinute: 1 } } }))
    peer.say({ ...CREATE, generate: false }, { ...CREATE, generate: false })
    expect(await peer.end()).toMatchObject({ type: 'response.completed' })
    expect(await peer.end()).toMatchObject({ type: 'error', status: 429, code: 'ERR_RATE_LIMIT' })
  })

  it('is forgotten after a failure, so that it is sent anew', async () => {
    await using engine = await loadEngine({ model: 'demo', threads: 1, limits: { maxContext: 128 } })
    const peer = await Peer.open(await start({ engine }))
    peer.say({ ...CREATE, store: false })
    const { response } = await peer.end()
    const next = { ...CREATE, store: false, previous_response_id: response!.id }
    peer.say({ ...next, input: 'add '.repeat(200) })
    expect(await peer.end()).toMatchObject({ type: 'error', status: 400, code: 'context_length_exceeded' })
    peer.say({ ...next, input: SECOND })
    expect(await peer.end()).toMatchObject({ code: 'previous_response_not_found' })
  })

  it('leaves nothing when its connection ends', async () => {
    await using engine = await loadEngine({ model: 'demo', threads: 1 })
    const peer = await Peer.open(await start({ engine }))
    peer.say({ ...CREATE, store: false })
    await peer.end()
    expect(engine.stats().sessions).toBe(1)
    peer.ws.terminate()
    await expect.poll(() => engine.stats().sessions).toBe(0)
  })
})

describe('streams', () => {
  it('answer one request after another', async () => {
    const peer = await Peer.open(await start())
    peer.say(CREATE, CREATE, CREATE)
    for (let i = 0; i < 3; i++) await peer.end()
    const created = peer.events.flatMap(({ type }, i) => (type === 'response.created' ? [i] : []))
    const ended = peer.events.flatMap(({ type }, i) => (ENDS.includes(type) ? [i] : []))
    expect(created.slice(1).every((at, i) => at === ended[i]! + 1)).toBe(true)
    expect(peer.events.every(({ stream_id }) => stream_id === undefined)).toBe(true)
  })

  it('answer what they refuse in its turn, too', async () => {
    const peer = await Peer.open(await start())
    peer.say({ ...CREATE, max_output_tokens: 200 }, { ...CREATE, temprature: 1 }, CREATE)
    const ends = [await peer.end(), await peer.end(), await peer.end()]
    expect(ends.map(({ type }) => type)).toEqual(['response.incomplete', 'error', 'response.incomplete'])
  })

  it('with names go on side by side, each numbered for itself', async () => {
    const server = await start()
    const peer = await Peer.open(server)
    const inputs = { one: 'const one =', two: 'function two(' }
    for (const [stream_id, input] of Object.entries(inputs))
      peer.say({ ...CREATE, stream_id, input, max_output_tokens: 200 })
    const ends = [await peer.end(), await peer.end()]
    expect(new Set(ends.map(({ stream_id }) => stream_id))).toEqual(new Set(['one', 'two']))
    for (const [name, content] of Object.entries(inputs)) {
      const events = peer.events.filter(({ stream_id }) => stream_id === name)
      expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, i) => i))
      const { text } = await server.engine.generate([{ role: 'user', content }], { maxTokens: 200 })
      expect(events.map(({ delta = '' }) => delta).join('')).toBe(text)
    }
    const order = peer.events.map(({ stream_id }) => stream_id)
    expect(order.lastIndexOf('one')).toBeGreaterThan(order.indexOf('two'))
    expect(order.lastIndexOf('two')).toBeGreaterThan(order.indexOf('one'))
  })

  it('can branch off each other', async () => {
    const peer = await Peer.open(await start())
    peer.say({ ...CREATE, stream_id: 'main', store: false })
    const { response } = await peer.end()
    const next = { ...CREATE, store: false, previous_response_id: response!.id, input: SECOND }
    peer.say({ ...next, stream_id: 'critic' })
    await peer.nextOf('response.in_progress')
    peer.say({ ...next, stream_id: 'main' })
    const [one, two] = [await peer.end(), await peer.end()]
    expect(textOf(one)).toBe(textOf(two))
  })

  it('are no more at once than a connection may have', async () => {
    const server = await start({ limits: { perConnection: 2 } })
    const peer = await Peer.open(server)
    for (const stream_id of ['a', 'b', 'c']) peer.say({ ...ENDLESS, stream_id })
    for (let i = 0; i < 2; i++) await peer.nextOf('response.output_text.delta')
    expect(server.engine.stats().running).toBe(2)
    peer.ws.terminate()
    await expect.poll(() => server.engine.stats(), { timeout: 5000 }).toMatchObject({ running: 0, queued: 0 })
  })

  it('have names of so many kinds, and so many', async () => {
    const peer = await Peer.open(await start())
    for (const stream_id of ['', 'a b', 'x'.repeat(257), 3]) {
      peer.say({ ...CREATE, stream_id })
      expect(await peer.end()).toMatchObject({ code: 'invalid_stream_id', param: 'stream_id' })
    }
    for (let i = 0; i < 32; i++) peer.say({ ...CREATE, stream_id: `s${i}`, generate: false })
    for (let i = 0; i < 32; i++) expect(await peer.end()).toMatchObject({ type: 'response.completed' })
    peer.say({ ...CREATE, stream_id: 's32' })
    expect(await peer.end()).toMatchObject({ code: 'websocket_stream_limit_reached' })
    peer.say({ ...CREATE, generate: false })
    expect(await peer.end()).toMatchObject({ type: 'response.completed' })
  })
})

describe('a message that is none', () => {
  it.each([
    ['{', 'ERR_BODY'],
    ['[]', 'ERR_OPTION'],
    ['null', 'ERR_OPTION'],
    ['{"type":"response.cancel"}', 'ERR_OPTION'],
    ['{"type":"response.create","tools":[{"type":"web_search"}],"input":"x"}', 'ERR_UNSUPPORTED'],
    ['{"type":"response.create","input":"x","temprature":1}', 'ERR_OPTION'],
    ['{"type":"response.create"}', 'ERR_OPTION'],
    ['{"type":"response.create","input":"x","model":"gpt-5"}', 'ERR_MODEL_UNKNOWN'],
  ])('is answered, and the connection goes on: %s', async (message, code) => {
    const peer = await Peer.open(await start())
    peer.ws.send(message)
    expect(await peer.end()).toMatchObject({ type: 'error', code, status: expect.any(Number), sequence_number: 0 })
    peer.say(CREATE)
    expect(await peer.end()).toMatchObject({ type: 'response.incomplete' })
  })

  it('has no use for what only HTTP needs', async () => {
    const peer = await Peer.open(await start())
    peer.say({ ...CREATE, stream: true, background: false })
    expect(await peer.end()).toMatchObject({ type: 'response.incomplete' })
  })

  it('costs the connection when too many wait', async () => {
    const peer = await Peer.open(await start())
    for (let i = 0; i < 100; i++) peer.say(ENDLESS)
    expect(await peer.closed()).toBe(4413)
  })
})

describe('a connection', () => {
  it('needs a key where one is needed', async () => {
    const server = await start({ keys: ['the-right-key'] })
    await expect(Peer.open(server)).rejects.toThrow(/401/)
    const peer = await Peer.open(server, { authorization: 'Bearer the-right-key' })
    peer.say(CREATE)
    expect(await peer.end()).toMatchObject({ type: 'response.incomplete' })
  })

  it('that breaks ends what it asked for within a step', async () => {
    const server = await start()
    const peer = await Peer.open(server)
    peer.say(ENDLESS)
    await peer.nextOf('response.output_text.delta')
    expect(server.engine.stats().running).toBe(1)
    peer.ws.terminate()
    await expect.poll(() => server.engine.stats(), { timeout: 5000 }).toMatchObject({ running: 0, queued: 0 })
  })

  it('is drained: what runs is finished, what comes is refused, then it closes', async () => {
    const server = await start()
    const peer = await Peer.open(server)
    peer.say({ ...CREATE, max_output_tokens: 400 })
    await peer.nextOf('response.output_text.delta')
    const closing = server.close()
    peer.say({ ...CREATE, stream_id: 'late' })
    const ends = [await peer.end(), await peer.end()]
    expect(ends.find(({ stream_id }) => stream_id === 'late')).toMatchObject({ status: 503, code: 'ERR_DRAINING' })
    expect(ends.find(({ stream_id }) => stream_id === undefined)).toMatchObject({ type: 'response.incomplete' })
    expect(await peer.closed()).toBe(1001)
    await closing
  })

  it('tells a response that it cuts short at the deadline as failed', async () => {
    const server = await start()
    const peer = await Peer.open(server)
    peer.say(ENDLESS)
    await peer.nextOf('response.output_text.delta')
    const closing = server.close({ drainMs: 1 })
    expect(await peer.end()).toMatchObject({ type: 'response.failed', response: { error: { code: 'server_error' } } })
    expect(await peer.closed()).toBe(1001)
    await closing
  })
})

/** A socket without a network, whose reader takes nothing until told to. */
class SlowSocket implements PeerSocket {
  readonly taken: string[] = []
  closedWith: number | null = null
  readonly #waiting: { message: string; done: () => void }[] = []

  get bufferedBytes(): number {
    return this.#waiting.reduce((sum, { message }) => sum + message.length, 0)
  }

  send(message: string, done: () => void): void {
    this.#waiting.push({ message, done })
  }

  close(code: number): void {
    this.closedWith = code
  }

  read(): void {
    for (const { message, done } of this.#waiting.splice(0)) {
      this.taken.push(message)
      done()
    }
  }
}

describe('a reader who is slow', () => {
  const ABOUT = { id: 'c', principal: { id: 'p', maxPriority: 0 } }

  async function connectionOf(limits: { stallMs: number }, lifetimeMs?: number) {
    const { server, engine } = await start()
    const socket = new SlowSocket()
    const { counts, readers } = countingReaders()
    const { Responses } = await import('../../../src/server/openai/responses.js')
    const responses = new Responses(server.intake)
    const host = { responses, limits: { messageBytes: 100_000, perConnection: 8, ...limits }, readers }
    const connection = new ResponsesConnection(lifetimeMs === undefined ? host : { ...host, lifetimeMs }, socket, ABOUT)
    return { connection, socket, counts, engine }
  }

  it('gets fewer and larger deltas, still numbered without a gap', async () => {
    const { connection, socket, counts, engine } = await connectionOf({ stallMs: 60_000 })
    connection.received(JSON.stringify({ ...ENDLESS, max_output_tokens: 2000 }))
    await expect.poll(() => counts.coalesced, { timeout: 20_000 }).toBeGreaterThan(20)
    await expect
      .poll(
        () => {
          socket.read()
          return socket.taken.at(-1)
        },
        { timeout: 20_000, interval: 5 },
      )
      .toContain('response.incomplete')
    const events = socket.taken.map((message) => JSON.parse(message) as Event)
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, i) => i))
    const { text } = await engine.generate([{ role: 'user', content: INPUT }], { maxTokens: 2000, ignoreEos: true })
    expect(events.map(({ delta = '' }) => delta).join('')).toBe(text)
    connection.left()
  })

  it('is closed when it takes nothing, and its response ends', async () => {
    const { connection, socket, counts, engine } = await connectionOf({ stallMs: 100 })
    connection.received(JSON.stringify({ ...ENDLESS, top_logprobs: 20 }))
    await expect.poll(() => socket.closedWith, { timeout: 20_000 }).toBe(4499)
    expect(counts).toMatchObject({ parked: 1, slowClosed: 1 })
    await expect.poll(() => engine.stats(), { timeout: 5000 }).toMatchObject({ running: 0, queued: 0 })
  })

  it('cannot make the server hold what it refuses', async () => {
    const { connection, socket } = await connectionOf({ stallMs: 60_000 })
    const flood = JSON.stringify({ ...CREATE, temprature: 'x'.repeat(1000) })
    for (let i = 0; i < 10_000 && socket.closedWith === null; i++) {
      connection.received(flood)
      await Promise.resolve()
    }
    expect(socket.closedWith).toBe(4413)
    expect(socket.bufferedBytes).toBeLessThan(200_000)
    connection.left()
  })

  it('or not, has a connection for so long, and is told to make another', async () => {
    const { connection, socket } = await connectionOf({ stallMs: 60_000 }, 50)
    await expect.poll(() => socket.closedWith).toBe(1001)
    socket.read()
    expect(JSON.parse(socket.taken[0]!)).toMatchObject({
      type: 'error',
      status: 400,
      error: { type: 'invalid_request_error', code: 'websocket_connection_limit_reached' },
    })
    connection.left()
  })

  it('has what runs finished when that time is over', async () => {
    const { connection, socket } = await connectionOf({ stallMs: 60_000 }, 100)
    connection.received(JSON.stringify({ ...CREATE, max_output_tokens: 600 }))
    await expect
      .poll(
        () => {
          socket.read()
          return socket.closedWith
        },
        { timeout: 20_000, interval: 5 },
      )
      .toBe(1001)
    const types = socket.taken.map((message) => (JSON.parse(message) as Event).type)
    expect(types.slice(-2)).toEqual(['response.incomplete', 'error'])
  })
})
