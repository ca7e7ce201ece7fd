// Heads for a model whose weights are held as int8: they learn from what that model makes of texts, and from nothing else.
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readTrainingLog } from '../../../heads/train/log.js'
import { trainHeads } from '../../../heads/train/train.js'
import { readHeads, readModelFolder } from '../../../src/weights/load.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { headsBytes, SHORT, tinyTrainee, writeTexts } from '../../support/training-run.js'

const dir = temporaryFolder()

test('an int8 model has heads of its own, that learn as others do', async () => {
  const model = await tinyTrainee(join(dir, 'model'))
  const options = { model, data: writeTexts(join(dir, 'texts.jsonl')), ...SHORT, steps: 40, evaluateEvery: 40 }
  const [full, int8] = ['full', 'int8'].map((name) => join(dir, name)) as [string, string]
  await trainHeads({ ...options, out: full, dtype: 'bf16' })
  const report = await trainHeads({ ...options, out: int8, weights: 'int8' })
  expect(report.engine).toMatchObject({ dtype: 'bf16', weights: 'int8' })
  expect(headsBytes(int8).equals(headsBytes(full))).toBe(false)
  const losses = (await readTrainingLog(join(int8, 'training.jsonl'))).map(({ loss }) => loss)
  expect(losses.at(-1)).toBeLessThan(0.8 * losses[0]!)
  expect(await readHeads(int8, await readModelFolder(model))).toMatchObject({ medusaHeads: 2, dtype: 'bf16' })
  const own = join(dir, 'own')
  await trainHeads({ ...options, out: own, weights: 'int8', steps: 2, private: true })
  expect(await readHeads(own, await readModelFolder(model))).toMatchObject({ projection: 'per-head' })
  await failure(
    () => trainHeads({ ...options, out: int8, dtype: 'bf16', resume: true }),
    'ERR_CHECKPOINT',
    /another weights \(int8, now full\)/,
  )
})
