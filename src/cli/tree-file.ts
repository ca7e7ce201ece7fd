// A tree from a file, as `gorgon tree` writes them.
import { readFileSync, statSync } from 'node:fs'
import { GorgonError } from '../index.js'
import { parseJsonObject } from '../json.js'

/** Sixty-three paths are a few KiB. */
const MAX_BYTES = 1 << 20

/**
 * Its paths; whether they make a tree is for the engine to say.
 *
 * @throws {GorgonError} ERR_FILE when it cannot be read, ERR_TREE when it is too large, no JSON, or has no paths.
 */
export function readTreeFile(file: string): { readonly paths: unknown } {
  let text: string
  try {
    const { size } = statSync(file)
    if (size > MAX_BYTES) {
      throw new GorgonError('ERR_TREE', `${file} has ${size} bytes; a tree has ${MAX_BYTES} at most.`, { file, size })
    }
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (error instanceof GorgonError) throw error
    throw new GorgonError(
      'ERR_FILE',
      `--tree ${JSON.stringify(file)} cannot be read: ${(error as Error).message}.`,
      { file },
      error,
    )
  }
  const { paths } = parseJsonObject(text, file, 'ERR_TREE')
  if (Array.isArray(paths)) return { paths }
  throw new GorgonError(
    'ERR_TREE',
    `${file} has no "paths", so it is no tree. "gorgon tree" writes such a file: { "paths": [[0], [0, 0], …] }.`,
    { file },
  )
}
