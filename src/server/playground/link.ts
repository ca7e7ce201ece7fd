// The connection to the server the page came from.
import { type Client, connect, type StateChange } from '../../client/browser.js'
import type { Problem } from './failure.js'
import type { Key } from './key.js'

export type Model = Client['models'][number]

/** How often it is asked whether a model is loaded by now. */
const LOADING_MS = 1000

/** Of the client, and `loading`: connected, with no model loaded yet. */
export type LinkState = StateChange['state'] | 'loading'

/** What the page wants to hear. */
export interface LinkListener {
  /** @param why where something went wrong. */
  state(state: LinkState, why?: string): void
  models(models: readonly Model[]): void
  failed(problem: Problem): void
}

export class Link {
  readonly #key: Key
  readonly #listener: LinkListener
  #client: Client | null = null
  /** Of the connection that counts: what an earlier one still says is not heard. */
  #attempt = 0
  #isLoading = false

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
    if (change.state !== 'open') {
      if (!this.#isLoading) this.#listener.state(change.state, change.error?.message)
      return
    }
    const { models } = this.#client!
    this.#isLoading = models.length === 0
    // Which models there are is said once for each connection.
    if (this.#isLoading) this.#openAgainLater(this.#attempt)
    else this.#listener.models(models)
    this.#listener.state(this.#isLoading ? 'loading' : 'open')
  }

  /** Unless somebody opened it anew by then, with another key. */
  #openAgainLater(attempt: number): void {
    setTimeout(() => {
      if (attempt === this.#attempt) void this.open()
    }, LOADING_MS)
  }
}

export function problemOf(error: unknown): Problem {
  if (!(error instanceof Error)) return { message: String(error) }
  const { code } = error as { code?: unknown }
  return { message: error.message, ...(typeof code === 'string' && { code }) }
}
