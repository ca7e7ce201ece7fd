// WebSockets: handshakes to connections, signs of life, and the end of all of them.
import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import { GorgonError } from '../errors.js'
import { packageManifest } from '../index.js'
import { bearerOf, type Principal } from './auth.js'
import { CloseCode, SUBPROTOCOL } from './close-codes.js'
import { Connection, type ConnectionOptions } from './connection.js'
import type { ServerContext } from './context.js'
import { Detached } from './detached.js'
import { problemOf } from './errors.js'
import type { Route } from './http.js'
import type { SocketProtocol } from './metrics.js'
import { ResponsesConnection } from './openai/responses-socket.js'
import type { ServerLimits } from './options.js'
import type { PeerConnection, PeerSocket } from './peer.js'
import { refuse } from './refusal.js'

/** How long the other side gets to answer a close frame. */
const CLOSE_MS = 2000

/** Of one message; a client that sends a byte at a time pays for it. */
const MOST_FRAGMENTS = 1024

/** A close frame has 125 bytes, of which two are its code. */
const REASON_BYTES = 123

/** Pings in a row without an answer, after which nobody is thought to be there. */
const MOST_MISSED = 2

/** Before a key among the subprotocols, in base64url: a browser can set no header. */
const BEARER = 'bearer.'

/** What is spoken at a path. */
interface Door {
  readonly protocol: SocketProtocol
  /**
   * Of the subprotocols a client offers, the one that is spoken; false for none.
   *
   * @throws {GorgonError} ERR_UNSUPPORTED.
   */
  choose(offered: readonly string[]): string | false
  open(socket: PeerSocket, options: ConnectionOptions): PeerConnection
}

export class Sockets {
  readonly #context: ServerContext
  readonly #detached: Detached
  readonly #doors: ReadonlyMap<string, Door>
  readonly #server: WebSocketServer
  readonly #open = new Set<OpenSocket>()
  /** Sockets whose handshake is not done. */
  readonly #shaking = new Set<Duplex>()
  #isDraining = false
  #onEmpty: (() => void)[] = []

  constructor(context: ServerContext) {
    this.#context = context
    const { intake, metrics, options } = context
    const { limits, logger } = options
    this.#detached = new Detached(limits)
    intake.onOutOfMemory(() => this.#detached.releaseSessions())
    const host = {
      intake,
      limits,
      logger,
      detached: this.#detached,
      readers: metrics,
      server: `gorgon/${packageManifest().version}`,
    }
    const responsesHost = { responses: context.responses, limits, logger, readers: metrics }
    this.#doors = new Map<string, Door>([
      [
        '/v1/stream',
        { protocol: 'stream', choose: chooseNative, open: (socket, about) => new Connection(host, socket, about) },
      ],
      [
        '/v1/responses',
        {
          protocol: 'responses',
          choose: () => false,
          // Nobody comes in here without a key where one is needed.
          open: (socket, { id, principal }) =>
            new ResponsesConnection(responsesHost, socket, { id, principal: principal! }),
        },
      ],
    ])
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      // Compressing frames this small costs more than it saves, and each stream's window is memory.
      perMessageDeflate: false,
      maxPayload: limits.messageBytes,
      maxFragments: MOST_FRAGMENTS,
      handleProtocols: (offered, request) => this.#doorOf(request).choose([...offered]),
    })
    metrics.read({
      sockets: () => this.#counts(),
      bufferedBytes: () => [...this.#open].reduce((bytes, socket) => bytes + socket.bufferedBytes, 0),
      detached: () => this.#detached.counts(),
    })
  }

  /** Answers to requests that forgot to ask for an upgrade. */
  routes(): readonly Route[] {
    return ['/v1/stream'].map((path) => ({
      method: 'GET',
      path,
      isPublic: true,
      handle({ response }) {
        response.setHeader('upgrade', 'websocket')
        throw new GorgonError('ERR_UNSUPPORTED', `${path} is a WebSocket. Connect with a WebSocket client.`, {
          status: 426,
        })
      },
    }))
  }

  /** Takes over the socket of a request to upgrade; never throws. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const onError = (): void => void socket.destroy()
    socket.on('error', onError)
    this.#shaking.add(socket)
    this.#admit(request)
      .then(
        ({ door, principal }) => {
          this.#server.handleUpgrade(request, socket, head, (ws) => this.#begin(ws, request, door, principal))
        },
        (error: unknown) => refuse(socket, problemOf(error, ''), refusalHeaders(error)),
      )
      .finally(() => {
        socket.off('error', onError)
        this.#shaking.delete(socket)
      })
  }

  /** Tells each to take nothing new and to close when what runs has ended; resolves when all are closed. */
  drain(deadlineMs: number): Promise<void> {
    this.#isDraining = true
    // Nobody can come back for these: nothing new is taken.
    this.#detached.close()
    for (const { connection } of this.#open) connection.drain(deadlineMs)
    if (this.#open.size === 0) return Promise.resolve()
    return new Promise((resolve) => this.#onEmpty.push(resolve))
  }

  /** Closes what is still open. */
  close(): void {
    this.#isDraining = true
    this.#detached.close()
    for (const socket of this.#shaking) socket.destroy()
    for (const socket of this.#open) socket.leave(CloseCode.goingAway, 'The server stopped')
  }

  #counts(): Record<SocketProtocol, number> {
    const counts = { stream: 0, responses: 0 }
    for (const { protocol } of this.#open) counts[protocol]++
    return counts
  }

  #doorOf({ url = '/' }: IncomingMessage): Door {
    const path = url.split('?', 1)[0]!
    const door = this.#doors.get(path)
    if (door) return door
    throw new GorgonError(
      'ERR_ROUTE',
      `There is no WebSocket at ${path.slice(0, 100)}. Those there are: /v1/stream and /v1/responses.`,
    )
  }

  /** Who comes in, and by which door. Without a key in the handshake, where one is needed, `hello` must bring it. */
  async #admit(request: IncomingMessage): Promise<{ readonly door: Door; readonly principal: Principal | null }> {
    const { guard } = this.#context
    guard.checkOrigin(request)
    const door = this.#doorOf(request)
    this.#assertOpen()
    const offered = offeredBy(request)
    door.choose(offered)
    const token = bearerOf(request) ?? keyAmong(offered)
    const mayWait = door.protocol === 'stream' && token === null && guard.asksForKeys
    const principal = mayWait ? null : await guard.identify(request, token)
    this.#assertOpen()
    return { door, principal }
  }

  #assertOpen(): void {
    if (!this.#isDraining) return
    throw new GorgonError('ERR_DRAINING', 'The server is about to stop and takes no connections. Connect again.')
  }

  #begin(ws: WebSocket, request: IncomingMessage, door: Door, principal: Principal | null): void {
    const { guard, options } = this.#context
    const id = randomBytes(9).toString('base64url')
    const about: ConnectionOptions = { id, principal, identify: (token) => guard.identify(request, token) }
    const socket = new OpenSocket(ws, {
      id,
      limits: options.limits,
      protocol: door.protocol,
      connect: (peer) => door.open(peer, about),
      onClose: (code) => {
        this.#open.delete(socket)
        options.logger?.debug({ connection: id, code }, 'socket closed')
        if (this.#open.size > 0) return
        for (const resolve of this.#onEmpty.splice(0)) resolve()
      },
    })
    this.#open.add(socket)
    options.logger?.debug({ connection: id, protocol: door.protocol, principal: principal?.id }, 'socket open')
  }
}

interface SocketOptions {
  readonly id: string
  readonly limits: Pick<ServerLimits, 'heartbeatMs' | 'idleMs'>
  readonly protocol: SocketProtocol
  readonly connect: (socket: PeerSocket) => PeerConnection
  readonly onClose: (code: number) => void
}

/** A WebSocket with its connection: closed when nobody answers pings, or says anything for too long. */
class OpenSocket implements PeerSocket {
  readonly protocol: SocketProtocol
  readonly connection: PeerConnection
  readonly #ws: WebSocket
  readonly #heartbeat: NodeJS.Timeout
  readonly #idleMs: number
  #idle: NodeJS.Timeout | undefined
  #closing: NodeJS.Timeout | undefined
  #missed = 0
  /** When something was last said, by either side. */
  #activeAt = performance.now()

  constructor(ws: WebSocket, { limits, protocol, connect, onClose }: SocketOptions) {
    this.#ws = ws
    this.protocol = protocol
    this.#idleMs = limits.idleMs
    this.connection = connect(this)
    ws.on('message', (data, isBinary) => {
      this.#missed = 0
      this.#activeAt = performance.now()
      // With the default binary type, data is one buffer.
      if (isBinary) this.leave(CloseCode.badFrame, 'The message is binary: frames are JSON, as text')
      else this.connection.received((data as Buffer).toString())
    })
    ws.on('pong', () => {
      this.#missed = 0
    })
    // What follows is a close event; the code tells what it was.
    ws.on('error', () => undefined)
    ws.on('close', (code) => {
      clearInterval(this.#heartbeat)
      clearTimeout(this.#idle)
      clearTimeout(this.#closing)
      this.connection.left()
      onClose(code)
    })
    this.#heartbeat = setInterval(() => this.#beat(), limits.heartbeatMs)
    this.#watchIdle(this.#idleMs)
  }

  get bufferedBytes(): number {
    return this.#ws.bufferedAmount
  }

  send(message: string, done: () => void): void {
    this.#activeAt = performance.now()
    this.#ws.send(message, done)
  }

  close(code: number, reason: string): void {
    this.#ws.close(code, cut(reason))
    this.#closing ??= setTimeout(() => this.#ws.terminate(), CLOSE_MS)
  }

  /** Closes it from outside of its connection. */
  leave(code: CloseCode, reason: string): void {
    this.connection.left()
    this.close(code, reason)
  }

  #beat(): void {
    if (this.#missed >= MOST_MISSED) {
      this.#ws.terminate()
      return
    }
    this.#missed++
    if (this.#ws.readyState === this.#ws.OPEN) this.#ws.ping()
  }

  #watchIdle(inMs: number): void {
    this.#idle = setTimeout(() => {
      const left = this.#activeAt + this.#idleMs - performance.now()
      if (left > 0) this.#watchIdle(left)
      else if (this.connection.isBusy) this.#watchIdle(this.#idleMs)
      else this.leave(CloseCode.timeout, `Nothing was asked for ${this.#idleMs} ms`)
    }, inMs)
  }
}

function chooseNative(offered: readonly string[]): string {
  if (offered.includes(SUBPROTOCOL)) return SUBPROTOCOL
  const isNone = offered.length === 0
  throw new GorgonError(
    'ERR_UNSUPPORTED',
    isNone
      ? `This WebSocket speaks ${SUBPROTOCOL}, and the handshake asks for no subprotocol. Ask for it.`
      : `This WebSocket speaks ${SUBPROTOCOL}, which is not among the subprotocols of the handshake. Ask for it.`,
    { status: isNone ? 426 : 400, subprotocol: SUBPROTOCOL },
  )
}

/** A refusal says which subprotocol would have been spoken. */
function refusalHeaders(error: unknown): Record<string, string> {
  const subprotocol = error instanceof GorgonError ? error.details['subprotocol'] : undefined
  return typeof subprotocol === 'string' ? { upgrade: 'websocket', 'sec-websocket-protocol': subprotocol } : {}
}

function offeredBy({ headers }: IncomingMessage): string[] {
  return (headers['sec-websocket-protocol'] ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '')
}

function keyAmong(offered: readonly string[]): string | null {
  const encoded = offered.find((name) => name.startsWith(BEARER))
  return encoded === undefined ? null : Buffer.from(encoded.slice(BEARER.length), 'base64url').toString()
}

/** As much of a reason as a close frame takes, without half a character. */
export function cut(reason: string): string {
  const bytes = Buffer.from(reason)
  if (bytes.length <= REASON_BYTES) return reason
  let end = REASON_BYTES
  // 10xxxxxx goes on with a character.
  while ((bytes[end]! & 0xc0) === 0x80) end--
  return bytes.toString('utf8', 0, end)
}
