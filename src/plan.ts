// One request's options, resolved against an engine: what generate() follows.
import type { AcceptRule } from './decode/accept.js'
import { NODE_LIMIT } from './decode/choices.js'
import { randomSeed, samplingSpecOf } from './decode/sampling.js'
import { PLAIN_TREE, parseTree, type Tree, type TreeOption } from './decode/tree.js'
import { GorgonError } from './errors.js'
import type { SamplingSpec } from './native.js'
import {
  type GenerateOptions,
  type KvOptions,
  type KvOverrides,
  mergeKv,
  mergeSpeculation,
  type SpeculationOptions,
  type SpeculationOverrides,
} from './options.js'
import type { Tokenizer } from './text/tokenizer.js'

export interface Plan {
  /** Of a step with all its nodes; `PLAIN_TREE` without speculation. */
  readonly tree: Tree
  readonly accept: AcceptRule
  readonly sampling: SamplingSpec
  /** Null when nothing is drawn. */
  readonly seed: bigint | null
  readonly kv: KvOptions
  readonly maxTokens: number
  readonly stopIds: ReadonlySet<number>
  readonly stopStrings: readonly string[]
  readonly onPrefill: GenerateOptions['onPrefill']
}

/** What a plan depends on beside the request. */
export interface PlanContext {
  readonly speculation: SpeculationOptions
  readonly kv: KvOptions
  readonly medusaHeads: number
  readonly eosIds: readonly number[]
  readonly vocab: number
  readonly tokenizer: Tokenizer | null
}

/** What a session's turns share. */
export interface TurnDefaults {
  readonly speculation?: SpeculationOverrides | undefined
  readonly kv?: KvOverrides | undefined
}

/**
 * Greedy decoding has one right token after each: being likely enough is not enough.
 *
 * Source: FasterDecoding/Medusa:medusa/model/utils.py, `evaluate_posterior`
 */
const GREEDY: AcceptRule = { rule: 'exact' }

/** By name: all trees that can be asked for without writing out paths, so there are not many. */
const trees = new Map<string, Tree>()

/** A tree's depth-limited kin are remembered with the object, so every request for a shape gets the same object. */
function treeOf(option: TreeOption, medusaHeads: number): Tree {
  const tree = parseTree(option, medusaHeads)
  if (typeof option === 'object') return tree
  const known = trees.get(tree.name) ?? tree
  trees.set(tree.name, known)
  return known
}

/** A tree that will not be used may be deeper than the heads, but a misspelt one is a mistake all the same. */
function unusedTree(option: TreeOption): Tree {
  treeOf(option, NODE_LIMIT)
  return PLAIN_TREE
}

/**
 * @throws {GorgonError} ERR_OPTION, ERR_TREE, ERR_TOKEN_RANGE, ERR_TOKENIZER when the request asks for what this engine cannot do.
 */
export function resolvePlan(options: GenerateOptions, context: PlanContext, defaults: TurnDefaults = {}): Plan {
  const speculation = mergeSpeculation(context.speculation, defaults.speculation, options.speculation)
  if (speculation.mode === 'medusa' && context.medusaHeads === 0) {
    throw new GorgonError(
      'ERR_OPTION',
      'speculation.mode is "medusa", but this engine has no Medusa heads. Load it with heads, or use mode "auto" or "off".',
      { path: 'speculation.mode', value: speculation.mode },
    )
  }
  if (options.stop.length > 0 && !context.tokenizer) {
    throw new GorgonError(
      'ERR_TOKENIZER',
      'stop names text, but the model folder has no tokenizer.json, so there is no text to find it in. Use stopTokenIds.',
      { stop: options.stop },
    )
  }
  const seed = options.seed ?? randomSeed()
  return {
    tree: speculation.mode === 'off' ? unusedTree(speculation.tree) : treeOf(speculation.tree, context.medusaHeads),
    accept: options.temperature === 0 ? GREEDY : speculation.accept,
    sampling: samplingSpecOf(options, { seed, eosIds: context.eosIds, vocab: context.vocab }),
    seed: options.temperature === 0 ? null : seed,
    kv: mergeKv(context.kv, defaults.kv, options.kv),
    maxTokens: options.maxTokens,
    stopIds: new Set([...(options.ignoreEos ? [] : context.eosIds), ...options.stopTokenIds]),
    stopStrings: options.stop,
    onPrefill: options.onPrefill,
  }
}
