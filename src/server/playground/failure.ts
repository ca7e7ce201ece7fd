// An error as the page shows it: what happened, its code, and what to do.
import { adviceFor } from './advice.js'
import { make } from './dom.js'

/** What is known of an error, whoever raised it. */
export interface Problem {
  readonly code?: string
  readonly message: string
}

export class FailureBox {
  readonly #box: HTMLElement

  constructor(box: HTMLElement) {
    this.#box = box
  }

  show({ code, message }: Problem): void {
    const advice = code === undefined ? undefined : adviceFor(code)
    this.#box.replaceChildren(
      ...(code === undefined ? [] : [make('code', '', code)]),
      make('p', '', message),
      ...(advice === undefined ? [] : [make('p', '', advice)]),
    )
    this.#box.hidden = false
  }

  clear(): void {
    this.#box.hidden = true
    this.#box.replaceChildren()
  }
}
