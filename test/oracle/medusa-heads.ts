// Oracle of medusa_heads: residual blocks, then a projection.
import { linear } from './linear.js'
import { silu } from './silu-mul.js'

export interface MedusaHead {
  /** [R] of [C, C]. */
  blocks: ArrayLike<number>[]
  /** [R] of [C], or null. */
  biases: (ArrayLike<number> | null)[]
  /** [V', C]. */
  projection: ArrayLike<number>
}

/** [V']: P z_R, with z_0 = x [C] and z_{r+1} = z_r + silu(W_r z_r + b_r). */
export function medusaHead(x: ArrayLike<number>, { blocks, biases, projection }: MedusaHead): number[] {
  const width = x.length
  let z = Array.from(x)
  blocks.forEach((block, r) => {
    const product = linear(z, block, { rows: 1, depth: width, columns: width }, biases[r] ?? null)
    z = z.map((value, i) => value + silu(product[i]!))
  })
  return linear(z, projection, { rows: 1, depth: width, columns: projection.length / width })
}
