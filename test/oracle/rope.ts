// Oracle of rope: pairs (i, i + D/2) of every head, turned by an angle of their own.

/** [T, H, D] of x [T, H, D] and cos, sin [T, D/2]. */
export function rope(
  x: ArrayLike<number>,
  cos: ArrayLike<number>,
  sin: ArrayLike<number>,
  { tokens, heads, headDim }: { tokens: number; heads: number; headDim: number },
): number[] {
  const half = headDim / 2
  const out = new Array<number>(tokens * heads * headDim)
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < half; i++) {
        const at = (t * heads + h) * headDim + i
        const [a, b, c, s] = [x[at]!, x[at + half]!, cos[t * half + i]!, sin[t * half + i]!]
        out[at] = a * c - b * s
        out[at + half] = b * c + a * s
      }
    }
  }
  return out
}
