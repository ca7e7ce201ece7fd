// How large a tree should be: what steps commit, by calibration texts, against what steps take, by measurement.
import { CHOICES, type Choices, firstPaths } from '../../src/decode/choices.js'
import { type StepCosts, stepMs } from '../../src/decode/step-costs.js'
import { AUTO_SIZES } from '../../src/decode/tree-family.js'
import type { Trace } from './trace.js'
import { type Rate, rateOf, walkTexts } from './walk.js'

/** What decoding with a tree of some size promises. */
export interface SizeRate extends Rate {
  /** Root included; 1 is plain decoding. */
  readonly nodes: number
  /** Heads that draft for it. */
  readonly depth: number
  /** Tokens per step of as many nodes of `mc_sim_7b_63`, the tree for heads nobody measured. */
  readonly unmeasured: number
  /** Null where step costs are not known. */
  readonly stepMs: number | null
  readonly tokensPerSecond: number | null
  /** Over plain decoding. */
  readonly speedup: number | null
}

/** As `SizeRate`, without a clock. */
export type SizeTokens = Omit<SizeRate, 'stepMs' | 'tokensPerSecond' | 'speedup'>

/** @param grown in the order they grew. */
export function sizeTokens(grown: Choices, traces: readonly Trace[]): SizeTokens[] {
  const medusaHeads = traces[0]?.medusaHeads ?? 0
  const unmeasured = CHOICES.mc_sim_7b_63.filter((path) => path.length <= medusaHeads)
  const sizes = [1, ...AUTO_SIZES.filter((size) => size <= grown.length), grown.length + 1]
  return sizes.map((nodes) => {
    const paths = firstPaths(grown, nodes - 1)
    return {
      nodes,
      depth: Math.max(0, ...paths.map((path) => path.length)),
      ...rateOf(walkTexts(paths, traces)),
      unmeasured: rateOf(walkTexts(unmeasured.slice(0, nodes - 1), traces)).tokensPerStep,
    }
  })
}

/** @param cacheRows that each step attends to. */
export function timeSizes(sizes: readonly SizeTokens[], costs: StepCosts | null, cacheRows: number): SizeRate[] {
  if (!costs) return sizes.map((size) => ({ ...size, stepMs: null, tokensPerSecond: null, speedup: null }))
  const msOf = (nodes: number, medusaHeads: number) => stepMs(costs, { nodes, medusaHeads, cacheRows, sequences: 1 })
  const plainMs = msOf(1, 0)
  return sizes.map((size) => {
    const ms = msOf(size.nodes, size.depth)
    return {
      ...size,
      stepMs: ms,
      tokensPerSecond: (1000 * size.tokensPerStep) / ms,
      speedup: (size.tokensPerStep * plainMs) / ms,
    }
  })
}

/** The fastest, or the largest where nobody knows; plain decoding is not among them. */
export function fastest(sizes: readonly SizeRate[]): SizeRate {
  const trees = sizes.filter(({ nodes }) => nodes > 1)
  return trees.reduce((best, size) => ((size.speedup ?? size.nodes) > (best.speedup ?? best.nodes) ? size : best))
}
