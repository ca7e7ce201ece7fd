// Oracle of posterior: one row of logits to the token chosen after a node, and the distribution it is chosen from.

export interface PosteriorCase {
  /** f32 [V]. */
  logits: ArrayLike<number>
  /** 0 is greedy. Like all fractions here, what f32 makes of it: native code has no other. */
  temperature: number
  /** 0 is off. */
  topK: number
  /** 1 is off. */
  topP: number
  /** 0 is off. */
  minP: number
  repetitionPenalty: number
  frequencyPenalty: number
  presencePenalty: number
  bias: { id: number; value: number }[]
  suppressedIds: number[]
  minTokens: number
  seed: bigint
  /** Of the token to choose. */
  position: number
  /** Tokens of the prompt, in any order. */
  prompt: number[]
  /** Tokens generated and committed, over all turns, in any order. */
  output: number[]
  /** Tokens of the node's path, root first. */
  path: number[]
  /** Tokens generated in this turn before the path. */
  generated: number
}

export interface PosteriorResult {
  chosen: number
  /** f64 [V]: the distribution that `tokenProb` and `entropy` are of; all ids at temperature 0, those kept above. */
  probabilities: number[]
  /** In nats. */
  entropy: number
  /** f64 [V]: of the logits as they came. */
  logprobs: number[]
  /**
   * Distance to the nearest other outcome: the change of a cumulative probability (of a relative one, for min-p) that would choose or keep
   * another id. Below about 1e-5, f32 may do so. Infinity where nothing but comparisons of logits decides: those agree exactly.
   */
  margin: number
}

const WORD = 0xffffffffn

/** Ten rounds of Philox 4x32 over words of 32 bits. Source: "Parallel Random Numbers: As Easy as 1, 2, 3". */
export function philox4x32(counter: readonly bigint[], key: readonly bigint[]): bigint[] {
  let [c0, c1, c2, c3] = counter as [bigint, bigint, bigint, bigint]
  let [k0, k1] = key as [bigint, bigint]
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c0
    const b = 0xcd9e8d57n * c2
    ;[c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & WORD, (a >> 32n) ^ c3 ^ k1, a & WORD]
    k0 = (k0 + 0x9e3779b9n) & WORD
    k1 = (k1 + 0xbb67ae85n) & WORD
  }
  return [c0, c1, c2, c3]
}

/** Uniform in [0, 1): 53 bits, the top 27 of word 0 and the top 26 of word 1; counter `position` and key `seed`, low words first. */
export function samplingUniform(seed: bigint, position: bigint): number {
  const [high, low] = philox4x32([position & WORD, position >> 32n, 0n, 0n], [seed & WORD, seed >> 32n])
  return Number(((high! >> 5n) << 26n) | (low! >> 6n)) / 2 ** 53
}

const FLOAT_MAX = (2 - 2 ** -23) * 2 ** 127

/** Rounded to f32; NaN counts as -infinity, +infinity as the largest float. */
const logit = (value: number): number =>
  Number.isNaN(value) ? Number.NEGATIVE_INFINITY : Math.min(Math.fround(value), FLOAT_MAX)

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

const largest = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b))

/** Lowest id of the largest value. */
const argMax = (values: readonly number[]): number => values.indexOf(largest(values))

/** Arg max of the logits as they came: -infinity is still better than NaN, and where all are NaN it is id 0. */
function argMaxOfRaw(raw: readonly number[]): number {
  const logits = raw.map(logit)
  return largest(logits) > Number.NEGATIVE_INFINITY
    ? argMax(logits)
    : Math.max(0, raw.indexOf(Number.NEGATIVE_INFINITY))
}

/** All the probability on one id. */
const pointMass = (vocab: number, id: number): number[] => Array.from({ length: vocab }, (_, i) => (i === id ? 1 : 0))

/** Bias, penalties, suppression: in f32, every operation rounded, so that arg max and top-k agree exactly. */
function adjusted(test: PosteriorCase): number[] {
  const { fround } = Math
  const x = Array.from(test.logits, logit)
  for (const { id, value } of test.bias) x[id] = logit(x[id]! + value)
  const output = [...test.output, ...test.path]
  for (let id = 0; id < x.length; id++) {
    const count = output.filter((token) => token === id).length
    if (count > 0 || test.prompt.includes(id)) {
      x[id] = logit(x[id]! > 0 ? x[id]! / test.repetitionPenalty : x[id]! * test.repetitionPenalty)
    }
    if (count > 0) {
      x[id] = logit(x[id]! - fround(test.frequencyPenalty * count))
      x[id] = logit(x[id]! - test.presencePenalty)
    }
  }
  if (test.generated + test.path.length < test.minTokens) {
    for (const id of test.suppressedIds) x[id] = Number.NEGATIVE_INFINITY
  }
  return x
}

export function posterior(test: PosteriorCase): PosteriorResult {
  const raw = Array.from(test.logits)
  const vocab = raw.length
  const x = adjusted(test)
  const best = argMax(x)
  let margin = Number.POSITIVE_INFINITY
  let chosen = best
  let probabilities: number[]

  if (x[best] === Number.NEGATIVE_INFINITY) {
    chosen = argMaxOfRaw(raw)
    probabilities = pointMass(vocab, chosen)
  } else {
    const isGreedy = test.temperature === 0
    const weights = x.map((value) => Math.exp((value - x[best]!) / (isGreedy ? 1 : test.temperature)))
    if (!isGreedy) {
      const drop = (ids: readonly number[]): void => {
        for (const id of ids) weights[id] = 0
      }
      let order = x.map((_, id) => id).filter((id) => x[id]! > Number.NEGATIVE_INFINITY)
      order.sort((a, b) => x[b]! - x[a]! || a - b)
      if (test.topK > 0) {
        drop(order.slice(test.topK))
        order = order.slice(0, test.topK)
      }
      if (test.topP < 1) {
        const total = sum(weights)
        let held = 0
        let kept = 0
        do {
          held += weights[order[kept++]!]!
          margin = Math.min(margin, Math.abs(held / total - test.topP))
        } while (held < test.topP * total && kept < order.length)
        drop(order.slice(kept))
        order = order.slice(0, kept)
      }
      if (test.minP > 0) {
        // Ids as good as the best weigh exactly 1 everywhere.
        for (const id of order) {
          if (weights[id] !== 1) margin = Math.min(margin, Math.abs(weights[id]! / test.minP - 1))
        }
        drop(order.filter((id) => weights[id]! < test.minP))
      }
    }
    const total = sum(weights)
    probabilities = weights.map((weight) => weight / total)
    if (!isGreedy) {
      const uniform = samplingUniform(test.seed, BigInt(test.position))
      let below = 0
      for (let id = 0; id < vocab && below <= uniform; id++) {
        if (probabilities[id] === 0) continue
        chosen = id
        below += probabilities[id]!
        margin = Math.min(margin, Math.abs(below - uniform))
      }
    }
  }

  const entropy = -sum(probabilities.map((p) => (p > 0 ? p * Math.log(p) : 0)))
  return { chosen, probabilities, entropy, logprobs: logprobsOf(raw), margin }
}

/** Of the logits as they came; where all are -infinity or NaN, one id has all the probability. */
function logprobsOf(raw: readonly number[]): number[] {
  const logits = raw.map(logit)
  const top = largest(logits)
  if (top === Number.NEGATIVE_INFINITY) return pointMass(raw.length, argMaxOfRaw(raw)).map(Math.log)
  const total = sum(logits.map((value) => Math.exp(value - top)))
  return logits.map((value) => value - top - Math.log(total))
}
