// Order statistics of samples.
import { short } from '../numbers.js'

/** What is reported of a set of samples; NaN where there are none. */
export interface Summary {
  readonly n: number
  readonly median: number
  readonly p10: number
  readonly p90: number
}

export function summaryOf(samples: readonly number[]): Summary {
  return { n: samples.length, median: medianOf(samples), p10: quantileOf(samples, 0.1), p90: quantileOf(samples, 0.9) }
}

/** `12.3 (11.9–13.0)`: the median, with p10 and p90 where there is more than one sample. */
export function spread({ n, median, p10, p90 }: Summary, format: (value: number) => string = short): string {
  return n > 1 ? `${format(median)} (${format(p10)}–${format(p90)})` : format(median)
}

/** The middle value; the mean of the two middle ones. NaN of nothing. */
export function medianOf(values: readonly number[]): number {
  return quantileOf(values, 0.5)
}

/** Linear between neighbours, q in [0, 1]. NaN of nothing. */
export function quantileOf(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? Number.NaN
  return low + (high - low) * (at - Math.floor(at))
}

/** The mean of rates over equal amounts of work. NaN of nothing. */
export function harmonicMeanOf(rates: readonly number[]): number {
  return rates.length / rates.reduce((sum, rate) => sum + 1 / rate, 0)
}

/** `a` over `b`, sample by sample: those of one round, which met the machine in the same mood. */
export function pairedRatiosOf(a: readonly number[], b: readonly number[]): number[] {
  return a.slice(0, b.length).map((value, i) => value / b[i]!)
}
