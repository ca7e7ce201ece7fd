// A response that is being made: its events, its state at any time, its end.
import { GorgonError } from '../../errors.js'
import type { Chunk, Result } from '../../index.js'
import { type Problem, problemOf } from '../errors.js'
import type { Work } from '../intake.js'
import { type BytesOf, type ListedLogprob, listedLogprobs } from './logprobs.js'
import { engineReportOf, newId, secondsNow } from './reports.js'
import { endedResponse, failedResponse, type OutputMessage, type ResponseObject } from './response-object.js'
import { type ResponseEvent, responseEvents } from './responses-events.js'

interface Running {
  readonly response: ResponseObject
  readonly owner: string
  readonly work: Work
  readonly isWorkedOn: Promise<void>
  /** Aborted when whoever listens is gone. */
  readonly gone: AbortSignal
  readonly bytesOf: BytesOf
  /** Told once, at the end; without a result when it failed. */
  readonly settle: (response: ResponseObject, result: Result | null) => void
}

interface Ended {
  readonly response: ResponseObject
  readonly problem: Problem | null
  /** What it failed for. */
  readonly error?: unknown
}

export class RunningResponse {
  readonly owner: string
  readonly work: Work
  /** When it is worked on. Rejects with what it could not begin for. */
  readonly begun: Promise<void>
  readonly #running: Running
  readonly #messageId = newId('msg')
  readonly #chunks: AsyncIterable<Chunk>
  readonly #ended: Promise<Ended>
  #text = ''
  #isCancelled = false

  constructor(running: Running) {
    const { work, owner, isWorkedOn } = running
    this.work = work
    this.owner = owner
    this.#running = running
    const chunks = work.chunks[Symbol.asyncIterator]()
    this.#chunks = { [Symbol.asyncIterator]: () => this.#followed(chunks) }
    this.#ended = work.result.then(
      (result) => this.#endedWith(result),
      (error: unknown) => this.#failedWith(error),
    )
    this.begun = Promise.race([isWorkedOn, work.result.then(() => undefined)])
    // Not everybody asks.
    this.begun.catch(() => undefined)
  }

  get id(): string {
    return this.#running.response.id
  }

  /** As it is now. */
  get response(): ResponseObject {
    const output = this.#text === '' ? [] : [this.#messageOf(this.#text, [], 'in_progress')]
    return { ...this.#running.response, output }
  }

  /** Its end; never rejects. */
  get ended(): Promise<Ended> {
    return this.#ended
  }

  /** Read once; leaving the loop ends the response. */
  events(): AsyncGenerator<ResponseEvent, void, void> {
    const { response, bytesOf } = this.#running
    return responseEvents({
      response,
      messageId: this.#messageId,
      chunks: this.#chunks,
      logprobsOf: ({ logprobs = [] }) => listedLogprobs(logprobs, bytesOf),
      ended: () => this.#ended,
    })
  }

  /** Ends it; what there is stays. */
  async cancel(): Promise<ResponseObject> {
    this.#isCancelled = true
    this.work.abort()
    return (await this.#ended).response
  }

  async *#followed(chunks: AsyncIterator<Chunk>): AsyncGenerator<Chunk, void, void> {
    let isOver = false
    try {
      for (let next = await chunks.next(); !next.done; next = await chunks.next()) {
        this.#text += next.value.text
        yield next.value
      }
      isOver = true
    } finally {
      if (!isOver) await chunks.return?.()
    }
  }

  #endedWith(result: Result): Ended {
    if (result.finish === 'aborted' && !this.#isCancelled) {
      const { gone, settle } = this.#running
      settle(this.#wholeOf(result), result)
      return this.#failure(gone.aborted ? gone.reason : stopped())
    }
    const response = this.#wholeOf(result)
    this.#running.settle(response, result)
    return { response, problem: null }
  }

  #failedWith(error: unknown): Ended {
    const failure = this.#failure(error)
    this.#running.settle(failure.response, null)
    return failure
  }

  #failure(error: unknown): Ended {
    // Under which the intake logs it.
    const problem = problemOf(error, this.work.id)
    return { response: failedResponse(this.#running.response, problem), problem, error }
  }

  #wholeOf(result: Result): ResponseObject {
    const { response, work, bytesOf } = this.#running
    const logprobs = listedLogprobs(result.logprobs ?? [], bytesOf)
    return endedResponse(response, result, {
      message: this.#messageOf(result.text, logprobs, result.finish === 'stop' ? 'completed' : 'incomplete'),
      report: engineReportOf(result, work.seed),
      completedAt: secondsNow(),
    })
  }

  #messageOf(text: string, logprobs: ListedLogprob[], status: OutputMessage['status']): OutputMessage {
    return {
      type: 'message',
      id: this.#messageId,
      role: 'assistant',
      status,
      content: [{ type: 'output_text', text, annotations: [], logprobs }],
    }
  }
}

/** Nobody else aborts it, but a server whose time is up. */
function stopped(): GorgonError {
  return new GorgonError('ERR_DRAINING', 'The server stopped before the response was whole. Send the request again.')
}
