// The gate and the scheduler on the real addon: whatever the trees, whoever comes when, everybody gets the tokens of plain decoding alone.
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { LiveCosts } from '../../src/decode/step-costs.js'
import { type Engine, type GenerateOptions, loadEngine, type Result } from '../../src/index.js'
import { Random } from '../support/random.js'

const TEXT =
  '// path: src/list.ts\nexport class List<T> {\n  private items: T[] = []\n\n  add(item: T): void {\n    this.items.push(item)\n  }\n\n' +
  '  get(index: number): T | undefined {\n    return this.items[index]\n  }\n}\n\nexport function sum(values: number[]): number {\n'

let engine: Engine
beforeAll(async () => {
  engine = await loadEngine('demo')
})
afterAll(() => engine.close())
afterEach(() => {
  vi.restoreAllMocks()
})

/** Costs drawn anew each time they are asked for: every step another tree, or none. */
function flip(name: string): void {
  const random = new Random(name)
  vi.spyOn(LiveCosts.prototype, 'stepMs').mockImplementation(({ nodes }) => random.uniform(nodes === 1 ? 0.2 : 1, 2))
}

const decided = ({ text, tokens, finish, stopString, usage, kv, logprobs }: Result): unknown => ({
  text,
  tokens: [...tokens],
  finish,
  stopString,
  usage,
  kv,
  logprobs,
})

interface Job {
  readonly prompt: Int32Array
  readonly options: GenerateOptions
}

/** Requests of every kind. */
function jobs(random: Random, ids: Int32Array, count: number): Job[] {
  return Array.from({ length: count }, () => {
    const begin = random.integer(0, 40)
    const options: GenerateOptions = {
      maxTokens: random.integer(1, 60),
      ignoreEos: random.integer(0, 1) === 1,
      ...random.pick<GenerateOptions>([
        {},
        { temperature: 0.8, seed: random.integer(0, 99) },
        { temperature: 1, topK: 20, seed: 4 },
      ]),
      ...random.pick<GenerateOptions>([{}, {}, { logprobs: 2 }, { stop: 'return' }, { repetitionPenalty: 1.2 }]),
      kv: random.pick([{ policy: 'full' }, { budget: 40, window: 8 }, { policy: 'streaming', budget: 48 }]),
      speculation: random.pick<NonNullable<GenerateOptions['speculation']>>([
        {},
        { mode: 'medusa' },
        { tree: 'mc_sim_7b_63' },
        { mode: 'medusa', tree: 'chain:4' },
        { tree: 8 },
        { mode: 'off' },
      ]),
    }
    return { prompt: ids.slice(begin, begin + random.integer(1, 90)), options }
  })
}

describe('tokens are those of plain decoding alone', () => {
  it('with a gate that flips at every step', async () => {
    const random = new Random('flipping')
    const ids = await engine.tokenize(TEXT)
    const work = jobs(random, ids, 24)
    const plain: unknown[] = []
    for (const { prompt, options } of work) {
      plain.push(decided(await engine.generate(prompt, { ...options, speculation: { mode: 'off' } })))
    }
    flip('costs')
    const sizes = new Set<number>()
    for (const [i, { prompt, options }] of work.entries()) {
      const result = await engine.generate(prompt, { ...options, speculation: {} })
      expect(decided(result), `${random.seed}: ${JSON.stringify(options)}`).toEqual(plain[i])
      for (const { nodes } of result.speculation.sizes) sizes.add(nodes)
    }
    expect(sizes.size).toBeGreaterThan(4)
  })

  it('whoever arrives when, in any order, with any tree', async () => {
    const random = new Random('arrivals')
    const ids = await engine.tokenize(TEXT)
    const work = jobs(random, ids, 40)
    const plain: unknown[] = []
    for (const { prompt, options } of work) {
      plain.push(decided(await engine.generate(prompt, { ...options, speculation: { mode: 'off' } })))
    }
    for (const gate of ['measured', 'flipping']) {
      if (gate === 'flipping') flip('more costs')
      const order = random.choose(work.length, work.length).sort(() => random.uniform(-1, 1))
      const running: Promise<void>[] = []
      for (const i of order) {
        const { prompt, options } = work[i]!
        const check = async (): Promise<void> => {
          const result = await engine.generate(prompt, options)
          expect(decided(result), `${random.seed}, ${gate}: ${JSON.stringify(options)}`).toEqual(plain[i])
        }
        running.push(check())
        if (random.integer(0, 2) === 0) await new Promise((resolve) => setTimeout(resolve, random.integer(0, 30)))
      }
      await Promise.all(running)
    }
  })

  it('in a conversation whose trees change', async () => {
    const talk = async (mode: 'auto' | 'off'): Promise<unknown[]> => {
      await using session = engine.session({ kv: { budget: 64, window: 8 } })
      const turns: unknown[] = []
      for (const at of [0, 60, 150]) {
        const result = await session.send(TEXT.slice(at, at + 80), { maxTokens: 33, speculation: { mode } })
        turns.push(decided(result))
      }
      return turns
    }
    const plain = await talk('off')
    flip('talk')
    expect(await talk('auto')).toEqual(plain)
  })
})

describe('step costs', () => {
  it('were measured when the engine was loaded', () => {
    const { stepCosts } = engine.info
    expect(stepCosts!.rows[0]).toBe(1)
    expect(stepCosts!.ms[0]).toBeGreaterThan(0)
    expect(stepCosts!.draftMs).toHaveLength(5)
  })

  it('are not where nothing depends on them', async () => {
    for (const speculation of [{ mode: 'off' }, { mode: 'medusa', tree: 8 }] as const) {
      const other = await loadEngine({ model: 'demo', speculation })
      expect(other.info.stepCosts).toBeNull()
      await other.close()
    }
  })

  it('do not depend on when they are measured: loading stops when it is told to', async () => {
    const controller = new AbortController()
    const loading = loadEngine({
      model: 'demo',
      signal: controller.signal,
      onProgress: ({ phase }) => phase === 'measure' && controller.abort('enough'),
    })
    await expect(loading).rejects.toBe('enough')
  })
})
