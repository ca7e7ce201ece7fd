// Shapes of models that benchmarks measure: the demo's own, and three of a size that memory decides about.

import { GorgonError } from '../../src/index.js'

export interface ModelShape {
  readonly hidden: number
  readonly ffn: number
  readonly layers: number
  readonly queryHeads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly vocab: number
  /** The output projection is the embedding. */
  readonly tied: boolean
}

export const SHAPES = {
  demo: { hidden: 384, ffn: 1024, layers: 6, queryHeads: 6, kvHeads: 2, headDim: 64, vocab: 4096, tied: true },
  /** Source: TinyLlama/TinyLlama-1.1B-Chat-v1.0, config.json */
  'tinyllama-1.1b': {
    hidden: 2048,
    ffn: 5632,
    layers: 22,
    queryHeads: 32,
    kvHeads: 4,
    headDim: 64,
    vocab: 32000,
    tied: false,
  },
  /** Source: mistralai/Mistral-7B-v0.1, config.json */
  'mistral-7b': {
    hidden: 4096,
    ffn: 14336,
    layers: 32,
    queryHeads: 32,
    kvHeads: 8,
    headDim: 128,
    vocab: 32000,
    tied: false,
  },
  /** Source: NousResearch/Meta-Llama-3-8B, config.json */
  'llama-3-8b': {
    hidden: 4096,
    ffn: 14336,
    layers: 32,
    queryHeads: 32,
    kvHeads: 8,
    headDim: 128,
    vocab: 128256,
    tied: false,
  },
} as const satisfies Record<string, ModelShape>

export type ShapeName = keyof typeof SHAPES
export const SHAPE_NAMES = Object.keys(SHAPES) as readonly ShapeName[]

/**
 * A shape with some of its sizes replaced.
 *
 * @throws {GorgonError} ERR_OPTION for a name that is not a size, and for heads that cannot be shared out.
 */
export function sizedShape(name: ShapeName, sizes: Readonly<Record<string, unknown>>): ModelShape {
  const base: ModelShape = SHAPES[name]
  const known = Object.keys(base).filter((key) => key !== 'tied')
  const unknown = Object.keys(sizes).find((key) => !known.includes(key))
  if (unknown !== undefined) {
    throw new GorgonError('ERR_OPTION', `--size ${unknown}: there is no such size. Use ${known.join(', ')}.`, {
      size: unknown,
    })
  }
  const shape = { ...base, ...sizes }
  if (shape.queryHeads % shape.kvHeads !== 0) {
    const heads = `${shape.queryHeads} query heads cannot share ${shape.kvHeads} KV heads`
    throw new GorgonError('ERR_OPTION', `--size: ${heads}. Make queryHeads a multiple of kvHeads.`, { ...sizes })
  }
  return shape
}

/** A weight as the forward pass multiplies it: those of one input are one product. */
export interface Product {
  readonly name: string
  readonly columns: number
  readonly depth: number
  /** How often a pass over the model does it. */
  readonly count: number
}

/** All products of a pass; they are all that streams weights. */
export function productsOf(shape: ModelShape): Product[] {
  const { hidden, ffn, layers, queryHeads, kvHeads, headDim, vocab } = shape
  return [
    { name: 'qkv', columns: (queryHeads + 2 * kvHeads) * headDim, depth: hidden, count: layers },
    { name: 'o', columns: hidden, depth: queryHeads * headDim, count: layers },
    { name: 'gate_up', columns: 2 * ffn, depth: hidden, count: layers },
    { name: 'down', columns: hidden, depth: ffn, count: layers },
    { name: 'lm_head', columns: vocab, depth: hidden, count: 1 },
  ]
}

/**
 * Floating-point operations of a prompt of `tokens` over an empty cache, cut into no chunks that would cost more. What only the last token
 * of the last layer needs is counted for that token alone, and so is the output projection.
 */
export function prefillFlops(
  shape: ModelShape,
  tokens: number,
): { readonly products: number; readonly attention: number } {
  const perToken = (names: readonly string[]): number =>
    productsOf(shape).reduce((sum, p) => sum + (names.includes(p.name) ? 2 * p.columns * p.depth : 0), 0)
  const all = perToken(['qkv', 'o', 'gate_up', 'down'])
  const lastLayer = tokens * perToken(['qkv']) + perToken(['o', 'gate_up', 'down'])
  const pairs = (tokens * (tokens + 1)) / 2
  const perPair = 4 * shape.queryHeads * shape.headDim
  return {
    products: tokens * all * (shape.layers - 1) + lastLayer + perToken(['lm_head']),
    attention: perPair * (pairs * (shape.layers - 1) + tokens),
  }
}
