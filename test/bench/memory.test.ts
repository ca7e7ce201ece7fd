// The memory a piece of work takes is seen while it works, also when it is given back before the end.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { watchMemory } from '../../src/bench/memory.js'

const HELD_BYTES = 256 * 2 ** 20

test('the result, and memory that was held meanwhile', async () => {
  const before = process.memoryUsage.rss()
  const { result, peakRssBytes } = await watchMemory(
    (async () => {
      const held = Buffer.alloc(HELD_BYTES, 1)
      await sleep(100)
      return held.length
    })(),
  )
  expect(result).toBe(HELD_BYTES)
  expect(peakRssBytes).toBeGreaterThan(before + HELD_BYTES / 2)
})

test('a failure is passed on, and its clock stops', async () => {
  const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const before = timers()
  await expect(watchMemory(Promise.reject(new Error('no')))).rejects.toThrow('no')
  expect(timers()).toBe(before)
})
