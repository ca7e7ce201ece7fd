// Oracle of silu_mul: the gated activation.

export const silu = (x: number): number => x / (1 + Math.exp(-x))

/** [M, F]: silu of the first F values of a row times its last F, of x [M, 2F]. */
export function siluMul(x: ArrayLike<number>, width: number): number[] {
  const out: number[] = []
  for (let row = 0; row < x.length / (2 * width); row++) {
    for (let i = 0; i < width; i++) out.push(silu(x[row * 2 * width + i]!) * x[row * 2 * width + width + i]!)
  }
  return out
}
