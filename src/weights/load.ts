// What openModel takes, from a model's folder and its heads; the place to import loading from.
import type { ChosenDevice } from '../backend.js'
import type { ModelSpec, WeightDtype, WeightForm } from '../native.js'
import type { HeadsFolder } from './medusa-heads.js'
import type { ModelFolder } from './model-folder.js'

export { findHeads, type HeadsFolder, headsOf, readHeads } from './medusa-heads.js'
export { type ModelFolder, readModelFolder } from './model-folder.js'

/** What a user chose about where the weights are and how they are held. */
export interface ModelSpecOptions {
  readonly backend: string
  readonly isa: string
  readonly threads: number
  /** Default null: where the CPU computes. */
  readonly device?: ChosenDevice | null
  readonly dtype: WeightDtype | 'auto'
  /** Default `full`. */
  readonly weights?: WeightForm
  readonly progress: Int32Array
}

/** What `openModel` takes. */
export function modelSpecOf(folder: ModelFolder, heads: HeadsFolder | null, options: ModelSpecOptions): ModelSpec {
  const { backend, isa, threads, device = null, dtype, weights = 'full', progress } = options
  return {
    backend,
    isa,
    threads,
    device: device?.index ?? 0,
    memoryBudget: device?.budgetBytes ?? 0,
    dtype: dtype !== 'auto' ? dtype : weights === 'int8' ? 'bf16' : folder.dtype,
    weights,
    files: folder.table.files,
    shape: folder.config.shape,
    tensors: folder.tensors,
    heads: heads && {
      medusaHeads: heads.medusaHeads,
      blocks: heads.blocks,
      files: heads.files,
      tensors: heads.tensors,
      tokenMap: heads.tokenMap,
    },
    progress,
  }
}

/** Tensors C++ loads for a spec: what `progress[0]` counts to. */
export function tensorCount(spec: Pick<ModelSpec, 'tensors' | 'heads'>): number {
  return Object.keys(spec.tensors).length + Object.keys(spec.heads?.tensors ?? {}).length
}
