// The times of an answer, and what is kept of many.
import { z } from 'zod'
import { medianOf, quantileOf } from '../support/statistics.js'
import type { Timed } from './load.js'

/** What is kept of many times, in milliseconds; NaN is written as null. */
export const Digest = z.object({
  n: z.int(),
  mean: z.number().nullable(),
  p50: z.number().nullable(),
  p95: z.number().nullable(),
  p99: z.number().nullable(),
  max: z.number().nullable(),
})
export type Digest = Readonly<z.infer<typeof Digest>>

export function digestOf(values: readonly number[]): Digest {
  const orNull = (value: number): number | null => (Number.isFinite(value) ? value : null)
  return {
    n: values.length,
    mean: orNull(values.reduce((sum, value) => sum + value, 0) / values.length),
    p50: orNull(medianOf(values)),
    p95: orNull(quantileOf(values, 0.95)),
    p99: orNull(quantileOf(values, 0.99)),
    max: orNull(values.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY)),
  }
}

/** From when it was due to the first chunk with text, or the first where none has any. */
export function ttftOf({ dueMs, arrivals, endMs }: Timed): number {
  return ((arrivals.find(({ hasText }) => hasText) ?? arrivals[0])?.atMs ?? endMs) - dueMs
}

/** Per token after the first. NaN where there is none. */
export function tpotOf(answer: Timed): number {
  const e2eMs = answer.endMs - answer.dueMs
  return answer.tokens > 1 ? (e2eMs - ttftOf(answer)) / (answer.tokens - 1) : Number.NaN
}

/** From each chunk to the next. */
export function gapsOf({ arrivals }: Timed): number[] {
  return arrivals.slice(1).map(({ atMs }, i) => atMs - arrivals[i]!.atMs)
}
