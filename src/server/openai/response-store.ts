// Responses that were made, for requests that go on from them: so many, so large, for so long.
import { GorgonError } from '../../errors.js'
import type { Message } from '../../index.js'
import type { ServedSession } from '../intake.js'
import type { ResponseObject } from './response-object.js'

export const STORE_LIMITS = {
  responses: 1000,
  /** Characters of all contexts and answers. */
  characters: 64 * 1024 * 1024,
  keepMs: 60 * 60_000,
  /** Caches kept for the next turn; each takes memory of the engine's device. */
  sessions: 8,
  sessionMs: 5 * 60_000,
} as const

/** How often the clock is looked at. */
const SWEEP_MS = 5000

/** What a response is kept for. */
export interface KeptResponse {
  readonly owner: string
  readonly response: ResponseObject
  /** Of its own request. */
  readonly input: readonly Message[]
  /** What a next request goes on from: input and answer of this one and of those before, without instructions. */
  readonly messages: readonly Message[]
}

interface Entry {
  readonly kept: KeptResponse
  readonly characters: number
  readonly keptAt: number
}

interface Held {
  readonly session: ServedSession
  readonly heldAt: number
}

export type StoreLimits = { readonly [Name in keyof typeof STORE_LIMITS]: number }

export class ResponseStore {
  readonly #limits: StoreLimits
  readonly #now: () => number
  /** Oldest first, as are the sessions. */
  readonly #entries = new Map<string, Entry>()
  readonly #held = new Map<KeptResponse, Held>()
  #characters = 0
  #sweep: NodeJS.Timeout | null = null

  constructor(limits: StoreLimits = STORE_LIMITS, now: () => number = () => performance.now()) {
    this.#limits = limits
    this.#now = now
  }

  get size(): number {
    return this.#entries.size
  }

  keep(kept: KeptResponse): void {
    const characters = charactersOf(kept)
    this.#entries.set(kept.response.id, { kept, characters, keptAt: this.#now() })
    this.#characters += characters
    while (this.#entries.size > this.#limits.responses || this.#characters > this.#limits.characters) {
      this.#drop(this.#mostGreedy())
    }
    this.#watch()
  }

  /** Null when there is none of this owner's. */
  find(id: string, owner: string): KeptResponse | null {
    this.sweep()
    const kept = this.#entries.get(id)?.kept
    return kept?.owner === owner ? kept : null
  }

  has(kept: KeptResponse): boolean {
    return this.#entries.get(kept.response.id)?.kept === kept
  }

  /** @throws {GorgonError} ERR_RESPONSE_NOT_FOUND. */
  get(id: string, owner: string): KeptResponse {
    const kept = this.find(id, owner)
    if (kept) return kept
    throw new GorgonError(
      'ERR_RESPONSE_NOT_FOUND',
      `There is no response "${id.slice(0, 100)}": it was never stored, was deleted, or is older than what is kept.`,
      { id },
    )
  }

  /** @throws {GorgonError} ERR_RESPONSE_NOT_FOUND. */
  delete(id: string, owner: string): void {
    this.get(id, owner)
    this.#drop(id)
  }

  /** Keeps the cache that a response has left, for the next turn. */
  hold(kept: KeptResponse, session: ServedSession): void {
    this.#held.set(kept, { session, heldAt: this.#now() })
    const [oldest] = this.#held.keys()
    if (this.#held.size > this.#limits.sessions && oldest) this.release(oldest)
    this.#watch()
  }

  /** Its cache, for the one turn that may follow it there; null when it is gone. */
  take(kept: KeptResponse): ServedSession | null {
    this.sweep()
    const held = this.#held.get(kept)
    this.#held.delete(kept)
    return held?.session ?? null
  }

  /** Frees its cache; it can still be gone on from. */
  release(kept: KeptResponse): void {
    closeQuietly(this.take(kept))
  }

  /** Frees all caches, as when memory is short. */
  releaseAll(): void {
    for (const kept of [...this.#held.keys()]) this.release(kept)
  }

  /** Drops what was kept long enough. */
  sweep(): void {
    const now = this.#now()
    for (const [kept, { heldAt, session }] of this.#held) {
      if (now - heldAt < this.#limits.sessionMs) break
      this.#held.delete(kept)
      closeQuietly(session)
    }
    for (const [id, { keptAt }] of this.#entries) {
      if (now - keptAt < this.#limits.keepMs) break
      this.#drop(id)
    }
  }

  /** Forgets all of it; sessions are their server's to close. */
  close(): void {
    clearInterval(this.#sweep ?? undefined)
    this.#sweep = null
    this.#entries.clear()
    this.#held.clear()
    this.#characters = 0
  }

  #drop(id: string): void {
    const entry = this.#entries.get(id)
    if (!entry) return
    this.#entries.delete(id)
    this.#characters -= entry.characters
    closeQuietly(this.#held.get(entry.kept)?.session)
    this.#held.delete(entry.kept)
  }

  /** The oldest response of whoever has most: so that nobody pushes out what others keep. */
  #mostGreedy(): string {
    const shares = new Map<string, { characters: number; oldest: string }>()
    for (const [id, { kept, characters }] of this.#entries) {
      const share = shares.get(kept.owner) ?? { characters: 0, oldest: id }
      // An empty response takes up a place as well.
      share.characters += characters + this.#limits.characters / this.#limits.responses
      shares.set(kept.owner, share)
    }
    return [...shares.values()].reduce((most, share) => (share.characters > most.characters ? share : most)).oldest
  }

  /** Without anything kept there is no clock to look at; it keeps no process alive. */
  #watch(): void {
    this.#sweep ??= setInterval(() => {
      this.sweep()
      if (this.#entries.size > 0 || this.#held.size > 0) return
      clearInterval(this.#sweep!)
      this.#sweep = null
    }, SWEEP_MS).unref()
  }
}

/** A session that fails to close is closed all the same, and nobody waits for it. */
export function closeQuietly(session: ServedSession | null | undefined): void {
  session?.close().catch(() => undefined)
}

const LOGPROB_CHARACTERS = 64
/** What a message takes up beside its text. */
const MESSAGE_CHARACTERS = 64

/** Of the whole context, although responses share what came before: a bound is all that is wanted. */
function charactersOf({ response, messages, input }: KeptResponse): number {
  const texts = [...messages, ...input].reduce((sum, { content }) => sum + content.length + MESSAGE_CHARACTERS, 0)
  const logprobs = response.output.flatMap(({ content }) => content.flatMap((part) => part.logprobs))
  const entries = logprobs.reduce((sum, { top_logprobs }) => sum + 1 + top_logprobs.length, 0)
  return texts + (response.instructions?.length ?? 0) + entries * LOGPROB_CHARACTERS
}
