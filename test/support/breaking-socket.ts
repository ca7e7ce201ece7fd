// Sockets that break at a message of choice: what was on its way is lost, in both directions, and no close frame comes.
import { WebSocket } from 'ws'
import type { StandardSocketClass } from '../../src/client/socket.js'

export interface BreakingSockets {
  readonly WebSocket: StandardSocketClass
  /** Made so far. */
  readonly count: number
}

/** @param messages that the so-manyth connection, from 0, receives before it breaks. */
export function breakingSockets(messages: (connection: number) => number): BreakingSockets {
  const made = { count: 0 }
  class BreakingSocket extends WebSocket {
    #left: number

    constructor(url: string, protocols: string[]) {
      super(url, protocols)
      this.#left = messages(made.count++)
    }

    override emit(event: string | symbol, ...args: unknown[]): boolean {
      if (event === 'message' && this.#left-- <= 0) {
        this.terminate()
        return true
      }
      return super.emit(event, ...args)
    }
  }
  return {
    WebSocket: BreakingSocket as unknown as StandardSocketClass,
    get count() {
      return made.count
    },
  }
}
