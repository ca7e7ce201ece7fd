// Random inputs from a seed that a failing test prints.

/** GORGON_TEST_SEED tries other inputs; a seed and a case's name give the same inputs always. */
const BASE_SEED = Number(process.env['GORGON_TEST_SEED'] ?? 1)

/** 32 bits of a text, each of which depends on every character. */
function hash(text: string): number {
  let h = 0x811c9dc5
  for (const character of text) h = Math.imul(h ^ character.codePointAt(0)!, 0x01000193)
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d)
  return (h ^ (h >>> 15)) >>> 0
}

/** The random numbers of one test case. */
export class Random {
  readonly seed = BASE_SEED
  #state: [number, number, number, number]

  /** `name` says what the case is; two cases of one name draw the same numbers. */
  constructor(readonly name: string) {
    const word = (i: number) => hash(`${BASE_SEED}/${i}/${name}`) || 1
    this.#state = [word(0), word(1), word(2), word(3)]
  }

  /** 32 random bits: a xorshift of four words, made less regular by a sum. */
  bits(): number {
    const [x, y, z, w] = this.#state
    const t = x ^ (x << 11)
    const next = (w ^ (w >>> 19) ^ t ^ (t >>> 8)) >>> 0
    this.#state = [y, z, w, next]
    return (next + Math.imul(y, 0x9e3779b1)) >>> 0
  }

  /** In [low, high). */
  uniform(low = 0, high = 1): number {
    return low + ((high - low) * (this.bits() * 2 ** 21 + (this.bits() >>> 11))) / 2 ** 53
  }

  /** A whole number in [low, high]. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1))
  }

  /** Standard normal, by the Box-Muller transform. */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform())
  }

  normals(count: number, deviation = 1): Float32Array {
    return Float32Array.from({ length: count }, () => deviation * this.normal())
  }

  pick<T>(items: readonly T[]): T {
    return items[this.integer(0, items.length - 1)]!
  }

  /** `count` of the numbers [0, n), ascending. */
  choose(n: number, count: number): number[] {
    const rest = Array.from({ length: n }, (_, i) => i)
    const chosen = Array.from({ length: count }, () => rest.splice(this.integer(0, rest.length - 1), 1)[0]!)
    return chosen.sort((a, b) => a - b)
  }
}
