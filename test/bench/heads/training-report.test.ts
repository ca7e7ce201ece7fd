// What the training benchmark's measurements come to.
import { expect, test } from 'vitest'
import {
  progressTable,
  ratesTable,
  report,
  type TrainingBenchOptions,
  type TrainingMeasurement,
  variantOf,
} from '../../../bench/heads/training.report.js'
import { failure } from '../../support/errors.js'
import { sampleResult } from '../sample.js'

const ratesAt = (auto: number, fixed: number): TrainingMeasurement['rates'] => [
  { tree: 'auto', temperature: 0, nodes: auto * 10, tokensPerStep: auto },
  { tree: 'mc_sim_7b_63', temperature: 0.7, nodes: 64, tokensPerStep: fixed },
]

const fresh = (step: number, auto: number, fixed: number): TrainingMeasurement => ({
  heads: 'fresh',
  step,
  tokens: step * 1000,
  seconds: step / 2,
  rates: ratesAt(auto, fixed),
  heldOut: [
    { top1: 0.5, top5: 0.6, top10: 0.7 },
    { top1: 0.25, top5: 0.3, top10: 0.4 },
  ],
})

const measurements: TrainingMeasurement[] = [
  { heads: 'shipped', step: 0, tokens: 0, seconds: 0, rates: ratesAt(2, 4), heldOut: null },
  fresh(100, 1.5, 3),
  fresh(200, 1.9, 3.8),
]

const options: TrainingBenchOptions = {
  model: 'demo',
  data: ['self.jsonl'],
  selfDistill: 0,
  distillSeconds: null,
  medusaHeads: 2,
  layers: 1,
  private: false,
  epochs: 4,
  batchTokens: 1000,
  learningRate: 0.001,
  prompts: 16,
  promptTokens: 400,
  tokens: 100,
}

const result = sampleResult({ bench: 'heads/training', options, measurements })

test('the last heads of a run stand beside those the model came with', () => {
  expect(ratesTable(measurements).slice(1)).toEqual([
    ['auto, greedy', '20 / 19', '2.00', '1.90', '0.950'],
    ['mc_sim_7b_63, temperature 0.7', '64', '4.00', '3.80', '0.950'],
  ])
})

test('a row tells each moment of the run, the model’s own heads come last', () => {
  expect(progressTable(measurements).slice(1)).toEqual([
    ['50', '100', '100000', '1.50', '3.00', '50% 25%'],
    ['100', '200', '200000', '1.90', '3.80', '50% 25%'],
    ['shipped', '', '', '2.00', '4.00', ''],
  ])
})

test('the report says what was learnt from, how long it took, and draws it', () => {
  const { tables, plots } = report([result])
  expect(tables['training']).toContain('learnt from self.jsonl: 4 epochs, 200 steps of about 1000 tokens')
  expect(tables['training']).toContain('200000 tokens read in 100 s (2000 tokens/s)')
  const [[name, plot]] = Object.entries(plots) as [[string, string]]
  expect(tables['training']).toContain(`bench/plots/${name}.svg`)
  expect(plot).toContain('>mc_sim_7b_63, temperature 0.7</text>')
})

test('text that the model wrote is named with its cost, and is another variant', () => {
  const own = { ...result, options: { ...options, data: ['a.ts', 'b/c.ts'], selfDistill: 5000, distillSeconds: 12 } }
  expect(report([own]).tables['training']).toContain(
    'from 5000 tokens that the model wrote in 12 s after beginnings of a.ts, c.ts: 4',
  )
  expect(variantOf(own)).not.toBe(variantOf(result))
})

test('a run that was cut short before its first measurement has a table all the same; other shapes are refused', async () => {
  expect(report([{ ...result, measurements: measurements.slice(0, 1) }]).tables['training']).toContain('0 steps')
  await failure(() => report([{ ...result, measurements: [{ heads: 'new' }] }]), 'ERR_FILE', /measurement 0/)
})
