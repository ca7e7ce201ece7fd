// Oracle of residual_silu and its gradient: the activation of a Medusa head's block.
import { silu } from './silu-mul.js'

/** What becomes of z. */
export const residualSilu = (a: number, z: number): number => z + silu(a)

/** The gradient by a, from that by the result. */
export function residualSiluGradient(a: number, dz: number): number {
  const s = 1 / (1 + Math.exp(-a))
  return dz * s * (1 + a * (1 - s))
}
