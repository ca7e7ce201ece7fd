// The tensors of heads in training, and how large ones are read.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { recogniseHeads } from '../../../heads/format/names.js'
import {
  elementsOf,
  HEADS_FILE,
  PIECE_ELEMENTS,
  piecesOf,
  trainedTensors,
  writeTrainedHeads,
} from '../../../heads/train/trained-heads.js'
import type { NativeTraining, TrainerHandle } from '../../../src/native-training.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'

const dir = temporaryFolder()

describe('the tensors', () => {
  test.each([
    { medusaHeads: 3, blocks: 1, privateProjection: false, format: 'B' },
    { medusaHeads: 2, blocks: 3, privateProjection: true, format: 'A' },
    { medusaHeads: 1, blocks: 0, privateProjection: true, format: 'A' },
  ])('are what a loader recognises: %o', ({ format, ...spec }) => {
    const tensors = trainedTensors(spec, { hidden: 8, vocab: 20 })
    const found = recogniseHeads(tensors.map(({ name }) => name))
    expect(found).toMatchObject({ layout: { format, medusaHeads: spec.medusaHeads, blocks: spec.blocks } })
    const roles = 'layout' in found ? found.layout.tensors.map(({ name, role }) => ({ name, role })) : []
    for (const { name, role } of tensors) expect(roles).toContainEqual({ name, role })
  })
})

test('a tensor is read in pieces that fit memory, and whole', async () => {
  const calls: { first: number; count: number }[] = []
  const training = {
    async read(_trainer: TrainerHandle, { first }: { first: number }, count: number) {
      calls.push({ first, count })
      return new Float32Array(0)
    },
  } as unknown as NativeTraining
  const tensor = { role: '0.projection', name: '0.1.weight', shape: [5000, 8000] }
  for await (const _ of piecesOf(training, {} as TrainerHandle, tensor, 'mean')) {
    // Counted above.
  }
  expect(calls.map(({ first }) => first)).toEqual([0, PIECE_ELEMENTS, 2 * PIECE_ELEMENTS])
  expect(calls.reduce((sum, { count }) => sum + count, 0)).toBe(elementsOf(tensor))
  expect(Math.max(...calls.map(({ count }) => count))).toBe(PIECE_ELEMENTS)
})

test('weights too large for their dtype are refused, and are not infinity', async () => {
  const training = {
    read: async (_: TrainerHandle, __: object, count: number) => new Float32Array(count).fill(70_000),
  } as unknown as NativeTraining
  const heads = {
    training,
    trainer: {} as TrainerHandle,
    spec: { medusaHeads: 1, blocks: 1, privateProjection: false },
    shape: { hidden: 4, vocab: 8 },
    baseModel: 'model',
  }
  await failure(
    () => writeTrainedHeads(dir, { ...heads, dtype: 'f16' }),
    'ERR_TENSOR',
    /^tensor "0\.0\.linear\.weight" came to hold 70000, which is too large for f16\./,
  )
  expect(existsSync(join(dir, HEADS_FILE))).toBe(false)
  await writeTrainedHeads(dir, { ...heads, dtype: 'bf16' })
  expect(existsSync(join(dir, HEADS_FILE))).toBe(true)
})
