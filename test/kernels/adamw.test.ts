// adamw: each result rounded as the contract orders them, and in the large what AdamW does.
import { describe, expect, it } from 'vitest'
import { type AdamwStep, adamw } from '../oracle/adamw.js'
import { EPSILON, expectClose, expectSameBits } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

interface State {
  weights: Float32Array
  mean: Float32Array
  variance: Float32Array
  gradient: Float32Array
}

/** Settings as an operation is given them: f32, and the corrections of a step. */
function stepOf(number: number, settings: Partial<AdamwStep> = {}): AdamwStep {
  const { beta1 = 0.9, beta2 = 0.999, ...rest } = settings
  const step = {
    gradientScale: 1,
    rate: 1e-3,
    epsilon: 1e-8,
    decay: 0.01,
    beta1,
    beta2,
    correction1: 1 - beta1 ** number,
    correction2: 1 - beta2 ** number,
    ...rest,
  }
  return Object.fromEntries(Object.entries(step).map(([name, value]) => [name, Math.fround(value)])) as typeof step
}

function run(isa: string, threads: number, state: State, step: AdamwStep): State {
  const count = state.weights.length
  const outputs = Object.entries(state).map(
    ([name, initial]) => [name, new Output({ rows: 1, width: count, initial })] as const,
  )
  const arrays = Object.fromEntries(outputs.map(([name, output]) => [name, output.array])) as unknown as State
  ops.adamw(isa, threads, { ...arrays, count, ...step })
  return Object.fromEntries(outputs.map(([name, output]) => [name, output.values()])) as unknown as State
}

const joined = ({ weights, mean, variance, gradient }: State): Float32Array =>
  Float32Array.from([...weights, ...mean, ...variance, ...gradient])

function randomState(count: number, random: Random): State {
  return {
    weights: random.normals(count),
    mean: random.normals(count, 0.1),
    variance: random.normals(count, 0.1).map((value) => value * value),
    gradient: random.normals(count),
  }
}

function expected(state: State, step: AdamwStep, round?: (value: number) => number): State {
  const count = state.weights.length
  const after = Array.from({ length: count }, (_, i) =>
    adamw(
      { weight: state.weights[i]!, mean: state.mean[i]!, variance: state.variance[i]! },
      state.gradient[i]!,
      step,
      round,
    ),
  )
  return {
    weights: Float32Array.from(after, ({ weight }) => weight),
    mean: Float32Array.from(after, ({ mean }) => mean),
    variance: Float32Array.from(after, ({ variance }) => variance),
    gradient: new Float32Array(count),
  }
}

describe('adamw', () => {
  it('rounds one operation after the other, at every count around a vector', () => {
    for (const count of [1, 2, 15, 16, 17, 31, 32, 33, 100, 10007]) {
      const random = new Random(`adamw count=${count}`)
      const state = randomState(count, random)
      const step = stepOf(3, { gradientScale: 1 / 7 })
      const place = { random, axes: { part: 4, i: count }, what: 'weights, mean, variance, gradient' }
      const got = onEveryIsa(place, (isa, threads) => joined(run(isa, threads, state, step)))
      expectSameBits(got, joined(expected(state, step, Math.fround)), place)
    }
  })

  it('many steps stay beside those of exact arithmetic', () => {
    const count = 40
    const random = new Random('adamw steps')
    let state = randomState(count, random)
    let exact = Array.from(state.weights, (weight, i) => ({
      weight,
      mean: state.mean[i]!,
      variance: state.variance[i]!,
    }))
    for (let number = 1; number <= 50; number++) {
      const step = stepOf(number, { rate: 0.01 })
      const gradient = random.normals(count)
      state = run(fastestIsa, 1, { ...state, gradient }, step)
      exact = exact.map((one, i) => adamw(one, gradient[i]!, step))
    }
    // Each step rounds a weight once, and moves it by about the rate with a dozen roundings.
    const place = { random, axes: { i: count } }
    const weights = exact.map(({ weight }) => weight)
    expectClose(state.weights, weights, (i) => EPSILON.f32 * 50 * (Math.abs(weights[i]!) + 0.2), place)
  })

  it('the first step moves each weight by the rate, against its gradient, whatever that is', () => {
    const gradient = Float32Array.of(1e-4, -1e-4, 1, -1, 1e4, -1e4)
    const zeros = new Float32Array(gradient.length)
    for (const isa of isas) {
      const after = run(
        isa,
        1,
        { weights: zeros, mean: zeros, variance: zeros, gradient },
        stepOf(1, { rate: 0.25, decay: 0 }),
      )
      const random = new Random('adamw first step')
      expectClose(
        after.weights,
        Array.from(gradient, (g) => -0.25 * Math.sign(g)),
        1e-4,
        { random, axes: { i: gradient.length }, what: isa },
      )
    }
  })

  it('without gradients only decays, and without a rate changes moments only', () => {
    const random = new Random('adamw decay')
    const weights = random.normals(20)
    const zeros = new Float32Array(20)
    const still = { weights, mean: zeros, variance: zeros, gradient: zeros }
    const decayed = run(fastestIsa, 1, still, stepOf(1, { rate: 0.5, decay: 0.25 }))
    expectSameBits(
      decayed.weights,
      weights.map((w) => w - Math.fround(0.5 * Math.fround(0.25 * w))),
      { random, axes: { i: 20 } },
    )
    const state = randomState(20, random)
    const moved = run(fastestIsa, 1, state, stepOf(5, { rate: 0 }))
    expectSameBits(moved.weights, state.weights, { random, axes: { i: 20 } })
    expect(Array.from(moved.mean)).not.toEqual(Array.from(state.mean))
  })

  it('leaves no gradient behind, and NaN spoils its own weight', () => {
    const random = new Random('adamw NaN')
    const state = randomState(40, random)
    const clean = run(fastestIsa, 1, state, stepOf(2))
    state.gradient[17] = Number.NaN
    for (const isa of isas) {
      const after = run(isa, 2, state, stepOf(2))
      expect(
        after.gradient.every((value) => value === 0),
        isa,
      ).toBe(true)
      const place = { random, axes: { i: 40 }, what: isa }
      expectSameBits(
        after.weights,
        clean.weights.map((w, i) => (i === 17 ? Number.NaN : w)),
        place,
      )
    }
  })
})
