// Random cases of attention, and running one on an instruction set.
import type { AttentionCase, AttentionShape } from '../oracle/attention.js'
import { type Dtype, round } from '../oracle/dtype.js'
import { isCpu, POISON } from './backend.js'
import { EPSILON, tolerance } from './compare.js'
import { type CacheArgs, ops, roundUp, strided, type TreeItemArgs } from './ops.js'
import { Output } from './output.js'
import type { Random } from './random.js'

/** A case with the arrays an operation takes. */
export interface AttentionInputs extends AttentionCase {
  readonly dtype: Dtype
  readonly q: Float32Array
  readonly k: Float32Array
  readonly v: Float32Array
  readonly positions: Int32Array | null
}

export interface AttentionOptions extends AttentionShape {
  readonly dtype: Dtype
  readonly rows: number
  readonly tokens: number
  /** 0 for none; the committed rows then have gaps between their positions, as after compression. */
  readonly window?: number
  /** [T] depths of a tree's nodes; left out, the tokens follow each other. */
  readonly depths?: ArrayLike<number>
  /** Standard deviation of the queries: larger makes the softmax sharper. */
  readonly scale?: number
}

/** Grouped, multi-head and multi-query: query heads, KV heads. */
export const HEAD_COUNTS = [
  [1, 1],
  [4, 4],
  [4, 1],
  [3, 1],
  [6, 2],
  [8, 2],
  [8, 1],
] as const

export const HEAD_WIDTHS = [8, 16, 64, 80, 96, 128, 256]

/** Rows around every boundary there is: vector, group of rows, chunk. */
export const ROW_COUNTS = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 97, 127, 128, 129, 255, 256, 257]

export function attentionInputs(random: Random, options: AttentionOptions): AttentionInputs {
  const { dtype, queryHeads, kvHeads, headDim, rows, tokens, window = 0, scale = 1 } = options
  const values = (count: number, deviation: number, as: Dtype) =>
    random.normals(count, deviation).map((value) => round(as, value))
  const all = rows + tokens
  const position = window > 0 ? rows + random.integer(0, 2 * rows) : rows
  let positions: Int32Array | null = null
  if (window > 0) {
    positions = new Int32Array(kvHeads * all)
    for (let h = 0; h < kvHeads; h++) {
      positions.set(random.choose(position, rows), h * all)
      for (let t = 0; t < tokens; t++) positions[h * all + rows + t] = position + (options.depths?.[t] ?? t)
    }
  }
  return {
    dtype,
    queryHeads,
    kvHeads,
    headDim,
    rows,
    tokens,
    window,
    position,
    positions,
    q: values(tokens * queryHeads * headDim, scale, isRounded(dtype) ? dtype : 'f32'),
    k: values(kvHeads * all * headDim, 1, dtype),
    v: values(kvHeads * all * headDim, 1, dtype),
  }
}

/** Whether queries, weights and results are of the cache's dtype: on the CPU f16 caches meet f32. */
export const isRounded = (dtype: Dtype): boolean => dtype === 'bf16' || (dtype === 'f16' && !isCpu)

/** The cache of a case. Its memory goes on behind the last row: there lies what no operation may read. */
export function cacheOf({ k, v, positions }: AttentionInputs, poison = POISON): CacheArgs {
  return { k, v, positions, poison }
}

/** [T, Hq, D'] with zeros past D. */
export function paddedQueries({ q, tokens, queryHeads, headDim }: AttentionInputs): Float32Array {
  return strided(q, tokens * queryHeads, headDim, roundUp(headDim, 32))
}

/** Some tokens, or nodes, of a case: the rows of all of them in the cache are those of `tokens` from `first` on. */
export function tokensOf(c: AttentionInputs, first: number, tokens: number): AttentionInputs {
  const { queryHeads, kvHeads, headDim, rows, positions } = c
  const all = rows + c.tokens
  const kept = rows + first + tokens
  const cut = <T extends Float32Array | Int32Array>(values: T, width: number): T => {
    const out = values.slice(0, kvHeads * kept * width) as T
    for (let h = 0; h < kvHeads; h++) {
      out.set(values.subarray(h * all * width, (h * all + kept) * width), h * kept * width)
    }
    return out
  }
  return {
    ...c,
    rows: rows + first,
    tokens,
    position: c.position + first,
    positions: positions && cut(positions, 1),
    q: c.q.slice(first * queryHeads * headDim, (first + tokens) * queryHeads * headDim),
    k: cut(c.k, headDim),
    v: cut(c.v, headDim),
  }
}

/** [T, Hq, D] of causal_attention. */
export function runCausal(isa: string, threads: number, c: AttentionInputs, poison?: number): Float32Array {
  const { queryHeads, kvHeads, headDim, dtype, tokens, rows, position, window } = c
  const width = queryHeads * headDim
  const out = new Output({ rows: tokens, width, stride: width + 5 })
  ops.causalAttention(isa, threads, {
    dtype,
    queryHeads,
    kvHeads,
    headDim,
    window,
    tokens,
    rows,
    position,
    q: paddedQueries(c),
    cache: cacheOf(c, poison),
    out: out.array,
    outStride: out.stride,
  })
  return out.values()
}

/** Where each node is, below its root. */
export interface TreeShape {
  readonly parents: Int32Array
  readonly depths: Int32Array
  /** [N, pathStride]. */
  readonly paths: Int32Array
  readonly pathStride: number
}

export function treeShape(parents: ArrayLike<number>): TreeShape {
  const nodes = parents.length
  const pathsOf = Array.from(parents, (_, node) => {
    const path: number[] = []
    for (let n = node; n >= 0; n = parents[n]!) path.unshift(n)
    return path
  })
  const pathStride = Math.max(...pathsOf.map((path) => path.length)) + 1
  const paths = new Int32Array(nodes * pathStride).fill(-1)
  pathsOf.forEach((path, node) => {
    paths.set(path, node * pathStride)
  })
  return {
    parents: Int32Array.from(parents),
    depths: Int32Array.from(pathsOf, (path) => path.length - 1),
    paths,
    pathStride,
  }
}

/** A random tree of `nodes` nodes, none deeper than `depth`. */
export function randomTree(random: Random, nodes: number, depth: number): TreeShape {
  const parents = [-1]
  const depths = [0]
  while (parents.length < nodes) {
    // Recent nodes more often than old ones: deep trees.
    const parent = random.integer(Math.max(0, parents.length - random.integer(1, 8)), parents.length - 1)
    if (depths[parent]! >= depth) {
      parents.push(0)
      depths.push(1)
      continue
    }
    parents.push(parent)
    depths.push(depths[parent]! + 1)
  }
  return treeShape(parents)
}

/** [N, Hq, D] of each item of one call of tree_attention. Items share everything but their queries, caches and trees. */
export function runTrees(
  isa: string,
  threads: number,
  items: readonly { readonly inputs: AttentionInputs; readonly tree: TreeShape }[],
  poison = POISON,
): Float32Array[] {
  const { queryHeads, kvHeads, headDim, dtype, window } = items[0]!.inputs
  const width = queryHeads * headDim
  const outStride = width + 5
  const outs = items.map(({ inputs }) => new Output({ rows: inputs.tokens, width, stride: outStride }))
  ops.treeAttention(isa, threads, {
    dtype,
    queryHeads,
    kvHeads,
    headDim,
    window,
    outStride,
    items: items.map(
      ({ inputs, tree }, i): TreeItemArgs => ({
        q: paddedQueries(inputs),
        cache: cacheOf(inputs, poison),
        nodes: inputs.tokens,
        rows: inputs.rows,
        depths: tree.depths,
        paths: tree.paths,
        pathStride: tree.pathStride,
        position: inputs.position,
        out: outs[i]!.array,
      }),
    ),
  })
  return outs.map((out) => out.values())
}

const largestNorm = (values: Float32Array, width: number): number => {
  let largest = 0
  for (let at = 0; at < values.length; at += width)
    largest = Math.max(largest, Math.hypot(...values.subarray(at, at + width)))
  return largest
}

/** Largest |q| |k| / sqrt(D): no score is larger. */
export const largestScore = ({ q, k, headDim }: AttentionInputs): number =>
  (largestNorm(q, headDim) * largestNorm(k, headDim)) / Math.sqrt(headDim)

/** How far an attended value may be from the oracle's: weights inherit the error of their scores. */
export function attentionTolerance(c: AttentionInputs): number {
  const magnitude = c.v.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0)
  const ofScores = tolerance({
    epsilon: EPSILON.f32,
    reduction: Math.ceil(c.headDim / 32) + 4,
    magnitude: (1 + largestScore(c)) * magnitude,
    // Exponentials of a device are of the power of two, and approximate.
    factor: isCpu ? 0.5 : 2,
  })
  if (!isRounded(c.dtype)) return ofScores
  // The weights are rounded, all of them a little, and then the result.
  return ofScores + tolerance({ epsilon: EPSILON[c.dtype], reduction: 1, magnitude, factor: 1 })
}
