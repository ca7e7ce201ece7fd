// The two ways a prompt's cache is kept in these benchmarks.
import type { CompressionSpec } from '../../src/native.js'

export const POLICIES = ['full', 'snapkv'] as const
export type Policy = (typeof POLICIES)[number]

/** As tables name them. */
export const POLICY_NAMES = { full: 'full cache', snapkv: 'SnapKV' } as const

/** Null keeps every row; SnapKV votes as the engine's defaults have it. */
export function compressionOf(policy: Policy, budget: number): CompressionSpec | null {
  if (policy === 'full') return null
  const votes = { window: 32, poolSize: 7, pool: 'max', groupReduce: 'mean' } as const
  return { policy, budget, ...votes, sinks: 0, reportKept: false }
}
