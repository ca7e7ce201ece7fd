// Generations at once: what is counted of their streams.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { fairnessOf, runTogether, sharedOf, Together } from '../../bench/decode/together.js'
import { toyEngine } from '../support/toy-engine.js'

const arrivals = (...entries: [number, number][]) => entries.map(([atMs, tokens]) => ({ atMs, tokens }))
const streams = (...tpots: number[]) =>
  tpots.map((tpotMs) => ({ promptTokens: 1, tokens: 2, ttftMs: 1, tpotMs, tokensPerStep: 1 }))

test('shared time is from the last beginning to the first end, and its tokens are those that came in it', () => {
  const slow = arrivals([10, 1], [20, 3], [30, 2], [90, 1])
  const late = arrivals([25, 1], [40, 4], [60, 2])
  expect(sharedOf([slow, late])).toEqual({ sharedMs: 35, sharedTokens: 2 + 4 + 2 })
  expect(sharedOf([slow])).toEqual({ sharedMs: 80, sharedTokens: 6 })
})

test('streams that were never all decoding share nothing', () => {
  const nothing = { sharedMs: 0, sharedTokens: 0 }
  expect(sharedOf([arrivals([1, 1], [2, 1]), arrivals([3, 1], [4, 1])])).toEqual(nothing)
  expect(sharedOf([arrivals([1, 1], [2, 1]), []])).toEqual(nothing)
  expect(sharedOf([])).toEqual(nothing)
})

test('fairness is 1 for equal streams, 1 / n where one has everything, and blind to the speed of all', () => {
  expect(fairnessOf(streams(5, 5, 5))).toBeCloseTo(1, 12)
  expect(fairnessOf(streams(1, 1e9, 1e9, 1e9))).toBeCloseTo(0.25, 6)
  const tpots = fc.array(fc.double({ min: 0.1, max: 1000, noNaN: true }), { minLength: 1, maxLength: 16 })
  fc.assert(
    fc.property(tpots, (values) => {
      const fairness = fairnessOf(streams(...values))
      expect(fairness).toBeLessThanOrEqual(1 + 1e-9)
      expect(fairness).toBeGreaterThanOrEqual(1 / values.length - 1e-9)
      expect(fairnessOf(streams(...values.map((value) => 3 * value)))).toBeCloseTo(fairness, 9)
    }),
  )
})

test('streams come back in the order of their requests, with what they said', async () => {
  const { engine } = toyEngine()
  const requests = [3, 30, 300].map((length, i) => ({
    prompt: Int32Array.from({ length }, (_, at) => (at + i) % 90),
    options: { maxTokens: 20 + i, ignoreEos: true },
  }))
  const { said, ...together } = await runTogether(engine, requests)
  expect(Together.parse(together)).toEqual(together)
  expect(together.streams.map((stream) => [stream.promptTokens, stream.tokens])).toEqual([
    [3, 20],
    [30, 21],
    [300, 22],
  ])
  for (const [i, request] of requests.entries()) {
    expect(said[i]).toEqual((await engine.generate(request.prompt, request.options)).tokens)
  }
  expect(together.sharedTokens).toBeLessThanOrEqual(20 + 21 + 22)
  expect(together.wallMs).toBeGreaterThanOrEqual(together.sharedMs)
  await engine.close()
})
