// Logits of one text under two models, compared.

/** Sums over the rows of a text; a row is the logits after one token. */
export interface LogitComparison {
  readonly rows: number
  /** ||logits - reference|| / ||reference||, of logits less their row's mean: what all of a row have in common decides nothing. */
  readonly error: number
  /** Kullback-Leibler divergence of the reference's distribution from this one, in nats: mean of rows. */
  readonly divergence: number
  /** Rows whose likeliest token is the reference's. */
  readonly agreements: number
  /** -ln of the probability of the text's own next token: mean of the rows that have one. NaN for a text of one token. */
  readonly loss: number
}

/**
 * @param tokens i32 [T] of the text.
 * @param logits f32 [T, V], after each of them.
 * @param reference f32 [T, V] of the model this one should equal.
 */
export function compareLogits(
  tokens: ArrayLike<number>,
  logits: Float32Array,
  reference: Float32Array,
): LogitComparison {
  const rows = tokens.length
  const vocab = logits.length / rows
  let difference = 0
  let norm = 0
  let divergence = 0
  let agreements = 0
  let loss = 0
  for (let row = 0; row < rows; row++) {
    const own = logits.subarray(row * vocab, (row + 1) * vocab)
    const wanted = reference.subarray(row * vocab, (row + 1) * vocab)
    const ownNormalizer = logSumExp(own)
    const wantedNormalizer = logSumExp(wanted)
    const ownMean = meanOf(own)
    const wantedMean = meanOf(wanted)
    let best = 0
    let wantedBest = 0
    for (let id = 0; id < vocab; id++) {
      const delta = own[id]! - wanted[id]!
      difference += (delta - (ownMean - wantedMean)) ** 2
      norm += (wanted[id]! - wantedMean) ** 2
      divergence += Math.exp(wanted[id]! - wantedNormalizer) * (ownNormalizer - wantedNormalizer - delta)
      if (own[id]! > own[best]!) best = id
      if (wanted[id]! > wanted[wantedBest]!) wantedBest = id
    }
    if (best === wantedBest) agreements += 1
    if (row + 1 < rows) loss += ownNormalizer - own[tokens[row + 1]!]!
  }
  return {
    rows,
    error: Math.sqrt(difference / norm),
    divergence: divergence / rows,
    agreements,
    loss: loss / (rows - 1),
  }
}

const meanOf = (row: Float32Array): number => row.reduce((sum, value) => sum + value, 0) / row.length

/** ln of the sum of e^x. */
function logSumExp(row: Float32Array): number {
  let top = Number.NEGATIVE_INFINITY
  for (const value of row) if (value > top) top = value
  let sum = 0
  for (const value of row) sum += Math.exp(value - top)
  return top + Math.log(sum)
}

/** How many tokens two texts have in common before they part. */
export function commonPrefix(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const shorter = Math.min(a.length, b.length)
  let same = 0
  while (same < shorter && a[same] === b[same]) same++
  return same
}
