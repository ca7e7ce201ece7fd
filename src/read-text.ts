// A text file of a model folder, if it is there.
import { readFile, stat } from 'node:fs/promises'
import { type ErrorCode, GorgonError } from './errors.js'

/**
 * The file's text; null when there is no such file.
 *
 * @throws {GorgonError} ERR_FILE when it cannot be read, `code` when it has more than `maxBytes`.
 */
export async function readText(path: string, maxBytes: number, code: ErrorCode): Promise<string | null> {
  try {
    const { size } = await stat(path)
    if (size > maxBytes) {
      throw new GorgonError(code, `${path} has ${size} bytes; gorgon reads at most ${maxBytes}. Use a smaller file.`, {
        file: path,
        bytes: size,
        limit: maxBytes,
      })
    }
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof GorgonError) throw error
    const { code: reason, message } = error as NodeJS.ErrnoException
    if (reason === 'ENOENT' || reason === 'ENOTDIR') return null
    throw new GorgonError(
      'ERR_FILE',
      `${path} cannot be read: ${message}. Check that it is a file you may read.`,
      { file: path },
      error,
    )
  }
}
