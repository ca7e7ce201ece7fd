// Heads in a published layout: each tensor's name there, and the configuration its readers expect. Nothing is read or written here.
import { resolve } from 'node:path'
import { GorgonError } from '../../src/errors.js'
import { HEADS_FILE } from '../../src/weights/medusa-heads.js'
import { SINGLE_FILE } from '../../src/weights/tensor-table.js'
import { TOKEN_MAP } from '../format/names.js'
import type { HeadsSource, Stored } from './source.js'

/** Layouts that are written; heads/FORMAT.md describes each. */
export const TARGETS = ['A', 'B', 'E'] as const
export type Target = (typeof TARGETS)[number]

/** The file that readers of a layout look for. */
export const FILE_OF: Readonly<Record<Target, string>> = { A: HEADS_FILE, B: HEADS_FILE, E: SINGLE_FILE }

/** What of the base model heads may need. */
export interface BaseModel {
  /** The folder, absolute. */
  readonly dir: string
  readonly hidden: number
  readonly vocab: number
  /** Or the embedding, where they are tied. */
  readonly lmHead: Stored
}

/** A tensor of the result. */
export interface PublishedTensor {
  readonly name: string
  readonly shape: readonly number[]
  /** Whose bytes it has; null for zeros. */
  readonly from: Stored | null
  /** As stored, before anybody asks for another. */
  readonly dtype: string
}

export interface Published {
  /** In the order they are written. */
  readonly tensors: readonly PublishedTensor[]
  /** config.json */
  readonly config: Readonly<Record<string, unknown>>
  readonly projection: 'base' | 'per-head' | 'shared'
  readonly warnings: readonly string[]
}

/** How a layout names the parts of a head. */
interface Names {
  readonly linear: (head: number, block: number) => string
  readonly projection: (head: number, blocks: number) => string
}
const NUMBERED: Names = {
  linear: (head, block) => `${head}.${block}.linear`,
  projection: (head, blocks) => `${head}.${blocks}.weight`,
}
const NAMES: Readonly<Record<Target, Names>> = {
  A: NUMBERED,
  B: NUMBERED,
  E: {
    linear: (head, block) => `blocks.${head}.layers.${block}`,
    projection: (head) => `lm_heads.${head}.weight`,
  },
}
const SHARED_PROJECTION = 'lm_head.weight'

/** Fields that a layout has of its own, or that tell of the file they were in. */
const OWN_FIELDS: readonly string[] = [
  'architectures',
  'auto_map',
  'base_model_name_or_path',
  'dtype',
  'hidden_size',
  'max_paths',
  'medusa_fc_bias',
  'medusa_num_heads',
  'medusa_num_layers',
  'model_type',
  'num_heads',
  'num_hidden_layers',
  'original_lm_head',
  'topk',
  'torch_dtype',
  'truncated_vocab_size',
  'version',
  'vocab_size',
]
/** vLLM's own defaults. It drafts the best token of each head, and uses neither. */
const MAX_PATHS = 64
const TOP_K = 10

/**
 * The heads in another layout.
 *
 * @param base Their model; null when nobody named it.
 * @throws {GorgonError} ERR_OPTION when the layout needs something of the model, and there is none.
 */
export function publish(source: HeadsSource, target: Target, base: BaseModel | null): Published {
  const { layout, hidden, tokenMap } = source
  const { medusaHeads, blocks } = layout
  const names = NAMES[target]
  const warnings: string[] = []
  const tensors: PublishedTensor[] = []
  const add = (name: string, from: Stored) => tensors.push({ name, shape: from.shape, from, dtype: from.dtype })

  // The others' readers expect a bias on every block, and where vLLM is told of one it expects all.
  const hasBias = blocks > 0 && (target !== 'E' || source.bias !== 'none')
  const missing = hasBias ? medusaHeads * blocks - layout.biasedBlocks : 0
  if (missing > 0)
    warnings.push(`biases that are not stored (${missing}) are written as zeros, which is what their absence means`)

  const projections = target === 'B' ? null : projectionsOf(source, target, base)
  const isShared = target === 'E' && projections !== null && layout.projection !== 'per-head'
  for (let head = 0; head < medusaHeads; head++) {
    for (let block = 0; block < blocks; block++) {
      const weight = source.tensors.get(`${head}.block.${block}.weight`)!
      const bias = source.tensors.get(`${head}.block.${block}.bias`)
      const name = names.linear(head, block)
      add(`${name}.weight`, weight)
      if (bias) add(`${name}.bias`, bias)
      else if (hasBias) tensors.push({ name: `${name}.bias`, shape: [hidden], from: null, dtype: weight.dtype })
    }
    if (projections && !isShared) add(names.projection(head, blocks), projections[head]!)
  }
  if (projections && isShared) add(SHARED_PROJECTION, projections[0]!)
  if (tokenMap && projections) add(TOKEN_MAP, tokenMap)

  const rows = projections?.[0]?.shape[0] ?? null
  const vocab = vocabularyOf(source, base, rows)
  const baseModel = baseModelOf(source, base)
  const rest = Object.entries(source.config).filter(([key]) => !OWN_FIELDS.includes(key))
  if (target === 'E') {
    if (vocab === null) {
      throw new GorgonError(
        'ERR_OPTION',
        `${source.path} has a token map, and nothing says how many tokens its model has, which layout E must. Give its folder as --model.`,
        { heads: source.path },
      )
    }
    return {
      tensors,
      projection: isShared ? 'shared' : 'per-head',
      config: {
        architectures: ['MedusaModel'],
        model_type: 'medusa',
        ...(baseModel === null ? {} : { base_model_name_or_path: baseModel }),
        hidden_size: hidden,
        vocab_size: vocab,
        truncated_vocab_size: rows,
        num_heads: medusaHeads,
        num_hidden_layers: blocks,
        max_paths: source.config['max_paths'] ?? MAX_PATHS,
        topk: source.config['topk'] ?? TOP_K,
        medusa_fc_bias: hasBias,
        original_lm_head: isShared,
        // vLLM takes any other number of heads or layers for that of the heads.
        ...Object.fromEntries(rest.filter(([key]) => !key.includes('num'))),
      },
      warnings,
    }
  }

  if (baseModel === null) {
    warnings.push(
      'nothing says which model the heads are for, which TGI asks for (base_model_name_or_path): give --model',
    )
  }
  if (tokenMap && projections) warnings.push('gorgon alone reads a token map in layout A; TGI does not')
  if (target === 'B' && blocks !== 1) warnings.push(`TGI reads layout B with one block per head; these have ${blocks}`)
  if (source.config.logit_scale != null && source.config.logit_scale !== 1) {
    warnings.push(
      `logit_scale ${source.config.logit_scale} is kept in config.json; TGI does not read it, and drafts the same tokens`,
    )
  }
  return {
    tensors,
    projection: target === 'A' ? 'per-head' : 'base',
    config: {
      medusa_num_heads: medusaHeads,
      medusa_num_layers: blocks,
      ...(baseModel === null ? {} : { base_model_name_or_path: baseModel }),
      ...(target === 'B' ? { version: '2' } : {}),
      ...(tokenMap && projections ? { vocab_size: vocab ?? undefined, truncated_vocab_size: rows } : {}),
      ...Object.fromEntries(rest),
    },
    warnings,
  }
}

/** A projection for each head, the same one for all perhaps. */
function projectionsOf(source: HeadsSource, target: Target, base: BaseModel | null): Stored[] {
  const heads = Array.from({ length: source.layout.medusaHeads }, (_, head) => head)
  if (source.layout.projection !== 'base') return heads.map((head) => source.tensors.get(`${head}.projection`)!)
  if (base === null) {
    throw new GorgonError(
      'ERR_OPTION',
      `${source.path} has no projections of its own, and layout ${target} needs them. Give the model whose lm_head they are as --model.`,
      { heads: source.path, to: target },
    )
  }
  return heads.map(() => base.lmHead)
}

/** Tokens of the base model; null when nothing says. */
function vocabularyOf(source: HeadsSource, base: BaseModel | null, rows: number | null): number | null {
  // Projections padded to a round number say more tokens than the model has, and their readers go by the rows.
  if (source.tokenMap === null) return rows
  return base?.vocab ?? source.config.vocab_size ?? null
}

/** How the model is called in the result. */
function baseModelOf(source: HeadsSource, base: BaseModel | null): string | null {
  // Fused heads were trained together with the model around them, not with the one that it was made from.
  if (source.format === 'C') return source.dir
  const named = source.config.base_model_name_or_path
  if (named == null) return base?.dir ?? null
  // A path from the folder the heads were in leads elsewhere from another.
  return /^\.{1,2}\//.test(named) ? resolve(source.dir, named) : named
}
