// A short name for a model's weights: what was computed with one model is never taken for another's.
import { createHash } from 'node:crypto'
import type { ModelFolder } from '../../src/weights/load.js'
import { readTensorPieces } from '../../src/weights/safetensors.js'

/**
 * A digest of shape and weights, as hex: other weights, another digest, wherever the folder lies. Every byte is read, which takes about as long
 * as loading them: half a minute for 14 GB.
 *
 * @throws {GorgonError} ERR_FILE when weights cannot be read; the signal's reason.
 */
export async function modelDigest({ config, table, tensors }: ModelFolder, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  hash.update(
    JSON.stringify(config.shape, (_, value) => (ArrayBuffer.isView(value) ? Array.from(value as never) : value)),
  )
  for (const [role, { file, dtype, shape, begin, end }] of Object.entries(tensors).sort(byRole)) {
    hash.update(JSON.stringify([role, dtype, shape]))
    for await (const piece of readTensorPieces(table.files[file]!, { begin, end })) {
      signal?.throwIfAborted()
      hash.update(piece)
    }
  }
  return hash.digest('hex')
}

const byRole = ([a]: [string, unknown], [b]: [string, unknown]): number => (a < b ? -1 : 1)
