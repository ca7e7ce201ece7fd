// Order statistics of samples.

/** The middle value; the mean of the two middle ones. NaN of nothing. */
export function medianOf(values: readonly number[]): number {
  return quantileOf(values, 0.5)
}

/** Linear between neighbours, q in [0, 1]. */
export function quantileOf(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? Number.NaN
  return low + (high - low) * (at - Math.floor(at))
}
