// Oracle of top_k: sorts the columns of each row.

/**
 * i32 [M, k]: columns of the k best scores of each row, best first; ties to the lower column, NaN behind everything else.
 *
 * @param scores f32 [M, stride]: the first `columns` of each row count.
 */
export function topK({
  scores,
  stride,
  rows,
  columns,
  k,
}: {
  scores: ArrayLike<number>
  stride: number
  rows: number
  columns: number
  k: number
}): number[] {
  const ids: number[] = []
  for (let row = 0; row < rows; row++) {
    const at = (column: number): number => scores[row * stride + column]!
    const isBetter = (a: number, b: number): boolean => at(a) > at(b) || (Number.isNaN(at(b)) && !Number.isNaN(at(a)))
    const order = Array.from({ length: columns }, (_, column) => column)
    order.sort((a, b) => (isBetter(a, b) ? -1 : isBetter(b, a) ? 1 : a - b))
    ids.push(...order.slice(0, k))
  }
  return ids
}
