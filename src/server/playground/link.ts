// The connection to the server the page came from.
import { type Client, connect, type StateChange } from '../../client/browser.js'
import type { Problem } from './failure.js'
import type { Key } from './key.js'

export type Model = Client['models'][number]

/** What the page wants to hear. */
export interface LinkListener {
  state(change: StateChange): void
  models(models: readonly Model[]): void
  failed(problem: Problem): void
}

export class Link {
  readonly #key: Key
  readonly #listener: LinkListener
  #client: Client | null = null
  /** Of the connection that counts: what an earlier one still says is not heard. */
  #attempt = 0

  constructor(key: Key, listener: LinkListener) {
    this.#key = key
    this.#listener = listener
  }

  /** Null before the first connection. */
  get client(): Client | null {
    return this.#client
  }

  /** Connects with the key there is; a connection that there was is left. */
  async open(): Promise<void> {
    this.#attempt += 1
    const attempt = this.#attempt
    void this.#client?.close().catch(() => undefined)
    const key = this.#key.value
    const client = connect(new URL('.', location.href), {
      client: 'gorgon playground',
      ...(key !== undefined && { key }),
      onState: (change) => {
        if (attempt === this.#attempt) this.#changed(change)
      },
    })
    this.#client = client
    try {
      await client.ready()
    } catch (error) {
      if (attempt === this.#attempt) this.#listener.failed(problemOf(error))
    }
  }

  #changed(change: StateChange): void {
    this.#listener.state(change)
    if (change.state === 'open') this.#listener.models(this.#client!.models)
  }
}

export function problemOf(error: unknown): Problem {
  if (!(error instanceof Error)) return { message: String(error) }
  const { code } = error as { code?: unknown }
  return { message: error.message, ...(typeof code === 'string' && { code }) }
}
