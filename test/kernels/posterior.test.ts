// posterior: the token chosen after a node, and the distribution it was chosen from.
import { describe, expect, it } from 'vitest'
import { type PosteriorCase, philox4x32, posterior, samplingUniform } from '../oracle/posterior.js'
import { EPSILON, expectClose, expectSameBits, type Place } from '../support/compare.js'
import { failure } from '../support/errors.js'
import {
  fastestIsa,
  isas,
  onEveryIsa,
  ops,
  type PosteriorNodeArgs,
  type PosteriorResult,
  referenceIsa,
} from '../support/ops.js'
import { Random } from '../support/random.js'

const PLAIN: Omit<PosteriorCase, 'logits'> = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  bias: [],
  suppressedIds: [],
  minTokens: 0,
  seed: 0n,
  position: 0,
  prompt: [],
  output: [],
  path: [],
  generated: 0,
}

interface Asked {
  readonly childTokens: readonly number[]
  readonly typical: boolean
  readonly logprobs: number
}

/** What an f32 keeps of every fraction. */
function inF32(test: PosteriorCase): PosteriorCase {
  const { fround } = Math
  return {
    ...test,
    temperature: fround(test.temperature),
    topP: fround(test.topP),
    minP: fround(test.minP),
    repetitionPenalty: fround(test.repetitionPenalty),
    frequencyPenalty: fround(test.frequencyPenalty),
    presencePenalty: fround(test.presencePenalty),
    bias: test.bias.map(({ id, value }) => ({ id, value: fround(value) })),
  }
}

function nodeOf(test: PosteriorCase, { childTokens, typical, logprobs }: Asked): PosteriorNodeArgs {
  const vocab = test.logits.length
  const counts = new Int32Array(vocab)
  for (const id of test.output) counts[id]! += 1
  const inPrompt = new Uint8Array(vocab)
  for (const id of test.prompt) inPrompt[id] = 1
  const { temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty, minTokens, seed } = test
  const fractions = { temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty }
  return {
    logits: Float32Array.from(test.logits),
    sampling: {
      ...fractions,
      minTokens,
      seed,
      biasIds: Int32Array.from(test.bias, ({ id }) => id),
      biasValues: Float32Array.from(test.bias, ({ value }) => value),
      suppressedIds: Int32Array.from(test.suppressedIds),
    },
    inPrompt: test.prompt.length > 0 ? inPrompt : null,
    outputCounts: test.output.length > 0 ? counts : null,
    pathTokens: Int32Array.from(test.path),
    generated: test.generated,
    position: test.position,
    childTokens: Int32Array.from(childTokens),
    typical,
    logprobs,
  }
}

const run = (isa: string, threads: number, nodes: readonly PosteriorNodeArgs[]): PosteriorResult[] =>
  ops.posterior(isa, threads, { vocab: nodes[0]!.logits.length, nodes })

/** Everything of a result in one array. */
const flat = (r: PosteriorResult): Float32Array =>
  Float32Array.of(r.chosen, r.entropy, r.chosenLogprob, ...r.childProb, ...r.childLogprob, ...r.topIds, ...r.topValues)

/** A chosen id may differ from the oracle's where its probability sums are this close to another outcome. */
const NEAR = 1e-5

const SMALLEST_NORMAL = 2 ** -126

/** How far below 0 an id's exponent is, whose probability is p where the best's is `best`. */
const exponentOf = (p: number, best: number): number => (p > 0 ? Math.log(best / p) : 0)

/** Relative error of the sum of all weights: an exponential is as far off as its exponent is rounded, and some units of the last place. */
function weightError(probabilities: readonly number[]): number {
  const best = Math.max(...probabilities)
  return EPSILON.f32 * probabilities.reduce((sum, p) => sum + p * (exponentOf(p, best) + 4), 0)
}

/** Whether the case was decided clearly enough to be compared. */
function check(random: Random, given: PosteriorCase, asked: Asked): boolean {
  const test = inF32(given)
  const node = nodeOf(test, asked)
  const values = 3 + asked.childTokens.length * 2 + Math.max(asked.logprobs, 0) * 2
  const place: Place = { random, axes: { value: values } }
  onEveryIsa(place, (isa, threads) => flat(run(isa, threads, [node])[0]!))
  const [got] = run(fastestIsa, 1, [node])
  const expected = posterior(test)
  if (expected.margin < NEAR) return false

  const where = `${random.name}, seed ${random.seed}, margin ${expected.margin}`
  expect(got!.chosen, where).toBe(expected.chosen)
  if (asked.typical) {
    const p = asked.childTokens.map((id) => expected.probabilities[id]!)
    const best = Math.max(...expected.probabilities)
    const inSum = weightError(expected.probabilities)
    const relative = (each: number) => EPSILON.f32 * (exponentOf(each, best) + 4) + inSum
    const allowed = (i: number) => p[i]! * relative(p[i]!) + SMALLEST_NORMAL
    expectClose(got!.childProb, p, allowed, { random, axes: { child: p.length }, what: 'probabilities' })
    const inEntropy = expected.probabilities
      .map((each) => (each > 0 ? each * relative(each) * (1 - Math.log(each)) : 0))
      .reduce((x, y) => x + y)
    expectClose([got!.entropy], [expected.entropy], inEntropy, { random, axes: { entropy: 1 }, what: 'entropy' })
  }
  if (asked.logprobs >= 0) {
    const ids = [got!.chosen, ...asked.childTokens, ...Array.from(got!.topIds).filter((id) => id >= 0)]
    const logprobs = [
      got!.chosenLogprob,
      ...got!.childLogprob,
      ...Array.from(got!.topValues).slice(0, test.logits.length),
    ]
    const wanted = ids.map((id) => expected.logprobs[id]!)
    const inSum = weightError(expected.logprobs.map(Math.exp))
    const allowed = (i: number) => inSum + EPSILON.f32 * Math.abs(wanted[i]!)
    expectClose(logprobs, wanted, allowed, { random, axes: { id: ids.length }, what: 'log-probabilities' })
    const best = expected.logprobs
      .map((_, id) => id)
      .sort((a, b) => expected.logprobs[b]! - expected.logprobs[a]! || a - b)
    expect(
      Array.from(got!.topIds).filter((id) => id >= 0),
      where,
    ).toEqual(best.slice(0, asked.logprobs))
  }
  return true
}

/** A case with every option drawn at random. */
function anyCase(random: Random, vocab: number, others: Partial<PosteriorCase> = {}): PosteriorCase {
  const ids = (count: number) => Array.from({ length: count }, () => random.integer(0, vocab - 1))
  const distinct = (count: number) => [...new Set(ids(count))]
  const sometimes = <T>(value: T, otherwise: T) => (random.uniform() < 0.5 ? value : otherwise)
  return {
    ...PLAIN,
    logits: random.normals(vocab, random.pick([0.5, 3, 10])),
    temperature: random.pick([0, 0.3, 0.8, 1, 1.7]),
    topK: sometimes(random.integer(1, vocab), 0),
    topP: sometimes(random.uniform(0.05, 1), 1),
    minP: sometimes(random.uniform(0, 0.4), 0),
    repetitionPenalty: sometimes(random.uniform(0.5, 2), 1),
    frequencyPenalty: sometimes(random.uniform(-1, 1), 0),
    presencePenalty: sometimes(random.uniform(-1, 1), 0),
    bias: sometimes(
      distinct(3).map((id) => ({ id, value: random.normal() * 4 })),
      [],
    ),
    suppressedIds: sometimes(distinct(4), []),
    minTokens: random.integer(0, 4),
    seed: BigInt(random.bits()) * 0x100000001n,
    position: random.integer(0, 100000),
    prompt: sometimes(ids(10), []),
    output: sometimes(ids(10), []),
    path: ids(random.integer(0, 4)),
    generated: random.integer(0, 3),
    ...others,
  }
}

describe('posterior against the oracle', () => {
  for (const vocab of [1, 2, 15, 16, 17, 33, 255, 256, 257, 1000]) {
    it(`any options at once, ${vocab} ids`, () => {
      const rounds = vocab < 300 ? 60 : 25
      let compared = 0
      for (let round = 0; round < rounds; round++) {
        const random = new Random(`posterior V=${vocab} round=${round}`)
        const test = anyCase(random, vocab)
        const childTokens = Array.from({ length: random.integer(0, 5) }, () => random.integer(0, vocab - 1))
        const asked = { childTokens, typical: random.uniform() < 0.7, logprobs: random.pick([-1, 0, 1, 5, 64]) }
        if (check(random, test, asked)) compared++
      }
      expect(compared).toBeGreaterThan(rounds * 0.9)
    })
  }

  it('a distribution so flat that its cut has to be searched for: 3,000 ids', () => {
    let compared = 0
    for (let round = 0; round < 12; round++) {
      const random = new Random(`posterior flat round=${round}`)
      const options = [{ topK: 1500 }, { topP: 0.70003 }, { topK: 2900, topP: 0.50003 }, { minP: 0.6 }][round % 4]!
      const logits = random.normals(3000, round < 8 ? 0.3 : 0)
      const test = { ...PLAIN, temperature: 1, seed: 5n, position: round, logits, ...options }
      const childTokens = [test.logits.indexOf(Math.max(...test.logits)), 0, 1500, 2999]
      if (check(random, test, { childTokens, typical: true, logprobs: 3 })) compared++
    }
    expect(compared).toBeGreaterThan(6)
  })

  it('ties: arg max, top-k and top-p take the lower id', () => {
    const logits = Array.from({ length: 40 }, (_, id) => (id % 3 === 1 ? 2 : 1))
    const asked = { childTokens: [1, 4, 7, 10, 37], typical: true, logprobs: 5 }
    expect(posterior({ ...PLAIN, logits }).chosen).toBe(1)
    check(new Random('posterior ties greedy'), { ...PLAIN, logits }, asked)
    for (let position = 0; position < 20; position++) {
      const random = new Random(`posterior ties ${position}`)
      check(random, { ...PLAIN, logits, temperature: 1, topK: 3, position }, asked)
      check(random, { ...PLAIN, logits, temperature: 1, topP: 0.13, position }, asked)
    }
  })

  it('NaN counts as -infinity and +infinity as the largest float', () => {
    const odd = [Number.NaN, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, 3.4e38, 1, 0, -0, -2, -3.4e38]
    for (let round = 0; round < 60; round++) {
      const random = new Random(`posterior odd round=${round}`)
      const drawn = round % 3 === 0 ? odd.slice(0, 2) : round % 3 === 1 ? odd.slice(0, 3) : odd
      const logits = Array.from({ length: 37 }, () => random.pick(drawn))
      const test = anyCase(random, 37, { logits, frequencyPenalty: 0, presencePenalty: 0, bias: [], minP: 0, topP: 1 })
      // Log-probabilities of infinities are compared elsewhere: here only what is chosen.
      check(random, test, { childTokens: [], typical: false, logprobs: -1 })
    }
  })

  it('suppressed ids are never chosen before there are enough tokens, and may be after', () => {
    const logits = [5, 4, 3, 2]
    const suppressed = { ...PLAIN, logits, suppressedIds: [0, 1], minTokens: 3 }
    const asked = { childTokens: [0, 2], typical: true, logprobs: 0 }
    for (const [generated, path, chosen] of [
      [0, [], 2],
      [2, [], 2],
      [1, [3], 2],
      [1, [3, 3], 0],
      [3, [], 0],
    ] as const) {
      const test = { ...suppressed, generated, path: [...path] }
      check(new Random('posterior suppressed'), test, asked)
      for (const isa of isas) expect(run(isa, 1, [nodeOf(test, asked)])[0]!.chosen).toBe(chosen)
    }
  })
})

describe('posterior, node by node', () => {
  it('a node alone has the bits it has among 64 others', () => {
    const vocab = 300
    const random = new Random('posterior alone')
    const nodes = Array.from({ length: 65 }, () =>
      nodeOf(inF32(anyCase(random, vocab)), { childTokens: [1, 2, 299], typical: true, logprobs: 4 }),
    )
    for (const isa of isas) {
      for (const threads of [1, 4]) {
        run(isa, threads, nodes).forEach((together, n) => {
          const alone = run(isa, 1, [nodes[n]!])[0]!
          const what = `${isa} with ${threads} threads, node ${n}`
          expectSameBits(flat(together), flat(alone), { random, axes: { value: flat(alone).length }, what })
        })
      }
    }
  })

  it('what is chosen does not depend on what else is asked', () => {
    for (let round = 0; round < 40; round++) {
      const random = new Random(`posterior asked round=${round}`)
      const test = inF32(anyCase(random, 100))
      const chosen = [
        { childTokens: [], typical: false, logprobs: -1 },
        { childTokens: [3], typical: true, logprobs: -1 },
        { childTokens: [], typical: false, logprobs: 0 },
        { childTokens: [3, 5], typical: true, logprobs: 64 },
      ].map((asked) => run(fastestIsa, 1, [nodeOf(test, asked)])[0]!.chosen)
      expect(new Set(chosen).size, random.name).toBe(1)
    }
  })

  it('a token is counted the same on the path and in the output', () => {
    for (let round = 0; round < 20; round++) {
      const random = new Random(`posterior path round=${round}`)
      const test = inF32(anyCase(random, 50, { output: [4, 9, 4], path: [9, 7, 9], generated: 5, minTokens: 0 }))
      const committed = { ...test, output: [...test.output, ...test.path], path: [], generated: 8 }
      const asked = { childTokens: [4, 7, 9], typical: true, logprobs: 0 }
      const [onPath] = run(fastestIsa, 1, [nodeOf(test, asked)])
      const [inOutput] = run(fastestIsa, 1, [nodeOf(committed, asked)])
      expectSameBits(flat(onPath!), flat(inOutput!), { random, axes: { value: 9 } })
    }
  })
})

describe('the draw', () => {
  it('is Philox 4x32-10, as published', () => {
    const all = (word: bigint) => [word, word, word, word]
    expect(philox4x32(all(0n), [0n, 0n])).toEqual([0x6627e8d5n, 0xe169c58dn, 0xbc57ac4cn, 0x9b00dbd8n])
    const ones = 0xffffffffn
    expect(philox4x32(all(ones), [ones, ones])).toEqual([0x408f276dn, 0x41c83b0en, 0xa20bc7c6n, 0x6d5451fdn])
  })

  it('is the same number natively', () => {
    const random = new Random('sampling uniform')
    const seeds = [0n, 1n, 2n ** 64n - 1n, ...Array.from({ length: 50 }, () => BigInt(random.bits()) * 0x10000003fn)]
    for (const seed of seeds) {
      for (const position of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 7, random.bits()]) {
        expect(ops.samplingUniform(seed, position), `seed ${seed}, position ${position}`).toBe(
          samplingUniform(seed, BigInt(position)),
        )
      }
    }
  })

  it('follows the distribution: 20,000 draws within 5 standard deviations', () => {
    const logits = Float32Array.from([1, 0, 2, -1, 0.5, 1.5, -3, 0])
    const test = { ...PLAIN, logits, temperature: 0.8, seed: 42n }
    const { probabilities } = posterior(inF32(test))
    const draws = 20_000
    const counts = new Array<number>(8).fill(0)
    const nodes = Array.from({ length: draws }, (_, position) =>
      nodeOf(inF32({ ...test, position }), { childTokens: [], typical: false, logprobs: -1 }),
    )
    for (const { chosen } of run(fastestIsa, 2, nodes)) counts[chosen]! += 1
    counts.forEach((count, id) => {
      const p = probabilities[id]!
      expect(Math.abs(count - draws * p), `id ${id}`).toBeLessThan(5 * Math.sqrt(draws * p * (1 - p)))
    })
  })
})

describe('posterior', () => {
  it('refuses more log-probabilities than it gives', async () => {
    const node = nodeOf({ ...PLAIN, logits: [1, 2] }, { childTokens: [], typical: false, logprobs: 65 })
    await failure(() => run(referenceIsa, 1, [node]), 'ERR_SHAPE', /log-probabilities/)
  })
})
