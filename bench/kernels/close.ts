// Whether a GPU's results are the CPU's: it adds in another order and rounds to the model's dtype earlier, so they are close and not the same bits.

/**
 * Most by which results may be apart, as a share of the reference's norm. Values rounded to bf16 are apart by 2^-9 at most, and so is what enters
 * a product: their errors are independent, and the norm of them all stays below this. A wrong row or a missing one is far above it.
 */
const MOST_APART = 2 ** -6

/** ‖a − b‖ / ‖b‖; Infinity where sizes differ or a value is not a number. */
export function relativeDistance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let [apart, size] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    const difference = a[i]! - b[i]!
    if (Number.isNaN(difference)) return Number.POSITIVE_INFINITY
    apart += difference * difference
    size += b[i]! * b[i]!
  }
  return size === 0 ? (apart === 0 ? 0 : Number.POSITIVE_INFINITY) : Math.sqrt(apart / size)
}

export function isClose(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  return relativeDistance(a, b) <= MOST_APART
}

/** Whether ids are nearly all the same: values at a near tie may change places. */
export function areMostlyEqual(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false
  let same = 0
  for (let i = 0; i < b.length; i++) if (a[i] === b[i]) same++
  return same >= 0.98 * b.length
}
