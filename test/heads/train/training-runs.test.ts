// Whole training runs on the backend under test, in every dtype: they learn what the CPU learns, go on where they stopped, and their heads draft.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readTrainingLog } from '../../../heads/train/log.js'
import { parseTrainOptions, type TrainOptionsInput } from '../../../heads/train/options.js'
import { trainHeads, trainHeadsWith } from '../../../heads/train/train.js'
import { buildTree, PLAIN_TREE } from '../../../src/decode/tree.js'
import { type ModelHandle, type Native, native } from '../../../src/native.js'
import type { TextScores, TrainingText } from '../../../src/native-training.js'
import { readHeads, readModelFolder } from '../../../src/weights/load.js'
import { isCpu } from '../../support/backend.js'
import { temporaryFolder } from '../../support/folder.js'
import { prefillTurn } from '../../support/native-calls.js'
import { decode, openModel } from '../../support/native-session.js'
import type { TinyDtype } from '../../support/tiny-model.js'
import { SHORT, tinyTrainee, writeTexts } from '../../support/training-run.js'

const BACKEND = isCpu ? 'cpu' : 'cuda'
const DTYPES = ['f32', 'bf16', 'f16'] as const
const FORMS = [
  { private: false, format: 'B' },
  { private: true, format: 'A' },
] as const
const RUNS = DTYPES.flatMap((dtype) => FORMS.map((form) => ({ dtype, ...form })))

/** How far losses of a few nats may be from those in f32. */
const ALLOWED = { f32: 1e-3, f16: 4e-3, bf16: 2e-2 } as const
/** And from those of the same run: the CPU's are the same bits. */
const again = (dtype: TinyDtype): number => (isCpu ? 0 : ALLOWED[dtype])

const dir = temporaryFolder()
const models = new Map<TinyDtype, string>()
const opened: ModelHandle[] = []
let data: string

beforeAll(async () => {
  for (const dtype of DTYPES) models.set(dtype, await tinyTrainee(join(dir, dtype), { dtype }))
  data = writeTexts(join(dir, 'texts.jsonl'))
})
afterAll(() => Promise.all(opened.map((handle) => native().close(handle))))

let count = 0
const newOut = () => join(dir, `out-${count++}`)

type Given = Partial<TrainOptionsInput>
const options = (dtype: TinyDtype, given: Given = {}): TrainOptionsInput & { out: string } => ({
  model: models.get(dtype)!,
  data,
  out: newOut(),
  ...SHORT,
  backend: BACKEND,
  ...given,
})

async function open(dtype: TinyDtype, heads: string): Promise<ModelHandle> {
  const handle = await openModel(models.get(dtype)!, { heads })
  opened.push(handle)
  return handle
}

async function trained(dtype: TinyDtype, given: Given = {}): Promise<string> {
  const { engine, out } = await trainHeads(options(dtype, given))
  expect(engine).toMatchObject({ backend: given.backend ?? BACKEND, dtype: given.dtype ?? dtype })
  return out
}

const lossesOf = async (out: string) => (await readTrainingLog(join(out, 'training.jsonl'))).map(({ loss }) => loss)

async function expectSameLosses(out: string, other: string, allowed: number): Promise<void> {
  const [losses, expected] = await Promise.all([lossesOf(out), lossesOf(other)])
  expect(losses).toHaveLength(expected.length)
  for (const [i, loss] of losses.entries()) {
    expect(Math.abs(loss - expected[i]!), `${loss} and ${expected[i]}, line ${i + 1}`).toBeLessThanOrEqual(allowed)
  }
}

/** The native side, and the texts that were scored last with what they scored. */
function scoring(): { addon: Native; last: { texts: readonly TrainingText[]; scores: readonly TextScores[] } } {
  const addon = native()
  const last: { texts: readonly TrainingText[]; scores: readonly TextScores[] } = { texts: [], scores: [] }
  const training: Native['training'] = {
    ...addon.training,
    async score(trainer, texts) {
      return Object.assign(last, { texts, scores: await addon.training.score(trainer, texts) }).scores
    },
  }
  return { addon: { ...addon, training }, last }
}

describe('a run', () => {
  test.each(RUNS)('learns what the CPU learns in f32: %o', async ({ dtype, format, ...given }) => {
    const out = await trained(dtype, given)
    await expectSameLosses(out, await trained(dtype, { ...given, backend: 'cpu', dtype: 'f32' }), ALLOWED[dtype])
    const losses = await lossesOf(out)
    expect(losses.at(-1)).toBeLessThan(losses[0]! - 4 * ALLOWED[dtype])
    expect(await readHeads(out, await readModelFolder(models.get(dtype)!))).toMatchObject({
      format,
      dtype,
      warnings: [],
    })
  })

  test.each(DTYPES)('learns the same of hidden rows that are kept: %s', async (dtype) => {
    const given = { private: true, steps: undefined, epochs: 2 }
    const out = await trained(dtype, { ...given, hiddenCache: join(dir, `rows-${dtype}`) })
    expect(existsSync(join(dir, `rows-${dtype}`, 'hidden-rows.bin'))).toBe(true)
    await expectSameLosses(out, await trained(dtype, { ...given, hiddenCache: 'off' }), again(dtype))
  })

  test.each(DTYPES)('that was interrupted goes on to the same losses: %s', async (dtype) => {
    const interruption = new AbortController()
    const given = options(dtype, { private: true })
    const run = trainHeads({
      ...given,
      signal: interruption.signal,
      onProgress: (event) => {
        if (event.phase === 'train' && event.done === 4) interruption.abort(new Error('enough'))
      },
    })
    await expect(run).rejects.toThrow('enough')
    expect((await trainHeads({ ...given, resume: true })).resumedFrom).toBe(4)
    await expectSameLosses(given.out, await trained(dtype, { private: true }), again(dtype))
  })
})

describe('trained heads', () => {
  const TOP_K = 8

  test.each(RUNS)('draft what they scored: %o', async ({ dtype, format: _, ...form }) => {
    const { addon, last } = scoring()
    const given = options(dtype, { ...form, steps: 40 })
    await trainHeadsWith(parseTrainOptions(given), addon)
    expect(last.texts.length).toBeGreaterThan(0)
    const model = await open(dtype, given.out)
    const rankOf = (rank: number) => (rank < TOP_K ? rank : -1)
    let found = 0
    let same = 0
    let all = 0
    for (const [i, { tokens }] of last.texts.entries()) {
      for (let t = 0; t + 2 < tokens.length; t++) {
        const session = native().openSession(model)
        const { drafts } = await prefillTurn(session, {
          tokens: tokens.slice(0, t + 1),
          medusaHeads: SHORT.heads,
          topK: TOP_K,
        })
        await native().close(session)
        for (let head = 0; head < SHORT.heads && t + 2 + head < tokens.length; head++) {
          const ranked = drafts.tokens.subarray(head * TOP_K, (head + 1) * TOP_K)
          const rank = ranked.indexOf(tokens[t + 2 + head]!)
          all++
          if (rank >= 0) found++
          if (rank === rankOf(last.scores[i]!.ranks[head * tokens.length + t]!)) same++
        }
      }
    }
    // Inference adds up in another order: what is as good as equal may change places.
    expect(same / all).toBeGreaterThan(0.95)
    expect(found / all).toBeGreaterThan(0.4)
  })

  test.each(DTYPES)('of texts of the model itself save it steps: %s', async (dtype) => {
    const prompts = writeTexts(join(dir, 'prompts.jsonl'), 6)
    const tree = buildTree([[0], [1], [0, 0]], 'three')
    const stepsBehind = async (trainingSteps: number): Promise<number> => {
      const schedule = { steps: trainingSteps, evaluateEvery: trainingSteps }
      const out = await trained(dtype, { data: prompts, selfDistill: 600, temperature: 0, ...schedule })
      const model = await open(dtype, out)
      let steps = 0
      for (let first = 3; first < 9; first++) {
        const prompt = Array.from({ length: 12 }, (_, t) => first + t)
        const plain = await decode(model, prompt, 32, { tree: PLAIN_TREE })
        const speculated = await decode(model, prompt, 32, { tree })
        expect(speculated.tokens).toEqual(plain.tokens)
        steps += speculated.steps
      }
      return steps
    }
    expect(await stepsBehind(160)).toBeLessThan(0.9 * (await stepsBehind(1)))
  })
})
