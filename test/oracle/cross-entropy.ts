// Oracle of cross_entropy: a target's surprise among logits, its rank, and the gradient.

export interface Surprise {
  /** [M] nats. */
  readonly losses: number[]
  /** [M] tokens before the target; -1 without one. */
  readonly ranks: number[]
  /** [M, V]. */
  readonly gradient: number[]
}

/** Of logits x [M, V] and targets [M], below zero where there is none. */
export function crossEntropy(x: ArrayLike<number>, columns: number, targets: ArrayLike<number>, scale = 1): Surprise {
  const losses: number[] = []
  const ranks: number[] = []
  const gradient: number[] = []
  for (let m = 0; m < targets.length; m++) {
    const target = targets[m]!
    const logits = Array.from({ length: columns }, (_, j) => x[m * columns + j]!)
    if (target < 0) {
      losses.push(0)
      ranks.push(-1)
      for (const _ of logits) gradient.push(0)
      continue
    }
    const highest = logits.reduce((a, b) => (Number.isNaN(b) || b > a ? b : a))
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - highest), 0)
    const right = logits[target]!
    losses.push(Math.log(sum) - (right - highest))
    ranks.push(logits.filter((logit, j) => logit > right || (logit === right && j < target)).length)
    logits.forEach((logit, j) => {
      gradient.push(scale * (Math.exp(logit - highest) / sum - (j === target ? 1 : 0)))
    })
  }
  return { losses, ranks, gradient }
}
