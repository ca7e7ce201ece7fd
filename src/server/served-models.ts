// The models of a server by name: which are there, which are still loading, which failed.
import { basename } from 'node:path'
import { GorgonError, isGorgonError } from '../errors.js'
import type { Engine } from '../index.js'
import { errorFields, type Logger } from './log.js'
import type { EngineSource } from './options.js'

/** As clients see it; its engine is null while it loads and after that failed. */
export interface ServedModel {
  readonly id: string
  /** When the server began to serve it, in seconds since 1970. */
  readonly created: number
  readonly engine: Engine | null
}

interface Entry {
  /** Null until its engine is there, when no name was given. */
  name: string | null
  readonly created: number
  engine: Engine | null
  failure: unknown
}

export type ModelsState = 'loading' | 'ready' | 'failed' | 'closed'

const isSource = (value: object): value is EngineSource =>
  typeof (value as Partial<Engine>).generate === 'function' ||
  typeof (value as Partial<Promise<Engine>>).then === 'function'

export class ServedModels {
  readonly #entries: readonly Entry[]
  readonly #logger: Logger | undefined

  constructor(engine: EngineSource | Readonly<Record<string, EngineSource>>, logger?: Logger) {
    this.#logger = logger
    const named: readonly [string | null, EngineSource][] = isSource(engine) ? [[null, engine]] : Object.entries(engine)
    this.#entries = named.map(([name, source]) => this.#follow(name, source))
  }

  /** Those with a name: a single engine has its model folder's, once it is loaded. */
  list(): readonly ServedModel[] {
    return this.#entries.flatMap(({ name, created, engine }) => (name === null ? [] : [{ id: name, created, engine }]))
  }

  /** One that failed outweighs one that was closed, which outweighs one that loads, which outweighs those that are there. */
  get state(): ModelsState {
    if (this.#entries.some(({ failure }) => failure !== null)) return 'failed'
    if (this.#entries.some(({ engine }) => engine?.isClosed)) return 'closed'
    return this.#entries.every(({ engine }) => engine !== null) ? 'ready' : 'loading'
  }

  /**
   * The engine of a model; without a name, of the first.
   *
   * @throws {GorgonError} ERR_MODEL_UNKNOWN, ERR_LOADING, ERR_LOAD_FAILED.
   */
  find(model?: string): { readonly id: string; readonly engine: Engine } {
    const entry =
      model === undefined ? this.#entries[0]! : this.#entries.find(({ name }) => name === model || name === null)
    if (!entry) {
      const known = this.list().map(({ id }) => `"${id}"`)
      throw new GorgonError(
        'ERR_MODEL_UNKNOWN',
        `There is no model "${model?.slice(0, 100)}" here. This server has ${known.join(', ')}.`,
        { path: 'model', value: model },
      )
    }
    const { name, engine, failure } = entry
    if (engine) return { id: name!, engine }
    const called = name === null ? 'The model' : `The model "${name}"`
    if (failure === null) {
      throw new GorgonError('ERR_LOADING', `${called} is still loading. Try again soon.`, { model: name })
    }
    // Its words speak of files of the server; they are in the log.
    const code = isGorgonError(failure) ? ` (${failure.code})` : ''
    throw new GorgonError('ERR_LOAD_FAILED', `${called} did not load${code}. The server's log says why.`, {
      model: name,
    })
  }

  #follow(name: string | null, source: EngineSource): Entry {
    const entry: Entry = { name, created: Math.floor(Date.now() / 1000), engine: null, failure: null }
    const arrived = (engine: Engine): void => {
      entry.engine = engine
      entry.name ??= basename(engine.info.model)
    }
    if ('generate' in source) arrived(source)
    else {
      source.then(arrived, (error: unknown) => {
        entry.failure = error ?? new Error('the promise of an engine was rejected without a reason')
        // The words are about files of whoever runs the server.
        this.#logger?.error({ model: name, ...errorFields(error, true) }, 'a model did not load')
      })
    }
    return entry
  }
}
