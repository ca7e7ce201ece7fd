// What the measurements of runs with other training options come to.
import { expect, test } from 'vitest'
import { type OptionsMeasurement, optionsTable, report, variantOf } from '../../../bench/heads/options.report.js'
import { failure } from '../../support/errors.js'
import { sampleResult } from '../sample.js'

const head = (loss: number | null, top1: number) => ({ loss, top1, top5: 0.6, top10: 0.7 })

const measurements: OptionsMeasurement[] = [
  {
    changed: {},
    steps: 400,
    tokens: 400_000,
    seconds: 99.6,
    heldOut: [head(1.5, 0.62), head(2.5, 0.4)],
    rates: [{ tree: '16', temperature: 0.7, nodes: 16, tokensPerStep: 2.9 }],
  },
  {
    changed: { learningRate: 0.01 },
    steps: 400,
    tokens: 400_000,
    seconds: 100,
    heldOut: [head(1.4, 0.63), head(null, 0)],
    rates: [{ tree: '16', temperature: 0.7, nodes: 16, tokensPerStep: 3.001 }],
  },
]

const options = { model: 'demo', data: ['a.jsonl'], base: { epochs: 4 }, prompts: 8, promptTokens: 400, tokens: 100 }
const result = sampleResult({ bench: 'heads/options', options, measurements })

test('a run is a row: what was changed, what it cost, what came of it', () => {
  const [names, ...rows] = optionsTable(measurements)
  expect(names!.at(-1)).toBe('tokens/step, 16, temperature 0.7')
  expect(rows).toEqual([
    ['none', '400', '100', '1.500 2.500', '62% 40%', '70% 70%', '2.900'],
    ['learningRate 0.01', '400', '100', '1.400 –', '63% 0%', '70% 70%', '3.001'],
  ])
})

test('the report says what all runs had; other shapes are refused', async () => {
  expect(report([result]).tables['training-options']).toContain('learnt from a.jsonl; every run has epochs 4, and one')
  expect(variantOf({ ...result, options: { ...options, base: { epochs: 1 } } })).not.toBe(variantOf(result))
  await failure(() => report([{ ...result, measurements: [{}] }]), 'ERR_FILE', /measurement 0/)
})
