// Files that flags name for what a command found out.
import { constants } from 'node:fs'
import { access, stat, writeFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { GorgonError } from '../index.js'

function refusal(flag: string, file: string, why: string, error?: unknown): GorgonError {
  return new GorgonError('ERR_FILE', `${flag} ${JSON.stringify(file)} cannot be written: ${why}.`, { file }, error)
}

/**
 * Better known before a long run than after it.
 *
 * @throws {GorgonError} ERR_FILE, naming the flag, when the file could not be written now.
 */
export async function checkWritable(flag: string, file: string): Promise<void> {
  if (file === '') throw refusal(flag, file, 'it names no file')
  const folder = dirname(resolve(file))
  const there = await stat(file).catch(() => null)
  if (there?.isDirectory()) throw refusal(flag, file, 'it is a folder')
  await access(there ? file : folder, constants.W_OK).catch((error: unknown) => {
    throw refusal(flag, file, there ? 'it is read-only' : `its folder ${folder} is missing or read-only`, error)
  })
}

/**
 * The same of a folder that is there, or will be made.
 *
 * @throws {GorgonError} ERR_FILE, naming the flag, when files could not be written into it now.
 */
export async function checkFolder(flag: string, folder: string): Promise<void> {
  if (folder === '') throw refusal(flag, folder, 'it names no folder')
  for (let at = resolve(folder); ; at = dirname(at)) {
    const there = await stat(at).catch(() => null)
    if (!there && at !== dirname(at)) continue
    if (!there?.isDirectory()) throw refusal(flag, folder, `${at} is not a folder`)
    await access(at, constants.W_OK).catch((error: unknown) => {
      throw refusal(flag, folder, `${at} is read-only`, error)
    })
    return
  }
}

/** @throws {GorgonError} ERR_FILE, naming the flag. */
export async function writeOutput(flag: string, file: string, text: string): Promise<void> {
  try {
    await writeFile(file, text)
  } catch (error) {
    throw refusal(flag, file, (error as Error).message, error)
  }
}
