// A series of any length as few points: sums over equal stretches of x.

interface Bucket {
  amount: number
  weight: number
}

export interface Points {
  readonly x: readonly number[]
  readonly y: readonly number[]
}

/** Averages by stretch of x. When there are more stretches than allowed, neighbours join and all are twice as wide. */
export class Buckets {
  readonly #limit: number
  #width: number
  #buckets: Bucket[] = []

  /** @param width of a stretch, in units of x, until there are more than `limit` of them. */
  constructor(width: number, limit: number) {
    this.#width = width
    this.#limit = limit
  }

  /** Counts `amount` per `weight` at x, which is at least 0. */
  add(x: number, amount: number, weight: number): void {
    while (Math.floor(x / this.#width) >= this.#limit) this.#halve()
    const index = Math.floor(x / this.#width)
    while (this.#buckets.length <= index) this.#buckets.push({ amount: 0, weight: 0 })
    const bucket = this.#buckets[index]!
    bucket.amount += amount
    bucket.weight += weight
  }

  /** The middle of each stretch that weighs anything, and the average there. */
  points(): Points {
    const filled = this.#buckets.map((bucket, index) => ({ ...bucket, index })).filter(({ weight }) => weight > 0)
    return {
      x: filled.map(({ index }) => (index + 0.5) * this.#width),
      y: filled.map(({ amount, weight }) => amount / weight),
    }
  }

  #halve(): void {
    this.#width *= 2
    const joined: Bucket[] = []
    for (let i = 0; i < this.#buckets.length; i += 2) {
      const [first, second] = [this.#buckets[i]!, this.#buckets[i + 1]]
      joined.push({ amount: first.amount + (second?.amount ?? 0), weight: first.weight + (second?.weight ?? 0) })
    }
    this.#buckets = joined
  }
}
