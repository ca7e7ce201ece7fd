// Random choices that a seed repeats: which lines, words and numbers a benchmark asks about.

/** A stream of numbers in [0, 1); the same name gives the same stream on every machine. */
export class Choices {
  #state = 0x811c9dc5

  constructor(name: string) {
    for (const character of name) this.#state = Math.imul(this.#state ^ character.codePointAt(0)!, 0x01000193)
  }

  /** A counter whose bits are mixed (splitmix32). */
  uniform(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0
    let bits = this.#state
    bits = Math.imul(bits ^ (bits >>> 16), 0x21f0aaad)
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97)
    return ((bits ^ (bits >>> 15)) >>> 0) / 2 ** 32
  }

  /** A whole number in [low, high]. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1))
  }

  pick<T>(items: readonly T[]): T {
    return items[this.integer(0, items.length - 1)]!
  }

  /** The items in any order. */
  shuffle<T>(items: readonly T[]): T[] {
    const shuffled = [...items]
    for (let last = shuffled.length - 1; last > 0; last--) {
      const other = this.integer(0, last)
      ;[shuffled[last], shuffled[other]] = [shuffled[other]!, shuffled[last]!]
    }
    return shuffled
  }
}
