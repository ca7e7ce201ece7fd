// Cases of every operation but the packed product: arguments with random contents, and what they read and compute at least.
import { parseTree, type Tree } from '../../src/decode/index.js'
import { GREEDY_SAMPLING } from '../../src/decode/sampling.js'
import { RandomWeights } from '../support/random-weights.js'
import { type ModelShape, SHAPES, type ShapeName } from '../support/shapes.js'
import type { OperationArgs } from './native-ops.js'
import { TRAINING_CASES } from './training-cases.js'

export interface OperationCase {
  /** As the addon exports it. */
  readonly operation: string
  readonly name: string
  /** Read and written at least, and floating-point operations. */
  readonly bytes: number
  readonly flops: number
  /** Copies of its cache that are gone through in turn, as a pass goes through its layers. */
  readonly copies: number
  /** New ones every time: an operation may write over its inputs. */
  prepare(): { readonly args: OperationArgs; readonly results: readonly ArrayBufferView[] }
}

/** Caches are gone through as if the model had this many layers. */
const LAYERS = 4
const WINDOW = 32
const BUDGET = 1024
const POOL_SIZE = 7
const DRAFTS = 10
const FLOAT = 4

const normals = (count: number, seed: number, deviation = 1): Float32Array =>
  new RandomWeights(seed, deviation).values(count)

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple

interface AttentionSize {
  readonly shape: ModelShape
  readonly tokens: number
  readonly rows: number
}

/** What the attention operations share: queries behind `rows` committed rows, and the cache of both. */
function attentionArgs({ shape, tokens, rows }: AttentionSize) {
  const { queryHeads, kvHeads, headDim } = shape
  const elements = kvHeads * (rows + tokens) * headDim
  const cache = { k: normals(elements, 1), v: normals(elements, 2), positions: null, poison: 0 }
  const q = normals(tokens * queryHeads * roundUp(headDim, 32), 3)
  return { common: { dtype: 'bf16', queryHeads, kvHeads, headDim, window: 0 }, q, cache }
}

const kvBytes = ({ shape, tokens, rows }: AttentionSize, parts = 2): number =>
  parts * 2 * shape.kvHeads * (rows + tokens) * shape.headDim

/** [N, pathStride]: the nodes from the root to each. */
function pathsOf({ nodeCount, parents, depths }: Tree): { readonly paths: Int32Array; readonly pathStride: number } {
  const pathStride = Math.max(...depths) + 1
  const paths = new Int32Array(nodeCount * pathStride)
  for (let node = 0; node < nodeCount; node++) {
    for (let at = node, depth = depths[node]!; depth >= 0; at = parents[at]!, depth--)
      paths[node * pathStride + depth] = at
  }
  return { paths, pathStride }
}

function treeAttention(name: ShapeName, nodes: number, rows: number): OperationCase {
  const shape = SHAPES[name]
  const size = { shape, tokens: nodes, rows }
  const { queryHeads, headDim } = shape
  const width = queryHeads * headDim
  return {
    operation: 'treeAttention',
    name: `${name}, ${rows} rows, T = ${nodes}`,
    bytes: kvBytes(size),
    flops: 4 * nodes * queryHeads * (rows + nodes) * headDim,
    copies: LAYERS,
    prepare() {
      const { common, q, cache } = attentionArgs(size)
      const tree = parseTree(nodes, 63)
      const out = new Float32Array(nodes * width)
      const item = { q, cache, nodes, rows, depths: tree.depths, ...pathsOf(tree), position: rows, out }
      return { args: { ...common, items: [item], outStride: width, copies: LAYERS }, results: [out] }
    },
  }
}

function causalAttention(name: ShapeName, tokens: number, rows: number): OperationCase {
  const shape = SHAPES[name]
  const size = { shape, tokens, rows }
  const { queryHeads, headDim } = shape
  const width = queryHeads * headDim
  return {
    operation: 'causalAttention',
    name: `${name}, ${tokens} tokens behind ${rows}`,
    bytes: kvBytes(size) + FLOAT * 2 * tokens * width,
    flops: 4 * queryHeads * headDim * (tokens * rows + (tokens * (tokens + 1)) / 2),
    copies: 1,
    prepare() {
      const { common, q, cache } = attentionArgs(size)
      const out = new Float32Array(tokens * width)
      return { args: { ...common, q, cache, tokens, rows, position: rows, out, outStride: width }, results: [out] }
    },
  }
}

function attentionVotes(name: ShapeName, rows: number): OperationCase {
  const shape = SHAPES[name]
  const size = { shape, tokens: WINDOW, rows }
  const { queryHeads, headDim } = shape
  return {
    operation: 'attentionVotes',
    name: `${name}, ${WINDOW} queries over ${rows} rows`,
    bytes: 2 * kvBytes(size, 1),
    flops: 4 * WINDOW * queryHeads * (rows + WINDOW) * headDim,
    copies: 1,
    prepare() {
      const { common, q, cache } = attentionArgs(size)
      const votes = new Float32Array(queryHeads * rows)
      const args = {
        ...common,
        q,
        cache,
        tokens: WINDOW,
        rows,
        position: rows,
        voteRows: rows,
        votes,
        votesStride: rows,
      }
      return { args, results: [votes] }
    },
  }
}

function snapkvSelect(name: ShapeName, rows: number): OperationCase {
  const { queryHeads, kvHeads } = SHAPES[name]
  const count = BUDGET - WINDOW
  return {
    operation: 'snapkvSelect',
    name: `${name}, ${count} of ${rows} rows`,
    bytes: FLOAT * queryHeads * rows,
    // The mean over the query heads and the maximum over the pool.
    flops: queryHeads * rows + kvHeads * rows * POOL_SIZE,
    copies: 1,
    prepare() {
      const votes = normals(queryHeads * rows, 4).map(Math.abs)
      const kept = new Int32Array(kvHeads * count)
      const rule = { pool: 'max', poolSize: POOL_SIZE, groupReduce: 'mean' }
      const args = {
        ...rule,
        votes,
        votesStride: rows,
        queryHeads,
        kvHeads,
        n: rows,
        count,
        rows: kept,
        rowsStride: count,
      }
      return { args, results: [kept] }
    },
  }
}

function kvGather(name: ShapeName, rows: number): OperationCase {
  const { kvHeads, headDim } = SHAPES[name]
  const groups = Math.ceil(rows / 32)
  const tileBytes = 1024
  return {
    operation: 'kvGather',
    name: `${name}, ${BUDGET} of ${rows} rows`,
    bytes: 2 * 2 * 2 * kvHeads * BUDGET * headDim,
    flops: 0,
    copies: 1,
    prepare() {
      const random = (bytes: number, seed: number): Uint8Array => {
        const words = new Uint32Array(bytes / 4)
        new RandomWeights(seed, 1).fillPairs(words)
        return new Uint8Array(words.buffer)
      }
      const cacheK = random(kvHeads * groups * 2 * Math.ceil(headDim / 32) * tileBytes, 5)
      const cacheV = random(kvHeads * groups * Math.ceil(headDim / 16) * tileBytes, 6)
      const keep = Int32Array.from({ length: kvHeads * BUDGET }, (_, i) => Math.floor(((i % BUDGET) * rows) / BUDGET))
      const cache = { kvHeads, headDim, dtype: 'bf16', capacity: rows, cacheK, cacheV, positions: null }
      return { args: { ...cache, first: 0, keep, rowsStride: BUDGET, count: BUDGET }, results: [cacheK, cacheV] }
    },
  }
}

function posterior(name: ShapeName, nodes: number): OperationCase {
  const { vocab } = SHAPES[name]
  return {
    operation: 'posterior',
    name: `${name}, T = ${nodes}, greedy`,
    bytes: FLOAT * nodes * vocab,
    flops: nodes * vocab,
    copies: 1,
    prepare() {
      const logits = normals(nodes * vocab, 7, 4)
      const node = (i: number) => ({
        logits: logits.subarray(i * vocab, (i + 1) * vocab),
        sampling: GREEDY_SAMPLING,
        inPrompt: null,
        outputCounts: null,
        pathTokens: new Int32Array(0),
        generated: 0,
        position: 0,
        childTokens: new Int32Array(0),
        typical: false,
        logprobs: -1,
      })
      return { args: { vocab, nodes: Array.from({ length: nodes }, (_, i) => node(i)) }, results: [] }
    },
  }
}

function topK(name: ShapeName, heads: number): OperationCase {
  const { vocab } = SHAPES[name]
  return {
    operation: 'topK',
    name: `${name}, ${DRAFTS} of ${vocab}, ${heads} heads`,
    bytes: FLOAT * heads * vocab,
    flops: heads * vocab,
    copies: 1,
    prepare() {
      const ids = new Int32Array(heads * DRAFTS)
      const scores = normals(heads * vocab, 8, 4)
      return { args: { scores, stride: vocab, rows: heads, columns: vocab, k: DRAFTS, ids }, results: [ids] }
    },
  }
}

function rmsNorm(name: ShapeName, rows: number): OperationCase {
  const { hidden } = SHAPES[name]
  return {
    operation: 'rmsNorm',
    name: `${name}, ${rows} x ${hidden}`,
    bytes: FLOAT * (2 * rows * hidden + hidden),
    flops: 4 * rows * hidden,
    copies: 1,
    prepare() {
      const out = new Float32Array(rows * hidden)
      const x = normals(rows * hidden, 9)
      const weight = normals(hidden, 10)
      const args = {
        x,
        xStride: hidden,
        rows,
        width: hidden,
        weight,
        eps: 1e-5,
        dtype: 'bf16',
        operand: true,
        out,
        outStride: hidden,
      } as const
      return { args, results: [out] }
    },
  }
}

function rope(name: ShapeName, tokens: number): OperationCase {
  const { queryHeads: heads, headDim } = SHAPES[name]
  const width = heads * headDim
  return {
    operation: 'rope',
    name: `${name}, ${tokens} tokens`,
    bytes: FLOAT * tokens * (2 * width + headDim),
    flops: 3 * tokens * width,
    copies: 1,
    prepare() {
      const out = new Float32Array(tokens * width)
      const angles = (of: (angle: number) => number): Float32Array =>
        Float32Array.from({ length: (tokens * headDim) / 2 }, (_, i) => of(i / 100))
      const x = normals(tokens * width, 11)
      const strides = { xStride: width, outStride: width, outHeadStride: headDim }
      const args = {
        ...strides,
        x,
        tokens,
        heads,
        headDim,
        cos: angles(Math.cos),
        sin: angles(Math.sin),
        asBf16: true,
        out,
      }
      return { args, results: [out] }
    },
  }
}

function siluMul(name: ShapeName, rows: number): OperationCase {
  const { ffn: width } = SHAPES[name]
  return {
    operation: 'siluMul',
    name: `${name}, ${rows} x ${width}`,
    bytes: FLOAT * 3 * rows * width,
    // A polynomial of degree 7 and its surroundings, a division and two products.
    flops: 20 * rows * width,
    copies: 1,
    prepare() {
      const out = new Float32Array(rows * width)
      const x = normals(rows * 2 * width, 12)
      return {
        args: { x, xStride: 2 * width, rows, width, dtype: 'bf16' as const, out, outStride: width },
        results: [out],
      }
    },
  }
}

/** By operation. */
export const CASES = {
  treeAttention: (shape: ShapeName) =>
    [1024, 12000].flatMap((rows) => [1, 4, 16, 64].map((nodes) => treeAttention(shape, nodes, rows))),
  causalAttention: (shape: ShapeName) => [0, 1536].map((rows) => causalAttention(shape, 512, rows)),
  attentionVotes: (shape: ShapeName) => [attentionVotes(shape, 12000)],
  snapkvSelect: (shape: ShapeName) => [snapkvSelect(shape, 12000)],
  kvGather: (shape: ShapeName) => [kvGather(shape, 12000)],
  posterior: (shape: ShapeName) => [1, 16, 64].map((nodes) => posterior(shape, nodes)),
  topK: (shape: ShapeName) => [topK(shape, 4)],
  rmsNorm: (shape: ShapeName) => [1, 16, 512].map((rows) => rmsNorm(shape, rows)),
  rope: (shape: ShapeName) => [1, 16, 512].map((tokens) => rope(shape, tokens)),
  siluMul: (shape: ShapeName) => [1, 16, 512].map((rows) => siluMul(shape, rows)),
  ...TRAINING_CASES,
} as const satisfies Record<string, (shape: ShapeName) => OperationCase[]>

export type OperationName = keyof typeof CASES
export const OPERATION_NAMES = Object.keys(CASES) as readonly OperationName[]
