// A lazily started worker thread that encodes texts, one after another, short ones first.
import { Worker } from 'node:worker_threads'
import { GorgonError } from '../errors.js'
import type { EncodeReply, EncodeRequest } from './encode-worker.js'

interface Job {
  readonly request: EncodeRequest
  /** The least is next. */
  readonly rank: number
  readonly signal: AbortSignal | undefined
  readonly onAbort: () => void
  readonly resolve: (ids: Int32Array) => void
  readonly reject: (reason: unknown) => void
}

/**
 * A text's rank is its length and when it came: a short one overtakes longer ones, by a millisecond of arrival for each so many characters,
 * so that none waits for ever. The worker does some hundred in that time.
 */
const CHARACTERS_PER_MS = 100

/** A text that is longer, and that nobody wants any more, costs its worker: a new one is there sooner than its end. */
const MAX_UNWANTED_CHARACTERS = 200_000

/**
 * Encodes off the JavaScript thread. The worker starts with the first text and is kept; it holds the process open only while a text is
 * waiting. A worker that dies fails the text it was at; the next text gets a new one.
 */
export class EncodeThread {
  readonly #tokenizerJson: string
  readonly #where: string
  readonly #waiting: Job[] = []
  #running: Job | null = null
  #worker: Worker | null = null
  #closed = false

  /** @param where the tokenizer's file, for messages */
  constructor(tokenizerJson: string, where: string) {
    this.#tokenizerJson = tokenizerJson
    this.#where = where
  }

  /**
   * The text's ids.
   *
   * Of several, shorter ones go first. An abort rejects at once with the signal's reason; a text the worker is already at is finished there
   * and dropped, unless it is long.
   *
   * @throws {GorgonError} ERR_TOKENIZER when the text cannot be encoded or the worker dies, ERR_CLOSED after close().
   */
  encode(request: EncodeRequest, signal?: AbortSignal): Promise<Int32Array> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      if (this.#closed) throw closedError(this.#where)
      const onAbort = (): void => {
        const place = this.#waiting.indexOf(job)
        if (place >= 0) this.#waiting.splice(place, 1)
        job.reject(signal?.reason)
        if (job === this.#running && request.text.length > MAX_UNWANTED_CHARACTERS) this.#abandon()
      }
      const rank = request.text.length + performance.now() * CHARACTERS_PER_MS
      const job: Job = { request, rank, signal, onAbort, resolve, reject }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiting.push(job)
      this.#next()
    })
  }

  /** Ends the worker; texts not yet encoded reject with ERR_CLOSED. Later calls do nothing. */
  async close(): Promise<void> {
    this.#closed = true
    for (const job of this.#waiting.splice(0)) this.#fail(job, closedError(this.#where))
    const worker = this.#worker
    this.#drop(closedError(this.#where))
    await worker?.terminate()
  }

  #next(): void {
    if (this.#running !== null) return
    const [first] = this.#waiting
    if (first === undefined) {
      this.#worker?.unref()
      return
    }
    const job = this.#waiting.reduce((least, one) => (one.rank < least.rank ? one : least), first)
    this.#waiting.splice(this.#waiting.indexOf(job), 1)
    this.#running = job
    try {
      this.#worker ??= this.#start()
      this.#worker.ref()
      this.#worker.postMessage(job.request)
    } catch (error) {
      this.#ended(error)
    }
  }

  #start(): Worker {
    const worker = new Worker(new URL('./encode-worker.js', import.meta.url), {
      name: 'gorgon-encode',
      workerData: { tokenizerJson: this.#tokenizerJson },
      // Not this process's own: flags such as --input-type or --inspect-brk stop a worker from starting.
      execArgv: [],
    })
    const ended = (cause: unknown): void => {
      if (this.#worker === worker) this.#ended(cause)
      void worker.terminate()
    }
    worker.on('message', (reply: EncodeReply) => {
      // One that was abandoned may have been done after all.
      if (this.#worker !== worker) return
      const job = this.#running
      this.#running = null
      if (job !== null) {
        job.signal?.removeEventListener('abort', job.onAbort)
        if ('ids' in reply) job.resolve(reply.ids)
        else job.reject(encodeError(this.#where, job.request.text, reply.error))
      }
      this.#next()
    })
    worker.on('error', ended)
    worker.on('messageerror', ended)
    worker.on('exit', ended)
    return worker
  }

  /** Ends the worker in the middle of a text; the next text gets a new one. */
  #abandon(): void {
    const worker = this.#worker
    this.#running = null
    this.#worker = null
    void worker?.terminate()
    this.#next()
  }

  #ended(cause: unknown): void {
    const reason = cause instanceof Error ? cause.message : `it ended with code ${String(cause)}`
    this.#drop(
      new GorgonError(
        'ERR_TOKENIZER',
        `${this.#where}: the encoding thread failed: ${reason}. Try again; a shorter text needs less memory.`,
        { file: this.#where },
        cause instanceof Error ? cause : undefined,
      ),
    )
    this.#next()
  }

  /** Forgets the worker, and fails the text it was at. */
  #drop(error: GorgonError): void {
    const job = this.#running
    this.#running = null
    this.#worker = null
    if (job !== null) this.#fail(job, error)
  }

  #fail(job: Job, error: GorgonError): void {
    job.signal?.removeEventListener('abort', job.onAbort)
    job.reject(error)
  }
}

/** Why a text could not be encoded, on whichever thread it was tried. */
export function encodeError(where: string, text: string, reason: string, cause?: unknown): GorgonError {
  return new GorgonError(
    'ERR_TOKENIZER',
    `${where}: a text of ${text.length} characters cannot be encoded: ${reason}. Pass token ids instead.`,
    { file: where, characters: text.length },
    cause,
  )
}

export function closedError(where: string): GorgonError {
  return new GorgonError('ERR_CLOSED', `${where}: the tokenizer is closed. Encode before closing the engine.`, {
    file: where,
  })
}
