// `gorgon/client` for Node: sockets of `ws`, which carry the key in the handshake and tell why one failed.
import { setMaxListeners } from 'node:events'
import { WebSocket } from 'ws'
import { CloseCode } from '../server/close-codes.js'
import { Client } from './client.js'
import type { ConnectOptions } from './options.js'
import type { Platform, SocketEnd } from './socket.js'

export * from './public.js'

/**
 * A client of the server at `url`: `ws://host:port`, `https://host/prefix`. It connects at once.
 *
 * @throws {ClientError} ERR_OPTION.
 */
export function connect(url: string | URL, options: ConnectOptions = {}): Client {
  return new Client(nodePlatform, url, options)
}

const nodePlatform: Platform = {
  dialsWithKey: true,
  dial({ url, protocol, key }, listener) {
    const socket = new WebSocket(url, protocol, {
      perMessageDeflate: false,
      ...(key !== undefined && { headers: { authorization: `Bearer ${key}` } }),
    })
    let isDropped = false
    let end: Partial<SocketEnd> = {}
    socket.on('open', () => !isDropped && listener.opened())
    socket.on('message', (data, isBinary) => {
      if (!isDropped) listener.received(isBinary ? data : String(data))
    })
    socket.on('unexpected-response', (request, response) => {
      const retryAfterMs = Number(response.headers['retry-after']) * 1000
      end = { status: response.statusCode, ...(retryAfterMs >= 0 && { retryAfterMs }) }
      // Nothing else ends a socket whose refusal somebody listens to.
      request.destroy()
      if (!isDropped) listener.ended({ code: 1006, reason: '', ...end })
      isDropped = true
    })
    socket.on('error', (cause) => {
      end = { cause, ...end }
    })
    socket.on('close', (code, reason) => {
      if (!isDropped) listener.ended({ code, reason: String(reason), ...end })
    })
    return {
      get bufferedBytes() {
        return socket.bufferedAmount
      },
      send: (message) => socket.send(message, () => undefined),
      leave() {
        isDropped = true
        socket.close(CloseCode.normal)
      },
      drop() {
        isDropped = true
        socket.terminate()
      },
    }
  },
  expectListeners: (signal) => setMaxListeners(0, signal),
}
