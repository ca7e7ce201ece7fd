// Owns a loaded model: starts generations, opens sessions, closes.
import { Acceptance } from './decode/acceptance.js'
import { Experience, Pilot, TextExperience } from './decode/gate.js'
import { LiveCosts } from './decode/step-costs.js'
import { GorgonError } from './errors.js'
import { generate, type Turn } from './generate.js'
import { type Generation, RunningGeneration } from './generation.js'
import {
  type GenerateOptionsInput,
  type Message,
  parseGenerateOptions,
  parseSessionOptions,
  type SessionOptionsInput,
} from './options.js'
import { type EngineCore, type EngineInfo, type EngineParts, openSequence } from './parts.js'
import { type Plan, resolvePlan, type TurnDefaults } from './plan.js'
import { encodePrompt, isChat, type Prompt, renderMessages, roomAfter, tokenizerOf } from './prompt.js'
import { type Claim, Places } from './queue.js'
import type { Result } from './result.js'
import { Scheduler } from './scheduler.js'
import type { Sequence } from './sequence.js'
import { Session } from './session.js'

export interface EngineTotals {
  /** Generations that gave a result, also one cut short. */
  readonly finished: number
  /** Generations that rejected with an error. */
  readonly failed: number
  readonly promptTokens: number
  readonly completionTokens: number
  readonly steps: number
  readonly drafted: number
  readonly accepted: number
}

export interface EngineStats {
  /** Generations with a place. */
  readonly running: number
  /** Of those, how many are at their prompt. */
  readonly prefilling: number
  /** Of those, how many are making tokens, or wait for a slow reader to go on. */
  readonly decoding: number
  /** Generations waiting for a place. */
  readonly queued: number
  /** Sessions not closed. */
  readonly sessions: number
  readonly memory: EngineMemory
  /** Since loading. */
  readonly totals: EngineTotals
}

/** In bytes; nothing once the engine is closed. */
export interface EngineMemory {
  /** Of the model, its Medusa heads included. */
  readonly weights: number
  /** K and V of running generations, and of sessions between turns. */
  readonly kv: number
  /** All that is in use of the device's memory, now and at most so far; null on the CPU. */
  readonly device: { readonly used: number; readonly peak: number } | null
}

/**
 * A loaded model. Generations run side by side, up to `limits.maxSequences`; what they compute is batched, and is the same as if each ran
 * alone. Close it when done: `await engine.close()`, or `await using engine = await loadEngine(…)`.
 */
export class Engine implements AsyncDisposable {
  readonly #core: EngineCore
  readonly #running = new Set<RunningGeneration>()
  readonly #sessions = new Set<Session>()
  #count = 0
  #totals: EngineTotals = {
    finished: 0,
    failed: 0,
    promptTokens: 0,
    completionTokens: 0,
    steps: 0,
    drafted: 0,
    accepted: 0,
  }
  #closed: Promise<void> | null = null
  #isFreed = false

  /** Made by `loadEngine()`. */
  constructor(parts: EngineParts) {
    const { maxSequences, maxQueue } = parts.info.limits
    this.#core = {
      ...parts,
      scheduler: new Scheduler(parts.native),
      places: new Places(maxSequences, maxQueue),
      sequences: new Set(),
      costs: parts.info.stepCosts && new LiveCosts(parts.info.stepCosts),
      experience: new Experience(),
    }
  }

  get info(): EngineInfo {
    return this.#core.info
  }

  /** Since `close()` was called: nothing new is taken. */
  get isClosed(): boolean {
    return this.#closed !== null
  }

  /**
   * Starts a generation: it is queued when this returns, whether anybody awaits it or not. Never throws; a request that cannot be
   * served rejects.
   *
   * @param prompt text, which gets the special tokens the tokenizer adds; token ids, used as they are; or messages, for the model's
   *   chat template.
   */
  generate(prompt: Prompt, options?: GenerateOptionsInput): Generation {
    return this.#start(options, {}, (claim) => ({
      turn: this.#soloTurn(prompt, claim),
      continuation: !isChat(prompt),
    }))
  }

  /**
   * A conversation over one cache.
   *
   * @throws {GorgonError} ERR_OPTION, ERR_CLOSED.
   */
  session(options?: SessionOptionsInput): Session {
    this.#assertOpen()
    const session = new Session(
      this.#core,
      parseSessionOptions(options),
      (turnOptions, defaults, begin) => this.#start(turnOptions, defaults, begin),
      (closed) => this.#sessions.delete(closed),
    )
    this.#sessions.add(session)
    return session
  }

  /**
   * Token ids of a text, special tokens added as to a prompt. Long texts are encoded off the main thread.
   *
   * @throws {GorgonError} ERR_TOKENIZER without a tokenizer; ERR_CLOSED; the signal's reason when it fires.
   */
  async tokenize(
    text: string,
    { signal, ...options }: { readonly addSpecial?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<Int32Array> {
    this.#assertOpen()
    return tokenizerOf(this.#core).encode(text, { ...options, ...(signal && { signal }) })
  }

  /** @throws {GorgonError} ERR_TOKENIZER without a tokenizer; ERR_CLOSED. */
  detokenize(ids: Iterable<number>, options: { readonly skipSpecial?: boolean } = {}): string {
    this.#assertOpen()
    return tokenizerOf(this.#core).decode(ids, options)
  }

  /**
   * UTF-8 of what one token adds to a text, special tokens spelled out: the whole truth where a token is a part of a character. Empty outside
   * the vocabulary.
   *
   * @throws {GorgonError} ERR_TOKENIZER without a tokenizer; ERR_CLOSED.
   */
  tokenBytes(id: number): Uint8Array {
    this.#assertOpen()
    return tokenizerOf(this.#core).tokenBytes(id)
  }

  /**
   * Messages as the model reads them, ready for its answer.
   *
   * @throws {GorgonError} ERR_CHAT_TEMPLATE without a template; ERR_OPTION, ERR_CLOSED.
   */
  renderChat(messages: readonly Message[]): string {
    this.#assertOpen()
    return renderMessages(this.#core, messages).text
  }

  stats(): EngineStats {
    const { places, scheduler } = this.#core
    return {
      running: places.taken,
      prefilling: scheduler.prefilling,
      decoding: scheduler.decoding,
      queued: places.queued,
      sessions: this.#sessions.size,
      memory: this.#memory(),
      totals: this.#totals,
    }
  }

  /**
   * Takes no more requests, lets those it has finish, without waiting for slow readers, and frees everything. Calling it again waits for
   * the same end, and may bring it forward.
   *
   * @param options.drainMs how long running generations get before they are aborted. Default: until they are done.
   */
  async close({ drainMs }: { readonly drainMs?: number } = {}): Promise<void> {
    this.#closed ??= this.#shut()
    const abort = () => {
      for (const generation of this.#running) {
        generation.abort(new DOMException('The engine was closed before the generation was done', 'AbortError'))
      }
    }
    if (drainMs === 0) abort()
    const timer = drainMs ? setTimeout(abort, drainMs) : undefined
    await this.#closed.finally(() => clearTimeout(timer))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #shut(): Promise<void> {
    for (const generation of this.#running) generation.hurry()
    await Promise.all([...this.#running].map((generation) => generation.settled))
    await Promise.all([...this.#sessions].map((session) => session.close()))
    this.#isFreed = true
    try {
      await this.#core.native.close(this.#core.model)
    } finally {
      await this.#core.tokenizer?.close()
    }
  }

  #start(
    options: GenerateOptionsInput | undefined,
    defaults: TurnDefaults,
    begin: (claim: Claim) => { turn: Turn; continuation: boolean; learnt?: TextExperience },
  ): RunningGeneration {
    const id = `generation-${++this.#count}`
    try {
      this.#assertOpen()
      const parsed = parseGenerateOptions(options)
      const plan = resolvePlan(parsed, this.#core, defaults)
      const { tokenizer, layers, info } = this.#core
      const { learnt = new TextExperience(this.#core.experience), ...begun } = begin(parsed)
      const pilot = pilotOf(plan, this.#core, learnt)
      const request = { ...begun, plan, pilot, tokenizer, layers, kvBytesPerToken: info.kvBytesPerToken }
      const generation = new RunningGeneration(id, (signal) => generate({ ...request, signal }), parsed)
      this.#running.add(generation)
      void generation.settled.then((result) => {
        this.#running.delete(generation)
        this.#add(result)
      })
      return generation
    } catch (error) {
      return RunningGeneration.failed(id, error)
    }
  }

  /** A sequence for one generation. */
  #soloTurn(prompt: Prompt, claim: Claim): Turn {
    const core = this.#core
    let leave: (() => void) | null = null
    let sequence: Sequence | null = null
    const encode = async (signal: AbortSignal) => {
      const tokens = await encodePrompt(prompt, core, signal)
      return { prompt: tokens, room: roomAfter(tokens.length, 0, core.context) }
    }
    return {
      async begin(signal) {
        // Encoding needs no place: it goes on beside the waiting.
        const encoding = encode(signal)
        leave = await core.places.take(claim, signal, encoding)
        const encoded = await encoding
        sequence = openSequence(core)
        return { sequence, ...encoded }
      },
      async end() {
        try {
          await sequence?.close()
        } finally {
          leave?.()
        }
      },
    }
  }

  #add(result: Result | null): void {
    const totals = this.#totals
    if (!result) {
      this.#totals = { ...totals, failed: totals.failed + 1 }
      return
    }
    const { usage, speculation } = result
    this.#totals = {
      ...totals,
      finished: totals.finished + 1,
      promptTokens: totals.promptTokens + usage.prompt,
      completionTokens: totals.completionTokens + usage.completion,
      steps: totals.steps + speculation.steps,
      drafted: totals.drafted + speculation.drafted,
      accepted: totals.accepted + speculation.accepted,
    }
  }

  #memory(): EngineMemory {
    const { native, model, sequences } = this.#core
    if (this.#isFreed) return { weights: 0, kv: 0, device: null }
    const { device, weightBytes, headsBytes, memoryUsed, memoryPeak } = native.modelInfo(model)
    return {
      weights: weightBytes + headsBytes,
      kv: [...sequences].reduce((bytes, { info }) => bytes + info.bytes, 0),
      device: device === null ? null : { used: memoryUsed, peak: memoryPeak },
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new GorgonError('ERR_CLOSED', 'The engine is closed. Load another with loadEngine().')
  }
}

/**
 * Who chooses the trees of a generation. A choice that the text depends on is made from the measured table and the heads' accuracies alone,
 * so that it does not depend on what ran before or runs beside it.
 */
function pilotOf(plan: Plan, { costs, experience }: EngineCore, learnt: TextExperience): Pilot {
  const { family, gate, gateless, isFixed, sampling } = plan
  if (isFixed) {
    const acceptance = new Acceptance(family, family.shares, 1, 1)
    return new Pilot({ family, gate, gateless, isFixed, acceptance, costs: costs && new LiveCosts(costs.table) })
  }
  const kind = sampling.temperature === 0 ? 'greedy' : 'sampled'
  const acceptance = learnt.of(family, kind)
  return new Pilot({ family, gate, gateless, costs, acceptance, experience: experience.of(family, kind) })
}
