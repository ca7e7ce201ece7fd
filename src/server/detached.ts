// What outlives its connection for a while: responses and sessions that a client may come back for with a secret.
import { createHash, randomBytes } from 'node:crypto'
import type { Principal } from './auth.js'

/** Of 128 bits: not to be guessed. */
const TOKEN_BYTES = 16

/** Kept at once, for all and for one principal. */
const MOST_KEPT = 1024
const MOST_KEPT_EACH = 64

/** Of the frames of responses that have ended and were sent, all together. */
const MOST_SPENT_BYTES = 64 * 1024 * 1024

/** What a token leads to. */
export interface Resumable {
  readonly kind: 'response' | 'session'
  readonly principal: Principal
  /** Ended, and all of it was sent: to be asked for only where that was lost. */
  readonly isSpent: boolean
  /** Of what it keeps to be sent again. */
  readonly keptBytes: number
  /** Takes it from the connection that has it, if one still does. */
  release(): void
  /** Nobody came for it. */
  giveUp(): void
}

/**
 * Tokens and what they lead to. What is with a connection is only known here; what is kept has a clock, and counts: when there is too much,
 * what has ended goes first, and where nothing has, no more is kept.
 */
export class Detached {
  readonly #resumeMs: number
  /** By the token's hash: how long a look-up takes says nothing about tokens. */
  readonly #known = new Map<string, Resumable>()
  readonly #hashes = new Map<Resumable, string>()
  /** Those that wait, oldest first, and their clocks. */
  readonly #kept = new Map<Resumable, NodeJS.Timeout>()
  #isClosed = false

  /** @param options.resumeMs 0 keeps nothing. */
  constructor({ resumeMs }: { readonly resumeMs: number }) {
    this.#resumeMs = resumeMs
  }

  /** Whether anything can be resumed here. */
  get isOpen(): boolean {
    return this.#resumeMs > 0 && !this.#isClosed
  }

  /** Those that wait, by what they are; responses that have ended do not. */
  counts(): { readonly responses: number; readonly sessions: number } {
    const waiting = [...this.#kept.keys()].filter(({ isSpent }) => !isSpent)
    const responses = waiting.filter(({ kind }) => kind === 'response').length
    return { responses, sessions: waiting.length - responses }
  }

  /** The secret that leads to it from now on. */
  register(resumable: Resumable): string {
    const token = randomBytes(TOKEN_BYTES).toString('base64url')
    const hash = hashOf(token)
    this.#known.set(hash, resumable)
    this.#hashes.set(resumable, hash)
    return token
  }

  /** What the token leads to, if it is this principal's. */
  find(token: string, principal: Principal): Resumable | null {
    const found = this.#known.get(hashOf(token))
    return found?.principal.id === principal.id ? found : null
  }

  /** Stops its clock, and takes it from a connection that has not yet broken. False when it did not survive that. */
  take(resumable: Resumable): boolean {
    resumable.release()
    this.#stopClock(resumable)
    return this.#hashes.has(resumable)
  }

  /** Its connection is gone, or it has ended: it waits. What has no token, or finds no room, is given up at once. */
  keep(resumable: Resumable): void {
    this.#stopClock(resumable)
    if (!this.isOpen || !this.#hashes.has(resumable) || !this.#makeRoom(resumable)) {
      this.giveUp(resumable)
      return
    }
    this.#kept.set(
      resumable,
      setTimeout(() => this.giveUp(resumable), this.#resumeMs),
    )
  }

  /** Its token leads nowhere from now on. */
  forget(resumable: Resumable): void {
    this.#stopClock(resumable)
    const hash = this.#hashes.get(resumable)
    if (hash === undefined) return
    this.#hashes.delete(resumable)
    this.#known.delete(hash)
  }

  giveUp(resumable: Resumable): void {
    this.forget(resumable)
    resumable.giveUp()
  }

  /** Gives up the sessions that wait, as when memory is short. */
  releaseSessions(): void {
    for (const resumable of [...this.#kept.keys()]) if (resumable.kind === 'session') this.giveUp(resumable)
  }

  /** Gives up all that waits, and keeps nothing more. */
  close(): void {
    this.#isClosed = true
    for (const resumable of [...this.#kept.keys()]) this.giveUp(resumable)
  }

  #stopClock(resumable: Resumable): void {
    clearTimeout(this.#kept.get(resumable))
    this.#kept.delete(resumable)
  }

  #makeRoom({ principal, isSpent, keptBytes }: Resumable): boolean {
    const kept = () => [...this.#kept.keys()]
    const own = kept().filter((other) => other.principal.id === principal.id)
    if (own.length >= MOST_KEPT_EACH && !this.#giveUpSpent(own)) return false
    if (this.#kept.size >= MOST_KEPT && !this.#giveUpSpent(kept())) return false
    const spent = kept().filter((other) => other.isSpent)
    let bytes = spent.reduce((sum, other) => sum + other.keptBytes, isSpent ? keptBytes : 0)
    for (const other of spent) {
      if (bytes <= MOST_SPENT_BYTES) break
      bytes -= other.keptBytes
      this.giveUp(other)
    }
    return true
  }

  /** The first of them that can be spared. */
  #giveUpSpent(candidates: readonly Resumable[]): boolean {
    const first = candidates.find((other) => other.isSpent)
    if (first) this.giveUp(first)
    return first !== undefined
  }
}

function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('base64')
}
