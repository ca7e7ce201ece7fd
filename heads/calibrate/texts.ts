// The texts of a calibration: what each begins with and how it goes on, and which ones are only checked on.
import { HELD_OUT_EVERY } from './options.js'

/** A text to be made. */
export interface CalibrationText {
  readonly prompt: Int32Array
  /** 0 is greedy. */
  readonly temperature: number
  readonly seed: bigint
}

export interface DealtTexts {
  /** To grow a tree from. */
  readonly grown: readonly CalibrationText[]
  /** To check it on. */
  readonly heldOut: readonly CalibrationText[]
}

/** Temperatures take turns on both sides. */
export function dealTexts(
  prompts: readonly Int32Array[],
  { temperatures, seed }: { readonly temperatures: readonly number[]; readonly seed: number },
): DealtTexts {
  const deal = (isHeldOut: boolean): CalibrationText[] =>
    prompts
      .map((prompt, index) => ({ prompt, index }))
      .filter(({ index }) => (index % HELD_OUT_EVERY === HELD_OUT_EVERY - 1) === isHeldOut)
      .map(({ prompt, index }, i) => ({
        prompt,
        temperature: temperatures[i % temperatures.length]!,
        seed: BigInt(seed + index),
      }))
  return { grown: deal(false), heldOut: deal(true) }
}
