// Which arms a run has, and that the engine takes their options.
import { describe, expect, it } from 'vitest'
import { ARM_KINDS, armsOf, titleOf } from '../../../bench/quality/arms.js'
import { parseGenerateOptions } from '../../../src/index.js'

const OPTIONS = { arms: [...ARM_KINDS], budgets: [1024, 128, 1024], compare: [512], window: 16, poolSize: 5 }

describe('armsOf', () => {
  it('has every kind at its budgets, smallest first, each once', () => {
    expect(armsOf(OPTIONS).map(({ name }) => name)).toEqual([
      'full',
      'snapkv-128',
      'snapkv-1024',
      'snapkv-avg-512',
      'snapkv-none-512',
      'h2o-512',
      'streaming-512',
    ])
    expect(armsOf({ ...OPTIONS, arms: ['h2o', 'full'] }).map(({ name }) => name)).toEqual(['full', 'h2o-512'])
  })

  it('hands on window and pool, and leaves pooling out where its name says so', () => {
    const kv = (name: string) => armsOf(OPTIONS).find((arm) => arm.name === name)!.kv
    expect(kv('snapkv-128')).toEqual({ policy: 'snapkv', budget: 128, window: 16, pool: 'max', poolSize: 5 })
    expect(kv('snapkv-avg-512')).toMatchObject({ pool: 'avg', poolSize: 5 })
    expect(kv('snapkv-none-512')).toMatchObject({ poolSize: 1 })
    expect(kv('h2o-512')).toMatchObject({ policy: 'h2o', budget: 512, window: 16 })
    expect(kv('streaming-512')).toEqual({ policy: 'streaming', budget: 512 })
  })

  it('gives every arm a title of its own and options the engine takes', () => {
    const arms = armsOf(OPTIONS)
    expect(new Set(arms.map(titleOf)).size).toBe(arms.length)
    for (const { kv } of arms) expect(() => parseGenerateOptions({ kv })).not.toThrow()
  })
})
