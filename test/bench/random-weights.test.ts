// Random weights: normal, bf16, and the same for the same seed.
import { describe, expect, it } from 'vitest'
import { bf16Bits, RandomWeights } from '../../bench/support/random-weights.js'

const COUNT = 200_000

describe('random weights', () => {
  it('are normally distributed with the deviation asked for', () => {
    const values = new RandomWeights(1, 0.25).values(COUNT)
    const mean = values.reduce((sum, value) => sum + value, 0) / COUNT
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / COUNT)
    expect(Math.abs(mean)).toBeLessThan(0.005)
    expect(deviation).toBeGreaterThan(0.245)
    expect(deviation).toBeLessThan(0.255)
    // Of a normal distribution 68.3 % lie within one deviation.
    const inside = values.filter((value) => Math.abs(value) < 0.25).length / COUNT
    expect(inside).toBeGreaterThan(0.67)
    expect(inside).toBeLessThan(0.7)
  })

  it('are exactly bf16 values', () => {
    const bits = new Uint32Array(new RandomWeights(2, 1).values(1001).buffer)
    expect(bits).toHaveLength(1001)
    expect(bits.every((word) => (word & 0xffff) === 0)).toBe(true)
  })

  it('are the same for the same seed, others for another, and go on where they stopped', () => {
    const all = new RandomWeights(3, 1).values(64)
    expect(new RandomWeights(3, 1).values(64)).toEqual(all)
    expect(new RandomWeights(4, 1).values(64)).not.toEqual(all)
    const source = new RandomWeights(3, 1)
    expect([...source.values(30), ...source.values(34)]).toEqual([...all])
  })

  it('come in pairs in the order of memory', () => {
    const words = new Uint32Array(32)
    new RandomWeights(5, 1).fillPairs(words)
    const halves = new Uint16Array(words.buffer)
    const values = new RandomWeights(5, 1).values(64)
    expect([...halves]).toEqual([...values].map(bf16Bits))
  })

  it('round to the nearest bf16, ties to even', () => {
    expect(bf16Bits(1)).toBe(0x3f80)
    expect(bf16Bits(-2)).toBe(0xc000)
    expect(bf16Bits(1 + 2 ** -8)).toBe(0x3f80)
    expect(bf16Bits(1 + 3 * 2 ** -8)).toBe(0x3f82)
    expect(bf16Bits(1 + 2 ** -8 + 2 ** -16)).toBe(0x3f81)
  })
})
