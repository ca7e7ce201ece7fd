// Made-up traces for the tests of this folder.
import fc from 'fast-check'
import { MISSED, type Trace } from '../../../heads/calibrate/trace.js'

/** A text of as many positions as there are rows; a row has a rank for each head. */
export const traceOf = (rows: readonly (readonly number[])[]): Trace => ({
  positions: rows.length,
  medusaHeads: rows[0]?.length ?? 0,
  ranks: Int8Array.from(rows.flat()),
  isEnded: false,
})

/** Texts under heads whose drafts are right at ranks below `ranks`, or not at all. */
export function tracesArbitrary({
  medusaHeads = 3,
  ranks = 10,
  positions = 30,
  texts = 6,
}: {
  readonly medusaHeads?: number
  readonly ranks?: number
  readonly positions?: number
  readonly texts?: number
} = {}): fc.Arbitrary<Trace[]> {
  const row = fc.array(fc.integer({ min: MISSED, max: ranks - 1 }), {
    minLength: medusaHeads,
    maxLength: medusaHeads,
  })
  const text = fc.array(row, { minLength: 1, maxLength: positions }).map(traceOf)
  return fc.array(text, { minLength: 1, maxLength: texts })
}
