// Three ways to make the same request: of the library, over a WebSocket, over HTTP with server-sent events.
import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { text as textOf } from 'node:stream/consumers'
import { WebSocket } from 'ws'
import type { Engine, GenerateOptions } from '../../src/index.js'
import type { Answer, Arrival, Ask } from './load.js'
import { sharedNow } from './watched-engine.js'

/** What every request asks for, besides its prompt. */
export interface Request {
  /** Token ids, taken in turn. */
  readonly prompts: readonly (readonly number[])[]
  readonly tokens: number
  readonly speculation: 'off' | 'auto'
  /** 0 is greedy; above, each prompt has a seed of its own. */
  readonly temperature: number
}

export interface Asker {
  readonly ask: Ask
  close(): void
}

export const TRANSPORTS = { library: 'library', websocket: 'WebSocket', sse: 'SSE' } as const
export type Transport = keyof typeof TRANSPORTS
export const TRANSPORT_NAMES = Object.keys(TRANSPORTS) as readonly Transport[]

export const promptOf = ({ prompts }: Request, question: number): readonly number[] =>
  prompts[question % prompts.length]!

/** The engine's options for it; no end before the last token, so that everybody gets as many. */
export function optionsOf({ prompts, tokens, speculation, temperature }: Request, question: number) {
  return {
    maxTokens: tokens,
    ignoreEos: true,
    temperature,
    ...(temperature > 0 && { seed: question % prompts.length }),
    speculation: { mode: speculation },
    kv: { policy: 'full' },
  } as const satisfies GenerateOptions
}

export function libraryAsker(engine: Pick<Engine, 'generate'>, request: Request): Asker {
  const ask = async (question: number): Promise<Answer> => {
    const generation = engine.generate(Int32Array.from(promptOf(request, question)), optionsOf(request, question))
    const arrivals: Arrival[] = []
    for await (const { text } of generation) arrivals.push({ atMs: sharedNow(), hasText: text !== '' })
    const { text, tokens } = await generation
    const endMs = sharedNow()
    return { firstByteMs: null, arrivals, endMs, tokens: tokens.length, text, ids: [...tokens] }
  }
  return { ask, close: () => undefined }
}

/** Connections that are free, the last used first; one more is made where there is none. */
class Pool<Connection> {
  readonly #free: Connection[] = []
  readonly #all = new Set<Connection>()
  readonly #open: () => Promise<Connection>

  constructor(open: () => Promise<Connection>) {
    this.#open = open
  }

  async use<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    const connection = this.#free.pop() ?? (await this.#open())
    this.#all.add(connection)
    const result = await work(connection)
    this.#free.push(connection)
    return result
  }

  get all(): Iterable<Connection> {
    return this.#all
  }
}

/** @param url of the server: `http://127.0.0.1:8080`. */
export function websocketAsker(url: string, request: Request): Asker {
  const pool = new Pool(() => openNative(url))
  return {
    ask: (question) => pool.use((socket) => askNative(socket, request, question)),
    close() {
      for (const socket of pool.all) socket.close()
    },
  }
}

async function openNative(url: string): Promise<WebSocket> {
  const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/v1/stream`, 'gorgon.v1', { perMessageDeflate: false })
  await once(socket, 'open')
  const welcomed = once(socket, 'message')
  socket.send(JSON.stringify({ type: 'hello' }))
  await welcomed
  return socket
}

function askNative(socket: WebSocket, request: Request, question: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const arrivals: Arrival[] = []
    const ids: number[] = []
    let text = ''
    let firstByteMs: number | null = null
    const ended = (): void => {
      socket.off('message', onMessage)
      socket.off('close', onClose)
    }
    const onClose = (code: number, reason: Buffer): void => {
      ended()
      reject(new Error(`The server closed the socket with ${code} ${reason.toString()}`))
    }
    const onMessage = (data: Buffer): void => {
      const atMs = sharedNow()
      firstByteMs ??= atMs
      const frame = JSON.parse(data.toString())
      if (frame.type === 'delta') {
        arrivals.push({ atMs, hasText: frame.text !== '' })
        text += frame.text
        ids.push(...frame.ids)
      } else if (frame.type === 'done') {
        ended()
        resolve({ firstByteMs, arrivals, endMs: atMs, tokens: frame.usage.completion, text, ids })
      } else if (frame.type === 'error') {
        ended()
        reject(new Error(`${frame.code}: ${frame.message}`))
      }
    }
    socket.on('message', onMessage)
    socket.on('close', onClose)
    socket.send(
      JSON.stringify({
        type: 'generate',
        id: String(question),
        input: promptOf(request, question),
        options: optionsOf(request, question),
        ids: true,
      }),
    )
  })
}

/** What the last event says. */
const DONE = '[DONE]'

/** Of `POST /v1/completions`, whose chunks carry text and no ids. */
export function sseAsker(url: string, request: Request): Asker {
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  const ask = async (question: number): Promise<Answer> => {
    const { maxTokens, ignoreEos, temperature, seed, ...engineOptions } = optionsOf(request, question)
    const body = JSON.stringify({
      prompt: promptOf(request, question),
      max_tokens: maxTokens,
      ignore_eos: ignoreEos,
      temperature,
      seed,
      stream: true,
      stream_options: { include_usage: true },
      gorgon: engineOptions,
    })
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    const asked = httpRequest(`${url}/v1/completions`, { method: 'POST', agent, headers })
    asked.end(body)
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    const firstByteMs = sharedNow()
    if (response.statusCode !== 200)
      throw new Error(`The server answered ${response.statusCode}: ${await textOf(response)}`)
    const arrivals: Arrival[] = []
    let text = ''
    let tokens = 0
    await eachEvent(response, (data) => {
      const atMs = sharedNow()
      const { error, choices, usage } = JSON.parse(data)
      if (error) throw new Error(`${error.code}: ${error.message}`)
      if (usage) tokens = usage.completion_tokens
      if (choices.length === 0) return
      arrivals.push({ atMs, hasText: choices[0].text !== '' })
      text += choices[0].text
    })
    return { firstByteMs, arrivals, endMs: sharedNow(), tokens, text, ids: null }
  }
  return { ask, close: () => agent.destroy() }
}

/** Calls back for the data of each event, when it is there. */
async function eachEvent(response: IncomingMessage, onData: (data: string) => void): Promise<void> {
  let rest = ''
  response.setEncoding('utf8')
  for await (const part of response) {
    const events = (rest + part).split('\n\n')
    rest = events.pop()!
    for (const event of events) {
      const data = event.startsWith('data: ') ? event.slice('data: '.length) : DONE
      if (data !== DONE) onData(data)
    }
  }
}
