// config.json of a heads folder: every spelling in use, read leniently, because the tensors decide.
import { z } from 'zod'

const count = z.int().min(0).nullish()

/** Fields we know. All may be missing, and published files get some of them wrong. */
export const HeadsConfig = z.looseObject({
  /** The model the heads were trained on. */
  base_model_name_or_path: z.string().nullish(),
  /** Layouts A to C. */
  medusa_num_heads: count,
  medusa_num_layers: count,
  /** `2` on layout B: the base lm_head projects. */
  version: z.union([z.string(), z.number()]).nullish(),
  /** `medusa` on layout E, whose fields follow. */
  model_type: z.string().nullish(),
  hidden_size: count,
  vocab_size: count,
  num_heads: count,
  num_hidden_layers: count,
  /** Rows of the projections when fewer than vocab_size; needs a token map. */
  truncated_vocab_size: count,
  /** Whether blocks have biases. */
  medusa_fc_bias: z.boolean().nullish(),
  /** One projection for all heads. */
  original_lm_head: z.boolean().nullish(),
  /** Multiplies logits: the order of drafts does not depend on it while it is positive. */
  logit_scale: z.number().nullish(),
})
export type HeadsConfig = z.output<typeof HeadsConfig>

/** Number of heads and of blocks that a configuration declares; null where it says nothing. */
export interface DeclaredHeads {
  readonly medusaHeads: number | null
  readonly blocks: number | null
}

export function declaredHeads(config: HeadsConfig): DeclaredHeads {
  // num_hidden_layers of any other model type counts the layers of a backbone.
  const own = config.model_type === 'medusa'
  return {
    medusaHeads: config.medusa_num_heads ?? (own ? config.num_heads : null) ?? null,
    blocks: config.medusa_num_layers ?? (own ? config.num_hidden_layers : null) ?? null,
  }
}
