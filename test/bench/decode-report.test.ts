// What the decode benchmark's results look like in a document.
import { expect, test } from 'vitest'
import { report, variantOf } from '../../bench/decode/decode.report.js'
import { failure } from '../support/errors.js'
import { decodeRun, sampleResult } from './sample.js'

const options = {
  model: 'demo',
  promptLengths: [512, 4096],
  tokens: 101,
  rounds: 2,
  temperature: 0,
  mode: 'auto',
  tree: 'auto',
  budget: 1024,
  window: 32,
  dtype: 'bf16',
  weights: 'full',
  prompts: 'sources',
}
const byDepth = [{ offered: 40, accepted: 30 }]
const result = sampleResult({
  bench: 'decode/decode',
  options,
  measurements: [512, 4096].flatMap((promptTokens) =>
    [0, 1].flatMap((round) => [
      decodeRun('plain', round, { promptTokens, tokensPerSecond: 100 + round }),
      decodeRun('medusa', round, { promptTokens, tokensPerSecond: 250 + 2.5 * round, tokensPerStep: 2.75, byDepth }),
    ]),
  ),
})

test('the overview has a row per length and arm, and its plot', () => {
  const { tables, plots } = report([result])
  expect(tables['decode']).toBe(`\`npm run bench -- decode/decode\`
(Fast(R) CPU @ 9.99GHz, 2 of 4 cores, avx512; 2026-01-02, commit 0123456)

demo in bf16, greedy, tree \`auto\`, budget 1024, window 32; 101 tokens after each prompt; medians of 2 rounds (p10–p90), each with another prompt.

| prompt | arm | tokens/s | x plain | tokens/step | TTFT ms | KV cache MiB |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
| 512 | plain | 101 (100–101) | 1.00 (1.00–1.00) | 1.00 | 100 (100–100) | 1.0 |
| 512 | Medusa | 251 (250–252) | 2.50 (2.50–2.50) | 2.75 | 100 (100–100) | 1.0 |
| 4096 | plain | 101 (100–101) | 1.00 (1.00–1.00) | 1.00 | 100 (100–100) | 1.0 |
| 4096 | Medusa | 251 (250–252) | 2.50 (2.50–2.50) | 2.75 | 100 (100–100) | 1.0 |

![tokens per second by prompt length](bench/plots/decode-fast-avx512-2t.svg)
`)
  expect(Object.keys(plots)).toEqual(['decode-fast-avx512-2t'])
  expect(plots['decode-fast-avx512-2t']).toContain('>Medusa</text>')
})

test('the details have every column, and acceptance by depth', () => {
  const { 'decode-details': details } = report([result]).tables
  expect(details).toContain('chunk gap p50 / p90 / p99 ms')
  expect(details).toContain('| 4096 | Medusa | auto | 8 | speculated | 0% | 75% |')
})

test('two machines stand one after the other, each with its plot', () => {
  const other = { ...result, machine: { ...result.machine, isa: 'amx', threads: 4 } }
  const { tables, plots } = report([result, other])
  expect(tables['decode']!.match(/^`npm run bench/gm)).toHaveLength(2)
  expect(Object.keys(plots)).toEqual(['decode-fast-avx512-2t', 'decode-fast-amx-4t'])
})

test('a result of another shape is refused by name of what is wrong', async () => {
  const stale = { ...result, measurements: [{ ...decodeRun('plain', 0), gapMs: undefined }] }
  await failure(() => report([stale]), 'ERR_FILE', /measurement 0: gapMs/)
})

test('lengths and rounds make no variant; models, trees and budgets do', () => {
  const of = (changed: object) => variantOf({ ...result, options: { ...options, ...changed } })
  expect(of({ promptLengths: [1], rounds: 9, tokens: 3 })).toBe(of({}))
  const variants = [
    {},
    { model: '/somewhere/else' },
    { temperature: 0.7 },
    { tree: '16' },
    { mode: 'medusa' },
    { budget: 256 },
    { weights: 'int8' },
  ]
  expect(new Set(variants.map(of)).size).toBe(variants.length)
})
