// Scores of many cases as numbers a reader can trust: means in points, intervals, and what an arm loses against another on the same cases.

import { z } from 'zod'
import { ARM_KINDS } from './arms.js'

/** What one arm made of the cases of one length. */
export const ArmScores = z.object({
  arm: z.string(),
  kind: z.enum(ARM_KINDS),
  /** Rows kept; null keeps all. */
  budget: z.number().nullable(),
  length: z.number(),
  /** Mean of the cases. */
  promptTokens: z.number(),
  /** Per case, see `encodeScores`. */
  scores: z.string().regex(/^(\d+|-)( (\d+|-))*$/),
})
export type ArmScores = Readonly<z.infer<typeof ArmScores>>

/** Scores from 0 to 1 as hundredths between spaces, `-` for a case that was not asked: one line of a result file instead of many. */
export function encodeScores(scores: readonly (number | null)[]): string {
  return scores.map((score) => (score === null ? '-' : Math.round(100 * score))).join(' ')
}

/** The scores of `encodeScores`, to hundredths. */
export function decodeScores(text: string): (number | null)[] {
  return text.split(' ').map((word) => (word === '-' ? null : Number(word) / 100))
}

/** 1.96 standard deviations hold 95 % of a normal distribution. */
const Z = 1.959964

/** In points, 0 to 100. */
export interface Interval {
  readonly low: number
  readonly high: number
}

/** The mean of scores from 0 to 1, in points. NaN of nothing. */
export function pointsOf(scores: readonly number[]): number {
  return (100 * scores.reduce((sum, score) => sum + score, 0)) / scores.length
}

/**
 * 95 % interval of the share behind `right` of `count`.
 *
 * Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927). With few cases, or all right, it stays
 * sensible where the normal interval does not.
 */
export function wilsonInterval(right: number, count: number): Interval {
  if (count === 0) return { low: 0, high: 100 }
  const share = right / count
  const middle = share + Z ** 2 / (2 * count)
  const reach = Z * Math.sqrt((share * (1 - share)) / count + Z ** 2 / (4 * count ** 2))
  const scale = 100 / (1 + Z ** 2 / count)
  return { low: Math.max(0, scale * (middle - reach)), high: Math.min(100, scale * (middle + reach)) }
}

/** 95 % interval of the mean of scores: Wilson's where they are all 0 or 1, else the normal one. */
export function intervalOf(scores: readonly number[]): Interval {
  if (scores.every((score) => score === 0 || score === 1)) {
    return wilsonInterval(scores.filter((score) => score === 1).length, scores.length)
  }
  const { mean, reach } = normalOf(scores)
  return { low: Math.max(0, 100 * (mean - reach)), high: Math.min(100, 100 * (mean + reach)) }
}

function normalOf(values: readonly number[]): { readonly mean: number; readonly reach: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, values.length - 1)
  return { mean, reach: Z * Math.sqrt(variance / values.length) }
}

export interface Loss extends Interval {
  /** Points that `arm` has less than `baseline`; negative where it has more. */
  readonly points: number
  /** Cases of which `arm` made less, and more. */
  readonly worse: number
  readonly better: number
}

/**
 * What an arm loses, case by case: cases both get right, or wrong, say nothing about the difference, and do not widen its interval.
 *
 * Source of the interval where scores are 0 or 1: Agresti and Min, Simple Improved Confidence Intervals for Comparing Matched Proportions
 * (2005): half a case is added to each of the four outcomes.
 *
 * @param arm scores, of the same cases in the same order as `baseline`
 */
export function lossOf(baseline: readonly number[], arm: readonly number[]): Loss {
  const lost = baseline.map((score, i) => score - arm[i]!)
  const worse = lost.filter((value) => value > 0).length
  const better = lost.filter((value) => value < 0).length
  const points = pointsOf(lost)
  const isRightOrWrong = [...baseline, ...arm].every((score) => score === 0 || score === 1)
  if (!isRightOrWrong) {
    const { mean, reach } = normalOf(lost)
    return { points, worse, better, low: 100 * (mean - reach), high: 100 * (mean + reach) }
  }
  const count = lost.length + 2
  const middle = (worse - better) / count
  const reach = (Z / count) * Math.sqrt(worse + better + 1 - (worse - better) ** 2 / count)
  return { points, worse, better, low: 100 * (middle - reach), high: 100 * (middle + reach) }
}
