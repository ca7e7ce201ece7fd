// RoPE frequencies against the papers' formulas in float64, and against values computed elsewhere in f32.
import { describe, expect, test } from 'vitest'
import { type Rope, type RopeYarn, ropeFrequencies } from '../../src/weights/rope.js'

const LLAMA3: Rope = {
  type: 'llama3',
  theta: 500000,
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPositions: 8192,
}
const YARN: RopeYarn = {
  type: 'yarn',
  theta: 1e6,
  factor: 4,
  originalMaxPositions: 32768,
  betaFast: 32,
  betaSlow: 1,
  attentionFactor: null,
  mscale: null,
  mscaleAllDim: null,
  truncate: true,
}

/** A few roundings in a row, and the one or two units by which f32 powers differ between libraries. */
const RELATIVE = 8 * 2 ** -24

function expectClose(found: Float32Array, expected: readonly number[], tolerance = RELATIVE): void {
  expect(found.length).toBe(expected.length)
  found.forEach((value, pair) => {
    expect(Math.abs(value / expected[pair]! - 1), `pair ${pair}: ${value}, expected ${expected[pair]}`).toBeLessThan(
      tolerance,
    )
  })
}

/** theta^(-2i/D), in float64. */
const plain = (theta: number, headDim: number) =>
  Array.from({ length: headDim / 2 }, (_, i) => theta ** ((-2 * i) / headDim))

describe('default', () => {
  test.each([2, 8, 16, 64, 80, 128, 256])('is theta^(-2i/D) for heads of width %i', (headDim) => {
    for (const theta of [10000, 500000, 1e6]) {
      const { inverseFrequencies, scale } = ropeFrequencies({ type: 'default', theta }, headDim)
      expectClose(inverseFrequencies, plain(theta, headDim))
      expect(inverseFrequencies[0]).toBe(1)
      expect(scale).toBe(1)
    }
  })

  test('rounds the exponent to f32 before the power, as torch does', () => {
    const { inverseFrequencies } = ropeFrequencies({ type: 'default', theta: 10000 }, 6)
    const exponent = Math.fround(2 / 6)
    expect(inverseFrequencies[1]).toBe(Math.fround(1 / Math.fround(10000 ** exponent)))
  })
})

describe('linear', () => {
  test('divides every frequency', () => {
    const base = ropeFrequencies({ type: 'default', theta: 10000 }, 64).inverseFrequencies
    const { inverseFrequencies, scale } = ropeFrequencies({ type: 'linear', theta: 10000, factor: 3 }, 64)
    expect(inverseFrequencies).toEqual(base.map((f) => Math.fround(f / 3)))
    expect(scale).toBe(1)
  })
})

describe('llama3', () => {
  test('keeps short wavelengths, divides long ones and blends between', () => {
    const expected = plain(500000, 128).map((f) => {
      const turns = (8192 * f) / (2 * Math.PI) // over the original context
      if (turns > 4) return f
      if (turns < 1) return f / 8
      const blend = (turns - 1) / (4 - 1)
      return (1 - blend) * (f / 8) + blend * f
    })
    const { inverseFrequencies, scale } = ropeFrequencies(LLAMA3, 128)
    expectClose(inverseFrequencies, expected)
    expect(scale).toBe(1)
  })

  test('gives the known values for Llama 3.1', () => {
    const { inverseFrequencies: f } = ropeFrequencies(LLAMA3, 128)
    expectClose(
      f.filter((_, pair) => [0, 1, 16, 32, 48, 63].includes(pair)),
      [1, 0.8146172165870667, 0.03760603070259094, 0.0005248460220173001, 6.647870577580761e-6, 3.068925877869333e-7],
    )
  })
})

describe('yarn', () => {
  /** The ramp of the YaRN paper, "NTK-by-parts": 1 keeps a frequency, 0 divides it. */
  function expectedYarn(rope: RopeYarn, headDim: number): number[] {
    const pairOf = (turns: number) =>
      (headDim * Math.log(rope.originalMaxPositions / (2 * Math.PI * turns))) / (2 * Math.log(rope.theta))
    const round = rope.truncate ? [Math.floor, Math.ceil] : [Number, Number]
    const low = Math.max(round[0]!(pairOf(rope.betaFast)), 0)
    const high = Math.min(round[1]!(pairOf(rope.betaSlow)), headDim - 1)
    return plain(rope.theta, headDim).map((f, pair) => {
      const keep = pair <= low ? 1 : pair >= high ? 0 : 1 - (pair - low) / (high - low)
      return keep * f + ((1 - keep) * f) / rope.factor
    })
  }

  test.each([true, false])('ramps from kept to divided frequencies (truncate %s)', (truncate) => {
    for (const headDim of [16, 64, 128]) {
      const changes = [
        {},
        { factor: 40, betaFast: 16, betaSlow: 2, originalMaxPositions: 4096, theta: 10000 },
        // The ramp would end past the last pair, and begin before the first.
        { theta: 100, originalMaxPositions: 1 << 20, betaFast: 10000 },
        { theta: 100, originalMaxPositions: 64 },
      ]
      for (const change of changes) {
        const rope = { ...YARN, truncate, ...change }
        // Where little of a frequency is kept, its rounding weighs as much more as the rest is divided.
        expectClose(
          ropeFrequencies(rope, headDim).inverseFrequencies,
          expectedYarn(rope, headDim),
          RELATIVE * rope.factor,
        )
      }
    }
  })

  test('gives the known values for Qwen 2.5 at four times its context', () => {
    const { inverseFrequencies: f, scale } = ropeFrequencies(YARN, 128)
    expectClose(
      f.filter((_, pair) => [0, 1, 16, 32, 48, 63].includes(pair)),
      [1, 0.8058422207832336, 0.03162277862429619, 0.0006029411451891065, 7.905693564680405e-6, 3.102344408034696e-7],
    )
    expect(scale).toBe(Math.fround(0.1 * Math.log(4) + 1))
    expect(scale).toBeCloseTo(1.1386294, 6)
  })

  test('takes the scale of cos and sin from attention_factor, from the two mscales, or from the factor', () => {
    const scaleOf = (change: Partial<RopeYarn>) => ropeFrequencies({ ...YARN, ...change }, 64).scale
    expect(scaleOf({ attentionFactor: 1.5, mscale: 2, mscaleAllDim: 1 })).toBe(1.5)
    expect(scaleOf({ factor: 40, mscale: 1, mscaleAllDim: 1 })).toBe(1)
    expect(scaleOf({ factor: 40, mscale: 0.7, mscaleAllDim: 1 })).toBeCloseTo(
      (0.07 * Math.log(40) + 1) / (0.1 * Math.log(40) + 1),
      6,
    )
    expect(scaleOf({ mscale: 2 })).toBe(scaleOf({}))
    expect(scaleOf({ mscale: 0, mscaleAllDim: 1 })).toBe(scaleOf({}))
    expect(scaleOf({ factor: 1 })).toBe(1)
  })

  test('does not divide by zero when the ramp has no width', () => {
    const rope: RopeYarn = {
      ...YARN,
      theta: 10000,
      betaFast: 3,
      betaSlow: 3,
      truncate: false,
      originalMaxPositions: 64,
    }
    expect(ropeFrequencies(rope, 16).inverseFrequencies.every((f) => f > 0 && Number.isFinite(f))).toBe(true)
  })
})
