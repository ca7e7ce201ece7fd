// Files and folders that are whole or not there: written beside, brought to the disk, then put in their place.
import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { GorgonError } from './errors.js'

/** What the system's refusals mean, for people. */
const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full. Make room, or write elsewhere',
  EDQUOT: 'the quota for files is used up. Make room, or write elsewhere',
  EFBIG: 'files may not become that large here. Raise the limit (ulimit -f), or write elsewhere',
  EROFS: 'the file system is read-only. Write elsewhere',
  EACCES: 'permission is denied. Write elsewhere, or change the permissions',
  EPERM: 'the system does not allow it. Write elsewhere, or change the permissions',
  ENOENT: 'its folder does not exist. Make the folder, or correct the path',
  ENOTDIR: 'a part of its path is a file. Correct the path',
  EISDIR: 'it is a folder. Give another name',
  EIO: 'the disk reports an error. Write elsewhere',
}

/** Calls of the system that only writing makes; whatever else fails in a callback keeps its own error. */
const WRITING: readonly unknown[] = ['write', 'writev', 'ftruncate', 'fsync', 'fdatasync']

/** Not every file system can bring a folder to the disk. */
const NO_FOLDER_SYNC: readonly unknown[] = ['EINVAL', 'ENOTSUP', 'EPERM', 'EACCES']

/** What a file is called besides its name while it is written. */
const PART = /^\.[0-9a-f]{12}\.part$/

/**
 * Writes a file that, after a crash at any moment, is what was there before or all of what `write` wrote.
 *
 * @param write Gets an empty file; what it throws is thrown on, and the file is gone.
 * @throws {GorgonError} ERR_WRITE when the system refuses; what was at `path` is unchanged.
 */
export async function writeDurably(path: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  // Not one fixed name: two processes may write the same file, and each must put a whole one in its place.
  const fresh = `${path}.${randomBytes(6).toString('hex')}.part`
  const refused = (error: unknown) => writeError(path, error)
  const handle = await open(fresh, 'wx').catch((error: unknown) => {
    throw refused(error)
  })
  try {
    try {
      await write(handle)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(fresh, path).catch((error: unknown) => {
      throw refused(error)
    })
  } catch (error) {
    await rm(fresh, { force: true }).catch(() => undefined)
    throw WRITING.includes((error as NodeJS.ErrnoException).syscall) ? refused(error) : error
  }
  await syncFolder(dirname(path))
}

/**
 * Removes what `writeDurably` left beside `path` when its process was killed. Nobody may be writing `path`.
 *
 * @throws {GorgonError} ERR_WRITE when the system refuses.
 */
export async function removeParts(path: string): Promise<void> {
  const [folder, name] = [dirname(path), basename(path)]
  for (const found of await attempt(folder, () => readdir(folder))) {
    if (!found.startsWith(name) || !PART.test(found.slice(name.length))) continue
    await attempt(path, () => rm(join(folder, found), { force: true }))
  }
}

/**
 * Fills a new folder and puts it in the place of `path`. A crash leaves the old folder or the new one; between the two renames it is under
 * another name, and `recoverFolder` puts it back.
 *
 * @param fill Writes into the folder it is given, durably.
 * @throws {GorgonError} ERR_WRITE when the system refuses; what was at `path` is unchanged.
 */
export async function replaceFolder(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const { fresh, old } = beside(path)
  await recoverFolder(path)
  try {
    await attempt(path, () => mkdir(fresh))
    await fill(fresh)
    await syncFolder(fresh)
    const replaces = await attempt(path, () => moved(path, old))
    try {
      await attempt(path, () => rename(fresh, path))
    } catch (error) {
      if (replaces) await rename(old, path).catch(() => undefined)
      throw error
    }
  } catch (error) {
    await rm(fresh, { recursive: true, force: true }).catch(() => undefined)
    throw error
  }
  await syncFolder(dirname(path))
  await attempt(old, () => rm(old, { recursive: true, force: true }))
}

/**
 * Clears up after a `replaceFolder` that a crash cut short: `path` is again the last whole folder, or is not there if there was none.
 *
 * @throws {GorgonError} ERR_WRITE when the system refuses.
 */
export async function recoverFolder(path: string): Promise<void> {
  const { fresh, old } = beside(path)
  const isThere = await stat(path).then(
    () => true,
    () => false,
  )
  // Without it, the crash came between the renames.
  if (isThere) await attempt(old, () => rm(old, { recursive: true, force: true }))
  else await attempt(path, () => moved(old, path))
  await attempt(fresh, () => rm(fresh, { recursive: true, force: true }))
}

const beside = (path: string) => ({ fresh: `${path}.new`, old: `${path}.old` })

/** @returns false when there is nothing to move. */
async function moved(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

async function attempt<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    throw writeError(path, error)
  }
}

/** Brings the names in a folder to the disk, where its file system can. */
async function syncFolder(path: string): Promise<void> {
  try {
    const handle = await open(path, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    if (!NO_FOLDER_SYNC.includes((error as NodeJS.ErrnoException).code)) throw writeError(path, error)
  }
}

/** ERR_WRITE for what the system said when `path` was written. */
export function writeError(path: string, error: unknown): GorgonError {
  const { code = '', message } = error as NodeJS.ErrnoException
  const reason = Object.hasOwn(REASONS, code) ? `${REASONS[code]}` : `${message}. Write elsewhere`
  return new GorgonError('ERR_WRITE', `${path} cannot be written: ${reason}.`, { file: path, cause: code }, error)
}
