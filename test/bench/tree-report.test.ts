// What the tree benchmark's measurements come to.
import { expect, test } from 'vitest'
import { report, type TreeMeasurement, treeTable } from '../../bench/heads/tree.report.js'
import { failure } from '../support/errors.js'
import { sampleResult } from './sample.js'

const measurement = (of: Partial<TreeMeasurement>): TreeMeasurement => ({
  data: 'src',
  texts: 30,
  heldOut: 10,
  temperature: 0,
  tree: 'grown',
  nodes: 8,
  promised: { tokensPerStep: 3, standardError: 0.1 },
  measured: { tokensPerStep: 2.5, standardError: 0.2 },
  ...of,
})

const rate = (tokensPerStep: number) => ({ measured: { tokensPerStep, standardError: null } })
const measurements = [
  measurement({ temperature: 0.7, nodes: 64, promised: { tokensPerStep: 1.9, standardError: null }, ...rate(2) }),
  measurement({}),
  measurement({ tree: 'independent', ...rate(2.4) }),
  measurement({ tree: 'shipped', ...rate(2.3) }),
  measurement({ tree: 'mc_sim_7b_63', ...rate(2) }),
  // The same size at another temperature, and another size at the same, are others.
  measurement({ tree: 'mc_sim_7b_63', temperature: 0.7, nodes: 64, ...rate(1.6) }),
  measurement({ nodes: 4, ...rate(2.1) }),
]

test('promises stand beside what was measured, and trees of one size beside each other', () => {
  expect(treeTable(measurements)).toEqual([
    [
      'texts',
      'nodes',
      'promised',
      'measured',
      'promise off by',
      'independent',
      'shipped',
      'mc_sim_7b_63',
      'grown / mc_sim_7b_63',
    ],
    ['src, greedy', '4', '3.00 ± 0.10', '2.10', '+42.9%', '–', '–', '–', '–'],
    ['src, greedy', '8', '3.00 ± 0.10', '2.50 ± 0.20', '+20.0%', '2.40', '2.30', '2.00', '1.250'],
    ['src, temperature 0.7', '64', '1.90', '2.00', '-5.0%', '–', '–', '1.60', '1.250'],
  ])
})

test('the report has a table and a plot of the largest trees; other shapes are refused', async () => {
  const options = { model: 'demo', promptTokens: 256, tokens: 128, seed: 1, kv: 'snapkv' }
  const result = sampleResult({ bench: 'heads/tree', options, measurements })
  const { tables, plots } = report([result])
  expect(tables['tree']).toContain('| src, greedy | 8 | 3.00 ± 0.10 | 2.50 ± 0.20 | +20.0% |')
  expect(tables['tree']).toContain('src (30 texts, and 10 held out)')
  const plot = plots['tree-fast-avx512-2t']!
  expect(plot).toContain('trees of 64 nodes')
  expect(plot).toContain('>promised</text>')
  await failure(() => report([{ ...result, measurements: [{ tree: 'auto' }] }]), 'ERR_FILE', /measurement 0/)
})
