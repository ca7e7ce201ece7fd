// The rotary part of config.json, in both spellings, to the parameters frequencies are computed from.
import { z } from 'zod'
import { check, configError, unsupported } from './config-check.js'
import { ROPE_TYPES, type Rope } from './rope.js'

/** Past this, f32 no longer tells one position from the next. */
export const MAX_POSITIONS = 1 << 24
export const MAX_ROPE_THETA = 1e12
export const MAX_ROPE_FACTOR = 4096

const DEFAULT_ROPE_THETA = 10_000

const theta = z.number().gt(1).max(MAX_ROPE_THETA)
const factor = z.number().min(1).max(MAX_ROPE_FACTOR)
const positions = z.int().min(1).max(MAX_POSITIONS)

/** Fields of config.json that rotary embedding depends on. */
export const ropeFields = {
  rope_theta: theta.nullish(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  original_max_position_embeddings: positions.nullish(),
  max_sequence_length: positions.nullish(),
}
type RopeFields = z.output<z.ZodObject<typeof ropeFields>>

/** Layer types of transformers that we implement; rope_parameters keyed by them rotate each type its own way. */
export const LAYER_TYPES = ['full_attention', 'sliding_attention']

/** The fields of rope_scaling and rope_parameters. */
const RopeJson = z.looseObject({
  rope_theta: theta.nullish(),
  factor: factor.nullish(),
  low_freq_factor: z.number().positive().max(MAX_ROPE_FACTOR).nullish(),
  high_freq_factor: z.number().positive().max(MAX_ROPE_FACTOR).nullish(),
  original_max_position_embeddings: positions.nullish(),
  beta_fast: z.number().min(0).max(MAX_POSITIONS).nullish(),
  beta_slow: z.number().min(0).max(MAX_POSITIONS).nullish(),
  attention_factor: z.number().positive().max(MAX_ROPE_FACTOR).nullish(),
  mscale: z.number().min(0).max(MAX_ROPE_FACTOR).nullish(),
  mscale_all_dim: z.number().min(0).max(MAX_ROPE_FACTOR).nullish(),
  truncate: z.boolean().nullish(),
})
type RopeJson = z.output<typeof RopeJson>

/** Fields each type reads besides its name and theta. */
const ROPE_FIELDS: Readonly<Record<Rope['type'], readonly string[]>> = {
  default: [],
  linear: ['factor'],
  llama3: ['factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings'],
  yarn: [
    'factor',
    'original_max_position_embeddings',
    'beta_fast',
    'beta_slow',
    'attention_factor',
    'mscale',
    'mscale_all_dim',
    'truncate',
  ],
}
/** Present in published files, of no effect. */
const ROPE_FIELDS_IGNORED = ['rope_theta', 'type', 'rope_type', 'finetuned', 'partial_rotary_factor']

/** Both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters`. Where a file has both, they must agree. */
export function readRope(config: RopeFields, maxPositions: number, where: string, warnings: string[]): Rope {
  const legacy = nonEmpty(config.rope_scaling)
  const current = nonEmpty(config.rope_parameters)
  const merged: Record<string, unknown> = { ...legacy, ...current }
  for (const [key, value] of Object.entries(legacy ?? {})) {
    if (JSON.stringify(merged[key]) !== JSON.stringify(value)) {
      throw configError(where, `has two values for ${key}: one in rope_scaling and one in rope_parameters`)
    }
  }
  const spelling = current ? 'rope_parameters' : 'rope_scaling'
  if (Object.keys(merged).length > 0 && Object.keys(merged).every((key) => LAYER_TYPES.includes(key))) {
    throw unsupported(where, 'rotary embedding that differs between layers', spelling, 'one for all layers')
  }

  const type = merged['rope_type'] ?? merged['type'] ?? (merged['factor'] === undefined ? 'default' : undefined)
  if (typeof type !== 'string') throw configError(where, `has a ${spelling} without rope_type`)
  const known = ROPE_TYPES.find((name) => name === type)
  if (!known) throw unsupported(where, `the rope type "${type}"`, spelling, ROPE_TYPES.join(', '))
  if ('mrope_section' in merged)
    throw unsupported(where, 'multimodal rotary embedding', 'mrope_section', ROPE_TYPES.join(', '))
  const partial = merged['partial_rotary_factor'] ?? 1
  if (partial !== 1) {
    throw unsupported(where, `rotary embedding over ${JSON.stringify(partial)} of a head`, 'partial_rotary_factor', '1')
  }

  const json = check(RopeJson, merged, where, `${spelling}.`)
  if (json.rope_theta != null && config.rope_theta != null && json.rope_theta !== config.rope_theta) {
    throw configError(
      where,
      `has two values for rope_theta: ${config.rope_theta}, and ${json.rope_theta} in ${spelling}`,
    )
  }
  for (const key of Object.keys(merged)) {
    if (!ROPE_FIELDS[known].includes(key) && !ROPE_FIELDS_IGNORED.includes(key)) {
      warnings.push(`config.json: ${spelling}.${key} has no meaning for the rope type "${known}"; it is ignored`)
    }
  }
  return ropeOf(known, json, config, maxPositions, where, spelling)
}

function ropeOf(
  type: Rope['type'],
  json: RopeJson,
  config: RopeFields,
  maxPositions: number,
  where: string,
  spelling: string,
): Rope {
  const need = <K extends keyof RopeJson & string>(key: K): NonNullable<RopeJson[K]> => {
    const value = json[key]
    if (value == null) throw configError(where, `asks for the rope type "${type}" without ${spelling}.${key}`)
    return value
  }
  const theta = json.rope_theta ?? config.rope_theta ?? DEFAULT_ROPE_THETA
  const originalMaxPositions =
    config.original_max_position_embeddings ?? json.original_max_position_embeddings ?? maxPositions
  switch (type) {
    case 'default':
      return { type, theta }
    case 'linear':
      return { type, theta, factor: need('factor') }
    case 'llama3': {
      const lowFreqFactor = need('low_freq_factor')
      const highFreqFactor = need('high_freq_factor')
      if (highFreqFactor <= lowFreqFactor) {
        throw configError(
          where,
          `has a high_freq_factor (${highFreqFactor}) not above its low_freq_factor (${lowFreqFactor})`,
        )
      }
      return { type, theta, factor: need('factor'), lowFreqFactor, highFreqFactor, originalMaxPositions }
    }
    case 'yarn':
      return {
        type,
        theta,
        factor: json.factor ?? Math.max(1, maxPositions / originalMaxPositions),
        originalMaxPositions,
        betaFast: json.beta_fast || 32,
        betaSlow: json.beta_slow || 1,
        attentionFactor: json.attention_factor ?? null,
        mscale: json.mscale ?? null,
        mscaleAllDim: json.mscale_all_dim ?? null,
        truncate: json.truncate ?? true,
      }
  }
}

function nonEmpty(value: Record<string, unknown> | null | undefined): Record<string, unknown> | null {
  return value && Object.keys(value).length > 0 ? value : null
}

/** Positions the model may use. Published files often leave max_position_embeddings at its value before the extension. */
export function extendedPositions(rope: Rope, config: RopeFields, maxPositions: number): number {
  let positions = maxPositions
  if (rope.type === 'yarn') positions = Math.max(positions, Math.floor(rope.factor * rope.originalMaxPositions))
  if (rope.type === 'linear') positions = Math.max(positions, config.max_sequence_length ?? 0)
  return Math.min(positions, MAX_POSITIONS)
}
