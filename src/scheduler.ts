// Decides which phase goes to the native side next, for whom together.
import { GorgonError } from './errors.js'
import type { CommitRequest, Drafts, Native, Posterior, PrefillStep, SessionHandle, VerifyRequest } from './native.js'

/** What each phase is asked with, and answers. */
interface Phases {
  prefill: { request: { readonly session: SessionHandle }; answer: PrefillStep }
  verify: { request: VerifyRequest; answer: Posterior }
  commit: { request: CommitRequest; answer: Drafts }
}

type Phase = keyof Phases

interface Waiting<P extends Phase> {
  readonly request: Phases[P]['request']
  resolve(answer: Phases[P]['answer']): void
  reject(error: unknown): void
}

/**
 * Microtasks a call is held back for sequences that have just been answered and are about to ask again. From an answer to the next
 * question is about ten; a sequence that takes longer (its reader is slow) is not waited for. A bound, not a delay: nobody to wait
 * for, nothing waited.
 */
const GATHER_MICROTASKS = 64

/**
 * One native call at a time: verify and commit for every sequence that waits for them, prefill for the one that has waited longest.
 *
 * Commits go first: they are cheap, and whoever commits will want to verify, so that running sequences fall into step however they
 * started. Prefill takes turns with verify, a chunk of one layer against one decode step: prompts share no work, and the streams that
 * are running wait for one chunk at a time, however long the prompts and however many.
 */
export class Scheduler {
  readonly #calls: {
    readonly [P in Phase]: (requests: readonly Phases[P]['request'][]) => Promise<readonly Phases[P]['answer'][]>
  }
  readonly #waiting: { readonly [P in Phase]: Waiting<P>[] } = { prefill: [], verify: [], commit: [] }
  /** Sequences of the last call that have not asked again. */
  readonly #expected = new Set<SessionHandle>()
  #running = false
  #lastWasPrefill = false
  /** Sequences of the last verify. */
  #lastVerified: ReadonlySet<SessionHandle> = new Set()
  /** Sequences that have begun a prompt and not come to its end. */
  readonly #prefilling = new Set<SessionHandle>()
  /** Sequences that have verified and not left. */
  readonly #decoding = new Set<SessionHandle>()
  #callMs = 0

  constructor(native: Pick<Native, Phase>) {
    this.#calls = {
      prefill: (requests) => native.prefill(requests.map((request) => request.session)),
      verify: (requests) => native.verify(requests),
      commit: (requests) => native.commit(requests),
    }
  }

  /** One chunk of one layer. */
  async prefill(session: SessionHandle): Promise<PrefillStep> {
    this.#prefilling.add(session)
    const step = await this.#ask('prefill', { session })
    if (step.result) this.#prefilling.delete(session)
    return step
  }

  verify(request: VerifyRequest): Promise<Posterior> {
    return this.#ask('verify', request)
  }

  commit(request: CommitRequest): Promise<Drafts> {
    return this.#ask('commit', request)
  }

  /** This sequence will not ask again soon; nobody should wait for it. */
  leave(session: SessionHandle): void {
    this.#expected.delete(session)
    this.#prefilling.delete(session)
    this.#decoding.delete(session)
  }

  get prefilling(): number {
    return this.#prefilling.size
  }

  get decoding(): number {
    return this.#decoding.size
  }

  /** Wall time of the last native call, in milliseconds: right after an answer, of the call that gave it. */
  get callMs(): number {
    return this.#callMs
  }

  /** How many sequences verify together with this one, itself included: as last time, or else as many as are decoding. */
  peers(session: SessionHandle): number {
    if (this.#lastVerified.has(session)) return this.#lastVerified.size
    return this.#decoding.size + (this.#decoding.has(session) ? 0 : 1)
  }

  #ask<P extends Phase>(phase: P, request: Phases[P]['request']): Promise<Phases[P]['answer']> {
    return new Promise((resolve, reject) => {
      this.#waiting[phase].push({ request, resolve, reject })
      this.#expected.delete(request.session)
      if (!this.#running) void this.#run()
    })
  }

  /** Works until nobody waits. Never rejects: failures belong to those who asked. */
  async #run(): Promise<void> {
    this.#running = true
    for (let phase = this.#next(); phase; phase = this.#next()) {
      await this.#gather()
      await this.#call(this.#next() ?? phase)
    }
    this.#running = false
  }

  #next(): Phase | null {
    const { prefill, verify, commit } = this.#waiting
    if (commit.length > 0) return 'commit'
    if (prefill.length > 0 && (verify.length === 0 || !this.#lastWasPrefill)) return 'prefill'
    return verify.length > 0 ? 'verify' : null
  }

  /** At least one microtask, for peers that began in the same breath. */
  async #gather(): Promise<void> {
    for (let i = 0; i < GATHER_MICROTASKS; i++) {
      await undefined
      if (this.#expected.size === 0) return
    }
  }

  async #call<P extends Phase>(phase: P): Promise<void> {
    const batch = this.#waiting[phase].splice(0, phase === 'prefill' ? 1 : Number.POSITIVE_INFINITY)
    if (phase !== 'commit') this.#lastWasPrefill = phase === 'prefill'
    this.#expected.clear()
    for (const { request } of batch) this.#expected.add(request.session)
    if (phase === 'verify') {
      this.#lastVerified = new Set(this.#expected)
      for (const session of this.#expected) this.#decoding.add(session)
    }
    try {
      await this.#answer(phase, batch)
    } catch (error) {
      if (batch.length === 1) return batch[0]!.reject(error)
      // One member's failure is not the others': asked again alone, each gets its own answer or error. Whom the failed call left in the
      // middle of a phase cannot be asked again, and shares its error.
      for (const member of batch) {
        await this.#answer(phase, [member]).catch((own: unknown) => member.reject(isOutOfOrder(own) ? error : own))
      }
    }
  }

  async #answer<P extends Phase>(phase: P, batch: readonly Waiting<P>[]): Promise<void> {
    const begun = performance.now()
    const answers = await this.#calls[phase](batch.map((member) => member.request))
    this.#callMs = performance.now() - begun
    if (answers.length !== batch.length) {
      throw new GorgonError(
        'ERR_INTERNAL',
        `${phase} answered ${answers.length} of ${batch.length} sequences. This is a bug in gorgon, please report it.`,
        { phase, asked: batch.length, answered: answers.length },
      )
    }
    for (const [i, member] of batch.entries()) member.resolve(answers[i]!)
  }
}

function isOutOfOrder(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === 'ERR_STATE'
}
