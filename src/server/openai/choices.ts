// One request of several generations: started together, read side by side, ended together.
import { GorgonError } from '../../errors.js'
import type { Chunk, GenerateOptionsInput, Prompt, Result } from '../../index.js'
import type { Exchange } from '../http.js'
import type { Intake, Work, WorkRequest } from '../intake.js'
import { untilBegun } from './patience.js'

/** Of a generation that runs. */
export interface Progress {
  promptTokens: number
  completionTokens: number
}

export interface Choice {
  /** Of all, prompt by prompt. */
  readonly index: number
  readonly work: Work
  readonly progress: Readonly<Progress>
}

/** A choice that has ended. */
export interface MadeChoice extends Choice {
  readonly result: Result
}

interface StartedChoice extends Choice {
  readonly progress: Progress
  readonly chunks: AsyncIterator<Chunk, unknown>
}

export interface ChoicesRequest extends Pick<WorkRequest, 'endpoint' | 'model' | 'options'> {
  readonly prompts: readonly Prompt[]
  /** Choices of each prompt. */
  readonly n: number
}

/** The generations of one request. They end when the client leaves; when one fails, so do the others. */
export class Choices {
  readonly #started: readonly StartedChoice[]
  /** Aborted when the client is gone. */
  readonly #gone: AbortSignal
  readonly #abort = new AbortController()
  readonly #n: number
  #isWorkedOn!: () => void
  readonly #workedOn = new Promise<void>((resolve) => {
    this.#isWorkedOn = resolve
  })

  /** @throws {GorgonError} as `intake.start`. */
  constructor(intake: Intake, { principal, signal }: Exchange, request: ChoicesRequest) {
    const { prompts, n, endpoint, model } = request
    this.#n = n
    this.#gone = signal
    const started: StartedChoice[] = []
    try {
      for (const [i, input] of prompts.entries()) {
        for (let k = 0; k < n; k++) {
          const progress: Progress = { promptTokens: 0, completionTokens: 0 }
          const options = this.#optionsOf(request.options, k, progress)
          const work = intake.start({ principal, endpoint, model, input, options })
          started.push({ index: i * n + k, work, progress, chunks: work.chunks[Symbol.asyncIterator]() })
        }
      }
    } catch (error) {
      this.#abort.abort(error)
      throw error
    }
    this.#started = started
  }

  get all(): readonly Choice[] {
    return this.#started
  }

  /** Of the request. */
  get id(): string {
    return this.#started[0]!.work.id
  }

  get model(): string {
    return this.#started[0]!.work.model
  }

  /**
   * Resolves when one of them is worked on, or has waited for long.
   *
   * @throws what one could not begin for.
   */
  async begun(): Promise<void> {
    try {
      await untilBegun(Promise.race([this.#workedOn, ...this.#started.map(({ work }) => work.result)]))
    } catch (error) {
      this.#abort.abort(error)
      throw error
    }
  }

  /**
   * Reads all of them, once.
   *
   * @param onChunk the next chunk of the choice waits for it.
   * @returns by prompt.
   * @throws what the first one failed for, when all have ended.
   */
  async read(
    onChunk: (choice: Choice, chunk: Chunk) => Promise<void> | void,
    onEnd: (made: MadeChoice) => Promise<void> | void = () => undefined,
  ): Promise<readonly (readonly MadeChoice[])[]> {
    const readings = this.#started.map(async (choice): Promise<MadeChoice> => {
      try {
        const made = { ...choice, result: await this.#readOne(choice, onChunk) }
        await onEnd(made)
        return made
      } catch (error) {
        this.#abort.abort(error)
        throw error
      }
    })
    await Promise.allSettled(readings)
    // The others were aborted for what the first one failed for.
    if (this.#abort.signal.aborted) throw this.#abort.signal.reason
    const made = await Promise.all(readings)
    return Array.from({ length: made.length / this.#n }, (_, i) => made.slice(i * this.#n, (i + 1) * this.#n))
  }

  async #readOne(choice: StartedChoice, onChunk: (choice: Choice, chunk: Chunk) => Promise<void> | void) {
    const { chunks, progress, work } = choice
    for (let next = await chunks.next(); !next.done; next = await chunks.next()) {
      progress.completionTokens += next.value.tokens.length
      await onChunk(choice, next.value)
    }
    const result = await work.result
    if (result.finish === 'aborted') throw this.#gone.aborted ? this.#gone.reason : stopped()
    return result
  }

  #optionsOf(options: GenerateOptionsInput, k: number, progress: Progress): GenerateOptionsInput {
    const { seed } = options
    return {
      ...options,
      // Choices of one prompt differ, and are the same ones the next time.
      ...(seed !== undefined && { seed: BigInt.asUintN(64, BigInt(seed) + BigInt(k)) }),
      signal: AbortSignal.any([this.#gone, this.#abort.signal]),
      onPrefill: ({ tokens }) => {
        progress.promptTokens = tokens
        this.#isWorkedOn()
      },
    }
  }
}

/** Nobody aborts a request whose client is there, but a server whose time is up. */
function stopped(): GorgonError {
  return new GorgonError('ERR_DRAINING', 'The server stopped before the text was whole. Send the request again.')
}
