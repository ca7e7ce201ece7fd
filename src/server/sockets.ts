// WebSockets: handshakes to connections, and the end of all of them.
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { GorgonError } from '../errors.js'
import type { ServerContext } from './context.js'
import { problemOf } from './errors.js'
import { refuseUpgrade } from './refuse-upgrade.js'

export class Sockets {
  readonly #context: ServerContext

  constructor(context: ServerContext) {
    this.#context = context
  }

  /** Takes over the socket of a request to upgrade; never throws. */
  upgrade(request: IncomingMessage, socket: Duplex, _head: Buffer): void {
    try {
      this.#context.guard.checkOrigin(request)
      throw new GorgonError('ERR_ROUTE', 'There is no WebSocket here.')
    } catch (error) {
      refuseUpgrade(socket, problemOf(error, ''))
    }
  }

  /** Tells each to take nothing new and to close when what runs has ended; resolves when all are closed. */
  async drain(_deadlineMs: number): Promise<void> {}

  /** Closes what is still open. */
  close(): void {}
}
