// A temporary folder is gone when its run is over, whichever way it ends.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { withTemporaryFolder } from '../../bench/support/temporary-folder.js'
import { packageRoot } from '../../src/native.js'
import { temporaryFolder } from '../support/folder.js'
import { TYPESCRIPT } from '../support/program.js'

const parent = temporaryFolder()

describe('a temporary folder', () => {
  it('is there for the body, where it was asked for, and gone afterwards', async () => {
    const dir = await withTemporaryFolder('x-', { parent }, async (folder) => {
      await writeFile(join(folder, 'file'), 'text')
      return folder
    })
    expect(dirname(dir)).toBe(parent)
    expect(existsSync(dir)).toBe(false)
  })

  it('is gone after a failure, which is passed on', async () => {
    let dir = ''
    const failing = withTemporaryFolder('x-', { parent }, async (folder) => {
      dir = folder
      throw new Error('broken')
    })
    await expect(failing).rejects.toThrow('broken')
    expect(existsSync(dir)).toBe(false)
  })

  it('stays when it is to be kept', async () => {
    const dir = await withTemporaryFolder('x-', { parent, keep: true }, async (folder) => folder)
    expect(existsSync(dir)).toBe(true)
  })

  it('leaves no listeners behind', async () => {
    const before = process.listenerCount('SIGINT') + process.listenerCount('exit')
    await withTemporaryFolder('x-', { parent }, async () => undefined)
    expect(process.listenerCount('SIGINT') + process.listenerCount('exit')).toBe(before)
  })

  it.each(['SIGINT', 'SIGTERM'] as const)('is gone after %s', async (signal) => {
    const file = join(packageRoot(), 'test', 'bench', 'programs', 'interrupted.ts')
    const child = spawn(process.execPath, [...TYPESCRIPT, file], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    const dir = line.toString().trim()
    expect(existsSync(join(dir, 'weights'))).toBe(true)
    child.kill(signal)
    const [exitCode] = (await once(child, 'exit')) as [number | null]
    expect(exitCode).toBe(signal === 'SIGINT' ? 130 : 143)
    expect(existsSync(dir)).toBe(false)
  })
})
