// What a run learns from: texts that the model writes, kept as they are done and found again, and what is held out.
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { parseTrainOptions, type TrainingProgress, type TrainOptionsInput } from '../../../heads/train/options.js'
import { trainHeads } from '../../../heads/train/train.js'
import { readTrainingTexts } from '../../../heads/train/training-texts.js'
import { native } from '../../../src/native.js'
import { readModelFolder } from '../../../src/weights/load.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { headsBytes, SHORT, tinyTrainee, writeTexts } from '../../support/training-run.js'

const dir = temporaryFolder()
let model: string
let data: string

beforeAll(async () => {
  model = await tinyTrainee(join(dir, 'model'))
  data = writeTexts(join(dir, 'prompts.jsonl'), 6)
})

let count = 0
const newOut = () => join(dir, `out-${count++}`)

type Given = Partial<TrainOptionsInput>

const distilling = (out: string, given: Given = {}): TrainOptionsInput => ({
  ...{ model, data, out, ...SHORT, steps: 2, selfDistill: 2000, temperature: 1 },
  ...given,
})

const fileIn = (out: string) => join(out, 'self-distilled.jsonl')

/** Tokens that were made when the model was first heard of; null when it wrote nothing. */
async function firstMade(options: TrainOptionsInput): Promise<number | null> {
  let first: number | null = null
  const onProgress = (event: TrainingProgress) => {
    if (event.phase === 'distill') first ??= event.done
  }
  await trainHeads({ ...options, onProgress })
  return first
}

/** A run that is interrupted when the model has written so many tokens. */
async function interruptedAt(tokens: number): Promise<string> {
  const out = newOut()
  const interruption = new AbortController()
  const onProgress = (event: TrainingProgress) => {
    if (event.phase === 'distill' && event.done >= tokens) interruption.abort(new Error('enough'))
  }
  const run = trainHeads({ ...distilling(out), signal: interruption.signal, onProgress })
  await expect(run).rejects.toThrow('enough')
  return out
}

describe('texts of the model itself', () => {
  test('are found again when a run is killed while it writes them, and come out the same', async () => {
    const whole = newOut()
    expect(await firstMade(distilling(whole))).toBeLessThan(100)
    const out = await interruptedAt(1900)
    const kept = readFileSync(fileIn(out), 'utf8')
    expect(kept.split('\n').length).toBeGreaterThan(3)
    // In the middle of a line, as a crash may leave it.
    truncateSync(fileIn(out), kept.length - 10)
    expect(await firstMade(distilling(out))).toBeGreaterThan(0)
    expect(readFileSync(fileIn(out), 'utf8')).toBe(readFileSync(fileIn(whole), 'utf8'))
    expect(headsBytes(out).equals(headsBytes(whole))).toBe(true)
  })

  test('that are all there are not written again, with a checkpoint or without', async () => {
    const out = newOut()
    await trainHeads(distilling(out))
    const heads = headsBytes(out)
    expect(await firstMade(distilling(out, { resume: true }))).toBeNull()
    const other = newOut()
    await interruptedIn(other)
    expect(await firstMade(distilling(other))).toBeNull()
    expect(headsBytes(other).equals(heads)).toBe(true)

    /** As if killed after the texts were written, before the first checkpoint. */
    async function interruptedIn(folder: string) {
      await trainHeads(distilling(folder))
      for (const name of ['checkpoint', 'medusa_lm_head.safetensors', 'config.json', 'accuracy.json', 'training.svg']) {
        rmSync(join(folder, name), { recursive: true })
      }
      rmSync(join(folder, 'training.jsonl'))
    }
  })

  test('may continue texts of any field', async () => {
    const path = join(dir, 'bodies.jsonl')
    const bodies = readFileSync(data, 'utf8').trim().split('\n')
    writeFileSync(path, bodies.map((ids) => `{"body":${ids}}\n`).join(''))
    const out = newOut()
    const report = await trainHeads(distilling(out, { data: path, field: 'body' }))
    expect(report.data.documents).toBeGreaterThan(0)
    const same = newOut()
    await trainHeads(distilling(same))
    expect(headsBytes(out).equals(headsBytes(same))).toBe(true)
  })

  test('are held out with all others of their prompt', async () => {
    const options = parseTrainOptions(distilling(newOut(), { selfDistill: 3000 }))
    mkdirSync(options.out)
    const { windows, heldOut } = await readTrainingTexts(options, await readModelFolder(model), 'digest', native())
    // Prompts differ in their first token.
    const learnt = new Set(windows.map(({ tokens }) => tokens[0]))
    const held = new Set(heldOut.map(({ tokens }) => tokens[0]))
    expect(learnt.size + held.size).toBe(6)
    expect(heldOut.length).toBeGreaterThan(held.size)
    for (const first of held) expect(learnt).not.toContain(first)
  })

  test('are not begun for a run that has no checkpoint to go on from', async () => {
    const out = newOut()
    const told: string[] = []
    const onProgress = ({ phase }: TrainingProgress) => void told.push(phase)
    await failure(
      () => trainHeads(distilling(out, { resume: true, onProgress })),
      'ERR_CHECKPOINT',
      /has no checkpoint to go on from\. Start without resume/,
    )
    expect(told).toEqual([])
    expect(existsSync(fileIn(out))).toBe(false)
  })

  test.each<[string, () => Given | Promise<Given>, RegExp]>([
    ['at another temperature', () => ({ temperature: 0.5 }), /is of another temperature \(1, now 0\.5\)/],
    ['from another seed', () => ({ seed: 2 }), /is of another seed \(1, now 2\)/],
    ['in another number', () => ({ selfDistill: 100 }), /is of another tokens \(2000, now 100\)/],
    ['after other prompts', () => ({ data: writeTexts(join(dir, 'other.jsonl'), 7) }), /of another prompts \(/],
    [
      'by another model',
      async () => ({ model: await tinyTrainee(join(dir, 'other'), { seed: 5 }) }),
      /of another model \(/,
    ],
  ])('that were written %s are neither taken nor lost', async (_, given, says) => {
    const out = await interruptedAt(1500)
    const kept = readFileSync(fileIn(out), 'utf8')
    await failure(async () => trainHeads(distilling(out, await given())), 'ERR_OPTION', says)
    expect(readFileSync(fileIn(out), 'utf8')).toBe(kept)
  })

  test.each<[string, (out: string) => void, 'ERR_OPTION' | 'ERR_DATA', RegExp]>([
    [
      'of nobody knows what',
      (out) => rmSync(join(out, 'self-distilled.json')),
      'ERR_OPTION',
      /does not say what it is/,
    ],
    ['that are damaged', (out) => writeFileSync(fileIn(out), '{"index":0}\n'), 'ERR_DATA', /jsonl:1: this is no text/],
    [
      'of another vocabulary',
      (out) => writeFileSync(fileIn(out), '{"index":0,"from":1,"prompt":null,"tokens":[1,64]}\n'),
      'ERR_DATA',
      /jsonl:1: token 1 is 64/,
    ],
  ])('%s are refused', async (_, damage, code, says) => {
    const out = await interruptedAt(1500)
    damage(out)
    await failure(() => trainHeads(distilling(out)), code, says)
  })
})

test('one text is enough: its end is held out, and that is told', async () => {
  const path = writeTexts(join(dir, 'one.jsonl'), 1)
  const told: string[] = []
  const onProgress = (event: TrainingProgress) => {
    if (event.phase === 'warning') told.push(event.message)
  }
  const out = newOut()
  const { data: counts, heldOut } = await trainHeads({ ...{ model, out, ...SHORT }, data: path, onProgress })
  expect(counts).toMatchObject({ documents: 1, heldOutDocuments: 1 })
  expect(heldOut!.heads[0]!.positions).toBe(5)
  expect(told).toEqual([expect.stringMatching(/only one text to learn from, so its last 20\.0 % are held out/)])
})
