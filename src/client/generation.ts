// The object generate() hands out: awaitable, iterable, abortable; the same as the library's, from afar.
import { ReadableGeneration } from '../readable-generation.js'
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

/** Receives what a server makes. */
export class ArrivingGeneration extends ReadableGeneration<Chunk, Result> implements Generation {
  readonly #source: Source

  constructor(id: string, highWaterMark: number, source: Source) {
    // Credit is granted by halves of what is held: with more than that unread, the server could be held up.
    super(id, highWaterMark / 2)
    this.#source = source
  }

  /** One that could not begin. */
  static failed(id: string, error: unknown): ArrivingGeneration {
    const generation = new ArrivingGeneration(id, 1, { abort: () => undefined, consumed: () => undefined })
    generation.fail(error)
    return generation
  }

  abort(reason: unknown = abortError('The generation was aborted')): void {
    if (!this.hasEnded) this.#source.abort(reason)
  }

  protected override onRoom(): void {
    this.#source.consumed()
  }

  protected override consumed(message: string): ClientError {
    return new ClientError('ERR_CONSUMED', message, { details: { id: this.id } })
  }
}
