// Oracle of a whole model: the operations' oracles in the order data moves, over any rows that see any others.
import { type AttentionCase, attention } from './attention.js'
import { embed } from './embed.js'
import { linear } from './linear.js'
import { rmsNorm } from './rms-norm.js'
import { rope } from './rope.js'
import { siluMul } from './silu-mul.js'

type Values = ArrayLike<number>

export interface OracleWeight {
  /** [N, K]. */
  w: Values
  /** [N]. */
  bias: Values | null
}

export interface OracleLayer {
  attnNorm: Values
  q: OracleWeight
  k: OracleWeight
  v: OracleWeight
  o: OracleWeight
  /** [D], over each head before rotation. */
  qNorm: Values | null
  kNorm: Values | null
  ffnNorm: Values
  gate: OracleWeight
  up: OracleWeight
  down: OracleWeight
  /** Positions a row sees; 0 for all. */
  window: number
}

export interface OracleModel {
  hidden: number
  queryHeads: number
  kvHeads: number
  headDim: number
  rmsEps: number
  /** [D/2]: angle of pair i at position p is p * frequencies[i]. */
  frequencies: Values
  embed: Values
  layers: OracleLayer[]
  finalNorm: Values
  lmHead: Values
}

/** A token somewhere in a text. */
export interface OracleRow {
  token: number
  position: number
}

/** The rows a row sees, of one layer and KV head: indices into all rows, its own included. Windows are applied besides. */
export type Sees = (row: number, layer: number, kvHead: number) => readonly number[]

/** A text: every row sees all before it. */
export const causal: Sees = (row) => Array.from({ length: row + 1 }, (_, before) => before)

/** Nodes behind a text of `count` rows: each sees what `ofText` leaves of the text, and its path from the root. */
export function treeBehind(
  count: number,
  parents: Values,
  ofText: (layer: number, kvHead: number) => readonly number[],
): Sees {
  return (row, layer, kvHead) => {
    if (row < count) return causal(row, layer, kvHead)
    const path: number[] = []
    for (let node = row - count; node >= 0; node = parents[node]!) path.unshift(count + node)
    return [...ofText(layer, kvHead), ...path]
  }
}

export interface OracleForward {
  /** [n, C] after the final norm. */
  hidden: number[]
  /** Per layer: what its attention was given. */
  attention: AttentionCase[]
}

/** [Hkv, n, D] of [n, Hkv, D]. */
function byHead(values: number[], { kvHeads, headDim }: OracleModel): number[] {
  const n = values.length / (kvHeads * headDim)
  const out: number[] = []
  for (let h = 0; h < kvHeads; h++) {
    for (let row = 0; row < n; row++) {
      for (let d = 0; d < headDim; d++) out.push(values[(row * kvHeads + h) * headDim + d]!)
    }
  }
  return out
}

export function forward(model: OracleModel, rows: readonly OracleRow[], sees: Sees): OracleForward {
  const { hidden, queryHeads, kvHeads, headDim, rmsEps } = model
  const n = rows.length
  // Angles are f32 products, as checkpoints are trained with; their sine and cosine are exact.
  const angles = rows.flatMap(({ position }) => Array.from(model.frequencies, (f) => Math.fround(position * f)))
  const cos = angles.map(Math.cos)
  const sin = angles.map(Math.sin)
  const project = (x: Values, { w, bias }: OracleWeight, depth: number) =>
    linear(x, w, { rows: n, depth, columns: w.length / depth }, bias)
  const headNorm = (x: number[], weight: Values | null) => (weight === null ? x : rmsNorm(x, weight, rmsEps))

  let x = embed(
    rows.map(({ token }) => token),
    model.embed,
    hidden,
  )
  const cases: AttentionCase[] = []
  model.layers.forEach((layer, index) => {
    const normed = rmsNorm(x, layer.attnNorm, rmsEps)
    const q = rope(headNorm(project(normed, layer.q, hidden), layer.qNorm), cos, sin, {
      tokens: n,
      heads: queryHeads,
      headDim,
    })
    const k = rope(headNorm(project(normed, layer.k, hidden), layer.kNorm), cos, sin, {
      tokens: n,
      heads: kvHeads,
      headDim,
    })
    const v = project(normed, layer.v, hidden)
    const c: AttentionCase = {
      queryHeads,
      kvHeads,
      headDim,
      q,
      k: byHead(k, model),
      v: byHead(v, model),
      rows: 0,
      tokens: n,
      position: rows[0]!.position,
      window: layer.window,
      positions: null,
    }
    cases.push(c)
    const attended = attention(c, (row, kvHead) => {
      const oldest = layer.window === 0 ? Number.NEGATIVE_INFINITY : rows[row]!.position - layer.window + 1
      return sees(row, index, kvHead).filter((other) => rows[other]!.position >= oldest)
    })
    x = project(attended, layer.o, queryHeads * headDim).map((value, i) => value + x[i]!)

    const again = rmsNorm(x, layer.ffnNorm, rmsEps)
    const ffn = layer.gate.w.length / hidden
    const gate = project(again, layer.gate, hidden)
    const up = project(again, layer.up, hidden)
    const gated = siluMul(
      rows.flatMap((_, row) => [...gate.slice(row * ffn, (row + 1) * ffn), ...up.slice(row * ffn, (row + 1) * ffn)]),
      ffn,
    )
    x = project(gated, layer.down, ffn).map((value, i) => value + x[i]!)
  })
  return { hidden: rmsNorm(x, model.finalNorm, rmsEps), attention: cases }
}

/** [n, V] of hidden rows [n, C]. */
export function logits({ hidden: width, lmHead }: OracleModel, hidden: Values): number[] {
  return linear(hidden, lmHead, { rows: hidden.length / width, depth: width, columns: lmHead.length / width })
}

/** ln of the softmax of one row. */
export function logSoftmax(row: readonly number[]): number[] {
  const top = Math.max(...row)
  const sum = row.reduce((total, value) => total + Math.exp(value - top), 0)
  return row.map((value) => value - top - Math.log(sum))
}
