// The server itself: sockets to exchanges, from the first connection to the last.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer as createHttpServer, IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { GorgonError, isGorgonError } from '../errors.js'
import { packageManifest } from '../index.js'
import { Guard } from './auth.js'
import { AddressList, Connections } from './connections.js'
import type { ServerContext } from './context.js'
import { isFault, problemOf } from './errors.js'
import { healthRoutes } from './health.js'
import { HttpExchange, type Route } from './http.js'
import { Intake } from './intake.js'
import { errorFields } from './log.js'
import { Metrics, metricsRoutes } from './metrics.js'
import { Responses } from './openai/responses.js'
import { openaiRoutes } from './openai/routes.js'
import { parseServerOptions, type ServerOptionsInput } from './options.js'
import { playgroundRoutes } from './playground.js'
import { refuse } from './refusal.js'
import { Router } from './router.js'
import { Sockets } from './sockets.js'
import { tokenizerRoutes } from './tokenizer.js'

/** Where a server listens. */
export interface ServerAddress {
  /** With which a browser or client reaches it. */
  readonly url: string
  readonly host: string
  readonly port: number
}

/** Connections that are told why they are not taken, before they close; more of them are closed without a word. */
const REFUSED_AT_ONCE = 128

/** After aborted requests were told to end: how long their answers get to leave. */
const GRACE_MS = 1000

/**
 * A server for engines. It takes no signals of the process, prints nothing, and leaves its engines open.
 *
 *     const server = createServer({ engine: await loadEngine('demo') })
 *     const { url } = await server.listen()
 *
 * @throws {GorgonError} ERR_OPTION.
 */
export function createServer(options: ServerOptionsInput): InferenceServer {
  return new InferenceServer(options)
}

export class InferenceServer implements AsyncDisposable {
  readonly intake: Intake
  readonly #context: ServerContext
  readonly #router: Router
  readonly #sockets: Sockets
  readonly #http: Server
  readonly #connections: Connections
  /** Connections that were one too many, while they are told so. */
  readonly #refused = new Set<Socket>()
  readonly #exchanges = new Set<HttpExchange>()
  #address: ServerAddress | null = null
  #listening: Promise<ServerAddress> | null = null
  #closed: Promise<void> | null = null
  /** Resolves when what runs is to be aborted. */
  readonly #deadline = new Deadline()

  /** Made by `createServer()`. */
  constructor(input: ServerOptionsInput) {
    const options = parseServerOptions(input)
    const metrics = new Metrics({ version: packageManifest().version })
    this.intake = new Intake(options, metrics)
    this.#context = {
      options,
      guard: new Guard(options),
      intake: this.intake,
      responses: new Responses(this.intake),
      metrics,
    }
    this.#sockets = new Sockets(this.#context)
    this.#router = new Router(this.#routes())
    this.#connections = new Connections(options.limits, new AddressList(options.proxies))
    this.#http = this.#createHttp()
    metrics.read({
      isReady: () => this.intake.state === 'ready',
      httpInFlight: () => this.#exchanges.size,
      engines: () => this.intake.models().flatMap(({ id, engine }) => (engine ? [[id, engine] as const] : [])),
    })
  }

  /** Null while it does not listen. */
  get address(): ServerAddress | null {
    return this.#address
  }

  /**
   * Begins to listen; calling it again gives the same address.
   *
   * @throws {GorgonError} ERR_LISTEN; ERR_CLOSED after close.
   */
  listen(): Promise<ServerAddress> {
    if (this.#closed) return Promise.reject(new GorgonError('ERR_CLOSED', 'The server was closed. Create another.'))
    this.#listening ??= this.#listen()
    return this.#listening
  }

  /**
   * Takes nothing new, lets what runs finish, and frees the port. Engines stay open. Calling it again waits for the same end, and may
   * bring it forward.
   *
   * @param options.drainMs how long what runs gets before it is cut short. Default: the server's own.
   */
  async close({ drainMs = this.#context.options.drainMs }: { readonly drainMs?: number } = {}): Promise<void> {
    this.#closed ??= this.#shut(drainMs)
    this.#deadline.within(drainMs)
    await this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Whoever adds routes adds them here. */
  #routes(): readonly Route[] {
    return [
      ...healthRoutes(this.#context),
      ...metricsRoutes(this.#context.metrics),
      ...openaiRoutes(this.#context),
      ...tokenizerRoutes(this.#context),
      ...this.#sockets.routes(),
      ...playgroundRoutes(this.#context.options.playground),
    ]
  }

  #createHttp(): Server {
    const { limits, logger } = this.#context.options
    const http = createHttpServer({
      IncomingMessage: WebSocketsAside,
      headersTimeout: limits.headersMs,
      requestTimeout: limits.headersMs + limits.bodyMs,
      keepAliveTimeout: limits.idleMs,
      connectionsCheckingInterval: Math.min(1000, limits.headersMs),
    })
    http.on('connection', (socket: Socket) => this.#connect(socket))
    http.on('clientError', (error: NodeJS.ErrnoException, socket) => this.#misread(error, socket as Socket))
    http.on('request', (request, response) => void this.#serve(request, response))
    // Whether a body is wanted at all is known when it is read.
    http.on('checkContinue', (request, response) => void this.#serve(request, response))
    // Later ones are about a connection that could not be taken; the server goes on.
    http.on('error', (error) => {
      if (http.listening) logger?.error(errorFields(error, false), 'a connection could not be taken')
    })
    http.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head))
    return http
  }

  async #listen(): Promise<ServerAddress> {
    const { host, port } = this.#context.options
    try {
      await once(this.#http.listen({ host, port }), 'listening')
    } catch (error) {
      this.#listening = null
      throw cannotListen(error as NodeJS.ErrnoException, host, port)
    }
    const bound = this.#http.address() as AddressInfo
    this.#address = { url: `http://${reachableName(host)}:${bound.port}`, host, port: bound.port }
    return this.#address
  }

  #connect(socket: Socket): void {
    // Each request of it listens for its end.
    socket.setMaxListeners(0)
    try {
      this.#connections.enter(socket)
    } catch (error) {
      this.#refused.add(socket)
      socket.on('close', () => this.#refused.delete(socket))
      if (this.#refused.size > REFUSED_AT_ONCE) socket.destroy()
      else refuse(socket, problemOf(error, ''))
    }
  }

  /** Not HTTP, or not in time: the connection has no request that could be answered, and may be in the middle of an answer. */
  #misread(error: NodeJS.ErrnoException, socket: Socket): void {
    if (error.code === 'ECONNRESET' || !socket.writable || this.#connections.isBusy(socket)) {
      socket.destroy()
      return
    }
    refuse(socket, problemOf(misreading(error), ''))
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#refused.has(request.socket)) return
    const { guard, options } = this.#context
    const requestId = requestIdOf(request)
    const exchange = new HttpExchange(request, response, {
      url: urlOf(request),
      requestId,
      principal: guard.stranger(request),
      limits: options.limits,
    })
    this.#exchanges.add(exchange)
    void exchange.closed.then(() => {
      this.#exchanges.delete(exchange)
      if (response.headersSent) this.#context.metrics.responded(response.statusCode)
    })
    try {
      response.setHeader('x-request-id', requestId)
      response.setHeader('x-content-type-options', 'nosniff')
      void exchange.closed.then(this.#connections.begin(request.socket))
      if (this.intake.state === 'draining') response.setHeader('connection', 'close')
      await this.#handle(exchange)
      exchange.finish()
    } catch (error) {
      await this.#fail(exchange, error)
    }
  }

  async #handle(exchange: HttpExchange): Promise<void> {
    const { request, response, url } = exchange
    const { guard } = this.#context
    const { method = 'GET' } = request
    const isHarmless = method === 'GET' || method === 'HEAD' || method === 'OPTIONS'
    guard.checkOrigin(request, { isHarmless })
    this.#allowOrigin(exchange)
    if (method === 'OPTIONS') return this.#preflight(exchange)
    const { route, params } = this.#router.find(method, url.pathname)
    exchange.params = params
    if (!route.isPublic) exchange.principal = await guard.authenticate(request)
    if (!response.destroyed) await route.handle(exchange)
  }

  #allowOrigin({ request, response }: HttpExchange): void {
    const origin = this.#context.guard.allowedOrigin(request)
    response.setHeader('vary', 'origin')
    if (origin === null) return
    response.setHeader('access-control-allow-origin', origin)
    response.setHeader('access-control-expose-headers', 'x-request-id, retry-after, retry-after-ms, x-should-retry')
  }

  #preflight({ request, response, url }: HttpExchange): void {
    const methods = this.#router.methodsAt(url.pathname)
    if (methods.length === 0) this.#router.find('OPTIONS', url.pathname)
    response.setHeader('allow', [...methods, 'OPTIONS'].join(', '))
    if (response.hasHeader('access-control-allow-origin')) {
      response.setHeader('access-control-allow-methods', methods.join(', '))
      response.setHeader('access-control-allow-headers', request.headers['access-control-request-headers'] ?? '*')
      response.setHeader('access-control-max-age', '600')
    }
    response.writeHead(204).end()
  }

  async #fail(exchange: HttpExchange, error: unknown): Promise<void> {
    const { response, requestId, principal } = exchange
    const problem = problemOf(error, requestId)
    // A client that is gone has no answer.
    if (!exchange.signal.aborted) this.#context.metrics.httpFailed(problem.code)
    if (isFault(problem)) {
      const { logger, logContent } = this.#context.options
      logger?.error(
        { request: requestId, principal: principal.id, ...errorFields(error, logContent) },
        'request failed',
      )
    }
    const methods = isGorgonError(error) ? error.details['methods'] : undefined
    if (Array.isArray(methods) && !response.headersSent) response.setHeader('allow', methods.join(', '))
    await exchange.fail(problem)
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.#sockets.upgrade(request, socket, head)
  }

  async #shut(drainMs: number): Promise<void> {
    await this.#listening?.catch(() => undefined)
    this.intake.drain()
    for (const { response } of this.#exchanges) if (!response.headersSent) response.setHeader('connection', 'close')
    const ended = Promise.all([this.intake.idle(), this.#sockets.drain(drainMs), this.#answered()])
    await Promise.race([ended, this.#deadline.passed])
    // Nothing listens from here on, and connections without a request are closed.
    const freed = new Promise<void>((resolve) => this.#http.close(() => resolve()))
    this.intake.abortAll(new GorgonError('ERR_DRAINING', 'The server stopped before the generation was done.'))
    await Promise.race([Promise.all([ended, this.#answered()]), after(GRACE_MS)])
    this.#sockets.close()
    this.#http.closeAllConnections()
    await this.intake.idle()
    await this.intake.closeSessions()
    this.#context.responses.close()
    await freed
    this.#deadline.clear()
    this.#address = null
  }

  /** Resolves when what is under way now has been answered; others may always come, to ask whether the server is ready. */
  async #answered(): Promise<void> {
    await Promise.all([...this.#exchanges].map(({ closed }) => closed))
  }
}

/**
 * Only a WebSocket is an upgrade. Clients that would as soon speak HTTP/2, as Java's do, say so with every request, and are served as if they
 * had not.
 */
class WebSocketsAside extends IncomingMessage {
  get upgrade(): boolean {
    return asksForUpgrade.has(this) && this.headers.upgrade?.toLowerCase() === 'websocket'
  }

  set upgrade(isAsked: boolean) {
    if (isAsked) asksForUpgrade.add(this)
  }
}

/** Not a field of the request: Node's constructor sets `upgrade` before a field would be there. */
const asksForUpgrade = new WeakSet<IncomingMessage>()

/** A moment that can only come nearer. */
class Deadline {
  #timer: NodeJS.Timeout | undefined
  #at = Number.POSITIVE_INFINITY
  #pass!: () => void
  readonly passed = new Promise<void>((resolve) => {
    this.#pass = resolve
  })

  within(ms: number): void {
    const at = performance.now() + ms
    if (at >= this.#at) return
    this.#at = at
    clearTimeout(this.#timer)
    this.#timer = setTimeout(this.#pass, ms)
  }

  clear(): void {
    clearTimeout(this.#timer)
  }
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref())
}

/** A host that stands for all addresses is reached by this machine's own. */
function reachableName(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1'
  if (host === '::') return '[::1]'
  return host.includes(':') ? `[${host}]` : host
}

/** A balancer's id for the request, where it has a plain one; else a new one. */
function requestIdOf({ headers: { 'x-request-id': given } }: IncomingMessage): string {
  return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : randomBytes(9).toString('base64url')
}

/** The host does not matter: paths are what is routed. */
function urlOf({ url = '/' }: IncomingMessage): URL {
  try {
    return new URL(url.startsWith('/') ? `http://server${url}` : url)
  } catch {
    return new URL('http://server/')
  }
}

/** What the parser could not take, by its codes. */
function misreading({ code, message }: NodeJS.ErrnoException): GorgonError {
  if (code === 'HPE_HEADER_OVERFLOW') {
    return new GorgonError('ERR_TOO_LARGE', 'The headers are too large. Send less of them.', { status: 431 })
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return new GorgonError('ERR_REQUEST_TIMEOUT', 'The request did not arrive in time (limits.headersMs).')
  }
  return new GorgonError('ERR_BODY', `This is not an HTTP request: ${message}.`)
}

function cannotListen(error: NodeJS.ErrnoException, host: string, port: number): GorgonError {
  const where = `${host}:${port}`
  const reasons: Readonly<Record<string, string>> = {
    EADDRINUSE: `Port ${port} of ${host} is in use. Stop what uses it, or choose another port; 0 takes any that is free.`,
    EACCES: `Listening on ${where} is not allowed. Ports below 1024 need more rights: choose a higher one.`,
    EADDRNOTAVAIL: `${host} is not an address of this machine. Use 127.0.0.1, 0.0.0.0, or one of its own.`,
    ENOTFOUND: `The host name "${host}" is not known. Use an address, or a name of this machine.`,
  }
  const message = reasons[error.code ?? ''] ?? `The server cannot listen on ${where}: ${error.message}.`
  return new GorgonError('ERR_LISTEN', message, { host, port, reason: error.code }, error)
}
