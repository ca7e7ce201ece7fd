// What the acceptance benchmark's measurements come to.
import { expect, test } from 'vitest'
import { type AcceptanceMeasurement, acceptanceTable, report } from '../../bench/decode/acceptance.report.js'
import { failure } from '../support/errors.js'
import { sampleResult } from './sample.js'

function measurement(tree: string, of: Partial<AcceptanceMeasurement> = {}): AcceptanceMeasurement {
  return {
    prompt: 'src/a.ts',
    tree,
    nodes: 4,
    tokensPerStep: 2,
    byDepth: [{ offered: 10, accepted: 8 }],
    msPerToken: [5, 5],
    plainMsPerToken: [10, 10],
    ...of,
  }
}

const measurements = [
  measurement('auto'),
  measurement('auto', {
    prompt: 'src/b.ts',
    tokensPerStep: 3,
    byDepth: [
      { offered: 10, accepted: 4 },
      { offered: 4, accepted: 1 },
    ],
    // Pairs, not medians, are compared: twice as fast in either round.
    msPerToken: [5, 50],
    plainMsPerToken: [10, 100],
  }),
  measurement('chain:2', { nodes: 3, plainMsPerToken: [4, 4] }),
]

test('trees keep their order; rates are harmonic means, depths add up, speed is of pairs', () => {
  expect(acceptanceTable(measurements)).toEqual([
    ['tree', 'nodes', 'prompts', 'tokens/step', 'lowest', 'highest', 'depth 1', 'depth 2', 'x plain'],
    ['auto', '4', '2', '2.40', '2.00', '3.00', '60%', '25%', '2.00 (2.00–2.00)'],
    ['chain:2', '3', '1', '2.00', '2.00', '2.00', '80%', '–', '0.80'],
  ])
})

test('the report has a table and a plot; other shapes are refused', async () => {
  const options = { model: 'demo', promptTokens: 400, tokens: 100, kv: 'full', budget: 1024, temperature: 0 }
  const result = sampleResult({ bench: 'decode/acceptance', options, measurements })
  const { tables, plots } = report([result])
  expect(tables['acceptance']).toContain('| chain:2 | 3 | 1 | 2.00 |')
  expect(plots['acceptance-fast-avx512-2t']).toContain('>chain:2</text>')
  await failure(() => report([{ ...result, measurements: [{ tree: 'auto' }] }]), 'ERR_FILE', /measurement 0/)
})
