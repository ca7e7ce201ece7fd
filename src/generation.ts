// The object generate() hands out: awaitable, iterable, abortable.
import { setMaxListeners } from 'node:events'
import { GorgonError } from './errors.js'
import { TIME_IS_UP } from './generate.js'
import type { GenerateOptions } from './options.js'
import { ReadableGeneration } from './readable-generation.js'
import type { Chunk, Result } from './result.js'

/**
 * One generation, queued from the moment it exists. Await it for the result, or iterate it for chunks as they are made, or both:
 *
 *     const { text } = await engine.generate(prompt)
 *     for await (const chunk of engine.generate(prompt)) process.stdout.write(chunk.text)
 *
 * Chunks have one reader, who must begin before the result is there: whoever only awaits gets no chunks kept for later. Leaving the loop
 * early aborts. A reader who is slow, or not there yet, pauses the generation at `highWaterMark` chunks; it goes on below half of that.
 * So do not await the result inside the loop: read on, it comes.
 */
export interface Generation extends PromiseLike<Result>, AsyncIterable<Chunk> {
  readonly id: string
  /** Of the chunks, without empty pieces; it is read instead of them. */
  readonly text: AsyncIterable<string>
  /**
   * Ends it within one step. The result then rejects with `reason` (an AbortError unless given), or with `onAbort: 'return'` holds what
   * there is. Does nothing at the end.
   */
  abort(reason?: unknown): void
  /** The same promise each time. One that nobody handles is no unhandled rejection. */
  result(): Promise<Result>
  /** The chunks; cancelling it aborts. It is read instead of them. */
  toReadableStream(): ReadableStream<Chunk>
}

export type Pace = Pick<GenerateOptions, 'highWaterMark' | 'onAbort' | 'timeoutMs' | 'signal'>

/** Runs generate() at its reader's pace. */
export class RunningGeneration extends ReadableGeneration<Chunk, Result> implements Generation {
  /** What it made, also when that was cut short, or null when it failed: once everything it held is free again. Never rejects. */
  readonly settled: Promise<Result | null>
  readonly #abort = new AbortController()
  readonly #pace: Pace
  /** Wakes the generation that waits for its reader. */
  #resume: (() => void) | null = null

  /** @param start begins the work; the signal ends it. */
  constructor(id: string, start: (signal: AbortSignal) => AsyncGenerator<Chunk, Result, void>, pace: Pace) {
    super(id, pace.highWaterMark)
    this.#pace = pace
    const release = this.#listen(pace)
    this.settled = this.#run(start(this.#abort.signal), release)
  }

  /** One that could not begin. */
  static failed(id: string, error: unknown): RunningGeneration {
    // biome-ignore lint/correctness/useYield: it fails before there is anything to yield
    const fail = async function* (): AsyncGenerator<Chunk, Result, void> {
      throw error
    }
    return new RunningGeneration(id, fail, { highWaterMark: 1, onAbort: 'throw' })
  }

  abort(reason: unknown = new DOMException('The generation was aborted', 'AbortError')): void {
    if (this.hasEnded) return
    this.#abort.abort(reason)
    this.#unpark()
  }

  /** No more pauses: the work is finished without waiting for readers, who find the rest in the buffer. */
  hurry(): void {
    this.capacity = Number.POSITIVE_INFINITY
    this.#unpark()
  }

  protected override onRoom(): void {
    if (this.buffered < this.#pace.highWaterMark / 2) this.#unpark()
  }

  protected override consumed(message: string): GorgonError {
    return new GorgonError('ERR_CONSUMED', message, { id: this.id })
  }

  async #run(steps: AsyncGenerator<Chunk, Result, void>, release: () => void): Promise<Result | null> {
    const { signal } = this.#abort
    try {
      for (;;) {
        const { done, value } = await steps.next()
        if (done) {
          if (value.finish === 'aborted' && this.#pace.onAbort === 'throw') this.fail(signal.reason)
          else this.finish(value)
          return value
        }
        this.push(value)
        if (this.buffered >= this.capacity && !signal.aborted) await this.#room()
      }
    } catch (error) {
      this.fail(error)
      return null
    } finally {
      release()
    }
  }

  #room(): Promise<void> {
    return new Promise((resume) => {
      this.#resume = resume
    })
  }

  #unpark(): void {
    this.#resume?.()
    this.#resume = null
  }

  /** Follows the caller's signal and clock until the function returned is called. */
  #listen({ signal, timeoutMs }: Pace): () => void {
    const onAbort = () => this.abort(signal!.reason)
    if (signal?.aborted) onAbort()
    else if (signal) {
      // One signal for many generations is a use, not a leak: each takes its listener away again.
      if (signal instanceof AbortSignal) setMaxListeners(0, signal)
      signal.addEventListener('abort', onAbort, { once: true })
    }
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => this.abort(TIME_IS_UP), timeoutMs)
    return () => {
      signal?.removeEventListener('abort', onAbort)
      clearTimeout(timer)
    }
  }
}
