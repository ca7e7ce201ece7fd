// Walking over a text takes the very steps that decoding takes.
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { MISSED, type Trace, traceTexts, UNSEEN } from '../../../heads/calibrate/trace.js'
import { childTable, noneMet, rateOf, walkText, walkTexts } from '../../../heads/calibrate/walk.js'
import { CHOICES, type Choices, chain, firstPaths } from '../../../src/decode/choices.js'
import { Engine } from '../../../src/engine.js'
import { loadParts } from '../../../src/load-engine.js'
import { native } from '../../../src/native.js'
import { parseLoadOptions } from '../../../src/options.js'
import type { EngineParts } from '../../../src/parts.js'
import { choicesArbitrary } from '../../decode/arbitrary.js'
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
          const { speculation: report } = await engine.generate(prompt, {
            maxTokens: 60,
            temperature,
            seed,
            kv,
            speculation,
          })
          return { steps: report.steps, tokens: report.steps + report.accepted }
        }),
      )
      expect(measured).toEqual(walkTexts(paths, traces))
    }
  })
})
