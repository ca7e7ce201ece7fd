// Oracle of rms_norm: rows over their root mean square.

/** [M, C]: x / sqrt(mean of the row's squares + eps) * weight, of x [M, C] and weight [C]. */
export function rmsNorm(x: ArrayLike<number>, weight: ArrayLike<number>, eps: number): number[] {
  const width = weight.length
  const out: number[] = []
  for (let row = 0; row < x.length / width; row++) {
    let squares = 0
    for (let i = 0; i < width; i++) squares += x[row * width + i]! ** 2
    const rms = Math.sqrt(squares / width + eps)
    for (let i = 0; i < width; i++) out.push((x[row * width + i]! / rms) * weight[i]!)
  }
  return out
}
