// A folder's lock: one run at a time, and none kept out by a process that is gone.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { LOCK_FILE, lockFolder } from '../../../heads/train/run-lock.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'

const dir = temporaryFolder()
let count = 0
function newFolder(owner?: object | string): string {
  const folder = join(dir, String(count++))
  mkdirSync(folder)
  if (owner) writeFileSync(join(folder, LOCK_FILE), typeof owner === 'string' ? owner : JSON.stringify(owner))
  return folder
}

const here = { host: hostname(), since: Date.now() }

/** A process that was, and its number. */
async function gonePid(): Promise<number> {
  const child = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
  await once(child, 'exit')
  return child.pid!
}

test('a second run is refused by the name of the first, until that lets go', async () => {
  const folder = newFolder()
  const unlock = await lockFolder(folder)
  const error = await failure(
    () => lockFolder(folder),
    'ERR_OPTION',
    new RegExp(`process ${process.pid} on .*training`),
  )
  expect(error.details).toMatchObject({ path: 'out', value: folder, pid: process.pid, host: hostname() })
  await unlock()
  expect(readdirSync(folder)).toEqual([])
  await (await lockFolder(folder))()
})

test('the lock of a process that runs here is kept', async () => {
  const owner = { ...here, pid: process.ppid }
  const folder = newFolder(owner)
  await failure(
    () => lockFolder(folder),
    'ERR_OPTION',
    new RegExp(`process ${process.ppid} .*remove .*training\\.lock`),
  )
  expect(JSON.parse(readFileSync(join(folder, LOCK_FILE), 'utf8'))).toEqual(owner)
})

test('the lock of a process that is gone is taken over, by one of many', async () => {
  const folder = newFolder({ ...here, pid: await gonePid() })
  const tries = await Promise.allSettled(Array.from({ length: 8 }, () => lockFolder(folder)))
  const taken = tries.filter((one) => one.status === 'fulfilled')
  expect(taken).toHaveLength(1)
  expect(JSON.parse(readFileSync(join(folder, LOCK_FILE), 'utf8'))).toMatchObject({ pid: process.pid })
  await taken[0]!.value()
  expect(readdirSync(folder)).toEqual([])
})

test('a process that had the number of this one before is gone', async () => {
  const folder = newFolder({ ...here, pid: process.pid, since: Date.now() - 1000 * process.uptime() - 60_000 })
  await (await lockFolder(folder))()
  expect(existsSync(join(folder, LOCK_FILE))).toBe(false)
})

test('of a process elsewhere nobody knows whether it is gone', async () => {
  const folder = newFolder({ ...here, host: 'elsewhere', pid: await gonePid() })
  await failure(() => lockFolder(folder), 'ERR_OPTION', /on elsewhere is training/)
})

test('a lock that makes no sense is left alone', async () => {
  await failure(() => lockFolder(newFolder('{')), 'ERR_OPTION', /another process is training/)
})

test('a folder that is not there cannot be locked', async () => {
  await failure(() => lockFolder(join(dir, 'nowhere')), 'ERR_WRITE', /training\.lock/)
})
