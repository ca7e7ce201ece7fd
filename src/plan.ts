// One request's options, resolved against an engine: what generate() follows.
import type { AcceptRule } from './decode/accept.js'
import { NODE_LIMIT } from './decode/choices.js'
import type { GateOptions } from './decode/gate.js'
import { randomSeed, samplingSpecOf } from './decode/sampling.js'
import { parseTree, type TreeOption } from './decode/tree.js'
import { autoFamily, type MeasuredHeads, PLAIN_FAMILY, singleFamily, type TreeFamily } from './decode/tree-family.js'
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
  /** Trees that steps choose among; `PLAIN_FAMILY` without speculation. */
  readonly family: TreeFamily
  /** What lets a step be plain where a tree does not pay; null where none may. */
  readonly gate: GateOptions | null
  /** Why there is no gate; empty where there is one. */
  readonly gateless: string
  /** Whether the text depends on the trees chosen, so that one choice has to hold to the end. */
  readonly isFixed: boolean
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
  /** How often the heads' drafts are right. */
  readonly measured: MeasuredHeads
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

/** By what is known of the heads, then by name: all that can be asked for without writing out paths, so there are not many. */
const families = new WeakMap<MeasuredHeads, Map<string, TreeFamily>>()

/** Trees are remembered with their family, as is what was learnt about them, so every request for a shape gets the same object. */
function familyOf(option: TreeOption, { measured, medusaHeads }: PlanContext): TreeFamily {
  if (typeof option === 'object') return singleFamily(parseTree(option, medusaHeads), measured)
  const known = families.get(measured) ?? new Map<string, TreeFamily>()
  families.set(measured, known)
  const asked = known.get(`${option} of ${medusaHeads}`)
  if (asked) return asked
  const family =
    option === 'auto' ? autoFamily(measured, medusaHeads) : singleFamily(parseTree(option, medusaHeads), measured)
  // By the name of the family: a tree can be spelt in any number of ways.
  const name = `${family.name} of ${medusaHeads}`
  const same = known.get(name) ?? family
  known.set(name, same)
  return same
}

/** A tree that will not be used may be deeper than the heads, but a misspelt one is a mistake all the same. */
function unusedTree(option: TreeOption): TreeFamily {
  if (option !== 'auto') parseTree(option, NODE_LIMIT)
  return PLAIN_FAMILY
}

/** Why every step is as it is; null where the gate decides. */
function withoutGate({ mode, gate, accept, tree }: SpeculationOptions, isExact: boolean): string | null {
  if (mode === 'off') return 'Speculation is off'
  if (mode === 'medusa') return 'Mode "medusa" speculates at every step'
  if (gate === false) return 'The gate is off'
  if (accept.rule === 'typical' && !isExact && tree !== 'auto') {
    return 'With typical acceptance the text depends on the tree, and one was named'
  }
  return null
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
  const accept = options.temperature === 0 ? GREEDY : speculation.accept
  const gateless = withoutGate(speculation, accept.rule === 'exact')
  return {
    family: speculation.mode === 'off' ? unusedTree(speculation.tree) : familyOf(speculation.tree, context),
    gate: gateless === null && speculation.gate !== false ? speculation.gate : null,
    gateless: gateless ?? '',
    isFixed: accept.rule === 'typical',
    accept,
    sampling: samplingSpecOf(options, { seed, eosIds: context.eosIds, vocab: context.vocab }),
    seed: options.temperature === 0 ? null : seed,
    kv: mergeKv(context.kv, defaults.kv, options.kv),
    maxTokens: options.maxTokens,
    stopIds: new Set([...(options.ignoreEos ? [] : context.eosIds), ...options.stopTokenIds]),
    stopStrings: options.stop,
    onPrefill: options.onPrefill,
  }
}
