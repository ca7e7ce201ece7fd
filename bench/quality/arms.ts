// What is compared: the full cache, and ways to keep fewer rows of it.
import type { KvOptions } from '../../src/index.js'

/** `snapkv` pools with the maximum; `snapkv-none` does not pool. */
export const ARM_KINDS = ['full', 'snapkv', 'snapkv-avg', 'snapkv-none', 'h2o', 'streaming'] as const
export type ArmKind = (typeof ARM_KINDS)[number]

export interface Arm {
  /** The kind and its budget: `snapkv-avg-1024`. */
  readonly name: string
  readonly kind: ArmKind
  /** Rows kept; null keeps all. */
  readonly budget: number | null
  readonly kv: KvOptions
}

export interface ArmOptions {
  readonly arms: readonly ArmKind[]
  /** Of `snapkv`. */
  readonly budgets: readonly number[]
  /** Of every other kind that has a budget. */
  readonly compare: readonly number[]
  readonly window: number
  readonly poolSize: number
}

function kvOf(kind: Exclude<ArmKind, 'full'>, budget: number, { window, poolSize }: ArmOptions): KvOptions {
  switch (kind) {
    case 'snapkv':
      return { policy: 'snapkv', budget, window, pool: 'max', poolSize }
    case 'snapkv-avg':
      return { policy: 'snapkv', budget, window, pool: 'avg', poolSize }
    case 'snapkv-none':
      return { policy: 'snapkv', budget, window, poolSize: 1 }
    case 'h2o':
      return { policy: 'h2o', budget, window, poolSize: 1 }
    case 'streaming':
      return { policy: 'streaming', budget }
  }
}

/** Every kind asked for, at every budget it is asked for at, in the order of ARM_KINDS. */
export function armsOf(options: ArmOptions): Arm[] {
  return ARM_KINDS.filter((kind) => options.arms.includes(kind)).flatMap((kind): Arm[] => {
    if (kind === 'full') return [{ name: kind, kind, budget: null, kv: { policy: 'full' } }]
    const budgets = kind === 'snapkv' ? options.budgets : options.compare
    return [...new Set(budgets)]
      .sort((a, b) => a - b)
      .map((budget) => ({ name: `${kind}-${budget}`, kind, budget, kv: kvOf(kind, budget, options) }))
  })
}

/** A name for readers: `SnapKV 1024, avg pool`. */
export function titleOf({ kind, budget }: Pick<Arm, 'kind' | 'budget'>): string {
  switch (kind) {
    case 'full':
      return 'full cache'
    case 'snapkv':
      return `SnapKV ${budget}`
    case 'snapkv-avg':
      return `SnapKV ${budget}, avg pool`
    case 'snapkv-none':
      return `SnapKV ${budget}, no pool`
    case 'h2o':
      return `H2O ${budget}`
    case 'streaming':
      return `StreamingLLM ${budget}`
  }
}
