// One sequence of tokens on the native side: its phases, abort checks between them, and an account of what the cache holds.
import type { Tree } from './decode/tree.js'
import type {
  CompressionReport,
  CompressionSpec,
  Drafts,
  ModelHandle,
  Native,
  Posterior,
  SamplingSpec,
  SessionHandle,
  SessionInfo,
} from './native.js'
import type { PrefillProgress } from './options.js'
import type { Scheduler } from './scheduler.js'

/** Drafts to make at the end of a phase: so many Medusa heads, so many of each. */
export interface DraftRequest {
  readonly medusaHeads: number
  readonly topK: number
}

/** A plan says more than the native side needs to hear. */
const only = ({ medusaHeads, topK }: DraftRequest): DraftRequest => ({ medusaHeads, topK })

/**
 * Tokens that were emitted but are not in the cache are the *tail*. They belong to the text, so the next turn prefills them first.
 *
 * At the end of a turn the tail is the last token emitted, and that alone: plain decoding has nothing to verify after its last token,
 * and what the cache holds may not depend on how many tokens a step happened to accept. A turn that was cut short leaves as tail what its
 * last step emitted.
 */
export class Sequence {
  readonly #native: Native
  readonly #scheduler: Scheduler
  readonly #handle: SessionHandle
  #tail: readonly number[] = []
  /** Nodes of the tail, while the verify that holds them can still be committed. */
  #path: Int32Array | null = null
  #isIntact = true
  #commitMs: number | null = null
  #stepMs: number | null = null
  #info: SessionInfo
  #closed: Promise<void> | undefined
  readonly #onClose: (sequence: Sequence) => void

  constructor(native: Native, scheduler: Scheduler, model: ModelHandle, onClose: (sequence: Sequence) => void) {
    this.#native = native
    this.#scheduler = scheduler
    this.#handle = native.openSession(model)
    this.#info = native.sessionInfo(this.#handle)
    this.#onClose = onClose
  }

  /** False when a phase was left unfinished: nobody knows what the cache holds, and the sequence can only be closed. */
  get isIntact(): boolean {
    return this.#isIntact
  }

  get tail(): readonly number[] {
    return this.#tail
  }

  /** As the last call of a phase left it: nobody can look during one. */
  get info(): SessionInfo {
    return this.#info
  }

  /**
   * Runs a turn's tokens, chunk by chunk; an abort is seen between chunks, and at once where the next one's turn has not come.
   *
   * @param tokens the tail, then the turn's own.
   * @throws the signal's reason when it fires, as the other phases do.
   */
  async prefill(
    request: {
      readonly tokens: Int32Array
      readonly sampling: SamplingSpec
      readonly compression: CompressionSpec | null
      readonly drafts: DraftRequest
      readonly onPrefill?: ((progress: PrefillProgress) => void) | undefined
    },
    signal: AbortSignal,
  ): Promise<{ drafts: Drafts; compression: CompressionReport | null }> {
    signal.throwIfAborted()
    const { tokens, sampling, compression, drafts, onPrefill } = request
    const { rows: cached } = this.#info
    const withdraw = () => this.#scheduler.withdraw(this.#handle, signal.reason)
    return this.#phase(async () => {
      this.#native.beginPrefill({ session: this.#handle, tokens, sampling, compression, ...only(drafts) })
      signal.addEventListener('abort', withdraw, { once: true })
      try {
        for (let left = tokens.length; ; ) {
          const work = { session: this.#handle, tokens: tokens.length, left }
          const { done, total, result } = await this.#scheduler.prefill(work)
          this.#info = this.#native.sessionInfo(this.#handle)
          left = tokens.length * (1 - done / total)
          onPrefill?.({ done, total, tokens: tokens.length, cached })
          if (result) {
            this.#keep([], null)
            return result
          }
          signal.throwIfAborted()
        }
      } finally {
        signal.removeEventListener('abort', withdraw)
      }
    })
  }

  /** @param tokens i32 [N]: of each node of the tree. */
  async verify(tree: Tree, tokens: Int32Array, typical: boolean, signal: AbortSignal): Promise<Posterior> {
    signal.throwIfAborted()
    const request = { session: this.#handle, tokens, parents: tree.parents, typical }
    const posterior = await this.#phase(() => this.#scheduler.verify(request))
    this.#stepMs = this.#commitMs === null ? null : this.#commitMs + this.#scheduler.callMs
    return posterior
  }

  /** Of the last verify and the commit before it, in milliseconds; null of a turn's first, which no commit came before. */
  get stepMs(): number | null {
    return this.#stepMs
  }

  /** Sequences that share a pass with this one, itself included. */
  get peers(): number {
    return this.#scheduler.peers(this.#handle)
  }

  /**
   * These tokens are part of the text now.
   *
   * @param path their nodes in the tree just verified, root first; null when there was nothing to verify.
   */
  emit(tokens: Int32Array, path: Int32Array | null): void {
    this.#keep([...this.#tail, ...tokens], path)
  }

  /** Moves what was emitted into the cache, and drafts for the next step. */
  async commit(next: DraftRequest, signal: AbortSignal): Promise<Drafts> {
    signal.throwIfAborted()
    const drafts = await this.#commit(this.#path!, only(next))
    this.#commitMs = this.#scheduler.callMs
    this.#keep([], null)
    return drafts
  }

  /** Ends a turn: all but the last token emitted go into the cache. */
  async settle(): Promise<void> {
    const path = this.#path
    this.#path = null
    this.#commitMs = null
    this.#scheduler.leave(this.#handle)
    if (!this.#isIntact || !path || path.length < 2) return
    await this.#commit(path.subarray(0, -1), { medusaHeads: 0, topK: 0 })
    this.#keep(this.#tail.slice(-1), null)
  }

  /** Frees the native side; calling it again does nothing. */
  close(): Promise<void> {
    this.#isIntact = false
    this.#scheduler.leave(this.#handle)
    this.#closed ??= this.#native.close(this.#handle).finally(() => this.#onClose(this))
    return this.#closed
  }

  #keep(tail: readonly number[], path: Int32Array | null): void {
    this.#tail = tail
    this.#path = path
  }

  #commit(path: Int32Array, drafts: DraftRequest): Promise<Drafts> {
    return this.#phase(async () => {
      const made = await this.#scheduler.commit({ session: this.#handle, path, ...drafts })
      // Counted rather than asked: this is every sequence's every step.
      const { position, rows, bytes } = this.#info
      const added = path.length
      this.#info = { position: position + added, rows: rows + added, bytes: bytes + added * (bytes / rows) }
      return made
    })
  }

  /** Whatever leaves a phase early, a failure or an abort, leaves the cache unknown. */
  async #phase<T>(work: () => Promise<T>): Promise<T> {
    this.#isIntact = false
    const result = await work()
    this.#isIntact = this.#closed === undefined
    return result
  }
}
