// A chat: one session at the server, from its first message to whatever ends it.
import type { Client, GenerateOptions, Generation, Message, Session } from '../../client/browser.js'

/** An answer on its way, and all it answers. */
export interface Turn {
  readonly generation: Generation
  readonly messages: readonly Message[]
}

export class Conversation {
  #session: Session | null = null

  /** True before the first message. */
  get isNew(): boolean {
    return this.#session === null
  }

  /** Says the next thing. What the server has of the turns before stays in its cache. */
  ask(client: Client, content: string, { model, ...options }: GenerateOptions): Turn {
    const message = { role: 'user', content }
    this.#session ??= client.session(model === undefined ? {} : { model })
    return {
      generation: this.#session.send(message, options),
      messages: [...this.#session.messages, message],
    }
  }

  /** The next message begins another. */
  end(): void {
    void this.#session?.close().catch(() => undefined)
    this.#session = null
  }
}
