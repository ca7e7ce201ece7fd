// RoPE frequencies: the angles per position that a configuration asks for, rounded as torch rounds them.

/** How a model rotates queries and keys. */
export type Rope = RopeDefault | RopeLinear | RopeLlama3 | RopeYarn

export interface RopeDefault {
  readonly type: 'default'
  readonly theta: number
}

/** Positions divided by a factor. */
export interface RopeLinear {
  readonly type: 'linear'
  readonly theta: number
  readonly factor: number
}

/** Long wavelengths divided by a factor, short ones kept, those between interpolated. */
export interface RopeLlama3 {
  readonly type: 'llama3'
  readonly theta: number
  readonly factor: number
  readonly lowFreqFactor: number
  readonly highFreqFactor: number
  readonly originalMaxPositions: number
}

/** A ramp over the pairs from kept to divided frequencies, and a scale on cos and sin. */
export interface RopeYarn {
  readonly type: 'yarn'
  readonly theta: number
  readonly factor: number
  readonly originalMaxPositions: number
  /** Rotations over the original context from which a pair is kept, and below which it is divided. */
  readonly betaFast: number
  readonly betaSlow: number
  /** Null: from the factor. */
  readonly attentionFactor: number | null
  readonly mscale: number | null
  readonly mscaleAllDim: number | null
  /** Round the ends of the ramp to whole pairs. */
  readonly truncate: boolean
}

/** Types we compute; any other must be refused by name. */
export const ROPE_TYPES: readonly Rope['type'][] = ['default', 'linear', 'llama3', 'yarn']

export interface RopeFrequencies {
  /** f32 [D / 2]: the angle of pair i at position p is p * inverseFrequencies[i]. */
  readonly inverseFrequencies: Float32Array
  /** Multiplies cos and sin. */
  readonly scale: number
}

const f32 = Math.fround

/**
 * Frequencies for heads of width `headDim`, every step rounded to f32: torch computes them in f32, and the checkpoint was trained with
 * what came out.
 *
 * Source: the formulas of huggingface/transformers:src/transformers/modeling_rope_utils.py (version 5).
 */
export function ropeFrequencies(rope: Rope, headDim: number): RopeFrequencies {
  switch (rope.type) {
    case 'default':
      return { inverseFrequencies: baseFrequencies(rope.theta, headDim), scale: 1 }
    case 'linear':
      return {
        inverseFrequencies: baseFrequencies(rope.theta, headDim).map((frequency) => frequency / f32(rope.factor)),
        scale: 1,
      }
    case 'llama3':
      return { inverseFrequencies: llama3Frequencies(rope, headDim), scale: 1 }
    case 'yarn':
      return { inverseFrequencies: yarnFrequencies(rope, headDim), scale: f32(yarnScale(rope)) }
  }
}

/** theta^(2i / D) for each pair i. */
function wavelengths(theta: number, headDim: number): Float32Array {
  return Float32Array.from({ length: headDim / 2 }, (_, pair) => f32(theta) ** f32((2 * pair) / headDim))
}

function baseFrequencies(theta: number, headDim: number): Float32Array {
  return wavelengths(theta, headDim).map((wavelength) => 1 / wavelength)
}

function llama3Frequencies(rope: RopeLlama3, headDim: number): Float32Array {
  const context = f32(rope.originalMaxPositions)
  const longest = f32(rope.originalMaxPositions / rope.lowFreqFactor)
  const shortest = f32(rope.originalMaxPositions / rope.highFreqFactor)
  const low = f32(rope.lowFreqFactor)
  const factor = f32(rope.factor)
  return baseFrequencies(rope.theta, headDim).map((frequency) => {
    const wavelength = f32(f32(2 * Math.PI) / frequency)
    if (wavelength > longest) return f32(frequency / factor)
    if (wavelength < shortest) return frequency
    const smooth = f32(f32(f32(context / wavelength) - low) / f32(rope.highFreqFactor - rope.lowFreqFactor))
    const divided = f32(f32(f32(1 - smooth) * frequency) / factor)
    return f32(divided + f32(smooth * frequency))
  })
}

function yarnFrequencies(rope: RopeYarn, headDim: number): Float32Array {
  // The pair whose wavelength turns `rotations` times within the original context.
  const pairOf = (rotations: number) =>
    (headDim * Math.log(rope.originalMaxPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(rope.theta))
  const first = rope.truncate ? Math.floor(pairOf(rope.betaFast)) : pairOf(rope.betaFast)
  const last = rope.truncate ? Math.ceil(pairOf(rope.betaSlow)) : pairOf(rope.betaSlow)
  const low = Math.max(first, 0)
  let high = Math.min(last, headDim - 1)
  if (low === high) high += 0.001 // no division by zero
  return wavelengths(rope.theta, headDim).map((wavelength, pair) => {
    const ramp = Math.min(Math.max(f32(f32(pair - f32(low)) / f32(high - low)), 0), 1)
    const keep = f32(1 - ramp)
    const kept = f32(f32(1 / wavelength) * keep)
    const divided = f32(f32(1 / f32(f32(rope.factor) * wavelength)) * f32(1 - keep))
    return f32(divided + kept)
  })
}

function yarnScale(rope: RopeYarn): number {
  if (rope.attentionFactor !== null) return rope.attentionFactor
  const scaleFor = (mscale: number) => (rope.factor <= 1 ? 1 : 0.1 * mscale * Math.log(rope.factor) + 1)
  // Zero counts as absent, as in the source.
  if (rope.mscale && rope.mscaleAllDim) return scaleFor(rope.mscale) / scaleFor(rope.mscaleAllDim)
  return scaleFor(1)
}
