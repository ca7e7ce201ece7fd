// Options become the sampling spec of the native boundary.
import { expect, test } from 'vitest'
import { randomSeed, samplingSpecOf } from '../../src/decode/sampling.js'
import { type GenerateOptionsInput, parseGenerateOptions } from '../../src/options.js'

const specOf = (options: GenerateOptionsInput, eosIds: number[] = [1, 2]) =>
  samplingSpecOf(parseGenerateOptions(options), { seed: 77n, eosIds, vocab: 100 })

test('the defaults are greedy and switch everything else off', () => {
  expect(specOf({})).toEqual({
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    frequencyPenalty: 0,
    presencePenalty: 0,
    biasIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    seed: 0n,
    minTokens: 0,
    suppressedIds: new Int32Array(0),
    logprobs: -1,
  })
})

test('values are carried over', () => {
  const given = {
    temperature: 0.8,
    topK: 40,
    topP: 0.9,
    minP: 0.1,
    repetitionPenalty: 1.1,
    frequencyPenalty: 0.5,
    presencePenalty: -1,
  }
  expect(specOf(given)).toMatchObject({ ...given, seed: 77n })
})

test('biases become ids and values', () => {
  const { biasIds, biasValues } = specOf({ logitBias: { 5: 1.5, 99: Number.NEGATIVE_INFINITY } })
  expect([...biasIds]).toEqual([5, 99])
  expect([...biasValues]).toEqual([1.5, Number.NEGATIVE_INFINITY])
})

test('ids that would end the generation are suppressed until minTokens', () => {
  expect([...specOf({ minTokens: 3, stopTokenIds: [2, 9] }).suppressedIds]).toEqual([1, 2, 9])
  expect([...specOf({ minTokens: 3, stopTokenIds: [9], ignoreEos: true }).suppressedIds]).toEqual([9])
  expect([...specOf({ stopTokenIds: [9] }).suppressedIds]).toEqual([])
})

test.each([
  [false, -1],
  [0, 0],
  [5, 5],
] as const)('logprobs %s is %i', (logprobs, carried) => {
  expect(specOf({ logprobs }).logprobs).toBe(carried)
})

test.each([{ logitBias: { 100: 1 } }, { stopTokenIds: [3, 100] }])(
  '%j names a token the model does not have',
  (options) => {
    expect(() => specOf(options)).toThrow(
      expect.objectContaining({ code: 'ERR_TOKEN_RANGE', details: expect.objectContaining({ id: 100, vocab: 100 }) }),
    )
  },
)

test('a random seed can be given back as a number, and differs from the next', () => {
  const seeds = Array.from({ length: 100 }, randomSeed)
  expect(new Set(seeds).size).toBe(100)
  for (const seed of seeds) {
    expect(Number.isSafeInteger(Number(seed))).toBe(true)
    expect(parseGenerateOptions({ seed: Number(seed) }).seed).toBe(seed)
  }
})
