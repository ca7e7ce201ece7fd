// The tensors of heads in training, and how large ones are read.
import { describe, expect, test } from 'vitest'
import { recogniseHeads } from '../../../heads/format/names.js'
import { elementsOf, PIECE_ELEMENTS, piecesOf, trainedTensors } from '../../../heads/train/trained-heads.js'
import type { NativeTraining, TrainerHandle } from '../../../src/native-training.js'

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
