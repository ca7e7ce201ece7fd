// What a step of training Medusa heads has to compute and to move at least: the frozen model's rows, the heads' passes, the update.
import { type ModelShape, productsOf } from '../support/shapes.js'

export type Projection = 'shared' | 'private'

export interface HeadsShape {
  readonly medusaHeads: number
  readonly blocks: number
  readonly projection: Projection
}

/** Products that every row of a text goes through before the heads: all but the output projection. */
const LAYER_PRODUCTS: readonly string[] = ['qkv', 'o', 'gate_up', 'down']

/** Floating-point operations of the frozen model over texts of so many tokens each, every row to its end. */
export function frozenFlops(shape: ModelShape, { texts, tokens }: { texts: number; tokens: number }): number {
  const perToken = productsOf(shape)
    .filter(({ name }) => LAYER_PRODUCTS.includes(name))
    .reduce((sum, { columns, depth, count }) => sum + 2 * columns * depth * count, 0)
  const pairs = (tokens * (tokens + 1)) / 2
  return texts * (tokens * perToken + 4 * shape.layers * shape.queryHeads * shape.headDim * pairs)
}

/** Positions of a text that a head has a loss for. */
const rowsOf = (head: number, tokens: number): number => Math.max(0, tokens - 2 - head)

/**
 * Floating-point operations of the heads' products, forwards and backwards. Of a block: its result, its weight's gradient and, but for the
 * first, its input's. Of the projection: logits, its input's gradient if there is a block, its own if it is the head's.
 */
export function headsFlops(
  { hidden, vocab }: ModelShape,
  { medusaHeads, blocks, projection }: HeadsShape,
  { texts, tokens }: { texts: number; tokens: number },
): number {
  const ofBlocks = (3 * blocks - Math.min(blocks, 1)) * 2 * hidden * hidden
  const ofProjection = (1 + Math.min(blocks, 1) + (projection === 'private' ? 1 : 0)) * 2 * hidden * vocab
  let rows = 0
  for (let head = 0; head < medusaHeads; head++) rows += texts * rowsOf(head, tokens)
  return rows * (ofBlocks + ofProjection)
}

/** Numbers that training changes. */
export function trainedWeights({ hidden, vocab }: ModelShape, { medusaHeads, blocks, projection }: HeadsShape): number {
  return medusaHeads * (blocks * (hidden + 1) * hidden + (projection === 'private' ? vocab * hidden : 0))
}

/** Bytes an update moves: the gradient read for its norm; weight, both moments and gradient read and written. */
export function updateBytes(shape: ModelShape, heads: HeadsShape): number {
  return (4 + 2 * 4 * 4) * trainedWeights(shape, heads)
}

/**
 * Bytes the first pass after an update moves to lay out what has changed: each matrix read, and written in bf16, for each way it is multiplied;
 * gradients go back through projections, and through blocks but the first.
 */
export function packBytes({ hidden, vocab }: ModelShape, { medusaHeads, blocks, projection }: HeadsShape): number {
  const ofBlocks = (2 * blocks - Math.min(blocks, 1)) * hidden * hidden
  const ofProjection = projection === 'private' ? (1 + Math.min(blocks, 1)) * vocab * hidden : 0
  return (4 + 2) * medusaHeads * (ofBlocks + ofProjection)
}
