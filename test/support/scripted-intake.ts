// An intake whose works do what a test says, at the pace of their reader.
import { GorgonError } from '../../src/errors.js'
import type { Chunk, GenerateOptionsInput, Prompt, Result } from '../../src/index.js'
import type { ConnectionHost } from '../../src/server/connection.js'
import type { ServedSession, Work, WorkRequest } from '../../src/server/intake.js'
import { SUMMARY } from './summary.js'

type Finish = Result['finish']
type End = { readonly result: Result } | { readonly error: unknown }

/** Chunks a work may be ahead of its reader, as an engine's generation is. */
export class ScriptedWork implements Work {
  readonly id: string
  readonly model = 'scripted'
  readonly seed = 7
  readonly result: Promise<Result>
  readonly input: Prompt
  readonly options: GenerateOptionsInput
  /** Chunks its reader took. */
  taken = 0
  isAborted = false
  #chunks: Chunk[] = []
  #made = 0
  #text = ''
  #end: End | null = null
  #arrived: (() => void) | null = null
  #resolve!: (result: Result) => void
  #reject!: (error: unknown) => void

  constructor(id: string, { input, options }: WorkRequest) {
    this.id = id
    this.input = input
    this.options = options
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.result.catch(() => undefined)
  }

  get hasEnded(): boolean {
    return this.#end !== null
  }

  /** One step makes these pieces, a token each. */
  step(...pieces: readonly string[]): void {
    if (this.#end) return
    const index = this.#made++
    const text = pieces.join('')
    this.#text += text
    this.#chunks.push({
      index,
      step: index,
      atMs: index,
      text,
      pieces,
      tokens: Int32Array.from(pieces, (_, i) => 100 * index + i),
      drafted: Math.max(0, pieces.length - 1),
    })
    this.#arrived?.()
  }

  finish(finish: Finish = 'length'): void {
    this.#settle({ result: resultOf(this.#text, finish) })
  }

  fail(error: unknown): void {
    this.#settle({ error })
  }

  abort(): void {
    this.isAborted = true
    this.finish('aborted')
  }

  get chunks(): AsyncIterable<Chunk> {
    return { [Symbol.asyncIterator]: () => this.#read() }
  }

  async *#read(): AsyncGenerator<Chunk, undefined, void> {
    for (;;) {
      const chunk = this.#chunks.shift()
      if (chunk) {
        this.taken++
        yield chunk
      } else if (this.#end) {
        await this.result
        return
      } else {
        await new Promise<void>((arrived) => {
          this.#arrived = arrived
        })
        this.#arrived = null
      }
    }
  }

  #settle(end: End): void {
    if (this.#end) return
    this.#end = end
    if ('result' in end) this.#resolve(end.result)
    else this.#reject(end.error)
    this.#arrived?.()
  }
}

export class ScriptedIntake {
  readonly works: ScriptedWork[] = []
  readonly requests: WorkRequest[] = []
  readonly sessions: { readonly session: ServedSession; isClosed: boolean }[] = []
  /** Thrown by the next request. */
  refusal: unknown = null
  /** Awaited when a session is closed. */
  closing: Promise<void> = Promise.resolve()

  /** The work started last. */
  get work(): ScriptedWork {
    return this.works.at(-1)!
  }

  readonly start: ConnectionHost['intake']['start'] = (request) => {
    this.#refuse()
    this.requests.push(request)
    const work = new ScriptedWork(`work-${this.works.length}`, request)
    this.works.push(work)
    return work
  }

  readonly openSession: ConnectionHost['intake']['openSession'] = (owner, model = 'scripted') => {
    this.#refuse()
    const opened = { isClosed: false }
    const session = {
      model,
      owner,
      close: async () => {
        opened.isClosed = true
        await this.closing
      },
    } as ServedSession
    const entry = Object.assign(opened, { session })
    this.sessions.push(entry)
    return session
  }

  readonly models: ConnectionHost['intake']['models'] = () => [
    { id: 'scripted', created: 0, engine: { info: { context: 4096, hasChatTemplate: true } } as never },
    { id: 'loading', created: 0, engine: null },
  ]

  #refuse(): void {
    const { refusal } = this
    this.refusal = null
    if (refusal) throw refusal
  }
}

export const queueFull = (): GorgonError => new GorgonError('ERR_QUEUE_FULL', 'The queue is full.')

function resultOf(text: string, finish: Finish): Result {
  return { ...SUMMARY, text, tokens: new Int32Array(), finish, usage: { ...SUMMARY.usage, completion: text.length } }
}
