// What `gorgon/heads` offers, and that the command line needs no more of heads than that.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import * as heads from '../../heads/index.js'

test('public are the verbs, what reads and shows their results, and the options with their defaults', () => {
  expect(Object.keys(heads).sort()).toEqual([
    'TRAINING_DEFAULTS',
    'calibrateHeads',
    'convertHeads',
    'headsTable',
    'parseCalibrateOptions',
    'parseTrainOptions',
    'readTrainingLog',
    'trainHeads',
    'writeCalibration',
  ])
})

test('the command line imports nothing else of heads', () => {
  const sources = readdirSync('src/cli').map((name) => readFileSync(join('src/cli', name), 'utf8'))
  const imported = sources.flatMap((source) =>
    [...source.matchAll(/'([^']*heads\/[^']*\.js)'/g)].map(([, path]) => path),
  )
  expect(imported.length).toBeGreaterThan(2)
  expect(new Set(imported)).toEqual(new Set(['../../heads/index.js']))
})
