// Things that are open together, closed together: all of them, whatever fails on the way.

export class Closing {
  readonly #closers: (() => Promise<void>)[] = []

  /** @param close of what was opened last: it is called first. */
  add(close: () => Promise<void>): void {
    this.#closers.push(close)
  }

  /** Closes each once. What fails keeps none of the others open; the first error is thrown in the end. */
  async close(): Promise<void> {
    const errors: unknown[] = []
    for (let close = this.#closers.pop(); close; close = this.#closers.pop()) {
      await close().catch((error: unknown) => errors.push(error))
    }
    if (errors.length > 0) throw errors[0]
  }

  /** Closes all after something went wrong, which is what matters: an error of closing is not told. */
  async closeAfterError(): Promise<void> {
    await this.close().catch(() => undefined)
  }
}
