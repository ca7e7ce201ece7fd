// The engine in processes and threads of its own: a thousand generations in the same memory, and worker threads that load and generate.
import { expect, it } from 'vitest'
import { demoModel } from '../../src/index.js'
import { isSanitized, programResult } from '../support/program.js'

interface Account {
  readonly generations: number
  readonly rss: number
  readonly heapUsed: number
  readonly external: number
  readonly descriptors: number
  readonly threads: number
}

it.skipIf(process.platform !== 'linux' || isSanitized)(
  '1,000 generations that end in every way leave memory flat',
  async () => {
    const [before, after] = await programResult<[Account, Account]>(
      'engine-native/programs/thousand.ts',
      [demoModel()],
      {
        flags: ['--expose-gc'],
      },
    )
    expect(after.generations - before.generations).toBe(1000)
    // A sequence holds about 1 MB: one leaked in fifteen generations would show above what allocators and collectors vary.
    expect(after.rss - before.rss).toBeLessThan(64 * 2 ** 20)
    expect(after.heapUsed - before.heapUsed).toBeLessThan(4 * 2 ** 20)
    expect(after.external - before.external).toBeLessThan(2 ** 20)
    expect(after.descriptors).toBeLessThanOrEqual(before.descriptors)
    expect(after.threads).toBeLessThanOrEqual(before.threads)
  },
)

it('worker threads load, generate and may be terminated', async () => {
  const { texts, after } = await programResult<{ texts: string[]; after: string }>(
    'engine-native/programs/workers.ts',
    [demoModel()],
  )
  expect(after.length).toBeGreaterThan(20)
  expect(texts).toEqual([after, after, after])
})
