// What the auto benchmark's measurements come to.
import { expect, test } from 'vitest'
import { type AutoMeasurement, autoTable, report, summariseAuto } from '../../bench/decode/auto.report.js'
import { sampleResult } from './sample.js'

const measurement = (arm: string, round: number, tokensPerSecond: number, of: Partial<AutoMeasurement> = {}) => ({
  isa: 'avx512',
  heads: 'own' as const,
  promptTokens: 400,
  arm,
  round,
  tokensPerSecond,
  tokensPerStep: 2,
  nodes: 8,
  gate: null,
  ...of,
})

const measurements = [
  measurement('plain', 0, 100, { nodes: 1, tokensPerStep: 1 }),
  measurement('4', 0, 150),
  measurement('16', 0, 220),
  measurement('auto', 0, 211.2, { nodes: 14, tokensPerStep: 3 }),
  // The second round met a machine half as fast.
  measurement('auto', 1, 110, { nodes: 14, tokensPerStep: 1.5 }),
  measurement('16', 1, 110),
  measurement('4', 1, 75),
  measurement('plain', 1, 50, { nodes: 1, tokensPerStep: 1 }),
  measurement('plain', 0, 100, { heads: 'useless' }),
  measurement('auto', 0, 98, { heads: 'useless', tokensPerStep: 1, nodes: 1, gate: 'plain' }),
]

test('auto is compared with plain decoding and with the best fixed tree, round by round', () => {
  const [own, useless] = summariseAuto(measurements)
  expect(own).toMatchObject({ heads: 'own', best: '16', autoNodes: 14, autoTokensPerStep: 2 })
  expect(own!.xPlain.get('4')!.median).toBeCloseTo(1.5, 12)
  expect(own!.xPlain.get('auto')!.median).toBeCloseTo((2.112 + 2.2) / 2, 12)
  expect(own!.autoOverBest.median).toBeCloseTo((0.96 + 1) / 2, 12)
  expect(useless).toMatchObject({ heads: 'useless', best: null, autoOverBest: { n: 0 } })
})

test('a row for each instruction set, heads and length; the best fixed tree in bold; dashes for what was not run', () => {
  expect(autoTable(summariseAuto(measurements))).toEqual([
    [
      'isa',
      'heads',
      'prompt',
      'plain tokens/s',
      '4',
      '16',
      'auto',
      'auto / best fixed',
      'auto nodes',
      'auto tokens/step',
    ],
    ['avx512', 'own', '400', '75.0', '1.50', '**2.20**', '2.16 (2.12–2.19)', '0.98 (0.96–1.00)', '14', '2.00'],
    ['avx512', 'useless', '400', '100', '–', '–', '0.98', '–', '1', '1.00'],
  ])
})

test('the report has a table and a plot', () => {
  const options = { model: 'demo', tokens: 100, rounds: 2 }
  const { tables, plots } = report([sampleResult({ bench: 'decode/auto', options, measurements })])
  expect(tables['auto']).toContain('| avx512 | own | 400 |')
  expect(plots['auto-fast-avx512-2t']).toContain('>avx512, 400 tokens</text>')
})
