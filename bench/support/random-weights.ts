// Random bf16 values from a seed, fast enough for gigabytes: normal draws looked up by random bits.

/** Draws in a table: sixteen random bits choose one. */
const TABLE_SIZE = 1 << 16

/** bf16 bits of a finite number, ties to even. */
export function bf16Bits(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

/** Random numbers in [0, 1) from a seed: enough to fill a table with. */
function uniform(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let bits = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
    return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32
  }
}

/** Normally distributed bf16 values around zero. The same seed and deviation give the same values, however they are asked for in pairs. */
export class RandomWeights {
  readonly #table: Uint16Array
  #state: number

  constructor(seed: number, deviation: number) {
    const next = uniform(seed)
    this.#table = Uint16Array.from({ length: TABLE_SIZE }, () =>
      bf16Bits(deviation * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())),
    )
    // A xorshift that starts at zero stays there.
    this.#state = Math.floor(next() * 2 ** 32) | 1
  }

  /** Two values to each word. */
  fillPairs(words: Uint32Array): void {
    const table = this.#table
    let state = this.#state
    for (let i = 0; i < words.length; i++) {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      words[i] = table[state & 0xffff]! | (table[state >>> 16]! << 16)
    }
    this.#state = state
  }

  /** As f32, each exactly a bf16 value. */
  values(count: number): Float32Array {
    const words = new Uint32Array(Math.ceil(count / 2))
    this.fillPairs(words)
    const bits = new Uint32Array(count)
    for (let i = 0; i < count; i++) bits[i] = i % 2 === 0 ? words[i >>> 1]! << 16 : words[i >>> 1]! & 0xffff0000
    return new Float32Array(bits.buffer)
  }
}
