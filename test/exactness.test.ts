// The promise of the project: with exact acceptance, speculation changes the speed and nothing else.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { accept } from '../src/decode/accept.js'
import { CHOICES, chain, firstPaths } from '../src/decode/choices.js'
import { draft } from '../src/decode/draft.js'
import { buildTree, PLAIN_TREE, type Tree } from '../src/decode/tree.js'
import { type Engine, type GenerateOptions, loadEngine, type Result } from '../src/index.js'
import { type CompressionSpec, type ModelHandle, native, packageRoot, type SamplingSpec } from '../src/native.js'
import { loadTokenizer } from '../src/text/tokenizer.js'
import { type Decoded, decode, decodeTurn, GREEDY, openModel, sampled, snapkv } from './support/native-session.js'
import { uniform, writeTinyHeads } from './support/tiny-model.js'

const demo = join(packageRoot(), 'models', 'demo')
const demoHeads = join(packageRoot(), 'heads', 'demo')
const TOKENS = 128

const TREES: readonly Tree[] = [
  buildTree(CHOICES.mc_sim_7b_63, 'mc_sim_7b_63'),
  buildTree(firstPaths(CHOICES.mc_sim_7b_63, 15), 'first15'),
  buildTree(CHOICES.vicuna_33b_stage2, 'vicuna_33b_stage2'),
  buildTree(chain(4), 'chain4'),
]

// Code, prose, and a file header, long enough that a budget of 64 drops most of a prompt.
const PROMPTS = [
  `// path: src/queue.ts\nexport class Queue<T> {\n  private items: T[] = []\n\n  push(item: T): void {\n    this.items.push(item)\n  }\n\n  pop(): T | undefined {\n    return this.items.shift()\n  }\n\n  get size(): number {\n    return this.items.length\n  }\n}\n\nexport function drain<T>(queue: Queue<T>, visit: (item: T) => void): void {\n  while (queue.size > 0) {\n`,
  `// path: src/parse.ts\nimport { readFile } from 'node:fs/promises'\n\nexport interface Options {\n  readonly encoding: string\n  readonly limit: number\n}\n\nexport async function parse(path: string, options: Options): Promise<string[]> {\n  const text = await readFile(path, 'utf8')\n  const lines = text.split('\\n')\n  if (lines.length > options.limit) {\n    throw new Error(\`too many lines: \${lines.length}\`)\n  }\n  return lines.map((line) => line.trim())\n}\n\nexport function join(`,
  `It was the best season of the year to be upon the river, and the boat was made ready before the sun had risen over the hills. We had bread, and cheese, and a little wine, and each of us carried in his heart the hope of a long day and a fair wind. The old man who kept the landing shook his head when he saw us, and said that the water was higher than it had been for twenty years, and that`,
  `// path: test/matrix.test.ts\nimport { describe, expect, it } from 'vitest'\nimport { Matrix } from '../src/matrix'\n\ndescribe('Matrix', () => {\n  it('multiplies', () => {\n    const a = new Matrix([[1, 2], [3, 4]])\n    const b = new Matrix([[5, 6], [7, 8]])\n    expect(a.multiply(b).rows).toEqual([[19, 22], [43, 50]])\n  })\n\n  it('transposes', () => {\n    const a = new Matrix([[1, 2], [3, 4]])\n`,
  `// path: src/colors.ts\nexport const red = '#ff0000'\nexport const green = '#00ff00'\nexport const blue = '#0000ff'\nexport const white = '#ffffff'\nexport const black = '#000000'\n\nexport type Color = typeof red | typeof green | typeof blue\n\nexport function parseColor(value: string): [number, number, number] {\n  const match = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(value)\n  if (!match) {\n    throw new TypeError(\`not a color: \${value}\`)\n  }\n  return [`,
]

const CACHES: readonly { name: string; compression: CompressionSpec | null }[] = [
  { name: 'full cache', compression: null },
  { name: 'SnapKV 64', compression: snapkv(64, 16, 7, 'max') },
]
const SAMPLINGS: readonly { name: string; of: (prompt: number) => SamplingSpec }[] = [
  { name: 'greedy', of: () => GREEDY },
  { name: 'temperature 0.8', of: (prompt) => sampled(0.8, BigInt(1000 + prompt), { topP: 0.95 }) },
]

let dir: string
let prompts: number[][]
const models = new Map<string, ModelHandle>()

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'gorgon-exactness-'))
  const tokenizer = (await loadTokenizer(demo))!
  prompts = await Promise.all(PROMPTS.map(async (text) => Array.from(await tokenizer.encode(text))))
  await tokenizer.close()
  const randomHeads = join(dir, 'random-heads')
  const shape = { hidden: 384, vocab: 4096 }
  await writeTinyHeads(randomHeads, shape, { format: 'A', medusaHeads: 4, blocks: 2, dtype: 'bf16', seed: 7 })
  models.set('demo heads', await openModel(demo, { heads: demoHeads }))
  models.set('random heads', await openModel(demo, { heads: randomHeads }))
})
afterAll(async () => {
  await Promise.all([...models.values()].map((model) => native().close(model)))
  await rm(dir, { recursive: true, force: true })
})

let generations = 0

describe('speculation on and off give the same tokens', () => {
  for (const cache of CACHES) {
    for (const sampling of SAMPLINGS) {
      for (const prompt of PROMPTS.keys()) {
        it(`${cache.name}, ${sampling.name}, prompt ${prompt}`, async () => {
          const options = { sampling: sampling.of(prompt), compression: cache.compression }
          const plain = await decode(models.get('demo heads')!, prompts[prompt]!, TOKENS, {
            ...options,
            tree: PLAIN_TREE,
          })
          expect(plain.tokens.length).toBe(TOKENS)
          for (const [heads, model] of models) {
            for (const tree of TREES) {
              const speculated = await decode(model, prompts[prompt]!, TOKENS, { ...options, tree })
              expect(speculated.tokens, `${heads}, ${tree.name}`).toEqual(plain.tokens)
              generations += 1
            }
          }
          // A request of its own for the heads whose drafts are accepted: another prompt, another seed.
          const shorter = prompts[prompt]!.slice(0, -9)
          const again = { ...options, sampling: { ...options.sampling, seed: options.sampling.seed + 77n } }
          const other = await decode(models.get('demo heads')!, shorter, TOKENS, { ...again, tree: PLAIN_TREE })
          for (const tree of TREES.slice(0, 2)) {
            const speculated = await decode(models.get('demo heads')!, shorter, TOKENS, { ...again, tree })
            expect(speculated.tokens, `shorter, ${tree.name}`).toEqual(other.tokens)
            generations += 1
          }
        })
      }
    }
  }

  it('over at least 200 generations, with drafts accepted', async () => {
    expect(generations).toBeGreaterThanOrEqual(200)
    const { steps } = await decode(models.get('demo heads')!, prompts[0]!, TOKENS, { tree: TREES[0]! })
    expect(steps).toBeLessThan(TOKENS / 2)
  })

  it('with penalties, bias, minimum length and every filter at once', async () => {
    const spec = sampled(1.1, 5n, {
      topK: 50,
      topP: 0.9,
      minP: 0.02,
      repetitionPenalty: 1.15,
      frequencyPenalty: 0.3,
      presencePenalty: 0.2,
      biasIds: Int32Array.of(228, 206),
      biasValues: Float32Array.of(-1.5, 0.5),
      minTokens: 60,
      suppressedIds: Int32Array.of(1),
    })
    for (const sampling of [spec, { ...spec, temperature: 0 }]) {
      const model = models.get('demo heads')!
      const plain = await decode(model, prompts[1]!, TOKENS, { sampling })
      for (const tree of TREES) {
        expect((await decode(model, prompts[1]!, TOKENS, { sampling, tree })).tokens, tree.name).toEqual(plain.tokens)
      }
    }
  })
})

describe('through the engine', () => {
  const trees = ['auto', 'mc_sim_7b_63', 'chain:4', 24] as const
  const requests: readonly GenerateOptions[] = [
    { maxTokens: 90, ignoreEos: true, kv: { policy: 'full' } },
    { maxTokens: 90, ignoreEos: true, temperature: 0.8, seed: 3, kv: { budget: 64, window: 16 } },
    { maxTokens: 90, temperature: 0.7, seed: 4, kv: { policy: 'h2o', budget: 80 }, stop: ['\n\n', 'return'] },
    {
      maxTokens: 90,
      temperature: 1,
      topK: 40,
      repetitionPenalty: 1.1,
      seed: 5,
      kv: { policy: 'streaming', budget: 40 },
      logprobs: 2,
    },
  ]
  let engine: Engine
  beforeAll(async () => {
    engine = await loadEngine('demo')
  })
  afterAll(() => engine.close())

  /** What a request decides, which is all but times, steps and how tokens fell into chunks. */
  const decided = ({ text, tokens, finish, stopString, usage, kv, logprobs }: Result): unknown => ({
    text,
    tokens: [...tokens],
    finish,
    stopString,
    usage,
    kv,
    logprobs,
  })

  it('every request gives the same result with and without speculation, alone and among others', async () => {
    const jobs = requests.flatMap((options) => PROMPTS.slice(0, 3).map((prompt) => ({ prompt, options })))
    const plain: unknown[] = []
    for (const { prompt, options } of jobs) {
      plain.push(decided(await engine.generate(prompt, { ...options, speculation: { mode: 'off' } })))
    }
    const together = await Promise.all(
      jobs.map(({ prompt, options }, i) =>
        engine.generate(prompt, { ...options, speculation: { mode: 'medusa', tree: trees[i % trees.length]! } }),
      ),
    )
    for (const [i, result] of together.entries()) expect(decided(result), JSON.stringify(jobs[i])).toEqual(plain[i])
    expect(together.some((result) => result.finish === 'stop')).toBe(true)
    expect(together.reduce((sum, result) => sum + result.speculation.accepted, 0)).toBeGreaterThan(100)
  })

  it('reports what was kept without the window, also where the budget is smaller than the window', async () => {
    const kv = { policy: 'streaming', budget: 10, sinks: 4, reportKept: true } as const
    const { kv: report } = await engine.generate(PROMPTS[0]!, { maxTokens: 1, kv })
    expect(report.keptTokens).toBe(10)
    expect(report.kept!.flat()).toEqual(new Array(12).fill([0, 1, 2, 3]))
  })

  it('an empty text is no prompt', async () => {
    await expect(engine.generate('')).rejects.toMatchObject({ code: 'ERR_EMPTY_PROMPT' })
  })

  it.each(requests.slice(0, 2))('a conversation of three turns, %j', async (options) => {
    const talk = async (speculation: GenerateOptions['speculation']): Promise<unknown[]> => {
      const session = engine.session()
      try {
        const answers: unknown[] = []
        for (const prompt of PROMPTS.slice(0, 3)) {
          answers.push(decided(await session.send(prompt, { ...options, maxTokens: 40, speculation: speculation! })))
        }
        return answers
      } finally {
        await session.close()
      }
    }
    const plain = await talk({ mode: 'off' })
    for (const tree of trees) expect(await talk({ mode: 'medusa', tree }), String(tree)).toEqual(plain)
  })
})

describe('with int8 weights', () => {
  it('speculation on and off give the same tokens', async () => {
    const model = await openModel(demo, { heads: demoHeads, weights: 'int8' })
    models.set('demo heads, int8', model)
    for (const { compression } of CACHES) {
      for (const sampling of SAMPLINGS) {
        for (const prompt of [0, 2]) {
          const options = { sampling: sampling.of(prompt), compression }
          const plain = await decode(model, prompts[prompt]!, TOKENS, { ...options, tree: PLAIN_TREE })
          for (const tree of TREES) {
            const speculated = await decode(model, prompts[prompt]!, TOKENS, { ...options, tree })
            expect(speculated.tokens, `${sampling.name}, prompt ${prompt}, ${tree.name}`).toEqual(plain.tokens)
            if (tree === TREES[0] && prompt === 0) expect(speculated.steps).toBeLessThan(TOKENS / 1.5)
          }
        }
      }
    }
  })

  it('requests give the same results alone and among others', async () => {
    const engine = await loadEngine({ model: 'demo', weights: 'int8' })
    try {
      expect(engine.info).toMatchObject({ weights: 'int8', dtype: 'bf16' })
      const of = (prompt: string, mode: 'off' | 'medusa') =>
        engine.generate(prompt, { maxTokens: 60, ignoreEos: true, speculation: { mode }, kv: { budget: 64 } })
      const alone: number[][] = []
      for (const prompt of PROMPTS) alone.push([...(await of(prompt, 'off')).tokens])
      const together = await Promise.all(PROMPTS.map((prompt) => of(prompt, 'medusa')))
      expect(together.map(({ tokens }) => [...tokens])).toEqual(alone)
    } finally {
      await engine.close()
    }
  })
})

describe('who shares a batch changes nothing', () => {
  it('sessions advanced in one call each get the tokens they get alone', async () => {
    const model = models.get('demo heads')!
    const addon = native()
    const tree = TREES[1]!
    const alone: Decoded[] = []
    for (const prompt of prompts) alone.push(await decode(model, prompt, 48, { tree, wholeSteps: true }))

    const sessions = prompts.map(() => addon.openSession(model))
    const roots = new Map<number, number>()
    const drafts = new Map<number, Int32Array>()
    for (const [i, session] of sessions.entries()) {
      addon.beginPrefill({
        session,
        tokens: Int32Array.from(prompts[i]!),
        sampling: GREEDY,
        compression: null,
        medusaHeads: tree.depth,
        topK: tree.maxRank + 1,
      })
    }
    let waiting = sessions.map((_, i) => i)
    while (waiting.length > 0) {
      const steps = await addon.prefill(waiting.map((i) => sessions[i]!))
      const still: number[] = []
      for (const [at, i] of waiting.entries()) {
        const { result } = steps[at]!
        if (result === null) still.push(i)
        else {
          roots.set(i, result.drafts.root)
          drafts.set(i, result.drafts.tokens)
        }
      }
      waiting = still
    }
    const out: number[][] = prompts.map(() => [])
    while (out.some((tokens) => tokens.length < 48)) {
      const running = sessions.map((_, i) => i).filter((i) => out[i]!.length < 48)
      const nodes = running.map((i) =>
        draft(tree, { root: roots.get(i)!, tokens: drafts.get(i)!, logprobs: null }, tree.maxRank + 1),
      )
      const posteriors = await addon.verify(
        running.map((i, at) => ({ session: sessions[i]!, tokens: nodes[at]!, parents: tree.parents, typical: false })),
      )
      const accepted = running.map((_, at) => accept(tree, nodes[at]!, posteriors[at]!, { rule: 'exact' }))
      const next = await addon.commit(
        running.map((i, at) => ({
          session: sessions[i]!,
          path: accepted[at]!.path,
          medusaHeads: tree.depth,
          topK: tree.maxRank + 1,
        })),
      )
      for (const [at, i] of running.entries()) {
        out[i]!.push(...accepted[at]!.tokens)
        roots.set(i, next[at]!.root)
        drafts.set(i, next[at]!.tokens)
      }
    }
    await Promise.all(sessions.map((session) => addon.close(session)))
    for (const [i, tokens] of out.entries()) expect(tokens.slice(0, 48), `prompt ${i}`).toEqual(alone[i]!.tokens)
  })
})

describe('turns', () => {
  const turns = [0, 3, 1] as const

  async function talk(model: ModelHandle, tree: Tree, compression: CompressionSpec | null): Promise<number[][]> {
    const addon = native()
    const session = addon.openSession(model)
    try {
      const answers: number[][] = []
      let position = 0
      for (const [turn, prompt] of turns.entries()) {
        const text = turn === 0 ? prompts[prompt]! : prompts[prompt]!.slice(1)
        const { tokens } = await decodeTurn(session, text, 40, { tree, compression })
        answers.push(tokens)
        position += text.length + 40
        expect(addon.sessionInfo(session).position).toBe(position)
        if (compression) expect(addon.sessionInfo(session).rows).toBe(compression.budget + 40)
      }
      return answers
    } finally {
      await addon.close(session)
    }
  }

  for (const { name, compression } of CACHES) {
    it(`later turns are exact too (${name})`, async () => {
      const model = models.get('demo heads')!
      const plain = await talk(model, PLAIN_TREE, compression)
      for (const tree of TREES) expect(await talk(model, tree, compression), tree.name).toEqual(plain)
    })
  }

  it('two turns without compression equal one prompt of all their tokens', async () => {
    const model = models.get('demo heads')!
    const session = native().openSession(model)
    const first = await decodeTurn(session, prompts[0]!, 20)
    const second = await decodeTurn(session, prompts[3]!.slice(1), 30)
    await native().close(session)
    const whole = [...prompts[0]!, ...first.tokens, ...prompts[3]!.slice(1)]
    expect((await decode(model, whole, 30)).tokens).toEqual(second.tokens)
  })
})

describe('compression', () => {
  it('a budget not smaller than the prompt changes nothing', async () => {
    const model = models.get('demo heads')!
    const prompt = prompts[1]!
    const full = await decode(model, prompt, 60)
    for (const budget of [prompt.length, prompt.length + 1, 4096]) {
      const kept = await decode(model, prompt, 60, { compression: snapkv(budget, 32, 7, 'max') })
      expect(kept.kept).toBeNull()
      expect(kept.tokens).toEqual(full.tokens)
    }
  })

  it.each(['snapkv', 'h2o', 'streaming'] as const)(
    '%s keeps exactly the budget, the window among it, in rising order',
    async (policy) => {
      const model = models.get('demo heads')!
      const random = uniform(3)
      for (let round = 0; round < 6; round++) {
        const prompt = prompts[round % prompts.length]!
        const window = 1 + Math.floor(random() * 30)
        const budget = window + 5 + Math.floor(random() * (prompt.length - window - 5))
        const compression: CompressionSpec = { ...snapkv(budget, window, 5, 'avg'), policy, sinks: 4 }
        const session = native().openSession(model)
        const { kept } = await decodeTurn(session, prompt, 3, { compression })
        const info = native().sessionInfo(session)
        await native().close(session)
        expect(info).toMatchObject({ position: prompt.length + 3, rows: Math.min(budget, prompt.length) + 3 })
        if (budget >= prompt.length) continue
        for (let list = 0; list * budget < kept!.length; list++) {
          const positions = Array.from(kept!.subarray(list * budget, (list + 1) * budget))
          expect(positions).toEqual([...new Set(positions)].sort((a, b) => a - b))
          const recent = policy === 'streaming' ? budget - 4 : window
          expect(positions.slice(-recent)).toEqual(Array.from({ length: recent }, (_, i) => prompt.length - recent + i))
          if (policy === 'streaming') expect(positions.slice(0, 4)).toEqual([0, 1, 2, 3])
        }
      }
    },
  )
})
