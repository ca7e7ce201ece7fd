// A short name for a model's weights: what was computed with one model is never taken for another's.
import { createHash } from 'node:crypto'
import type { ModelFolder } from '../../src/weights/load.js'
import { readTensorBytes } from '../../src/weights/safetensors.js'

/** Of each tensor, at its beginning, middle and end: training changes numbers everywhere, and weights may be many gigabytes. */
const SAMPLE_BYTES = 4096

/**
 * A digest of shape and weights, as hex: other weights, another digest, wherever the folder lies.
 *
 * @throws {GorgonError} ERR_FILE when weights cannot be read.
 */
export async function modelDigest({ config, table, tensors }: ModelFolder): Promise<string> {
  const hash = createHash('sha256')
  hash.update(
    JSON.stringify(config.shape, (_, value) => (ArrayBuffer.isView(value) ? Array.from(value as never) : value)),
  )
  for (const [role, slice] of Object.entries(tensors).sort(([a], [b]) => (a < b ? -1 : 1))) {
    const { file, dtype, shape, begin, end } = slice
    hash.update(JSON.stringify([role, dtype, shape]))
    const last = Math.max(begin, end - SAMPLE_BYTES)
    for (const at of [begin, Math.floor((begin + last) / 2), last]) {
      const sample = { ...slice, begin: at, end: Math.min(at + SAMPLE_BYTES, end) }
      hash.update(await readTensorBytes(table.files[file]!, sample))
    }
  }
  return hash.digest('hex')
}
