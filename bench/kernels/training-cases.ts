// Cases of training's operations: a chunk of rows through a Medusa head, and the weights that an update changes.
import { RandomWeights } from '../support/random-weights.js'
import { SHAPES, type ShapeName } from '../support/shapes.js'
import type { OperationCase } from './operation-cases.js'

/** Rows that go through a head together. */
const ROWS = 256
const FLOAT = 4
const BF16 = 2

const normals = (count: number, seed: number, deviation = 1): Float32Array =>
  new RandomWeights(seed, deviation).values(count)

/** The same as bf16 has them, which products take. */
function bf16Values(count: number, seed: number): Float32Array {
  const values = normals(count, seed)
  const bits = new Uint32Array(values.buffer)
  bits.forEach((word, i) => {
    bits[i] = word & 0xffff0000
  })
  return values
}

function crossEntropy(name: ShapeName): OperationCase {
  const { vocab } = SHAPES[name]
  return {
    operation: 'crossEntropy',
    name: `${name}, ${ROWS} rows of ${vocab}`,
    bytes: FLOAT * 2 * ROWS * vocab,
    // An exponential's polynomial and its surroundings, a sum, a product.
    flops: 20 * ROWS * vocab,
    copies: 1,
    prepare() {
      const losses = new Float32Array(ROWS)
      const ranks = new Int32Array(ROWS)
      const gradient = new Float32Array(ROWS * vocab)
      const args = {
        x: normals(ROWS * vocab, 21, 3),
        xStride: vocab,
        rows: ROWS,
        columns: vocab,
        targets: Int32Array.from({ length: ROWS }, (_, m) => (m * 7919) % vocab),
        scale: 1,
        losses,
        ranks,
        dtype: 'bf16',
        gradient,
        gradientStride: vocab,
      }
      return { args, results: [losses, ranks, gradient] }
    },
  }
}

function linearGradient(name: ShapeName, part: 'block' | 'projection'): OperationCase {
  const { hidden: depth, vocab } = SHAPES[name]
  const columns = part === 'block' ? depth : vocab
  return {
    operation: 'linearGradient',
    name: `${name}, ${part}, ${ROWS} rows, ${columns} x ${depth}`,
    bytes: FLOAT * (ROWS * (columns + depth) + 2 * columns * depth),
    flops: 2 * ROWS * columns * depth,
    copies: 1,
    prepare() {
      const dw = new Float32Array(columns * depth)
      const db = new Float32Array(columns)
      const dy = { dy: bf16Values(ROWS * columns, 22), dyStride: columns }
      const x = { x: bf16Values(ROWS * depth, 23), xStride: depth }
      const args = { ...dy, ...x, rows: ROWS, columns, depth, dtype: 'bf16', dw, db }
      return { args, results: [dw, db] }
    },
  }
}

function residualSilu(name: ShapeName): OperationCase {
  const { hidden: width } = SHAPES[name]
  return {
    operation: 'residualSilu',
    name: `${name}, ${ROWS} x ${width}`,
    bytes: FLOAT * 4 * ROWS * width,
    flops: 20 * ROWS * width,
    copies: 1,
    prepare() {
      const z = normals(ROWS * width, 24)
      const out = new Float32Array(ROWS * width)
      const strides = { aStride: width, zStride: width, outStride: width }
      const args = { ...strides, a: normals(ROWS * width, 25), rows: ROWS, width, z, dtype: 'bf16', out }
      return { args, results: [z, out] }
    },
  }
}

function residualSiluGradient(name: ShapeName): OperationCase {
  const { hidden: width } = SHAPES[name]
  return {
    operation: 'residualSiluGradient',
    name: `${name}, ${ROWS} x ${width}`,
    bytes: FLOAT * 3 * ROWS * width,
    flops: 24 * ROWS * width,
    copies: 1,
    prepare() {
      const da = new Float32Array(ROWS * width)
      const strides = { aStride: width, dzStride: width, daStride: width }
      const [a, dz] = [normals(ROWS * width, 26), normals(ROWS * width, 27)]
      return { args: { ...strides, a, dz, rows: ROWS, width, dtype: 'bf16', da }, results: [da] }
    },
  }
}

function packWeight(name: ShapeName, transposed: boolean): OperationCase {
  const { hidden: depth, vocab: rows } = SHAPES[name]
  return {
    operation: 'packWeight',
    name: `${name}, ${rows} x ${depth}${transposed ? ', transposed' : ''}`,
    bytes: (FLOAT + BF16) * rows * depth,
    flops: 0,
    copies: 1,
    prepare() {
      const tiles = new Uint8Array(BF16 * rows * depth)
      return {
        args: { source: normals(rows * depth, 28), rows, depth, transposed, dtype: 'bf16', tiles },
        results: [tiles],
      }
    },
  }
}

function unpackWeight(name: ShapeName): OperationCase {
  const { hidden: depth, vocab: columns } = SHAPES[name]
  return {
    operation: 'unpackWeight',
    name: `${name}, ${columns} x ${depth}`,
    bytes: (FLOAT + BF16) * columns * depth,
    flops: 0,
    copies: 1,
    prepare() {
      const out = new Float32Array(columns * depth)
      return { args: { w: normals(columns * depth, 29), dtype: 'bf16', columns, depth, out }, results: [out] }
    },
  }
}

/** A block's weight. */
function adamw(name: ShapeName): OperationCase {
  const { hidden } = SHAPES[name]
  const count = hidden * hidden
  return {
    operation: 'adamw',
    name: `${name}, ${count} weights`,
    bytes: FLOAT * 8 * count,
    // Three quotients and a root among them.
    flops: 18 * count,
    copies: 1,
    prepare() {
      const weights = normals(count, 30)
      const mean = normals(count, 31, 0.1)
      const variance = normals(count, 32, 0.1).map((value) => value * value)
      const gradient = normals(count, 33)
      const settings = { gradientScale: 1, rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0.01 }
      const arrays = { weights, mean, variance, gradient, count }
      return {
        args: { ...arrays, ...settings, correction1: 0.5, correction2: 0.25 },
        results: [weights, mean, variance, gradient],
      }
    },
  }
}

function sumOfSquares(name: ShapeName): OperationCase {
  const { hidden } = SHAPES[name]
  const count = hidden * hidden
  return {
    operation: 'sumOfSquares',
    name: `${name}, ${count} values`,
    bytes: FLOAT * count,
    flops: 2 * count,
    copies: 1,
    prepare() {
      const out = new Float64Array(1)
      return { args: { x: normals(count, 34), count, out }, results: [out] }
    },
  }
}

/** By operation. */
export const TRAINING_CASES = {
  crossEntropy: (shape: ShapeName) => [crossEntropy(shape)],
  linearGradient: (shape: ShapeName) => [linearGradient(shape, 'block'), linearGradient(shape, 'projection')],
  residualSilu: (shape: ShapeName) => [residualSilu(shape)],
  residualSiluGradient: (shape: ShapeName) => [residualSiluGradient(shape)],
  packWeight: (shape: ShapeName) => [packWeight(shape, false), packWeight(shape, true)],
  unpackWeight: (shape: ShapeName) => [unpackWeight(shape)],
  adamw: (shape: ShapeName) => [adamw(shape)],
  sumOfSquares: (shape: ShapeName) => [sumOfSquares(shape)],
} as const satisfies Record<string, (shape: ShapeName) => OperationCase[]>
