// One request for a generation, wherever it came from: its model, its limits, its count and its line in the log.
import { randomBytes } from 'node:crypto'
import { GorgonError } from '../errors.js'
import type {
  Chunk,
  Engine,
  GenerateOptionsInput,
  Generation,
  Prompt,
  Result,
  Session,
  SessionOptionsInput,
} from '../index.js'
import type { Principal } from './auth.js'
import { isFault, problemOf } from './errors.js'
import { errorFields, type Logger } from './log.js'
import { nextTurn } from './next-turn.js'
import type { Endpoint, Observer, WorkObserver } from './observer.js'
import type { ServerLimits, ServerOptions } from './options.js'
import { Rates } from './rate.js'
import { type ModelsState, type ServedModel, ServedModels } from './served-models.js'

export interface WorkRequest {
  readonly principal: Principal
  readonly endpoint: Endpoint
  /** Default: the server's first. A session has its own. */
  readonly model?: string | undefined
  readonly input: Prompt
  /** `client`, and priorities beyond the principal's, are not the request's to choose. */
  readonly options: GenerateOptionsInput
  /** The conversation that this is a turn of. */
  readonly session?: ServedSession | undefined
  /** Ends the count that the request has entered already: the work takes it over once it is started. */
  readonly leave?: (() => void) | undefined
}

/** A request that was taken. */
export interface Work {
  readonly id: string
  readonly model: string
  /** With it the same request gives the same tokens; null for greedy decoding, a string when it is no safe integer. */
  readonly seed: number | string | null
  /** Their one reader claims them in the tick of `start`, or they are not kept. Leaving the loop aborts. */
  readonly chunks: AsyncIterable<Chunk>
  /** With what there is, when it was aborted; unless `onAbort` said otherwise. One that nobody handles is no unhandled rejection. */
  readonly result: Promise<Result>
  abort(reason?: unknown): void
}

/** A conversation on the server, and whose it is. */
export interface ServedSession {
  readonly model: string
  readonly owner: Principal
  readonly session: Session
  /** Aborts its turn and frees its cache. */
  close(): Promise<void>
}

export class Intake {
  readonly #models: ServedModels
  readonly #observer: Observer
  readonly #logger: Logger | undefined
  readonly #logContent: boolean
  readonly #rates: Rates
  readonly #running = new Set<Work>()
  readonly #sessions = new Set<ServedSession>()
  readonly #limits: Pick<ServerLimits, 'sessions' | 'perKey'>
  readonly #keepers: (() => void)[] = []
  #isDraining = false
  #onIdle: (() => void)[] = []

  constructor({ engine, logger, logContent, limits }: ServerOptions, observer: Observer) {
    this.#models = new ServedModels(engine, logger)
    this.#observer = observer
    this.#logger = logger
    this.#logContent = logContent
    this.#limits = limits
    this.#rates = new Rates(limits.perKey)
  }

  /** @param free called when a generation found no memory: whoever keeps caches for later frees them. */
  onOutOfMemory(free: () => void): void {
    this.#keepers.push(free)
  }

  models(): readonly ServedModel[] {
    return this.#models.list()
  }

  /** `draining` from the moment that nothing new is taken. */
  get state(): ModelsState | 'draining' {
    return this.#isDraining ? 'draining' : this.#models.state
  }

  /** Works that have not ended. */
  get running(): number {
    return this.#running.size
  }

  /** @throws {GorgonError} ERR_MODEL_UNKNOWN, ERR_LOADING, ERR_LOAD_FAILED; ERR_DRAINING. */
  engineOf(model?: string): { readonly id: string; readonly engine: Engine } {
    this.#assertOpen()
    return this.#models.find(model)
  }

  /**
   * Counts a request that is no generation, or not yet, against its principal's limits; what it returns ends it.
   *
   * @param endpoint of a generation to come: it was refused there.
   * @throws {GorgonError} ERR_RATE_LIMIT, ERR_DRAINING.
   */
  enter(principal: Principal, endpoint?: Endpoint): () => void {
    try {
      this.#assertOpen()
      return this.#rates.enter(principal)
    } catch (error) {
      if (endpoint) this.#refused(endpoint, error)
      throw error
    }
  }

  /**
   * Starts a generation, which the engine queues. Whatever it cannot serve rejects the result.
   *
   * @throws {GorgonError} ERR_MODEL_UNKNOWN, ERR_LOADING, ERR_LOAD_FAILED, ERR_RATE_LIMIT, ERR_DRAINING.
   */
  start(request: WorkRequest): Work {
    try {
      return this.#start(request)
    } catch (error) {
      this.#refused(request.endpoint, error)
      throw error
    }
  }

  /** Whether `openSession` would not be refused for want of room. */
  hasRoomForSession(principal: Principal): boolean {
    return this.#sessionRefusal(principal) === null
  }

  /** @throws {GorgonError} as `engineOf`; ERR_RATE_LIMIT, ERR_OPTION. */
  openSession(principal: Principal, model?: string, options?: SessionOptionsInput): ServedSession {
    const { id, engine } = this.engineOf(model)
    const refusal = this.#sessionRefusal(principal)
    if (refusal) throw refusal
    const session = engine.session(options)
    const served: ServedSession = {
      model: id,
      owner: principal,
      session,
      close: async () => {
        this.#sessions.delete(served)
        await session.close()
      },
    }
    this.#sessions.add(served)
    return served
  }

  /** Takes nothing new from now on. */
  drain(): void {
    this.#isDraining = true
  }

  /** Resolves when nothing runs. */
  idle(): Promise<void> {
    if (this.#running.size === 0) return Promise.resolve()
    return new Promise((resolve) => this.#onIdle.push(resolve))
  }

  /** Ends all that runs within a step; each gives what there is. */
  abortAll(reason: unknown): void {
    for (const work of this.#running) work.abort(reason)
  }

  /** Closes sessions that nobody closed. */
  async closeSessions(): Promise<void> {
    await Promise.all([...this.#sessions].map((session) => session.close()))
  }

  #sessionRefusal({ id }: Principal): GorgonError | null {
    const { sessions, perKey } = this.#limits
    const own = [...this.#sessions].filter(({ owner }) => owner.id === id).length
    if (own >= perKey.sessions) {
      return new GorgonError(
        'ERR_RATE_LIMIT',
        `This key has ${own} sessions open, and may have ${perKey.sessions} (limits.perKey.sessions). Close one.`,
        { sessions: own, limit: perKey.sessions },
      )
    }
    if (this.#sessions.size < sessions) return null
    return new GorgonError(
      'ERR_RATE_LIMIT',
      `The server has ${sessions} sessions open, the most it may have (limits.sessions). Wait until one is closed.`,
      { sessions, limit: sessions },
    )
  }

  #refused(endpoint: Endpoint, error: unknown): void {
    this.#observer.refused(endpoint, problemOf(error, '').code)
  }

  #start(request: WorkRequest): Work {
    const { principal, endpoint, session, input } = request
    const { id: model, engine } = this.engineOf(session?.model ?? request.model)
    const leave = request.leave ?? this.#rates.enter(principal)
    const seed = seedOf(request.options)
    const options: GenerateOptionsInput = {
      onAbort: 'return',
      ...request.options,
      ...(seed !== null && { seed }),
      priority: Math.min(request.options.priority ?? 0, principal.maxPriority),
      client: principal.id,
    }
    const generation = session ? session.session.send(input, options) : engine.generate(input, options)
    const work = new RunningWork(generation, model, seed, this.#observer.work({ endpoint, model }))
    this.#running.add(work)
    const about = { work: work.id, principal: principal.id, endpoint, model }
    void work.settled.then((ended) => {
      leave()
      this.#running.delete(work)
      if (this.#running.size === 0) for (const resolve of this.#onIdle.splice(0)) resolve()
      if ('error' in ended && problemOf(ended.error, work.id).code === 'ERR_OUT_OF_MEMORY') {
        for (const free of this.#keepers) free()
      }
      this.#log(about, input, ended)
    })
    return work
  }

  #log(about: { readonly work: string }, input: Prompt, ended: Ended): void {
    if (!this.#logger) return
    const content = this.#logContent ? { input, ...('result' in ended && { text: ended.result.text }) } : {}
    if ('error' in ended) {
      const fields = { ...about, ...errorFields(ended.error, this.#logContent), ...content }
      if (isFault(problemOf(ended.error, about.work))) this.#logger.error(fields, 'generation failed')
      else this.#logger.info(fields, 'generation refused')
      return
    }
    const { finish, usage, timing, speculation } = ended.result
    const { queueMs, ttftMs, e2eMs } = timing
    this.#logger.info(
      { ...about, finish, usage, queueMs, ttftMs, e2eMs, tokensPerStep: speculation.tokensPerStep, ...content },
      'generation done',
    )
  }

  #assertOpen(): void {
    if (!this.#isDraining) return
    throw new GorgonError('ERR_DRAINING', 'The server is about to stop and takes nothing new. Send the request again.')
  }
}

type Ended = { readonly result: Result } | { readonly error: unknown }

class RunningWork implements Work {
  readonly id = randomBytes(9).toString('base64url')
  readonly model: string
  readonly seed: Work['seed']
  readonly result: Promise<Result>
  /** Never rejects. */
  readonly settled: Promise<Ended>
  readonly #generation: Generation
  readonly #observer: WorkObserver

  constructor(generation: Generation, model: string, seed: number | bigint | null, observer: WorkObserver) {
    this.#generation = generation
    this.model = model
    this.seed = seed !== null && seed > Number.MAX_SAFE_INTEGER ? String(seed) : seed === null ? null : Number(seed)
    this.#observer = observer
    this.result = generation.result()
    this.settled = this.result.then(
      (result) => {
        observer.finished(result)
        return { result }
      },
      (error: unknown) => {
        observer.failed(problemOf(error, this.id).code)
        return { error }
      },
    )
  }

  get chunks(): AsyncIterable<Chunk> {
    return {
      [Symbol.asyncIterator]: () => {
        const chunks = this.#generation[Symbol.asyncIterator]()
        const next = async (): Promise<IteratorResult<Chunk>> => {
          const read = await chunks.next()
          if (read.done) return read
          this.#observer.chunk(read.value)
          // Writing it to a socket must not keep the engine from its next step.
          await nextTurn()
          return read
        }
        return { next, return: () => chunks.return!() }
      },
    }
  }

  abort(reason?: unknown): void {
    this.#generation.abort(reason)
  }
}

/** Chosen here where the request samples and names none, so that the answer's first message can say it. */
function seedOf({ temperature = 0, seed }: GenerateOptionsInput): number | bigint | null {
  if (temperature === 0) return null
  return seed ?? Number(randomBytes(8).readBigUInt64BE() >> 11n)
}
