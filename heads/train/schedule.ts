// The learning rate of each step: a straight rise, then half a cosine down.

export interface Schedule {
  /** Height. */
  readonly learningRate: number
  /** Steps in all. */
  readonly steps: number
  /** Share of the steps in which it rises. */
  readonly warmup: number
  /** Share of the height at which it ends. */
  readonly floor: number
}

/** @param step from 1. */
export function learningRateAt(step: number, { learningRate, steps, warmup, floor }: Schedule): number {
  const rising = Math.round(steps * warmup)
  if (step <= rising) return (learningRate * step) / rising
  // From full height right after the rise to the floor at the last step.
  const gone = steps - rising <= 1 ? 0 : (step - rising - 1) / (steps - rising - 1)
  return learningRate * (floor + ((1 - floor) * (1 + Math.cos(Math.PI * gone))) / 2)
}
