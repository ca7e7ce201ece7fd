// Shapes of models: their products and what a prompt computes.
import { describe, expect, it } from 'vitest'
import { type ModelShape, prefillFlops, productsOf, SHAPES, sizedShape } from '../../bench/support/shapes.js'

/** Parameters, with the embedding and the norms that no product holds. */
function parameters(shape: ModelShape): number {
  const products = productsOf(shape).reduce((sum, { columns, depth, count }) => sum + columns * depth * count, 0)
  const embedding = shape.tied ? 0 : shape.vocab * shape.hidden
  return products + embedding + (2 * shape.layers + 1) * shape.hidden
}

describe('shapes', () => {
  it('have as many parameters as the models they are named after', () => {
    expect(parameters(SHAPES['tinyllama-1.1b'])).toBe(1_100_048_384)
    expect(parameters(SHAPES['mistral-7b'])).toBe(7_241_732_096)
    expect(parameters(SHAPES.demo)).toBe(11_015_040)
  })

  it('take other sizes, and refuse what is none', () => {
    expect(sizedShape('demo', { layers: 2 })).toEqual({ ...SHAPES.demo, layers: 2 })
    expect(() => sizedShape('demo', { depth: 2 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
    expect(() => sizedShape('demo', { kvHeads: 4 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  })
})

describe('the operations of a prompt', () => {
  const shape: ModelShape = {
    hidden: 8,
    ffn: 12,
    layers: 3,
    queryHeads: 4,
    kvHeads: 2,
    headDim: 2,
    vocab: 20,
    tied: true,
  }

  it('are counted token by token, and in the last layer only where they are needed', () => {
    const tokens = 5
    let products = 0
    let attention = 0
    for (let layer = 0; layer < shape.layers; layer++) {
      for (let token = 0; token < tokens; token++) {
        const needed = layer + 1 < shape.layers || token === tokens - 1
        products += 2 * 8 * (4 * 2 + 2 * 2 * 2)
        if (!needed) continue
        products += 2 * (8 * 8 + 8 * 24 + 12 * 8)
        // A score and a weighted value for each visible token and query head.
        attention += (token + 1) * 4 * 2 * 2 * 2
      }
    }
    products += 2 * 20 * 8
    expect(prefillFlops(shape, tokens)).toEqual({ products, attention })
  })
})
