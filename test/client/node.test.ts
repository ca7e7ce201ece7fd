// Node's sockets: what the handshake carries, and what is made of one that is refused.
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type WebSocket, WebSocketServer } from 'ws'
import { type Client, type ConnectOptions, connect } from '../../src/client/node.js'
import { rejection, watchRejections } from '../support/client.js'

watchRejections()

let http: Server
let sockets: WebSocketServer
let clients: Client[]
let url: string
/** What becomes of a handshake. */
let onUpgrade: (request: IncomingMessage, socket: Duplex, head: Buffer) => void
let onSocket: (socket: WebSocket) => void

const welcome = (heartbeatMs: number) =>
  JSON.stringify({
    type: 'welcome',
    connection: 'c1',
    server: 'gorgon/0',
    models: [],
    limits: { messageBytes: 100_000, perConnection: 8, idleMs: 300_000, resumeMs: 30_000 },
    heartbeatMs,
  })

beforeEach(async () => {
  clients = []
  sockets = new WebSocketServer({ noServer: true })
  onUpgrade = (request, socket, head) => sockets.handleUpgrade(request, socket, head, onSocket)
  onSocket = (socket) => socket.send(welcome(20_000))
  http = createServer().on('upgrade', (request, socket, head) => onUpgrade(request, socket, head))
  await new Promise<void>((listening) => http.listen(0, '127.0.0.1', listening))
  url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`
})

afterEach(async () => {
  const closed = Promise.all(clients.map((client) => client.close()))
  for (const socket of sockets.clients) socket.terminate()
  await closed
  http.closeAllConnections()
  await new Promise((closed) => http.close(closed))
})

function open(options: ConnectOptions = {}): Client {
  const client = connect(url, { reconnect: false, ...options })
  clients.push(client)
  return client
}

/** Answers the handshake over HTTP. */
const refuse = (status: string, headers = '') => {
  onUpgrade = (_, socket) => socket.end(`HTTP/1.1 ${status}\r\ncontent-length: 0\r\n${headers}\r\n`)
}

describe('the handshake', () => {
  it('carries protocol, affinity and key, and offers no compression', async () => {
    let asked: IncomingMessage | undefined
    let first = ''
    onSocket = (socket) => {
      socket.once('message', (message) => {
        first = String(message)
        socket.send(welcome(20_000))
      })
    }
    const upgrade = onUpgrade
    onUpgrade = (request, socket, head) => {
      asked = request
      upgrade(request, socket, head)
    }
    await open({ key: 'secret', affinity: 'me' }).ready()
    expect(asked?.url).toBe('/v1/stream?affinity=me')
    expect(asked?.headers).toMatchObject({ authorization: 'Bearer secret', 'sec-websocket-protocol': 'gorgon.v1' })
    expect(asked?.headers['sec-websocket-extensions']).toBeUndefined()
    expect(JSON.parse(first)).not.toHaveProperty('token')
  })

  it.each([
    ['401 Unauthorized', '', { code: 'ERR_UNAUTHORIZED', retryable: false, details: { status: 401 } }],
    ['403 Forbidden', '', { code: 'ERR_FORBIDDEN', retryable: false }],
    ['404 Not Found', '', { code: 'ERR_PROTOCOL', retryable: false }],
    ['503 Service Unavailable', 'retry-after: 2\r\n', { code: 'ERR_DRAINING', retryable: true, retryAfterMs: 2000 }],
    ['429 Too Many Requests', '', { code: 'ERR_CONNECTIONS', retryable: true }],
  ])('refused with %s is the error it stands for', async (status, headers, expected) => {
    refuse(status, headers)
    expect(await rejection(open().ready())).toMatchObject(expected)
  })

  it('that breaks off is a server that cannot be reached', async () => {
    onUpgrade = (_, socket) => socket.destroy()
    expect(await rejection(open().ready())).toMatchObject({ code: 'ERR_DISCONNECTED', retryable: true })
  })

  it('with nobody there names the address', async () => {
    await new Promise((closed) => http.close(closed))
    const { message, code, cause } = await rejection(open().ready())
    expect(code).toBe('ERR_DISCONNECTED')
    expect(message).toContain('ECONNREFUSED')
    expect(message).toContain(new URL(url).host)
    expect(cause).toBeInstanceOf(Error)
  })

  it('with a server of another protocol fails', async () => {
    sockets.options.handleProtocols = () => false
    expect((await rejection(open().ready())).message).toContain('subprotocol')
  })
})

describe('a socket', () => {
  it('that brings bytes in place of text is not a gorgon server’s', async () => {
    onSocket = (socket) => socket.send(Buffer.from(welcome(20_000)))
    expect((await rejection(open().ready())).code).toBe('ERR_PROTOCOL')
  })

  it('that falls silent is dropped, and made again', async () => {
    let connections = 0
    onSocket = (socket) => {
      connections++
      // Pings of the protocol go unanswered.
      socket.send(welcome(30))
    }
    const states: string[] = []
    await new Promise<void>((again) => {
      open({
        reconnect: { minDelayMs: 1 },
        onState: ({ state }) => {
          states.push(state)
          if (states.filter((seen) => seen === 'open').length === 2) again()
        },
      })
    })
    expect(states).toEqual(['open', 'reconnecting', 'open'])
    expect(connections).toBe(2)
  })

  it('is closed in good order by close()', async () => {
    const codes: number[] = []
    const closed = new Promise<void>((resolve) => {
      onSocket = (socket) => {
        socket.on('message', (message) => {
          if (JSON.parse(String(message)).type === 'finish') socket.close(1000)
        })
        socket.on('close', (code) => {
          codes.push(code)
          resolve()
        })
        socket.send(welcome(20_000))
      }
    })
    const client = open()
    await client.ready()
    await client.close()
    await closed
    expect(codes).toEqual([1000])
  })
})

it('takes one signal for many generations without a warning', async () => {
  const warned = vi.fn()
  process.on('warning', warned)
  const { signal } = new AbortController()
  const client = open({ signal })
  const generations = Array.from({ length: 50 }, () => client.generate('x', { signal }))
  await new Promise((resolve) => setImmediate(resolve))
  process.off('warning', warned)
  expect(warned).not.toHaveBeenCalled()
  const rejected = Promise.all(generations.map((generation) => expect(generation).rejects.toThrow()))
  for (const generation of generations) generation.abort()
  await rejected
})
