// The object generate() hands out: awaitable, iterable, abortable.
import { setMaxListeners } from 'node:events'
import { GorgonError } from './errors.js'
import { TIME_IS_UP } from './generate.js'
import type { GenerateOptions } from './options.js'
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

/** Runs generate() at its readers' pace. */
export class RunningGeneration implements Generation {
  readonly id: string
  /** What it made, also when that was cut short, or null when it failed: once everything it held is free again. Never rejects. */
  readonly settled: Promise<Result | null>
  readonly #abort = new AbortController()
  readonly #result: Promise<Result>
  readonly #highWaterMark: number
  readonly #onAbort: Pace['onAbort']
  #buffer: Chunk[] = []
  #reader: 'none' | 'reading' | 'too late' = 'none'
  #made: Result | null = null
  #isAwaited = false
  #hasEnded = false
  /** Wakes the reader who waits for a chunk. */
  #arrived: (() => void) | null = null
  /** Wakes the generation that waits for its reader. */
  #resume: (() => void) | null = null
  #maxBuffer: number

  /** @param start begins the work; the signal ends it. */
  constructor(id: string, start: (signal: AbortSignal) => AsyncGenerator<Chunk, Result, void>, pace: Pace) {
    this.id = id
    this.#highWaterMark = pace.highWaterMark
    this.#maxBuffer = pace.highWaterMark
    this.#onAbort = pace.onAbort
    const release = this.#listen(pace)
    this.#result = this.#run(start(this.#abort.signal)).finally(release)
    this.settled = this.#result.then(
      () => this.#made,
      () => this.#made,
    )
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
    if (this.#hasEnded) return
    this.#abort.abort(reason)
    this.#unpark()
  }

  result(): Promise<Result> {
    this.#isAwaited = true
    this.#forgoChunks()
    return this.#result
  }

  // biome-ignore lint/suspicious/noThenProperty: being awaitable is what it is for
  then<T = Result, E = never>(
    onResult?: ((result: Result) => T | PromiseLike<T>) | null,
    onFailure?: ((error: unknown) => E | PromiseLike<E>) | null,
  ): Promise<T | E> {
    return this.result().then(onResult, onFailure)
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Chunk> {
    this.#claim()
    const chunks = this.#read()
    const iterator = {
      next: () => chunks.next(),
      // Chunks may be awaited right now; only the end of the generation brings that to an end.
      return: async (): Promise<IteratorResult<Chunk>> => {
        this.abort()
        await this.settled
        return chunks.return(undefined)
      },
      [Symbol.asyncIterator]: () => iterator,
    }
    return iterator
  }

  get text(): AsyncIterable<string> {
    return {
      [Symbol.asyncIterator]: () => {
        const chunks = this[Symbol.asyncIterator]()
        return {
          async next() {
            for (;;) {
              const { done, value } = await chunks.next()
              if (done) return { done, value }
              if (value.text !== '') return { done: false, value: value.text }
            }
          },
          async return() {
            await chunks.return?.()
            return { done: true, value: undefined }
          },
        }
      },
    }
  }

  toReadableStream(): ReadableStream<Chunk> {
    const chunks = this[Symbol.asyncIterator]()
    return new ReadableStream<Chunk>(
      {
        async pull(controller) {
          const { done, value } = await chunks.next()
          if (done) controller.close()
          else controller.enqueue(value)
        },
        cancel: async (reason) => {
          this.abort(reason)
          await this.settled
        },
      },
      // The buffer is here already.
      { highWaterMark: 0 },
    )
  }

  /** No more pauses: the work is finished without waiting for readers, who find the rest in the buffer. */
  hurry(): void {
    this.#maxBuffer = Number.POSITIVE_INFINITY
    this.#unpark()
  }

  async #run(steps: AsyncGenerator<Chunk, Result, void>): Promise<Result> {
    try {
      for (;;) {
        const { done, value } = await steps.next()
        if (done) {
          this.#made = value
          const { signal } = this.#abort
          if (value.finish === 'aborted' && this.#onAbort === 'throw') throw signal.reason
          return value
        }
        this.#deliver(value)
        if (this.#isFull()) await this.#room()
      }
    } finally {
      this.#hasEnded = true
      this.#forgoChunks()
      this.#arrived?.()
    }
  }

  #deliver(chunk: Chunk): void {
    if (this.#reader === 'too late') return
    this.#buffer.push(chunk)
    this.#arrived?.()
  }

  #isFull(): boolean {
    this.#forgoChunks()
    return this.#buffer.length >= this.#maxBuffer && !this.#abort.signal.aborted
  }

  /** Where the result is awaited and nobody reads, chunks are in the way as soon as they would hold up the work, or at its end. */
  #forgoChunks(): void {
    if (!this.#isAwaited || this.#reader !== 'none') return
    if (!this.#hasEnded && this.#buffer.length < this.#maxBuffer) return
    this.#reader = 'too late'
    this.#buffer = []
    this.#unpark()
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

  #claim(): void {
    if (this.#reader === 'none') {
      this.#reader = 'reading'
      return
    }
    const what =
      this.#reader === 'reading'
        ? 'already has a reader, and each chunk is given out once. Keep one loop, and share what it reads.'
        : 'gave its result to someone who awaited it, and kept no chunks. Begin to iterate before, or use result.text and result.tokens.'
    throw new GorgonError('ERR_CONSUMED', `Generation ${this.id} ${what}`, { id: this.id })
  }

  async *#read(): AsyncGenerator<Chunk, undefined, void> {
    for (;;) {
      const chunk = this.#buffer.shift()
      if (chunk) {
        if (this.#buffer.length < this.#highWaterMark / 2) this.#unpark()
        yield chunk
      } else if (this.#hasEnded) {
        await this.#result
        return
      } else {
        await new Promise<void>((arrived) => {
          this.#arrived = arrived
        })
        this.#arrived = null
      }
    }
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
