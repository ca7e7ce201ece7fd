// The object generate() hands out: awaitable, iterable, abortable; the same as the library's, from afar.
import type { ServerFrameOf, Summary } from '../server/protocol.js'
import { abortError, ClientError } from './errors.js'

/** What one decode step added, or several that the server put together. */
export interface Chunk {
  /** May be empty, while a character is incomplete or a stop string may have begun. */
  readonly text: string
  /** Tokens. */
  readonly n: number
  /** How many of them were drafted. */
  readonly drafted: number
  /** Milliseconds since the server took the request, of the last step in it. */
  readonly at: number
  /**
   * By step: how many UTF-16 units of `text` each token released, in order. The first token of a step is the base model's own, the one at
   * index d was drafted by Medusa head d and accepted. After a restart a step may begin with tokens that were delivered before: they have 0
   * units here, and are not counted in `n`. Absent with `provenance: false`.
   */
  readonly spans?: readonly Span[]
  /** With `ids: true`. */
  readonly ids?: readonly number[]
  /** Of each token, when asked for. */
  readonly logprobs?: readonly TokenLogprob[]
}

export type Delta = ServerFrameOf<'delta'>
export type TokenLogprob = NonNullable<Delta['logprobs']>[number]
export interface Span {
  readonly step: number
  readonly chars: readonly number[]
}

/** The whole text, and what the server says of how it was made. After a restart, times and counts are those of the last attempt. */
export interface Result extends Summary {
  /** Of all chunks, joined. */
  readonly text: string
  readonly model: string
  /** Of all chunks, joined, with `ids: true`. */
  readonly ids?: readonly number[]
  /** Of each token, when asked for. */
  readonly logprobs?: readonly TokenLogprob[]
}

/**
 * One generation, on its way from the moment it exists. Await it for the result, or iterate it for chunks as they are made, or both:
 *
 *     const { text } = await client.generate(prompt)
 *     for await (const chunk of client.generate(prompt)) show(chunk.text)
 *
 * Chunks have one reader, who must begin before the result is there; leaving the loop aborts. A reader who is slow pauses the generation at
 * the server when `highWaterMark` chunks are on their way or waiting here. So do not await the result inside the loop: read on, it comes.
 *
 * Each token is delivered once, whatever becomes of connections. When one breaks, the client connects again and goes on after the last
 * chunk it has, which the server kept (`resumable`). Where the server no longer has it, because it was restarted, or another replica
 * answers, the request is made again with the seed that the first server chose: the same model then makes the same tokens, those delivered
 * before are compared and left out, and the rest follows. If they differ (another model under the same name, or `accept: typical`) the
 * generation rejects with ERR_NOT_REPRODUCED rather than mixing two texts. `onRestart` tells of it.
 */
export interface Generation extends PromiseLike<Result>, AsyncIterable<Chunk> {
  /** In the server's log it is found under its connection and this. */
  readonly id: string
  /** Of the chunks, without empty pieces; it is read instead of them. */
  readonly text: AsyncIterable<string>
  /**
   * Ends it within one step. The result rejects with `reason` (an AbortError unless given) at once; with `onAbort: 'return'` it holds what
   * there is, when the server has said so. Does nothing at the end.
   */
  abort(reason?: unknown): void
  /** The same promise each time. One that nobody handles is no unhandled rejection. */
  result(): Promise<Result>
  /** The chunks; cancelling it aborts. It is read instead of them. */
  toReadableStream(): ReadableStream<Chunk>
}

/** Where chunks come from. */
export interface Source {
  abort(reason: unknown): void
  /** There is room for more chunks. */
  consumed(): void
}

/** Keeps chunks for their reader. */
export class ArrivingGeneration implements Generation {
  readonly id: string
  readonly #source: Source
  readonly #highWaterMark: number
  readonly #result: Promise<Result>
  #resolve!: (result: Result) => void
  #reject!: (error: unknown) => void
  #buffer: Chunk[] = []
  #reader: 'none' | 'reading' | 'too late' = 'none'
  #isAwaited = false
  #hasEnded = false
  /** Wakes the reader who waits for a chunk. */
  #arrived: (() => void) | null = null

  constructor(id: string, highWaterMark: number, source: Source) {
    this.id = id
    this.#highWaterMark = highWaterMark
    this.#source = source
    this.#result = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.#result.catch(() => undefined)
  }

  /** One that could not begin. */
  static failed(id: string, error: unknown): ArrivingGeneration {
    const generation = new ArrivingGeneration(id, 1, { abort: () => undefined, consumed: () => undefined })
    generation.fail(error)
    return generation
  }

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

  abort(reason: unknown = abortError('The generation was aborted')): void {
    if (!this.#hasEnded) this.#source.abort(reason)
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
        await this.#settled()
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
          await this.#settled()
        },
      },
      // The buffer is here already.
      { highWaterMark: 0 },
    )
  }

  #end(): void {
    this.#hasEnded = true
    this.#forgoChunks()
    this.#arrived?.()
  }

  async #settled(): Promise<void> {
    await this.#result.catch(() => undefined)
  }

  /**
   * Where the result is awaited and nobody reads, chunks are in the way at the end, or as soon as they could hold up the server: credit is
   * granted by halves of what is held.
   */
  #forgoChunks(): void {
    if (!this.#isAwaited || this.#reader !== 'none') return
    if (!this.#hasEnded && this.#buffer.length < this.#highWaterMark / 2) return
    this.#reader = 'too late'
    this.#buffer = []
    if (!this.#hasEnded) this.#source.consumed()
  }

  #claim(): void {
    if (this.#reader === 'none') {
      this.#reader = 'reading'
      return
    }
    const what =
      this.#reader === 'reading'
        ? 'already has a reader, and each chunk is given out once. Keep one loop, and share what it reads.'
        : 'gave its result to someone who awaited it, and kept no chunks. Begin to iterate before, or use result.text.'
    throw new ClientError('ERR_CONSUMED', `Generation ${this.id} ${what}`, { details: { id: this.id } })
  }

  async *#read(): AsyncGenerator<Chunk, undefined, void> {
    for (;;) {
      const chunk = this.#buffer.shift()
      if (chunk) {
        if (!this.#hasEnded) this.#source.consumed()
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
