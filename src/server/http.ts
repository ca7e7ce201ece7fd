// One HTTP request and its answer: a body read within limits, JSON out, server-sent events out.
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { z } from 'zod'
import { GorgonError } from '../errors.js'
import { parse } from '../schema.js'
import type { Principal } from './auth.js'
import { errorBody, errorHeaders, type Problem } from './errors.js'
import type { ServerLimits } from './options.js'

/** After an answer that came before the request was read whole: how long the rest is read away, so that the answer can arrive. */
const LINGER_MS = 1000

export interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly url: URL
  /** What the path's `:name` parts stand for. */
  readonly params: Readonly<Record<string, string>>
  readonly principal: Principal
  readonly requestId: string
  /** Aborted when the client is gone. */
  readonly signal: AbortSignal
  /**
   * The body's JSON, parsed; read once.
   *
   * @throws {GorgonError} ERR_BODY, ERR_TOO_LARGE, ERR_REQUEST_TIMEOUT; ERR_OPTION of the schema.
   */
  body<T>(schema: z.ZodType<T>): Promise<T>
  json(status: number, value: unknown, headers?: Readonly<Record<string, string>>): void
  /** Begins an answer of server-sent events; it ends with the handler. */
  events(headers?: Readonly<Record<string, string>>): EventStream
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'DELETE'
  /** Parts that begin with a colon stand for anything but a slash. */
  readonly path: string
  /** Served without a key. */
  readonly isPublic?: boolean
  /** Errors thrown become the answer, or its last event. */
  handle(exchange: Exchange): Promise<void> | void
}

export class HttpExchange implements Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly url: URL
  readonly requestId: string
  params: Readonly<Record<string, string>> = {}
  principal: Principal
  /** Resolves when the answer has left, or cannot. */
  readonly closed: Promise<void>
  readonly #limits: ServerLimits
  readonly #gone = new AbortController()
  #events: EventStream | null = null

  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    about: {
      readonly url: URL
      readonly requestId: string
      readonly principal: Principal
      readonly limits: ServerLimits
    },
  ) {
    this.request = request
    this.response = response
    this.url = about.url
    this.requestId = about.requestId
    this.principal = about.principal
    this.#limits = about.limits
    const { socket } = request
    this.closed = new Promise((resolve) => {
      const onClose = (): void => {
        response.off('close', onClose)
        socket.off('close', onClose)
        if (!response.writableFinished) this.#gone.abort(new DOMException('The client is gone', 'AbortError'))
        resolve()
      }
      // An answer that waits for another one on the same connection is not told when that closes.
      response.on('close', onClose)
      socket.on('close', onClose)
    })
  }

  get signal(): AbortSignal {
    return this.#gone.signal
  }

  async body<T>(schema: z.ZodType<T>): Promise<T> {
    const bytes = await this.#read()
    let value: unknown
    try {
      value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
    } catch (error) {
      // The parser's words quote what was sent.
      const what = error instanceof SyntaxError ? 'JSON' : 'UTF-8'
      throw new GorgonError('ERR_BODY', `The body is not ${what}. Send one JSON object, encoded as UTF-8.`)
    }
    return parse(schema, value)
  }

  json(status: number, value: unknown, headers: Readonly<Record<string, string>> = {}): void {
    const body = Buffer.from(JSON.stringify(value))
    this.response.writeHead(status, { 'content-type': 'application/json', 'content-length': body.length, ...headers })
    this.response.end(body)
  }

  events(headers: Readonly<Record<string, string>> = {}): EventStream {
    this.#events = new EventStream(this.response, this.#limits, headers)
    return this.#events
  }

  /** Ends an answer that its handler left open. */
  finish(): void {
    const { response } = this
    this.#events?.end()
    if (!response.writableEnded) response.end()
    this.#expire()
  }

  /** Answers with a problem; as the last event, where an answer of events has begun. */
  async fail(problem: Problem): Promise<void> {
    const { response } = this
    if (response.destroyed || response.writableEnded) return
    const body = JSON.stringify(errorBody(problem))
    if (this.#events) {
      this.#events.end('error', body)
      this.#expire()
      return
    }
    if (response.headersSent) {
      // Half an answer of another kind: only breaking off says that it is not whole.
      response.destroy()
      return
    }
    const isWhole = this.request.complete
    response.writeHead(problem.status, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      ...errorHeaders(problem),
      ...(!isWhole && { connection: 'close' }),
    })
    response.write(body)
    if (!isWhole) await this.#linger()
    response.end()
    this.#expire()
  }

  /** An answer that has ended leaves in time, or its connection is closed. */
  #expire(): void {
    if (this.response.writableFinished) return
    const timer = setTimeout(() => this.response.destroy(), this.#limits.bodyMs)
    void this.closed.then(() => clearTimeout(timer))
  }

  /** Closing on unread bytes would reset the connection, and the answer might be lost with it. */
  async #linger(): Promise<void> {
    const { request, response } = this
    request.resume()
    const isOver = new AbortController()
    const timer = setTimeout(() => isOver.abort(), LINGER_MS)
    const { signal } = isOver
    await Promise.race([once(request, 'end', { signal }), once(response, 'close', { signal })]).catch(() => undefined)
    clearTimeout(timer)
    isOver.abort()
  }

  #read(): Promise<Buffer> {
    const { request, response } = this
    const { bodyBytes, bodyMs } = this.#limits
    const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = request.headers
    if (!/^application\/([\w.-]+\+)?json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(type)) {
      throw new GorgonError(
        'ERR_BODY',
        `The body's content type is ${type === '' ? 'not given' : JSON.stringify(type.slice(0, 100))}. Send JSON, with "Content-Type: application/json".`,
        { status: 415 },
      )
    }
    if (encoding !== 'identity') {
      throw new GorgonError('ERR_BODY', 'The body is compressed. Send it as it is.', { status: 415 })
    }
    const tooLarge = (): GorgonError =>
      new GorgonError('ERR_TOO_LARGE', `The body is larger than ${bodyBytes} bytes (limits.bodyBytes). Send less.`, {
        bodyBytes,
      })
    if (Number(request.headers['content-length']) > bodyBytes) throw tooLarge()
    if (/^100-continue$/i.test(request.headers.expect ?? '')) response.writeContinue()

    return new Promise((resolve, reject) => {
      const parts: Buffer[] = []
      let size = 0
      const timer = setTimeout(() => {
        end(new GorgonError('ERR_REQUEST_TIMEOUT', `The body did not arrive within ${bodyMs} ms (limits.bodyMs).`))
      }, bodyMs)
      const end = (error?: Error): void => {
        clearTimeout(timer)
        request.off('data', onData).off('end', end).off('close', onClose)
        if (error) reject(error)
        else resolve(Buffer.concat(parts, size))
      }
      const onData = (part: Buffer): void => {
        size += part.length
        parts.push(part)
        if (size > bodyBytes) end(tooLarge())
      }
      const onClose = (): void => end(new GorgonError('ERR_BODY', 'The connection closed before the body was whole.'))
      request
        .on('data', onData)
        .on('end', end)
        .on('close', onClose)
        .on('error', () => undefined)
    })
  }
}

/** Server-sent events, at the pace of whoever reads them. */
export class EventStream {
  readonly #response: ServerResponse
  readonly #stallMs: number
  readonly #pings: NodeJS.Timeout
  #isQuiet = true

  constructor(
    response: ServerResponse,
    { heartbeatMs, stallMs }: Pick<ServerLimits, 'heartbeatMs' | 'stallMs'>,
    headers: Readonly<Record<string, string>>,
  ) {
    this.#response = response
    this.#stallMs = stallMs
    response.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      // Nginx holds answers back unless told not to.
      'x-accel-buffering': 'no',
      ...headers,
    })
    response.flushHeaders()
    // What is in between may close a connection on which nothing comes, as while a long prompt is worked through.
    this.#pings = setInterval(() => {
      if (this.#isQuiet && response.writableLength === 0) response.write(': ping\n\n')
      this.#isQuiet = true
    }, heartbeatMs)
    response.on('close', () => clearInterval(this.#pings))
  }

  /**
   * Resolves when there is room for more. A reader who takes nothing for `limits.stallMs` is cut off.
   *
   * @param data text goes as it is, anything else as JSON.
   * @throws an AbortError when the reader is gone.
   */
  async send(event: string | null, data: unknown): Promise<void> {
    const response = this.#response
    if (response.destroyed) throw new DOMException('The client is gone', 'AbortError')
    this.#isQuiet = false
    if (!response.write(framed(event, data))) await this.#room()
  }

  /** Ends the stream, with a last event if there is one. */
  end(event: string | null = null, data?: unknown): void {
    clearInterval(this.#pings)
    if (this.#response.writableEnded) return
    this.#response.end(data === undefined ? undefined : framed(event, data))
  }

  #room(): Promise<void> {
    const response = this.#response
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => response.destroy(), this.#stallMs)
      const onDrain = (): void => {
        release()
        resolve()
      }
      const onClose = (): void => {
        release()
        reject(new DOMException('The client is gone', 'AbortError'))
      }
      const release = (): void => {
        clearTimeout(timer)
        response.off('drain', onDrain).off('close', onClose)
      }
      response.on('drain', onDrain).on('close', onClose)
    })
  }
}

function framed(event: string | null, data: unknown): string {
  const text = typeof data === 'string' ? data.replace(/\r\n|\r|\n/g, '\ndata: ') : JSON.stringify(data)
  return event === null ? `data: ${text}\n\n` : `event: ${event}\ndata: ${text}\n\n`
}
