// The decode benchmark: what runs, in which order, what it refuses to report, and what its numbers come to.
import { describe, expect, test } from 'vitest'
import { ARM_NAMES, type Arm, DecodeRun, measureDecode, planDecode } from '../../src/bench/decode.js'
import { acceptanceRows, speedRows, summariseDecode } from '../../src/bench/decode-summary.js'
import type { Prompts } from '../../src/bench/prompts.js'
import type { Engine } from '../../src/index.js'
import { failure } from '../support/errors.js'
import { TOY_VOCAB, toyEngine } from '../support/toy-engine.js'
import { decodeRun as run } from './sample.js'

const heads = { path: '', format: 'x', medusaHeads: 4, blocks: 1, bytes: 1 } as unknown as Engine['info']['heads']

const prompts: Prompts = {
  kind: 'random',
  take: async (index, tokenCount) => Int32Array.from({ length: tokenCount }, (_, i) => (i * 7 + index) % TOY_VOCAB),
}
const options = { promptLengths: [40, 100], tokens: 24, rounds: 3, temperature: 0, mode: 'auto' as const }
const everything = { arms: ARM_NAMES, promptLengths: options.promptLengths }

describe('the plan', () => {
  test('runs every arm at every length that fits', () => {
    const info = { context: 1000, heads }
    expect(planDecode(info, { promptLengths: [100, 900, 901], tokens: 100 })).toEqual({
      arms: ['plain', 'medusa', 'snapkv', 'both'],
      promptLengths: [100, 900],
      notes: ['Left out: prompts of 901 tokens do not fit a context of 1000 with 100 after them.'],
    })
  })

  test('without heads leaves out what speculates, and says so', () => {
    const { arms, notes } = planDecode({ context: 1000, heads: null }, { promptLengths: [10], tokens: 10 })
    expect(arms).toEqual(['plain', 'snapkv'])
    expect(notes).toEqual([expect.stringContaining('No Medusa heads')])
  })
})

describe('measuring', () => {
  test('runs every arm in every round at every length, and tells each run as it is done', async () => {
    const { engine } = toyEngine({ kv: { budget: 64, window: 8 } })
    const told: DecodeRun[] = []
    const runs = await measureDecode(engine, prompts, everything, { ...options, onRun: (run) => told.push(run) })
    expect(told).toEqual(runs)
    expect(runs.map(({ arm, round, promptTokens }) => `${promptTokens} ${round} ${arm}`)).toEqual(
      [40, 100].flatMap((length) =>
        [0, 1, 2].flatMap((round) =>
          (round % 2 === 0 ? ARM_NAMES : ARM_NAMES.toReversed()).map((arm) => `${length} ${round} ${arm}`),
        ),
      ),
    )
    for (const run of runs) {
      expect(DecodeRun.parse(run)).toEqual(run)
      expect(run.tokens).toBe(24)
      expect(run.peakRssBytes).toBeGreaterThan(0)
    }
    const kept = (arm: Arm) => runs.filter((run) => run.arm === arm).map((run) => run.keptTokens)
    expect(kept('plain')).toEqual([40, 40, 40, 100, 100, 100])
    expect(kept('both')).toEqual([40, 40, 40, 64, 64, 64])
    await engine.close()
  })

  test.each([0, 0.8])('temperature %d reaches the engine, with a seed', async (temperature) => {
    const asked: unknown[] = []
    const { engine } = toyEngine()
    const spy = {
      generate: (...args: Parameters<Engine['generate']>) => {
        asked.push([args[1]?.temperature, args[1]?.seed])
        return engine.generate(...args)
      },
    }
    await measureDecode(spy, prompts, everything, { ...options, temperature, rounds: 1 })
    expect(new Set(asked.map(String))).toEqual(new Set([`${temperature},1`]))
    await engine.close()
  })

  test('one wrong token ends it', async () => {
    const { engine } = toyEngine()
    const liar = {
      generate: (...args: Parameters<Engine['generate']>) =>
        engine.generate(...args).then((result) => {
          if (args[1]?.speculation?.mode !== 'off') result.tokens[20]! += 1
          return result
        }) as unknown as ReturnType<Engine['generate']>,
    }
    const error = await failure(
      () => measureDecode(liar, prompts, everything, options),
      'ERR_INTERNAL',
      /^Medusa and plain differ from token 20 on/,
    )
    expect(error.details).toMatchObject({ round: 0, token: 20 })
    await engine.close()
  })

  test('the signal ends it with its reason', async () => {
    const { engine } = toyEngine()
    const ending = new AbortController()
    const told: DecodeRun[] = []
    const running = measureDecode(engine, prompts, everything, {
      ...options,
      signal: ending.signal,
      onRun(run) {
        told.push(run)
        if (told.length === 5) ending.abort(new Error('enough'))
      },
    })
    await expect(running).rejects.toThrow('enough')
    expect(told).toHaveLength(5)
    await engine.close()
  })
})

describe('the summary', () => {
  test('pairs each arm with plain decoding of the same round and length', () => {
    const runs = [
      run('plain', 0, { tokensPerSecond: 100 }),
      run('medusa', 0, { tokensPerSecond: 300 }),
      // The machine was half as fast: the ratio stays what it was.
      run('medusa', 1, { tokensPerSecond: 150 }),
      run('plain', 1, { tokensPerSecond: 50 }),
      run('medusa', 0, { promptTokens: 64, tokensPerSecond: 999 }),
    ]
    const [short, plain, medusa] = summariseDecode(runs)
    expect(short).toMatchObject({ promptTokens: 64, arm: 'medusa', xPlain: { n: 0 } })
    expect(plain).toMatchObject({ promptTokens: 512, arm: 'plain', xPlain: { n: 2, median: 1, p10: 1, p90: 1 } })
    expect(medusa).toMatchObject({ promptTokens: 512, arm: 'medusa', xPlain: { n: 2, median: 3, p10: 3, p90: 3 } })
    expect(medusa!.tokensPerSecond).toMatchObject({ n: 2, median: 225 })
  })

  test('tokens per step are those of all steps, and depths add up', () => {
    const depths = (...pairs: [number, number][]) => pairs.map(([offered, accepted]) => ({ offered, accepted }))
    const [summary] = summariseDecode([
      run('both', 0, { tokensPerStep: 2, steps: 50, byDepth: depths([10, 8], [8, 4]) }),
      run('both', 1, {
        tokensPerStep: 3,
        nodes: 12,
        gate: 'mixed',
        steps: 50,
        plainSteps: 20,
        byDepth: depths([10, 6], [6, 3], [3, 3]),
      }),
    ])
    expect(summary!.tokensPerStep).toBeCloseTo(2.4, 12)
    expect(summary!.byDepth).toEqual(depths([20, 14], [14, 7], [3, 3]))
    expect(acceptanceRows([summary!])).toEqual([
      ['prompt', 'arm', 'tree', 'nodes', 'gate', 'plain steps', 'depth 1', 'depth 2', 'depth 3'],
      ['512', 'Medusa + SnapKV', 'auto', '10', 'mixed, speculated', '20%', '70%', '50%', '100%'],
    ])
  })

  test('rows are as wide as their head, whatever is missing', () => {
    const summaries = summariseDecode([run('snapkv', 0), run('medusa', 1)])
    const [head, ...rows] = speedRows(summaries)
    expect(rows.map((row) => row.length)).toEqual([head!.length, head!.length])
    expect(rows.map((row) => row[head!.indexOf('x plain')])).toEqual(['–', '–'])
    expect(acceptanceRows(summariseDecode([run('plain', 0)]))).toEqual([])
    expect(summariseDecode([])).toEqual([])
  })
})
