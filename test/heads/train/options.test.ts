// What may be asked of a training run, and what is refused with value and advice.
import { expect, test } from 'vitest'
import { DEFAULTS, parseTrainOptions } from '../../../heads/train/options.js'
import { failure } from '../../support/errors.js'

const least = { model: 'demo', data: 'corpus', out: 'heads' }

test('what is not said has the defaults of the table', () => {
  const { heads, layers, batchTokens, learningRate, depthDecay, data, ...rest } = parseTrainOptions(least)
  expect({ heads, layers, batchTokens, learningRate, depthDecay }).toEqual({
    heads: DEFAULTS.heads,
    layers: DEFAULTS.layers,
    batchTokens: DEFAULTS.batchTokens,
    learningRate: DEFAULTS.learningRate,
    depthDecay: DEFAULTS.depthDecay,
  })
  expect(data).toEqual(['corpus'])
  expect(rest).toMatchObject({ private: false, resume: false, selfDistill: 0, backend: 'auto', dtype: 'auto' })
})

test('text that the model writes by itself needs no data', () => {
  expect(parseTrainOptions({ model: 'demo', out: 'heads', selfDistill: 1000 }).data).toEqual([])
})

test.each([
  [{ data: [] }, /data is missing: give files/],
  [{ steps: 5, epochs: 2 }, /steps is 5 and epochs is 2: give one/],
  [{ epochs: 10_001 }, /epochs is 10001: use a whole number from 1 to 10000/],
  [{ layers: 0 }, /layers is 0, which leaves nothing to train/],
  [{ heads: 64 }, /heads is 64: use a whole number from 1 to 63/],
  [{ learningRate: 0 }, /learningRate is 0: use a number above 0/],
  [{ heldOut: 0.9 }, /heldOut is 0\.9: use a number from 0 to 0\.5/],
  [{ context: 2 }, /context is 2: use a whole number, at least 3/],
  [{ learningrate: 1 }, /"learningrate" is not an option here\. Did you mean "learningRate"/],
])('%o is refused', async (given, says) => {
  await failure(() => parseTrainOptions({ ...least, ...given }), 'ERR_OPTION', says)
})

test('heads without blocks are taken with projections of their own', () => {
  expect(parseTrainOptions({ ...least, layers: 0, private: true })).toMatchObject({ layers: 0, private: true })
})
