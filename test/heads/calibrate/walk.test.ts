// Walking over a text takes the very steps that decoding takes.
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stepsOf } from '../../../heads/calibrate/check.js'
import { MISSED, type Trace, traceTexts, UNSEEN } from '../../../heads/calibrate/trace.js'
import { childTable, noneMet, rateOf, type Steps, walkText, walkTexts } from '../../../heads/calibrate/walk.js'
import { CHOICES, type Choices, chain, firstPaths } from '../../../src/decode/choices.js'
import { Engine } from '../../../src/engine.js'
import { loadParts } from '../../../src/load-engine.js'
import { native } from '../../../src/native.js'
import { parseLoadOptions } from '../../../src/options.js'
import type { EngineParts } from '../../../src/parts.js'
import { choicesArbitrary } from '../../decode/arbitrary.js'
import { FakeNative } from '../../support/fake-native.js'
import { TOY_EOS, TOY_VOCAB, toyEngines } from '../../support/toy-engine.js'
import { traceOf, tracesArbitrary } from './traces.js'

/** Steps by the definition: the longest path of the tree that the ranks of a position begin with. */
function stepsByHand(paths: Choices, { positions, medusaHeads, ranks }: Trace): { steps: number; tokens: number } {
  const known = new Set(paths.map(String))
  let [steps, tokens] = [0, 0]
  for (let at = 0; at < positions; ) {
    const row = [...ranks.subarray(at * medusaHeads, (at + 1) * medusaHeads)]
    let length = 0
    while (length < medusaHeads && known.has(String(row.slice(0, length + 1)))) length++
    steps++
    tokens += length + 1
    at += length + 1
  }
  return { steps, tokens }
}

describe('walkText', () => {
  test('a step begins after what the one before it committed', () => {
    const trace = traceOf([
      [0, 1],
      [5, 5],
      [9, 9],
      [0, 0],
      [1, MISSED],
      [0, UNSEEN],
    ])
    // Positions 0 (both drafts right), 3 (one, for [0, 0] is not in the tree), 5.
    expect(walkText(childTable([[0], [0, 1]]), trace)).toEqual({ steps: 3, tokens: 3 + 2 + 2 })
    expect(walkText(childTable([]), trace)).toEqual({ steps: 6, tokens: 6 })
  })

  test('takes the longest right path of any tree, in any order of its paths', () => {
    fc.assert(
      fc.property(tracesArbitrary({ ranks: 3 }), choicesArbitrary({ maxDepth: 3 }), (traces, choices) => {
        const paths = choices.toSorted((a, b) => a.length - b.length)
        for (const trace of traces) {
          expect(walkText(childTable(paths), trace)).toEqual(stepsByHand(paths, trace))
        }
      }),
    )
  })

  test('says what steps met at each node', () => {
    const met = noneMet(2)
    const trace = traceOf([
      [0, 2],
      [7, 7],
      [3, 0],
      [MISSED, 0],
      [0, UNSEEN],
    ])
    walkText(childTable([[0]]), trace, met)
    // Four steps: at 0, 2, 3 and 4. Two of them go on to node 1, and one of those finds no token to judge by.
    expect([...met.came]).toEqual([4, 1])
    expect([...met.went.slice(0, 10)]).toEqual([2, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    expect([...met.went.slice(10)]).toEqual([0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
  })
})

describe('rateOf', () => {
  test('is all tokens over all steps, and what texts differ by', () => {
    const rate = rateOf([
      { steps: 10, tokens: 30 },
      { steps: 30, tokens: 60 },
    ])
    expect(rate.tokensPerStep).toBe(2.25)
    // Residuals 7.5 and -7.5: sqrt(2 * 56.25 * 2 / 1) / 40.
    expect(rate.standardError).toBeCloseTo(15 / 40, 12)
  })

  test('knows no spread of one text, and nothing of none', () => {
    expect(rateOf([{ steps: 5, tokens: 10 }])).toEqual({ tokensPerStep: 2, standardError: null })
    expect(rateOf([])).toEqual({ tokensPerStep: 0, standardError: null })
  })
})

describe('texts that the model ends', () => {
  const open = toyEngines()

  test('take as many steps as the walk, wherever in a step the end comes', async () => {
    const toy = { stopId: TOY_EOS, stopEvery: 9, headAccuracy: 0.8, medusaHeads: 3 }
    const { engine } = open({ toy })
    const native = new FakeNative(toy)
    const base = { native, model: native.openToyModel(), vocab: TOY_VOCAB, medusaHeads: 3, eosIds: [TOY_EOS] }
    const texts = Array.from({ length: 40 }, (_, i) => ({
      prompt: Int32Array.of(3, i),
      temperature: i % 2,
      seed: BigInt(i + 1),
    }))
    // The limit comes at the end of one, before that of others, and just after it.
    for (const tokens of [6, 7, 8, 30]) {
      const { kv } = parseLoadOptions({ model: 'toy', kv: { policy: 'full' } })
      const { signal } = new AbortController()
      const traces = await traceTexts(base, texts, { tokens, kv, batch: 8, signal })
      expect(new Set(traces.map(({ isEnded }) => isEnded)).size).toBe(2)
      // The toy holds right drafts at ranks 0 to 2, of as many.
      for (const paths of [[[2]], [[0], [1], [0, 0], [0, 1], [1, 2], [0, 0, 0]]]) {
        const measured: Steps[] = []
        for (const { prompt, temperature, seed } of texts) {
          const speculation = { mode: 'medusa', tree: { paths } } as const
          measured.push(stepsOf(await engine.generate(prompt, { maxTokens: tokens, temperature, seed, speculation })))
        }
        expect(measured).toEqual(walkTexts(paths, traces))
      }
    }
  })
})

describe('the demo model', () => {
  let parts: EngineParts
  let engine: Engine
  let prompts: Int32Array[]
  const TREES: readonly Choices[] = [firstPaths(CHOICES.mc_sim_7b_63, 7), CHOICES.mc_sim_7b_63, chain(4)]

  beforeAll(async () => {
    const options = parseLoadOptions({ model: 'demo', threads: 1, speculation: { mode: 'off' } })
    parts = await loadParts(options, native())
    engine = new Engine(parts)
    const texts = ['export function add(', 'import { readFile } from "node:fs/promises"\n', 'It was a dark night, and']
    prompts = await Promise.all(texts.map((text) => engine.tokenize(text)))
  })

  afterAll(() => engine.close())

  test.each([
    { temperature: 0, kv: { policy: 'full' } },
    { temperature: 0.7, kv: { policy: 'full' } },
    { temperature: 0.7, kv: { policy: 'snapkv', budget: 8, window: 4 } },
  ] as const)('takes as many steps as the walk, $temperature, $kv.policy', async ({ temperature, kv }) => {
    const texts = prompts.map((prompt, index) => ({ prompt, temperature, seed: BigInt(index + 7) }))
    const traces = await traceTexts(parts, texts, {
      tokens: 60,
      kv: parseLoadOptions({ model: 'demo', kv }).kv,
      batch: 3,
      signal: new AbortController().signal,
    })
    for (const paths of TREES) {
      const measured = await Promise.all(
        texts.map(async ({ prompt, seed }) => {
          const speculation = { mode: 'medusa', tree: { paths } } as const
          return stepsOf(await engine.generate(prompt, { maxTokens: 60, temperature, seed, kv, speculation }))
        }),
      )
      expect(measured).toEqual(walkTexts(paths, traces))
    }
  })
})
