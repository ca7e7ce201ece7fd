// Oracle of adamw: one step for one weight.

export interface AdamwState {
  readonly weight: number
  readonly mean: number
  readonly variance: number
}

export interface AdamwStep {
  readonly gradientScale: number
  readonly rate: number
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly decay: number
  readonly correction1: number
  readonly correction2: number
}

/** The state after a step with gradient g. `round` is what becomes of every result: nothing, or what f32 holds. */
export function adamw(
  { weight, mean, variance }: AdamwState,
  gradient: number,
  step: AdamwStep,
  round: (value: number) => number = (value) => value,
): AdamwState {
  const g = round(step.gradientScale * gradient)
  const m = round(round(step.beta1 * mean) + round(round(1 - step.beta1) * g))
  const v = round(round(step.beta2 * variance) + round(round(round(1 - step.beta2) * g) * g))
  const spread = round(round(Math.sqrt(round(v / step.correction2))) + step.epsilon)
  const direction = round(round(m / step.correction1) / spread)
  const moved = round(step.rate * round(direction + round(step.decay * weight)))
  return { weight: round(weight - moved), mean: m, variance: v }
}
