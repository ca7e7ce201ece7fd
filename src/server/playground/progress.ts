// What is known of a response while it runs: counts, times and series, fed delta by delta.
import { Buckets, type Points } from './buckets.js'
import type { Delta } from './provenance.js'

/** How often drafts of one depth were accepted, of those that were offered. */
export interface Acceptance {
  readonly offered: number
  readonly accepted: number
}

/** A delta with the milliseconds since its request was taken. */
export interface TimedDelta extends Delta {
  readonly at: number
}

/** Of a series: as many as a small chart has room for. */
const POINTS = 64

export class Progress {
  tokens = 0
  steps = 0
  /** Milliseconds to the first delta with text. */
  ttftMs: number | null = null
  /** Tokens of depth d at d; those of depth 0 are the base model's own. */
  readonly byDepth: number[] = []
  #firstAt: number | null = null
  #firstTokens = 0
  #lastAt = 0
  readonly #rate = new Buckets(0.05, POINTS)
  readonly #perStep = new Buckets(1, POINTS)

  add({ text, n, at, spans = [] }: TimedDelta): void {
    if (this.#firstAt === null) {
      this.#firstAt = at
      this.#firstTokens = n
    } else this.#rate.add(at / 1000, n, Math.max(0, at - this.#lastAt) / 1000)
    this.#lastAt = at
    if (text !== '') this.ttftMs ??= at
    this.tokens += n
    for (const { step, chars } of spans) {
      this.steps += 1
      this.#perStep.add(step, chars.length, 1)
      chars.forEach((_, depth) => {
        this.byDepth[depth] = (this.byDepth[depth] ?? 0) + 1
      })
    }
  }

  /** Since the first delta; null before there is a second. */
  get tokensPerSecond(): number | null {
    const ms = this.#lastAt - (this.#firstAt ?? this.#lastAt)
    return ms > 0 ? (1000 * (this.tokens - this.#firstTokens)) / ms : null
  }

  get tokensPerStep(): number | null {
    return this.steps > 0 ? this.tokens / this.steps : null
  }

  /** Of depth d at d - 1, as far as text can show: every step that came to a depth counts as offered the next. The result knows better. */
  get acceptance(): readonly Acceptance[] {
    return this.byDepth.slice(1).map((accepted, i) => ({ offered: this.byDepth[i]!, accepted }))
  }

  /** Tokens per second over seconds. */
  get rate(): Points {
    return this.#rate.points()
  }

  /** Tokens per step over steps. */
  get perStep(): Points {
    return this.#perStep.points()
  }
}
