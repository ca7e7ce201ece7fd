// Oracle of linear_gradient: the gradients by a product's weight and bias.

export interface LinearGradient {
  /** [N, K]. */
  readonly dw: number[]
  /** [N]. */
  readonly db: number[]
}

/** Sums over the rows of dy [M, N] times x [M, K]. */
export function linearGradient(
  dy: ArrayLike<number>,
  x: ArrayLike<number>,
  { rows, columns, depth }: { rows: number; columns: number; depth: number },
): LinearGradient {
  const dw: number[] = []
  const db: number[] = []
  for (let n = 0; n < columns; n++) {
    let total = 0
    for (let m = 0; m < rows; m++) total += dy[m * columns + n]!
    db.push(total)
    for (let k = 0; k < depth; k++) {
      let sum = 0
      for (let m = 0; m < rows; m++) sum += dy[m * columns + n]! * x[m * depth + k]!
      dw.push(sum)
    }
  }
  return { dw, db }
}
