// Arms of a comparison: what is timed, and what crosses between their processes and ours.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ArmProcess, sampleOf } from '../../../bench/peers/arm-process.js'
import { packageRoot } from '../../../src/index.js'
import { failure } from '../../support/errors.js'
import { TYPESCRIPT } from '../../support/program.js'
import type { CountingSetup } from './counting-arm.js'

/** Arrivals at given times, and the clock they move. */
function arrivals(...events: [atMs: number, tokens: number[]][]) {
  let time = 0
  const stream = async function* () {
    for (const [atMs, tokens] of events) {
      time = atMs
      yield tokens
    }
    time = 1e6
  }
  return sampleOf(stream(), () => time)
}

describe('sampleOf', () => {
  it('one token at a time: all but the first, over the time from the first to the last', async () => {
    const sample = await arrivals([200, [5]], [210, [6]], [220, [7]], [240, [8]])
    expect(sample).toEqual({ ttftMs: 200, tokensPerSecond: (1000 * 3) / 40, tokens: [5, 6, 7, 8], tokensPerStep: 1 })
  })

  it('several at once: those of the first arrival took no time after it, so they do not count', async () => {
    const sample = await arrivals([100, [1, 2, 3]], [150, [4, 5]])
    expect(sample).toMatchObject({ tokensPerSecond: 40, tokensPerStep: 2.5 })
  })

  it('an arrival with nothing in it moves no clock', async () => {
    const sample = await arrivals([50, []], [100, [1]], [200, [2]], [900, []])
    expect(sample).toMatchObject({ ttftMs: 100, tokensPerSecond: 10, tokensPerStep: 1 })
  })
})

describe('ArmProcess', () => {
  const file = join(packageRoot(), 'test', 'bench', 'peers', 'counting-arm.ts')
  const start = (setup: CountingSetup = {}) =>
    ArmProcess.start<CountingSetup, { readonly pid: number }>(file, setup, TYPESCRIPT)

  it('runs in another process, which ends when it is closed', async () => {
    const arm = await start()
    expect(arm.info.pid).not.toBe(process.pid)
    await arm.prepare({ promptTokens: 2, tokens: 3 })
    const sample = await arm.run({ prompt: [9, 9], tokens: 3 })
    expect(sample.tokens).toEqual([2, 3, 4])
    expect(sample.peakRssBytes).toBeGreaterThan(2 ** 20)
    expect((await arm.run({ prompt: [], tokens: 2 })).tokens).toEqual([0, 1])
    await arm.close()
    await arm.close()
    expect(() => process.kill(arm.info.pid, 0)).toThrow('ESRCH')
  })

  it('a failure keeps its code', async () => {
    await failure(() => start({ fails: 'loading' }), 'ERR_OPTION', /cannot be loaded/)
  })

  it('a failure of a run leaves the process usable', async () => {
    const arm = await start({ fails: 'running' })
    await arm.prepare({ promptTokens: 40, tokens: 2 })
    await expect(arm.run({ prompt: [1], tokens: 1 })).rejects.toThrow('prepared for 42')
    await expect(arm.run({ prompt: [1], tokens: 1 })).rejects.toThrow('prepared for 42')
    await arm.close()
  })

  it('too few tokens are no sample', async () => {
    const arm = await start({ fails: 'short' })
    await expect(arm.run({ prompt: [1], tokens: 4 })).rejects.toThrow('4 tokens were asked for, 3 came')
    await arm.close()
  })

  it('a process that dies is an error, and nothing to wait for', async () => {
    const arm = await start({ fails: 'dying' })
    await expect(arm.run({ prompt: [1], tokens: 1 })).rejects.toThrow('ended with 7')
    await arm.close()
  })
})
