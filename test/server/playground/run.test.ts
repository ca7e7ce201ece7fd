// Runs are named by what they did and compared where they were asked the same.
import { expect, test } from 'vitest'
import { compareTexts, nameOf, type Run, speedup } from '../../../src/server/playground/run.js'
import type { Summary } from '../../../src/server/protocol.js'
import { SUMMARY } from '../../support/summary.js'

function summary(
  over: { tokensPerSecond?: number; used?: boolean; kept?: number; seed?: number | null } = {},
): Summary {
  return {
    ...SUMMARY,
    seed: over.seed ?? null,
    timing: { ...SUMMARY.timing, tokensPerSecond: over.tokensPerSecond ?? 100 },
    speculation: { ...SUMMARY.speculation, used: over.used ?? true },
    kv: { ...SUMMARY.kv, promptTokens: 100, keptTokens: over.kept ?? 100 },
  }
}

function run(over: Partial<Run> = {}): Run {
  const series = { x: [], y: [] }
  return {
    number: 1,
    model: 'demo',
    input: 'a',
    text: 'abcd',
    pieces: [],
    summary: summary(),
    rate: series,
    perStep: series,
    ...over,
  }
}

test('a run is named after how it decoded and what it kept', () => {
  expect(nameOf(summary())).toBe('Medusa tree auto · whole cache')
  expect(nameOf(summary({ used: false, kept: 64, seed: 7 }))).toBe('plain · SnapKV 64 · seed 7')
})

test('texts are compared where the same was asked of the same model', () => {
  expect(compareTexts(run(), run())).toEqual({ same: true, from: 4 })
  expect(compareTexts(run({ text: 'abXd' }), run())).toEqual({ same: false, from: 2 })
  expect(compareTexts(run({ text: 'ab' }), run())).toEqual({ same: false, from: 2 })
  expect(compareTexts(run({ input: 'b' }), run())).toBeNull()
  expect(compareTexts(run({ model: 'other' }), run())).toBeNull()
})

test('speed is relative to the baseline, where that can be said', () => {
  const fast = run({ summary: summary({ tokensPerSecond: 250 }) })
  expect(speedup(fast, run())).toBe(2.5)
  expect(speedup(fast, run({ summary: summary({ tokensPerSecond: 0 }) }))).toBeNull()
  expect(speedup(fast, run({ input: 'b' }))).toBeNull()
})
