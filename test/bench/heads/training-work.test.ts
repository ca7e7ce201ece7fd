// What a step of training needs: counted by hand for sizes where that can be done.
import { describe, expect, it, test } from 'vitest'
import { frozenFlops, headsFlops, packBytes, trainedWeights, updateBytes } from '../../../bench/heads/training-work.js'
import { type ModelShape, SHAPES } from '../../../bench/support/shapes.js'

const tiny: ModelShape = {
  hidden: 2,
  ffn: 3,
  layers: 5,
  queryHeads: 2,
  kvHeads: 1,
  headDim: 1,
  vocab: 7,
  tied: false,
}
const shared = { medusaHeads: 1, blocks: 1, projection: 'shared' } as const

describe('the frozen pass', () => {
  it('multiplies every layer for every token, and no output projection', () => {
    // Of a token and layer: 4 x 2, 2 x 2, 6 x 2 and 2 x 3 multiply-adds. Attention of one token: 2 heads of width 1, twice.
    expect(frozenFlops(tiny, { texts: 1, tokens: 1 })).toBe(5 * (2 * (8 + 4 + 12 + 6) + 4 * 2))
  })

  it('attends within each text', () => {
    const one = frozenFlops(tiny, { texts: 1, tokens: 3 })
    expect(frozenFlops(tiny, { texts: 2, tokens: 3 })).toBe(2 * one)
    expect(frozenFlops(tiny, { texts: 1, tokens: 6 }) - 2 * one).toBe(5 * 4 * 2 * (21 - 12))
  })

  test('costs a 7B model 14 GFLOP a token, and attention', () => {
    expect(frozenFlops(SHAPES['mistral-7b'], { texts: 1, tokens: 1 }) / 1e9).toBeCloseTo(13.96, 2)
  })
})

describe('the heads', () => {
  const row = (heads: Parameters<typeof headsFlops>[1]): number => headsFlops(tiny, heads, { texts: 1, tokens: 3 })

  it('have a block forwards and its gradient, logits and their gradient', () => {
    expect(row(shared)).toBe(2 * (2 * 4) + 2 * (2 * 14))
  })

  it('go back through every block but the first', () => {
    expect(row({ ...shared, blocks: 2 }) - row(shared)).toBe(3 * (2 * 4))
  })

  it('have a gradient of their own projection, and need no other without blocks', () => {
    expect(row({ ...shared, projection: 'private' }) - row(shared)).toBe(2 * 14)
    expect(row({ medusaHeads: 1, blocks: 0, projection: 'private' })).toBe(2 * (2 * 14))
  })

  it('have losses where the token that they stand for exists', () => {
    const heads = { ...shared, medusaHeads: 4 }
    expect(headsFlops(tiny, heads, { texts: 3, tokens: 5 })).toBe(3 * (3 + 2 + 1) * row(shared))
    expect(headsFlops(tiny, heads, { texts: 3, tokens: 2 })).toBe(0)
  })
})

describe('the update', () => {
  it('changes blocks and biases, and projections that are not shared', () => {
    expect(trainedWeights(tiny, { ...shared, medusaHeads: 2, blocks: 3 })).toBe(2 * 3 * (4 + 2))
    expect(trainedWeights(tiny, { ...shared, projection: 'private' })).toBe(4 + 2 + 14)
  })

  it('reads gradients twice, and all else once, and writes it', () => {
    expect(updateBytes(tiny, shared)).toBe(36 * 6)
    expect(updateBytes(tiny, { ...shared, projection: 'private' })).toBe(36 * 20)
  })

  it('has matrices laid out anew, for both ways where gradients go back through them', () => {
    expect(packBytes(tiny, shared)).toBe(6 * 4)
    expect(packBytes(tiny, { ...shared, blocks: 2 })).toBe(6 * (4 + 2 * 4))
    expect(packBytes(tiny, { ...shared, projection: 'private' })).toBe(6 * (4 + 2 * 14))
    expect(packBytes(tiny, { medusaHeads: 3, blocks: 0, projection: 'private' })).toBe(6 * 3 * 14)
  })
})
