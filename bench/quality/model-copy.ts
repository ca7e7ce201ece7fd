// The model of an engine once more, opened on the addon itself, whose operations show what an engine hides.
import type { EngineInfo } from '../../src/index.js'
import { type ModelHandle, type ModelSpec, native, type WeightDtype } from '../../src/native.js'
import { type ModelFolder, modelSpecOf, readModelFolder } from '../../src/weights/load.js'

/** Rows of a prompt that run together, as in a session: what H2O adds up depends on it in the last bits. */
export const CHUNK = 512

export interface ModelCopy {
  readonly handle: ModelHandle
  readonly folder: ModelFolder
  readonly shape: ModelSpec['shape']
  close(): Promise<void>
}

/** The same weights in the same form, on the same instruction set and threads; without heads. */
export async function openCopy(info: EngineInfo): Promise<ModelCopy> {
  const folder = await readModelFolder(info.model)
  const spec = modelSpecOf(folder, null, {
    backend: info.backend,
    isa: info.isa,
    threads: info.threads,
    dtype: info.dtype as WeightDtype,
    weights: info.weights,
    progress: new Int32Array(new SharedArrayBuffer(8)),
  })
  const handle = await native().openModel(spec)
  return { handle, folder, shape: spec.shape, close: () => native().close(handle) }
}
