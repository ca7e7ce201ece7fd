// Weights on their way into memory: told of and stopped from a clock, since native threads call nobody.
import type { ModelHandle, ModelSpec, Native } from './native.js'
import type { LoadProgress } from './options.js'
import { tensorCount } from './weights/load.js'

/** How often progress is looked at while weights load. */
const PROGRESS_INTERVAL_MS = 50

export interface OpenOptions {
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((event: LoadProgress) => void) | undefined
}

/**
 * Opens the model.
 *
 * @throws what the native side raises, the signal's reason when it fires, and what `onProgress` throws.
 */
export async function openModel(
  addon: Native,
  spec: ModelSpec,
  { signal, onProgress }: OpenOptions,
): Promise<ModelHandle> {
  const total = tensorCount(spec)
  const cancel = () => Atomics.store(spec.progress, 1, 1)
  const failures: unknown[] = []
  let reported = -1
  const report = () => {
    const done = Atomics.load(spec.progress, 0)
    if (done === reported || failures.length > 0) return
    reported = done
    try {
      onProgress?.({ phase: 'map', done, total })
    } catch (error) {
      // The callback's own failure ends the loading, rather than the process.
      failures.push(error)
      cancel()
    }
  }
  signal?.addEventListener('abort', cancel, { once: true })
  const clock = setInterval(report, PROGRESS_INTERVAL_MS)
  try {
    report()
    const model = await addon.openModel(spec)
    report()
    if (failures.length === 0) return model
    await addon.close(model)
  } catch (error) {
    if (failures.length === 0) throw signal?.aborted ? signal.reason : error
  } finally {
    clearInterval(clock)
    signal?.removeEventListener('abort', cancel)
  }
  throw failures[0]
}
