// Decides which phase goes to the native side next, for whom together.
import { GorgonError } from './errors.js'
import type { CommitRequest, Drafts, Native, Posterior, PrefillStep, SessionHandle, VerifyRequest } from './native.js'

/** A prompt to go on with. */
export interface PrefillWork {
  readonly session: SessionHandle
  /** Of the prompt. */
  readonly tokens: number
  /** What is left of it: as many tokens as would be as much work. */
  readonly left: number
}

/** What each phase is asked with, and answers. */
interface Phases {
  prefill: { request: PrefillWork; answer: PrefillStep }
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
 * Short prompts share a prefill call while they have this many tokens together: a chunk's worth on the CPU. They share no work, but each
 * call is followed by a decode step of everybody else, and a burst of short prompts would otherwise wait for as many steps as it has prompts.
 */
const TOGETHER_TOKENS = 512

/** One prefill call in so many goes to the prompt that came first, so that shorter ones cannot hold it up for ever. */
const OLDEST_EVERY = 4

/**
 * One native call at a time: verify and commit for every sequence that waits for them, prefill for the prompt with the least left to do.
 *
 * Commits go first: they are cheap, and whoever commits will want to verify, so that running sequences fall into step however they
 * started. Prefill takes turns with verify, a chunk of one layer against one decode step: the streams that are running wait for one chunk
 * at a time, however long the prompts and however many.
 *
 * Prompts that took turns would all be done when the last one is. Shortest first, the sum of what they wait for is the least possible, a
 * short prompt does not wait for long ones, and few at a time hold memory for what they have read.
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
  /** Sequences that have begun a prompt and not come to its end, and which prompt it was, by count. */
  readonly #prefilling = new Map<SessionHandle, number>()
  #prompts = 0
  #prefillCalls = 0
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
  async prefill(work: PrefillWork): Promise<PrefillStep> {
    if (!this.#prefilling.has(work.session)) this.#prefilling.set(work.session, ++this.#prompts)
    const step = await this.#ask('prefill', work)
    if (step.result) this.#prefilling.delete(work.session)
    return step
  }

  /** A prefill that waits rejects now, since its turn may be far off; one that runs is answered. */
  withdraw(session: SessionHandle, reason: unknown): void {
    const { prefill } = this.#waiting
    const index = prefill.findIndex(({ request }) => request.session === session)
    if (index >= 0) prefill.splice(index, 1)[0]!.reject(reason)
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
    while (this.#next()) {
      await this.#gather()
      // A prompt may have been withdrawn meanwhile.
      const phase = this.#next()
      if (phase) await this.#call(phase)
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
    const waiting = this.#waiting[phase]
    const batch = waiting.splice(0, phase === 'prefill' ? this.#arrangePrompts() : waiting.length)
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

  /** Brings the prompts whose turn it is to the front, and says how many they are. */
  #arrangePrompts(): number {
    const { prefill } = this.#waiting
    const age = ({ request }: Waiting<'prefill'>) => this.#prefilling.get(request.session)!
    prefill.sort((a, b) => a.request.left - b.request.left || age(a) - age(b))
    if (++this.#prefillCalls % OLDEST_EVERY === 0) {
      const oldest = prefill.reduce((first, next) => (age(next) < age(first) ? next : first))
      prefill.splice(prefill.indexOf(oldest), 1)
      prefill.unshift(oldest)
    }
    let count = 1
    for (let tokens = prefill[0]!.request.tokens; count < prefill.length; count++) {
      tokens += prefill[count]!.request.tokens
      if (tokens > TOGETHER_TOKENS) break
    }
    return count
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
