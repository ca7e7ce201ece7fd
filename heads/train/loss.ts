// What heads made of texts: losses and right ranks per head, and the weights that their gradients have.
import { z } from 'zod'
import { RANK_COUNT } from '../../src/decode/choices.js'
import type { TextScores, TrainingText } from '../../src/native-training.js'

const share = z.number().min(0).max(1)

/** Of one head over some positions. */
export const HeadScores = z.object({
  positions: z.int().min(0),
  /** Mean cross entropy in nats; null without positions. */
  loss: z.number().nullable(),
  /** Share of positions whose token is the head's best guess, or among its best 5 or 10. */
  top1: share,
  top5: share,
  top10: share,
})
export type HeadScores = Readonly<z.output<typeof HeadScores>>

/** Positions of a text that teach head `head`: those whose token exists and is not context only. */
export function lossPositions({ tokens, from }: Pick<TrainingText, 'tokens' | 'from'>, head: number): number {
  return Math.max(0, tokens.length - Math.max(from, head + 2))
}

/** How much each head's mean loss counts: the first fully, each further one a share of the one before. */
export function depthWeights(medusaHeads: number, depthDecay: number): number[] {
  return Array.from({ length: medusaHeads }, (_, head) => depthDecay ** head)
}

/**
 * What makes the gradients of a batch those of the weighted sum of the heads' mean losses, however many positions each has.
 *
 * @returns `scales` for each head while gradients gather, and `scale` for all of them in the update.
 */
export function gradientScales(
  batch: readonly Pick<TrainingText, 'tokens' | 'from'>[],
  weights: readonly number[],
): { readonly scales: Float32Array; readonly scale: number } {
  const positions = weights.map((_, head) => batch.reduce((sum, one) => sum + lossPositions(one, head), 0))
  // The sum of a head's gradients is divided by the most positions of any in the update; the scale makes up for having fewer.
  const most = Math.max(1, ...positions)
  return {
    scales: Float32Array.from(weights, (weight, head) =>
      positions[head]! > 0 ? (weight * most) / positions[head]! : 0,
    ),
    scale: 1 / most,
  }
}

/** Gathers scores text by text. */
export class ScoreTotals {
  readonly #losses: number[]
  readonly #positions: number[]
  /** [medusaHead][rank] */
  readonly #hits: number[][]

  constructor(medusaHeads: number) {
    this.#losses = new Array<number>(medusaHeads).fill(0)
    this.#positions = new Array<number>(medusaHeads).fill(0)
    this.#hits = Array.from({ length: medusaHeads }, () => new Array<number>(RANK_COUNT).fill(0))
  }

  add({ losses, ranks }: TextScores): void {
    const medusaHeads = this.#losses.length
    const length = ranks.length / medusaHeads
    for (let head = 0; head < medusaHeads; head++) {
      for (let i = head * length; i < (head + 1) * length; i++) {
        const rank = ranks[i]!
        if (rank < 0) continue
        this.#losses[head]! += losses[i]!
        this.#positions[head]!++
        if (rank < RANK_COUNT) this.#hits[head]![rank]!++
      }
    }
  }

  /** The first head whose loss is not a number; null when all are. */
  get divergedHead(): number | null {
    const head = this.#losses.findIndex((loss) => !Number.isFinite(loss))
    return head < 0 ? null : head
  }

  heads(): HeadScores[] {
    return this.#positions.map((positions, head) => {
      const within = (ranks: number) =>
        positions === 0 ? 0 : this.#hits[head]!.slice(0, ranks).reduce((sum, count) => sum + count, 0) / positions
      const loss = positions === 0 ? null : this.#losses[head]! / positions
      return { positions, loss, top1: within(1), top5: within(5), top10: within(10) }
    })
  }

  /** The heads' mean losses, weighted; 0 without positions. */
  weightedLoss(weights: readonly number[]): number {
    let sum = 0
    let weight = 0
    for (const [head, positions] of this.#positions.entries()) {
      if (positions === 0) continue
      sum += (weights[head]! * this.#losses[head]!) / positions
      weight += weights[head]!
    }
    return weight === 0 ? 0 : sum / weight
  }

  /** [medusaHead]: positions, and those at which the draft of a rank was right, [rank]. */
  rankCounts(): { readonly positions: number; readonly hits: readonly number[] }[] {
    return this.#positions.map((positions, head) => ({ positions, hits: [...this.#hits[head]!] }))
  }
}
