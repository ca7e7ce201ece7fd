// One run at a time in a folder: a file says who is at work there.
import { randomBytes } from 'node:crypto'
import { link, open, readFile, rename, rm } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { writeError } from '../../src/durable-file.js'
import { GorgonError } from '../../src/errors.js'

export const LOCK_FILE = 'training.lock'
/** Others may take a lock over, and let it go, at the same moment; not again and again. */
const MOST_TRIES = 10

const Owner = z.object({
  pid: z.int().min(1),
  host: z.string(),
  /** Milliseconds since 1970. */
  since: z.number(),
})
type Owner = z.output<typeof Owner>

/**
 * Makes a folder this run's until the function returned is called. The lock of a process that is gone is taken over.
 *
 * @throws {GorgonError} ERR_OPTION naming the process that trains there; ERR_WRITE.
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const path = join(folder, LOCK_FILE)
  try {
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      if (await take(path)) return () => rm(path, { force: true })
      const text = await readFile(path, 'utf8').catch(orNull)
      if (text === null) continue
      const owner = ownerOf(text)
      if (owner === null || !isGone(owner)) throw taken(folder, owner)
      await putAside(path, text)
    }
    throw taken(folder, null)
  } catch (error) {
    throw error instanceof GorgonError ? error : writeError(path, error)
  }
}

/** False when there is one. */
async function take(path: string): Promise<boolean> {
  const handle = await open(path, 'wx').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') return null
    throw error
  })
  if (handle === null) return false
  try {
    const owner: Owner = { pid: process.pid, host: hostname(), since: Date.now() }
    await handle.writeFile(`${JSON.stringify(owner)}\n`)
    return true
  } catch (error) {
    await rm(path, { force: true })
    throw error
  } finally {
    await handle.close()
  }
}

/** Removes the lock of a process that is gone, and no other that may have come in its place meanwhile. */
async function putAside(path: string, text: string): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString('hex')}`
  await rename(path, aside).catch(orNull)
  const found = await readFile(aside, 'utf8').catch(orNull)
  if (found !== null && found !== text) await link(aside, path).catch(() => undefined)
  await rm(aside, { force: true })
}

/** For what another process may have removed. */
function orNull(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null
  throw error
}

function ownerOf(text: string): Owner | null {
  try {
    return Owner.parse(JSON.parse(text))
  } catch {
    return null
  }
}

function isGone({ pid, host, since }: Owner): boolean {
  if (host !== hostname()) return false
  // Numbers come again: a lock from before this process began is of another one.
  if (pid === process.pid) return since < Date.now() - 1000 * process.uptime()
  try {
    process.kill(pid, 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

function taken(folder: string, owner: Owner | null): GorgonError {
  const who = owner === null ? 'another process' : `process ${owner.pid} on ${owner.host}`
  return new GorgonError(
    'ERR_OPTION',
    `out is ${folder}, where ${who} is training. Wait for it, or give another folder; if it is not running any more, remove ${join(folder, LOCK_FILE)}.`,
    { path: 'out', value: folder, pid: owner?.pid ?? null, host: owner?.host ?? null },
  )
}
