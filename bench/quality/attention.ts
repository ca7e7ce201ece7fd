// The attention a model pays, and the rows a policy would keep: straight from the addon, which lets benchmarks see what the engine hides.
import type { EngineInfo } from '../../src/index.js'
import { type ModelHandle, native } from '../../src/native.js'
import type { Arm } from './arms.js'
import type { LayerVotes } from './hit-rates.js'
import { CHUNK, openCopy } from './model-copy.js'

export interface AttentionModel {
  readonly layers: number
  readonly queryHeads: number
  readonly kvHeads: number
  /**
   * A text through the model.
   *
   * @param ranges first token and the one behind the last, of each
   * @returns per layer, the attention that the queries of each range pay to every token, added up
   */
  votes(tokens: Int32Array, ranges: readonly (readonly [number, number])[]): LayerVotes[]
  /** The rows of a prompt that an arm keeps, per KV head. `window` and `all` are the ranges of the window and of the whole prompt. */
  kept(arm: Arm, layer: LayerVotes, prompt: { tokens: number; window: number; all: number }): Int32Array[]
  close(): Promise<void>
}

const SINKS = 4

/** On a copy of an engine's model. */
export async function openAttention(info: EngineInfo): Promise<AttentionModel> {
  const addon = native()
  const { isa, threads } = info
  const { handle: model, shape, close } = await openCopy(info)
  const { layers, queryHeads, kvHeads } = shape
  const forwardVotes = addon.ops['forwardVotes'] as (
    model: ModelHandle,
    tokens: Int32Array,
    ranges: Int32Array,
    chunk: number,
  ) => Float32Array
  const snapkvSelect = addon.ops['snapkvSelect'] as (isa: string, threads: number, args: object) => void

  /** As the engine's compression selects: votes of the rows before the window, pooled; the window stays. */
  const select = (arm: Arm, layer: LayerVotes, range: number, tokens: number): Int32Array[] => {
    const { window = 0, pool = 'max', poolSize = 1, budget = 0 } = arm.kv
    const prefix = tokens - window
    const count = budget - window
    const rows = new Int32Array(kvHeads * budget)
    snapkvSelect(isa, threads, {
      votes: layer.votes.subarray(range * queryHeads * layer.tokens, (range + 1) * queryHeads * layer.tokens),
      votesStride: layer.tokens,
      queryHeads,
      kvHeads,
      n: prefix,
      pool,
      poolSize,
      groupReduce: 'mean',
      count,
      rows,
      rowsStride: budget,
    })
    return Array.from({ length: kvHeads }, (_, head) => {
      const own = rows.subarray(head * budget, (head + 1) * budget)
      for (let i = 0; i < window; i++) own[count + i] = prefix + i
      return own
    })
  }

  return {
    layers,
    queryHeads,
    kvHeads,
    votes(tokens, ranges) {
      const all = forwardVotes(model, tokens, Int32Array.from(ranges.flat()), CHUNK)
      const size = ranges.length * queryHeads * tokens.length
      return Array.from({ length: layers }, (_, layer) => ({
        votes: all.subarray(layer * size, (layer + 1) * size),
        queryHeads,
        tokens: tokens.length,
      }))
    },
    kept(arm, layer, { tokens, window, all }) {
      const rowsFrom = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i)
      const everyHead = (rows: number[]) => Array.from({ length: kvHeads }, () => Int32Array.from(rows))
      if (arm.budget === null || arm.budget >= tokens) return everyHead(rowsFrom(0, tokens))
      if (arm.kind === 'streaming') {
        const last = arm.budget - SINKS
        return everyHead([...rowsFrom(0, SINKS), ...rowsFrom(tokens - last, last)])
      }
      return select(arm, layer, arm.kind === 'h2o' ? all : window, tokens)
    },
    close,
  }
}
