// Prompt length and options to a compression plan, or none.
import type { CompressionSpec } from '../native.js'
import type { KvOptions } from '../options.js'

/**
 * How the cache is compressed at the end of a turn's prefill; null keeps every row.
 *
 * Nothing is compressed while the rows fit the budget: the gain would be nil and the loss need not be. Selection depends on the
 * question: rows are kept for what the window of *this* turn looks at. So later turns have a choice. `recompress` scores all rows again,
 * those of earlier turns included, and holds memory to the budget for good; rows dropped once are gone, whatever a later turn asks.
 * `frozen` compresses the first prompt only and appends every later turn whole: nothing that was said later is ever lost, and memory
 * grows with the conversation.
 *
 * The window shrinks to the turn when the turn is shorter: only its own queries are there to vote, and the rows before it compete by
 * score like any others. In a first turn this cannot happen, as a prompt over the budget is longer than the window.
 *
 * @param rows rows per KV head already held, before this turn; 0 in the first.
 * @param newTokens tokens this turn prefills, at least 1.
 */
export function planCompression({
  rows,
  newTokens,
  kv,
}: {
  readonly rows: number
  readonly newTokens: number
  readonly kv: KvOptions
}): CompressionSpec | null {
  if (kv.policy === 'full' || rows + newTokens <= kv.budget) return null
  if (kv.turns === 'frozen' && rows > 0) return null
  return {
    policy: kv.policy,
    budget: kv.budget,
    window: Math.min(kv.window, newTokens),
    poolSize: kv.poolSize,
    pool: kv.pool,
    groupReduce: kv.groupReduce,
    sinks: kv.sinks,
    reportKept: kv.reportKept,
  }
}
