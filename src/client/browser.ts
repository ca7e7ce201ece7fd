// `gorgon/client` for browsers: sockets are the platform's own. Nothing outside this folder but close codes is loaded.
import { Client } from './client.js'
import { ClientError } from './errors.js'
import type { ConnectOptions } from './options.js'
import { type StandardSocketClass, standardPlatform } from './socket.js'

export * from './public.js'

/**
 * A client of the server at `url`: `wss://host`, `https://host/prefix`, or relative to the page, such as `/`. It connects at once.
 *
 * @throws {ClientError} ERR_OPTION.
 */
export function connect(url: string | URL, options: ConnectOptions = {}): Client {
  const { WebSocket: PlatformSocket, location } = globalThis as {
    WebSocket?: StandardSocketClass
    location?: { readonly href: string }
  }
  const WebSocket = options.WebSocket ?? PlatformSocket
  if (!WebSocket) {
    throw new ClientError('ERR_OPTION', 'This platform has no WebSocket. Give connect() one, as `WebSocket`.')
  }
  return new Client(standardPlatform(WebSocket), url, options, location?.href)
}
