// What every generation is to its reader, made here or at a server: chunks for one reader, then the result.

/** Keeps chunks until they are read. Whoever makes them calls push(), then finish() or fail(). */
export abstract class ReadableGeneration<Chunk extends { readonly text: string }, Result>
  implements PromiseLike<Result>, AsyncIterable<Chunk>
{
  readonly id: string
  /** So many chunks that wait hold up the work. Where the result is awaited by then, nobody is going to read them. */
  protected capacity: number
  readonly #result: Promise<Result>
  #resolve!: (result: Result) => void
  #reject!: (error: unknown) => void
  #buffer: Chunk[] = []
  #reader: 'none' | 'reading' | 'too late' = 'none'
  #isAwaited = false
  #hasEnded = false
  /** Wakes the reader who waits for a chunk. */
  #arrived: (() => void) | null = null

  constructor(id: string, capacity: number) {
    this.id = id
    this.capacity = capacity
    this.#result = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.#result.catch(() => undefined)
  }

  abstract abort(reason?: unknown): void

  /** There is more room for chunks, before the end. */
  protected abstract onRoom(): void

  /** An ERR_CONSUMED. */
  protected abstract consumed(message: string): Error

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** Chunks that wait for their reader. */
  get buffered(): number {
    return this.#buffer.length
  }

  push(chunk: Chunk): void {
    if (this.#hasEnded || this.#reader === 'too late') return
    this.#buffer.push(chunk)
    this.#arrived?.()
    this.#forgoChunks()
  }

  finish(result: Result): void {
    if (this.#hasEnded) return
    this.#end()
    this.#resolve(result)
  }

  fail(error: unknown): void {
    if (this.#hasEnded) return
    this.#end()
    this.#reject(error)
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
        await this.#leave()
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
        cancel: (reason) => this.#leave(reason),
      },
      // The buffer is here already.
      { highWaterMark: 0 },
    )
  }

  /** Until everything it held is free again. */
  async #leave(reason?: unknown): Promise<void> {
    this.abort(reason)
    await this.#result.catch(() => undefined)
  }

  #end(): void {
    this.#hasEnded = true
    this.#forgoChunks()
    this.#arrived?.()
  }

  /** Where the result is awaited and nobody reads, chunks are in the way as soon as they would hold up the work, or at its end. */
  #forgoChunks(): void {
    if (!this.#isAwaited || this.#reader !== 'none') return
    if (!this.#hasEnded && this.#buffer.length < this.capacity) return
    this.#reader = 'too late'
    this.#buffer = []
    if (!this.#hasEnded) this.onRoom()
  }

  #claim(): void {
    if (this.#reader === 'none') {
      this.#reader = 'reading'
      return
    }
    const what =
      this.#reader === 'reading'
        ? 'already has a reader, and each chunk is given out once. Keep one loop, and share what it reads.'
        : 'gave its result to someone who awaited it, and kept no chunks. Begin to iterate before, or use what the result holds.'
    throw this.consumed(`Generation ${this.id} ${what}`)
  }

  async *#read(): AsyncGenerator<Chunk, undefined, void> {
    for (;;) {
      const chunk = this.#buffer.shift()
      if (chunk) {
        if (!this.#hasEnded) this.onRoom()
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
}
