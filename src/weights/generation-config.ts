// generation_config.json: which tokens begin and end a text, as generation (rather than training) sees it.
import { z } from 'zod'
import { check } from './config-check.js'
import { MAX_EOS_IDS, type ModelConfig, readTextIds } from './model-config.js'

export interface GenerationConfig {
  /** The token a text begins with; null when the model has none. */
  readonly bosId: number | null
  /** Tokens that end a text; may be empty. */
  readonly eosIds: readonly number[]
  readonly warnings: readonly string[]
}

/** Fields we read; the rest is defaults for other programs' sampling. */
const GenerationJson = z.looseObject({
  bos_token_id: z.int().nullish(),
  eos_token_id: z.union([z.int(), z.array(z.int()).max(MAX_EOS_IDS)]).nullish(),
})

/**
 * What generation_config.json says, and config.json where it is silent. Chat models name further ends of a text only here.
 *
 * @param json Undefined or null when the folder has no such file.
 * @param where The file's name, for messages.
 * @throws {GorgonError} ERR_MODEL_CONFIG when a field is not what it should be.
 */
export function parseGenerationConfig(
  json: unknown,
  config: Pick<ModelConfig, 'bosId' | 'eosIds' | 'shape'>,
  where = 'generation_config.json',
): GenerationConfig {
  const { bosId, eosIds } = config
  if (json === undefined || json === null) return { bosId, eosIds, warnings: [] }
  const fields = check(GenerationJson, json, where)
  const warnings: string[] = []
  const own = readTextIds(
    fields.bos_token_id,
    fields.eos_token_id,
    config.shape.vocab,
    'generation_config.json',
    warnings,
  )
  return { bosId: own.bosId ?? bosId, eosIds: own.eosIds.length > 0 ? own.eosIds : eosIds, warnings }
}
