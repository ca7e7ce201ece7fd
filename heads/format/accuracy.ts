// accuracy.json of a heads folder: how often each draft of each head is right, as its maker measured it.
import { z } from 'zod'

const share = z.number().min(0).max(1)

/** Shares of one head add up to at most one: a position has one right token. Sums of rounded numbers may miss it by a little. */
const Row = z
  .array(share)
  .min(1)
  .max(1024)
  .refine((row) => row.reduce((sum, value) => sum + value, 0) <= 1.001, 'shares of one head that add up to at most 1')

export const HeadsAccuracy = z.looseObject({
  /** [medusaHead][rank]: share of positions at which the head's draft of that rank, 0 the best, is the token it stands for. */
  rank_accuracy: z.array(Row).min(1).max(64),
})
export type HeadsAccuracy = z.output<typeof HeadsAccuracy>
