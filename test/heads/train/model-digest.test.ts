// A model's digest: the same wherever its folder lies, another for other weights.
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { modelDigest } from '../../../heads/train/model-digest.js'
import { readModelFolder } from '../../../src/weights/load.js'
import { openSafetensors } from '../../../src/weights/safetensors.js'
import { temporaryFolder } from '../../support/folder.js'
import { writeTinyModel } from '../../support/tiny-model.js'

const dir = temporaryFolder()
const digestOf = async (path: string) => modelDigest(await readModelFolder(path))

test('a copy has the same, and so has the model in several files', async () => {
  await writeTinyModel(join(dir, 'model'))
  cpSync(join(dir, 'model'), join(dir, 'copy'), { recursive: true })
  await writeTinyModel(join(dir, 'shards'), { shards: 3 })
  const digest = await digestOf(join(dir, 'model'))
  expect(digest).toMatch(/^[0-9a-f]{64}$/)
  expect(await digestOf(join(dir, 'copy'))).toBe(digest)
  expect(await digestOf(join(dir, 'shards'))).toBe(digest)
})

test('a bit anywhere in a tensor makes another', async () => {
  // Too wide for what its first, middle and last few thousand bytes tell.
  const model = await writeTinyModel(join(dir, 'wide'), { hidden: 64, vocab: 512 })
  const digest = await digestOf(model.dir)
  const file = join(model.dir, 'model.safetensors')
  const before = readFileSync(file)
  const { tensors } = await openSafetensors(file)
  const { begin, end } = [...tensors.values()].sort((a, b) => b.end - b.begin - (a.end - a.begin))[0]!
  for (const share of [0, 0.1, 0.25, 0.5, 0.75, 0.9]) {
    const bytes = Buffer.from(before)
    bytes[begin + Math.floor(share * (end - begin))]! ^= 1
    writeFileSync(file, bytes)
    expect(await digestOf(model.dir), String(share)).not.toBe(digest)
  }
  writeFileSync(file, before)
  expect(await digestOf(model.dir)).toBe(digest)
})

test('ends when nobody wants it any more', async () => {
  const { dir: path } = await writeTinyModel(join(dir, 'unwanted'))
  const model = await readModelFolder(path)
  await expect(modelDigest(model, AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough')
})

test('other weights, another dtype and another shape have others', async () => {
  await writeTinyModel(join(dir, 'one'))
  await writeTinyModel(join(dir, 'seed'), { seed: 2 })
  await writeTinyModel(join(dir, 'dtype'), { dtype: 'bf16' })
  await writeTinyModel(join(dir, 'rope'), { rope: { rope_theta: 20000, rope_type: 'default' } })
  cpSync(join(dir, 'one'), join(dir, 'bit'), { recursive: true })
  const file = join(dir, 'bit', 'model.safetensors')
  const bytes = readFileSync(file)
  bytes[bytes.length - 1]! ^= 1
  writeFileSync(file, bytes)
  const names = ['one', 'seed', 'dtype', 'rope', 'bit']
  const digests = await Promise.all(names.map((name) => digestOf(join(dir, name))))
  expect(new Set(digests).size).toBe(names.length)
})
