// Cores and caches, read from files as Linux has them.
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { coldBytesOf, lastLevelCacheBytes, physicalCores } from '../../bench/support/processor.js'
import { temporaryFolder } from '../support/folder.js'

const folder = temporaryFolder()

async function machine(siblings: readonly string[], cacheSizes: readonly string[]): Promise<string> {
  const root = await mkdtemp(join(folder, 'cpu-'))
  const put = async (path: string, text: string) => {
    await mkdir(join(root, path, '..'), { recursive: true })
    await writeFile(join(root, path), `${text}\n`)
  }
  for (const [cpu, list] of siblings.entries()) await put(`cpu${cpu}/topology/thread_siblings_list`, list)
  for (const [index, size] of cacheSizes.entries()) await put(`cpu0/cache/index${index}/size`, size)
  return root
}

describe('the processor', () => {
  it('counts cores that share threads once, and no more than the process may use', async () => {
    const root = await machine(['0,4', '1,5', '0,4', '1,5'], [])
    expect(physicalCores(root, 4)).toBe(2)
    expect(physicalCores(root, 1)).toBe(1)
    expect(physicalCores(await machine(['0', '1', '2'], []), 8)).toBe(3)
  })

  it('takes the processors it may use where nothing is said', async () => {
    const root = await machine([], [])
    expect(physicalCores(root, 6)).toBe(6)
    expect(lastLevelCacheBytes(root)).toBe(32 * 2 ** 20)
  })

  it('takes the largest cache', async () => {
    expect(lastLevelCacheBytes(await machine([], ['48K', '2048K', '105M']))).toBe(105 * 2 ** 20)
    expect(lastLevelCacheBytes(await machine([], ['32K', '512K']))).toBe(512 * 2 ** 10)
  })

  it('goes through several times the cache to be beyond it', () => {
    expect(coldBytesOf(2 ** 20)).toBe(2 ** 28)
    expect(coldBytesOf(2 ** 28)).toBe(2 ** 30)
  })
})
