// One prompt over several caches: every branch has the tokens of a session of its own.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type CompressionSpec, type ModelHandle, native, packageRoot } from '../../src/native.js'
import { loadTokenizer } from '../../src/text/tokenizer.js'
import { temporaryFolder } from '../support/folder.js'
import { decode, openModel } from '../support/native-session.js'
import { Random } from '../support/random.js'
import { writeTinyModel } from '../support/tiny-model.js'

const SNAPKV: CompressionSpec = {
  policy: 'snapkv',
  budget: 64,
  window: 16,
  poolSize: 7,
  pool: 'max',
  groupReduce: 'mean',
  sinks: 4,
  reportKept: false,
}
const COMPRESSIONS: readonly (CompressionSpec | null)[] = [
  null,
  SNAPKV,
  { ...SNAPKV, budget: 300 },
  { ...SNAPKV, pool: 'avg' },
  { ...SNAPKV, poolSize: 1, groupReduce: 'max' },
  { ...SNAPKV, policy: 'h2o', poolSize: 1 },
  { ...SNAPKV, policy: 'streaming' },
]

interface Branch {
  readonly rowsKept: number
  readonly tokens: Int32Array
}

interface Args {
  readonly chunk: number
  readonly count: number
  readonly stopIds: Int32Array
  readonly compressions: readonly (CompressionSpec | null)[]
}

const run = native().ops['continueGreedily'] as (model: ModelHandle, tokens: Int32Array, args: Args) => Branch[]

const dir = temporaryFolder()
const models: Record<string, ModelHandle> = {}
let text: readonly number[]

beforeAll(async () => {
  const demo = join(packageRoot(), 'models', 'demo')
  const tokenizer = (await loadTokenizer(demo))!
  // The same whatever becomes of our sources: what a prompt's continuation is decides what a test sees.
  const lines = Array.from(
    { length: 150 },
    (_, i) => `export const item${i} = pick(${(i * 7919) % 1000}, 'name${i % 37}')`,
  )
  text = [...(await tokenizer.encode(lines.join('\n')))]
  await tokenizer.close()
  models['demo'] = await openModel(demo)
  await writeTinyModel(join(dir, 'window'), { architecture: 'mistral', slidingWindow: 50, vocab: 320 })
  models['sliding window'] = await openModel(join(dir, 'window'))
  await writeTinyModel(join(dir, 'tiny'), { architecture: 'qwen3', vocab: 320, dtype: 'f32' })
  models['tiny'] = await openModel(join(dir, 'tiny'))
})
afterAll(() => Promise.all(Object.values(models).map((model) => native().close(model))))

const promptOf = (model: string, count: number): number[] => {
  if (model === 'demo') return text.slice(0, count)
  const random = new Random(`shared prefill ${count}`)
  return Array.from({ length: count }, () => random.integer(0, 319))
}

describe('continueGreedily', () => {
  for (const [model, count] of [
    ['demo', 1100],
    ['demo', 300],
    ['demo', 301],
    ['demo', 1],
    ['tiny', 600],
    ['sliding window', 150],
  ] as const) {
    it(`${model}, a prompt of ${count}: every branch has the tokens and rows of its own session`, async () => {
      const prompt = promptOf(model, count)
      const branches = run(models[model]!, Int32Array.from(prompt), {
        chunk: 512,
        count: 24,
        stopIds: new Int32Array(0),
        compressions: COMPRESSIONS,
      })
      for (const [i, compression] of COMPRESSIONS.entries()) {
        const alone = await decode(models[model]!, prompt, 24, { compression })
        expect([...branches[i]!.tokens], `branch ${i}`).toEqual(alone.tokens)
        expect(branches[i]!.rowsKept, `branch ${i}`).toBe(Math.min(count, compression?.budget ?? count))
      }
    })
  }

  it('compression shows: branches differ', () => {
    const branches = run(models['demo']!, Int32Array.from(promptOf('demo', 1100)), {
      chunk: 512,
      count: 40,
      stopIds: new Int32Array(0),
      compressions: COMPRESSIONS,
    })
    expect(new Set(branches.map(({ tokens }) => tokens.join())).size).toBeGreaterThan(2)
  })

  it('a branch ends behind its stop id; the others go on', () => {
    const prompt = Int32Array.from(promptOf('demo', 1100))
    const args = { chunk: 512, count: 30, stopIds: new Int32Array(0), compressions: COMPRESSIONS }
    const whole = run(models['demo']!, prompt, args)
    const stop = whole[0]!.tokens[9]!
    const stopped = run(models['demo']!, prompt, { ...args, stopIds: Int32Array.of(stop) })
    for (const [i, { tokens }] of whole.entries()) {
      const end = tokens.indexOf(stop)
      expect([...stopped[i]!.tokens]).toEqual([...tokens.slice(0, end < 0 ? 30 : end + 1)])
    }
  })

  it('refuses what cannot run', () => {
    const args: Args = { chunk: 512, count: 4, stopIds: new Int32Array(0), compressions: [null] }
    const over = (tokens: number[], changes: Partial<Args>) => () =>
      run(models['tiny']!, Int32Array.from(tokens), { ...args, ...changes })
    expect(over([1, 2], {})).not.toThrow()
    expect(over([], {})).toThrow(/tokens/)
    expect(over([320], {})).toThrow(/range/)
    expect(over([1], { count: 0 })).toThrow(/count/)
    expect(over([1], { count: 1_000_000 })).toThrow(/cannot run/)
    expect(over([1], { chunk: 0 })).toThrow(/chunk/)
    expect(over([1], { compressions: [{ ...SNAPKV, budget: 16 }] })).toThrow(/compression/)
    expect(over([1], { compressions: [{ ...SNAPKV, poolSize: 2 }] })).toThrow(/compression/)
    expect(over([1], { compressions: [{ ...SNAPKV, policy: 'streaming', sinks: 64 }] })).toThrow(/compression/)
  })
})
