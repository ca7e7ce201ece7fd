// Oracle of linear: rows times the transpose of a weight.

/** [M, N]: bias[n] + sum over k of x[m, k] w[n, k], of x [M, K] and w [N, K]. */
export function linear(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  { rows, depth, columns }: { rows: number; depth: number; columns: number },
  bias: ArrayLike<number> | null = null,
): number[] {
  const out: number[] = []
  for (let m = 0; m < rows; m++) {
    for (let n = 0; n < columns; n++) {
      let sum = bias === null ? 0 : bias[n]!
      for (let k = 0; k < depth; k++) sum += x[m * depth + k]! * w[n * depth + k]!
      out.push(sum)
    }
  }
  return out
}
