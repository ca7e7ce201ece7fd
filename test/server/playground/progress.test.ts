// A running response is counted delta by delta.
import { expect, test } from 'vitest'
import { Progress } from '../../../src/server/playground/progress.js'

const span = (step: number, tokens: number) => ({ step, chars: Array.from({ length: tokens }, () => 1) })

test('nothing is known before the first delta', () => {
  const progress = new Progress()
  expect(progress).toMatchObject({
    tokens: 0,
    ttftMs: null,
    tokensPerSecond: null,
    tokensPerStep: null,
    acceptance: [],
  })
})

test('speed is counted from the first delta on, the first text from the beginning', () => {
  const progress = new Progress()
  progress.add({ text: '', n: 1, at: 40 })
  progress.add({ text: 'ab', n: 2, at: 50 })
  progress.add({ text: 'abcd', n: 4, at: 60 })
  expect(progress.ttftMs).toBe(50)
  expect(progress.tokens).toBe(7)
  expect(progress.tokensPerSecond).toBeCloseTo(6 / 0.02)
})

test('tokens per step and acceptance come from the spans', () => {
  const progress = new Progress()
  progress.add({ text: 'abc', n: 3, at: 10, spans: [span(0, 3)] })
  progress.add({ text: 'de', n: 2, at: 20, spans: [span(1, 1), span(2, 1)] })
  progress.add({ text: 'fg', n: 2, at: 30, spans: [span(3, 2)] })
  expect(progress.tokensPerStep).toBe(7 / 4)
  expect(progress.byDepth).toEqual([4, 2, 1])
  expect(progress.acceptance).toEqual([
    { offered: 4, accepted: 2 },
    { offered: 2, accepted: 1 },
  ])
  expect(progress.perStep).toEqual({ x: [0.5, 1.5, 2.5, 3.5], y: [3, 1, 1, 2] })
})

test('two deltas at the same moment are no infinite speed', () => {
  const progress = new Progress()
  for (const at of [5, 5, 5]) progress.add({ text: 'a', n: 1, at })
  expect(progress.tokensPerSecond).toBeNull()
  expect(progress.rate.y).toEqual([])
})
