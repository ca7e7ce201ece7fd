// Whole training runs of tiny models: what they write, that they are the same again, and that nothing that happens to one costs its work.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { beforeAll, describe, expect, test } from 'vitest'
import { HeadsAccuracy } from '../../../heads/format/accuracy.js'
import { readTrainingLog } from '../../../heads/train/log.js'
import { parseTrainOptions, type TrainingProgress, type TrainOptionsInput } from '../../../heads/train/options.js'
import { trainHeads, trainHeadsWith } from '../../../heads/train/train.js'
import { type Native, native } from '../../../src/native.js'
import type { NativeTraining } from '../../../src/native-training.js'
import { readHeads, readModelFolder } from '../../../src/weights/load.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { runProgram, TYPESCRIPT } from '../../support/program.js'
import { headsBytes, numbersOf, SHORT, tinyTrainee, writeTexts } from '../../support/training-run.js'

const dir = temporaryFolder()
let model: string
let data: string

beforeAll(async () => {
  model = await tinyTrainee(join(dir, 'model'))
  data = writeTexts(join(dir, 'texts.jsonl'))
})

let count = 0
const newOut = () => join(dir, `out-${count++}`)

type Given = Partial<TrainOptionsInput>
const options = (out: string, given: Given = {}): TrainOptionsInput => {
  const { steps, ...short } = SHORT
  return { model, data, out, ...short, ...(given.epochs === undefined && { steps }), ...given }
}

/** A run from beginning to end. */
async function trained(given: Given = {}): Promise<string> {
  const out = newOut()
  await trainHeads(options(out, given))
  return out
}

/** Runs until `isTime`, is interrupted there, and leaves its folder. */
async function interrupted(isTime: (event: TrainingProgress) => boolean, given: Given = {}): Promise<string> {
  const out = newOut()
  const interruption = new AbortController()
  const run = trainHeads(
    options(out, {
      ...given,
      signal: interruption.signal,
      onProgress: (event) => {
        if (isTime(event)) interruption.abort(new Error('enough'))
      },
    }),
  )
  await expect(run).rejects.toThrow('enough')
  return out
}

/** The native side with some of its training calls replaced; counts what is open. */
function watched(replace: (training: NativeTraining) => Partial<NativeTraining>) {
  const open = { models: 0, trainers: 0 }
  const addon = native()
  const { training } = addon
  const counted: NativeTraining = {
    ...training,
    async openTrainer(...args) {
      const trainer = await training.openTrainer(...args)
      open.trainers++
      return trainer
    },
    async closeTrainer(trainer) {
      await training.closeTrainer(trainer)
      open.trainers--
    },
    ...replace(training),
  }
  const watching: Native = {
    ...addon,
    training: counted,
    async openModel(spec) {
      const opened = await addon.openModel(spec)
      open.models++
      return opened
    },
    async close(handle) {
      await addon.close(handle)
      open.models--
    },
  }
  return { addon: watching, open }
}

describe('a run', () => {
  test.each([
    { heads: 3, layers: 1, private: false, format: 'B', projection: 'base' },
    { heads: 1, layers: 2, private: false, format: 'B', projection: 'base' },
    { heads: 2, layers: 1, private: true, format: 'A', projection: 'per-head' },
    { heads: 2, layers: 0, private: true, format: 'A', projection: 'per-head' },
  ])('writes heads that the loader takes: %o', async ({ format, projection, ...given }) => {
    const out = await trained(given)
    const found = await readHeads(out, await readModelFolder(model))
    expect(found).toMatchObject({
      format,
      projection,
      medusaHeads: given.heads,
      blocks: given.layers,
      dtype: 'f32',
      baseModel: model,
      warnings: [],
    })
    expect(found.accuracy).toHaveLength(given.heads)
  })

  test('stores heads in the dtype of the model', async () => {
    const bf16 = await tinyTrainee(join(dir, 'bf16'), { dtype: 'bf16' })
    const out = await trained({ model: bf16 })
    expect((await readHeads(out, await readModelFolder(bf16))).dtype).toBe('bf16')
  })

  test('learns: the losses fall, in training and on texts held out', async () => {
    const out = newOut()
    const report = await trainHeads(options(out, { steps: 40, evaluateEvery: 40 }))
    const lines = await readTrainingLog(join(out, 'training.jsonl'))
    const losses = lines.map(({ loss }) => loss)
    const steps = lines.filter(({ kind }) => kind === 'step')
    expect(steps.at(-1)!.loss).toBeLessThan(0.7 * steps[0]!.loss)
    expect(losses.at(-1)).toBeLessThan(0.8 * losses[0]!)
    expect(report.heldOut!.loss).toBe(losses.at(-1))
    expect(report.heldOut!.heads[0]!.top1).toBeGreaterThan(0.1)
  })

  test('reports what it did, where and with what', async () => {
    const out = newOut()
    const report = await trainHeads(options(out, { epochs: 2 }))
    const lines = await readTrainingLog(join(out, 'training.jsonl'))
    const steps = lines.filter((line) => line.kind === 'step')
    expect(report).toMatchObject({ out, heads: 2, layers: 1, private: false, epochs: 2, resumedFrom: null })
    expect(report.steps).toBe(steps.length)
    expect(report.tokens).toBe(2 * report.data.tokens)
    expect(report.data.documents + report.data.heldOutDocuments).toBe(20)
    expect(report.data.heldOutDocuments).toBeGreaterThan(0)
    expect(report.seconds).toBeCloseTo(steps.at(-1)!.seconds, 9)
    expect(report.tokensPerSecond).toBeCloseTo(report.tokens / report.seconds, 6)
    expect(report.engine).toMatchObject({ backend: 'cpu', threads: 1, device: null, dtype: 'f32' })
    expect(report.memory.trainerBytes).toBeGreaterThan(0)
    expect(report.memory.processPeakBytes).toBeGreaterThan(report.memory.trainerBytes)
  })

  test('leaves accuracies, a log with its curves, and a checkpoint', async () => {
    const out = await trained()
    expect(readdirSync(out).sort()).toEqual([
      'accuracy.json',
      'checkpoint',
      'config.json',
      'medusa_lm_head.safetensors',
      'training.jsonl',
      'training.svg',
    ])
    const accuracy = HeadsAccuracy.parse(JSON.parse(readFileSync(join(out, 'accuracy.json'), 'utf8')))
    const last = (await readTrainingLog(join(out, 'training.jsonl'))).at(-1)!
    expect(last.kind).toBe('held-out')
    expect(accuracy.rank_accuracy.map((row) => row[0])).toEqual(last.heads.map(({ top1 }) => top1))
    expect(readFileSync(join(out, 'training.svg'), 'utf8')).toMatch(/^<svg/)
  })

  test('without texts held out has no accuracies to tell', async () => {
    const out = newOut()
    const report = await trainHeads(options(out, { heldOut: 0 }))
    expect(report.heldOut).toBeNull()
    expect(existsSync(join(out, 'accuracy.json'))).toBe(false)
    expect((await readTrainingLog(join(out, 'training.jsonl'))).every(({ kind }) => kind === 'step')).toBe(true)
  })

  test('looks at the held-out texts before, in between and after, and once each time', async () => {
    const out = await trained()
    const lines = await readTrainingLog(join(out, 'training.jsonl'))
    expect(lines.filter(({ kind }) => kind === 'held-out').map(({ step }) => step)).toEqual([0, 2, 4, 6])
  })
})

describe('the same heads come of the same seed', () => {
  test('with any number of threads, with hidden rows kept or not', async () => {
    const first = await trained({ epochs: 2 })
    const kept = join(dir, 'rows')
    for (const given of [{}, { threads: 2 }, { hiddenCache: 'off' }, { hiddenCache: kept }, { hiddenCache: kept }]) {
      const again = await trained({ epochs: 2, ...given })
      expect(headsBytes(again).equals(headsBytes(first)), JSON.stringify(given)).toBe(true)
      expect(await numbersOf(again)).toEqual(await numbersOf(first))
    }
    expect(readdirSync(kept)).toHaveLength(1)
  })

  test('and others of another', async () => {
    expect(headsBytes(await trained({ seed: 2 })).equals(headsBytes(await trained()))).toBe(false)
  })
})

describe('a run that was interrupted goes on to the same numbers', () => {
  test.each<[string, (event: TrainingProgress) => boolean]>([
    ['after a step', (event) => event.phase === 'train' && event.done === 4],
    ['during a look at the held-out texts', (event) => event.phase === 'evaluate'],
    ['after a look at them', (event) => event.phase === 'evaluated' && event.step === 4],
    ['at a checkpoint', (event) => event.phase === 'checkpoint' && event.step === 3],
  ])('%s', async (_, isTime) => {
    const whole = await trained()
    const out = await interrupted(isTime)
    expect(existsSync(join(out, 'medusa_lm_head.safetensors'))).toBe(false)
    await trainHeads(options(out, { resume: true }))
    expect(await numbersOf(out)).toEqual(await numbersOf(whole))
    expect(headsBytes(out).equals(headsBytes(whole))).toBe(true)
  })

  test('also in the middle of an epoch whose hidden rows are kept', async () => {
    const whole = await trained({ epochs: 3 })
    const out = await interrupted((event) => event.phase === 'train' && event.done === 6, { epochs: 3 })
    expect(existsSync(join(out, 'hidden-cache'))).toBe(true)
    const report = await trainHeads(options(out, { epochs: 3, resume: true }))
    expect(report.resumedFrom).toBe(6)
    expect(await numbersOf(out)).toEqual(await numbersOf(whole))
    expect(existsSync(join(out, 'hidden-cache'))).toBe(false)
  })

  test('and one that had ended writes its heads again', async () => {
    const out = await trained()
    const bytes = headsBytes(out)
    const numbers = await numbersOf(out)
    rmSync(join(out, 'medusa_lm_head.safetensors'))
    await trainHeads(options(out, { resume: true }))
    expect(headsBytes(out).equals(bytes)).toBe(true)
    expect(await numbersOf(out)).toEqual(numbers)
  })

  test('and one that had ended leaves accuracies as they are: a calibration may have added to them', async () => {
    const out = await trained()
    const path = join(out, 'accuracy.json')
    const grown = JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), paths: [{ ranks: [0], share: 0.5 }] })
    writeFileSync(path, grown)
    await trainHeads(options(out, { resume: true }))
    expect(readFileSync(path, 'utf8')).toBe(grown)
  })

  test('and has no accuracies of other heads beside its own', async () => {
    const given = { heldOut: 0 }
    const out = await interrupted((event) => event.phase === 'train' && event.done === 4, given)
    writeFileSync(join(out, 'accuracy.json'), '{"rank_accuracy":[[0.5]]}')
    await trainHeads(options(out, { ...given, resume: true }))
    expect(existsSync(join(out, 'accuracy.json'))).toBe(false)
  })

  test('before it began, there is nothing to go on from', async () => {
    const out = newOut()
    await expect(trainHeads(options(out, { signal: AbortSignal.abort(new Error('enough')) }))).rejects.toThrow('enough')
    expect(existsSync(out)).toBe(false)
  })
})

describe('a run that is killed', () => {
  /** Runs in a process of its own, which is killed as soon as it prints `line`; true if it was. */
  async function killedAt(line: string, given: TrainOptionsInput): Promise<boolean> {
    const program = resolve('test/heads/train/programs/train.ts')
    const child = spawn(process.execPath, [...TYPESCRIPT, program, JSON.stringify(given)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let killed = false
    for await (const printed of createInterface({ input: child.stdout })) {
      if (printed !== line) continue
      killed = child.kill('SIGKILL')
    }
    return killed
  }

  test('between the two renames of a checkpoint, has the one before', async () => {
    const whole = await trained()
    const out = await interrupted((event) => event.phase === 'train' && event.done === 4)
    renameSync(join(out, 'checkpoint'), join(out, 'checkpoint.old'))
    mkdirSync(join(out, 'checkpoint.new'))
    writeFileSync(join(out, 'checkpoint.new', 'heads.safetensors'), 'torn')
    await failure(() => trainHeads(options(out)), 'ERR_CHECKPOINT', /already holds a checkpoint/)
    const report = await trainHeads(options(out, { resume: true }))
    expect(report.resumedFrom).toBe(4)
    expect(headsBytes(out).equals(headsBytes(whole))).toBe(true)
  })

  test('again and again, has the losses of one that was not', async () => {
    const given = { steps: 14, checkpointEvery: 2 }
    const whole = await trained(given)
    const out = newOut()
    // In a step, after a step, after a checkpoint: wherever the process happens to be.
    for (const [round, line] of ['step 1', 'step 4', 'checkpoint 6', 'step 9', 'checkpoint 12'].entries()) {
      expect(await killedAt(line, options(out, { ...given, resume: round > 0 }))).toBe(true)
    }
    await trainHeads(options(out, { ...given, resume: true }))
    expect(await numbersOf(out)).toEqual(await numbersOf(whole))
    expect(headsBytes(out).equals(headsBytes(whole))).toBe(true)
  })
})

describe('in the middle of a checkpoint', () => {
  const program = resolve('test/heads/train/programs/train.ts')
  const stepOf = (out: string): number => JSON.parse(readFileSync(join(out, 'checkpoint', 'state.json'), 'utf8')).step

  test('a run that is killed has the one before', async () => {
    const out = newOut()
    const argv = [...TYPESCRIPT, program, JSON.stringify(options(out, { checkpointEvery: 2 })), '4']
    const child = spawn(process.execPath, argv, { stdio: 'ignore' })
    const [, signal] = await once(child, 'exit')
    expect(signal).toBe('SIGKILL')
    expect(readdirSync(join(out, 'checkpoint.new'))).toEqual([expect.stringMatching(/^heads\.safetensors\..*\.part$/)])
    expect(stepOf(out)).toBe(2)
    const report = await trainHeads(options(out, { checkpointEvery: 2, resume: true }))
    expect(report.resumedFrom).toBe(2)
    expect(await numbersOf(out)).toEqual(await numbersOf(await trained()))
  })

  test('a run that may not write so much has the one before', async () => {
    const out = await interrupted((event) => event.phase === 'train' && event.done === 4)
    const argv = [process.execPath, ...TYPESCRIPT, program, JSON.stringify(options(out, { resume: true }))]
    const child = spawn('bash', ['-c', 'ulimit -f 8; exec "$@"', 'bash', ...argv], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const printed: string[] = []
    for await (const line of createInterface({ input: child.stdout })) printed.push(line)
    expect(printed).toEqual([
      'checkpoint 4',
      'step 5',
      'step 6',
      expect.stringMatching(/^failed ERR_WRITE: .*checkpoint.*files may not become that large/),
    ])
    expect(stepOf(out)).toBe(4)
    await trainHeads(options(out, { resume: true }))
    expect(await numbersOf(out)).toEqual(await numbersOf(await trained()))
  })
})

describe('losses that are no numbers', () => {
  const nan = (training: NativeTraining, step: number, what: 'loss' | 'norm'): Partial<NativeTraining> => ({
    async accumulate(...args) {
      const scores = await training.accumulate(...args)
      if (what === 'loss' && updates === step - 1) scores[0]!.losses.fill(Number.NaN)
      return scores
    },
    async update(trainer, spec) {
      updates++
      return what === 'norm' && spec.step === step ? { gradientNorm: Number.NaN } : training.update(trainer, spec)
    },
  })
  let updates = 0

  test.each(['loss', 'norm'] as const)('end the run, by their %s, with the last checkpoint whole', async (what) => {
    updates = 0
    const out = newOut()
    const { addon, open } = watched((training) => nan(training, 5, what))
    const error = await failure(
      () => trainHeadsWith(parseTrainOptions(options(out)), addon),
      'ERR_DIVERGED',
      /^Step 5: the (loss of head 1|norm of the gradients) is not a number\. .*checkpoint, of step 3, .*learning rate/,
    )
    expect(error.details).toMatchObject({ step: 5, checkpointStep: 3 })
    expect(open).toEqual({ models: 0, trainers: 0 })
    const steps = (await readTrainingLog(join(out, 'training.jsonl'))).filter(({ kind }) => kind === 'step')
    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4])
    await trainHeads(options(out, { resume: true }))
    expect(await numbersOf(out)).toEqual(await numbersOf(await trained()))
  })
})

describe('held-out losses that are no numbers', () => {
  /** Scores are none from a step on; and the weights too, if said so. */
  function broken(from: number, what: 'scores' | 'weights') {
    let step = 0
    return watched((training) => ({
      async update(trainer, spec) {
        step = spec.step
        const result = await training.update(trainer, spec)
        if (what === 'weights' && step === from) {
          await training.write(
            trainer,
            { tensor: '1.block.0.weight', part: 'weights', first: 3 },
            Float32Array.of(Number.NaN),
          )
        }
        return result
      },
      async score(...args) {
        const scores = await training.score(...args)
        if (what === 'scores' && step >= from) scores[0]!.losses.fill(Number.NaN)
        return scores
      },
    }))
  }

  test.each([4, 6])('end the run at step %i before anything is written of them', async (step) => {
    const out = newOut()
    const { addon, open } = broken(step, 'scores')
    const error = await failure(
      () => trainHeadsWith(parseTrainOptions(options(out, { epochs: 2 })), addon),
      'ERR_DIVERGED',
      new RegExp(
        `^Step ${step}: the loss of head 1 on held-out texts is not a number.* another folder .*learning rate`,
      ),
    )
    expect(error.details).toMatchObject({ step, checkpointStep: 3 })
    expect(open).toEqual({ models: 0, trainers: 0 })
    // No heads; and no hidden rows, which nothing will read.
    expect(readdirSync(out).sort()).toEqual(['checkpoint', 'training.jsonl'])
    expect((await readTrainingLog(join(out, 'training.jsonl'))).every(({ loss }) => Number.isFinite(loss))).toBe(true)
  })

  test('are missed by nobody when nothing is held out: weights are looked at', async () => {
    const out = newOut()
    const { addon } = broken(6, 'weights')
    await failure(
      () => trainHeadsWith(parseTrainOptions(options(out, { heldOut: 0 })), addon),
      'ERR_DIVERGED',
      /^Step 6: a number of the tensor "1\.block\.0\.weight" is not a number\. .*checkpoint, of step 3/,
    )
    expect(readdirSync(out).sort()).toEqual(['checkpoint', 'training.jsonl'])
    const report = await trainHeads(options(out, { heldOut: 0, resume: true }))
    expect(report.resumedFrom).toBe(3)
  })
})

describe('closing', () => {
  test.each(['closeTrainer', 'close'] as const)('goes on when %s fails, and tells of it', async (which) => {
    const { addon, open } = watched(() => ({}))
    const broken: Native = {
      ...addon,
      training: {
        ...addon.training,
        async closeTrainer(trainer) {
          await addon.training.closeTrainer(trainer)
          if (which === 'closeTrainer') throw new Error('not closed')
        },
      },
      async close(handle) {
        await addon.close(handle)
        if (which === 'close') throw new Error('not closed')
      },
    }
    const out = newOut()
    await expect(trainHeadsWith(parseTrainOptions(options(out)), broken)).rejects.toThrow('not closed')
    expect(open).toEqual({ models: 0, trainers: 0 })
    expect(existsSync(join(out, 'training.lock'))).toBe(false)
    // What ended a run is told before what went wrong in closing it.
    const again = parseTrainOptions(options(out, { learningRate: 0.5, resume: true }))
    await failure(() => trainHeadsWith(again, broken), 'ERR_CHECKPOINT', /another learningRate/)
    const stop = new AbortController()
    const stopped = parseTrainOptions(
      options(newOut(), { signal: stop.signal, onProgress: () => stop.abort(new Error('enough')) }),
    )
    await expect(trainHeadsWith(stopped, broken)).rejects.toThrow('enough')
    expect(open).toEqual({ models: 0, trainers: 0 })
  })
})

describe('a disk that is full', () => {
  test('when a run is interrupted is told, with the interruption as its cause', async () => {
    const out = newOut()
    const stop = new AbortController()
    const reason = new Error('enough')
    const { addon } = watched((training) => ({
      async read(trainer, slice, elements) {
        if (stop.signal.aborted) throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', syscall: 'write' })
        return training.read(trainer, slice, elements)
      },
    }))
    const given = options(out, {
      signal: stop.signal,
      onProgress: (event) => event.phase === 'train' && event.done === 4 && stop.abort(reason),
    })
    const error = await failure(() => trainHeadsWith(parseTrainOptions(given), addon), 'ERR_WRITE', /the disk is full/)
    expect(error.cause).toBe(reason)
    expect((await trainHeads(options(out, { resume: true }))).resumedFrom).toBe(3)
  })

  test('at a checkpoint leaves the one before', async () => {
    const out = newOut()
    let step = 0
    const { addon, open } = watched((training) => ({
      async update(trainer, spec) {
        step = spec.step
        return training.update(trainer, spec)
      },
      async read(trainer, slice, elements) {
        // As the file system says it, in the middle of a file.
        if (step === 6 && slice.part === 'variance') {
          throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' })
        }
        return training.read(trainer, slice, elements)
      },
    }))
    await failure(() => trainHeadsWith(parseTrainOptions(options(out)), addon), 'ERR_WRITE', /the disk is full/)
    expect(open).toEqual({ models: 0, trainers: 0 })
    const report = await trainHeads(options(out, { resume: true }))
    expect(report.resumedFrom).toBe(3)
    expect(await numbersOf(out)).toEqual(await numbersOf(await trained()))
  })

  test('shows before the work is done', async () => {
    const out = newOut()
    const program = resolve('test/heads/train/programs/train.ts')
    const script = 'ulimit -f 8; exec "$@"'
    const argv = [process.execPath, ...TYPESCRIPT, program, JSON.stringify(options(out))]
    const child = spawn('bash', ['-c', script, 'bash', ...argv], { stdio: ['ignore', 'pipe', 'inherit'] })
    const printed: string[] = []
    for await (const line of createInterface({ input: child.stdout })) printed.push(line)
    expect(printed).toEqual([expect.stringMatching(/^failed ERR_WRITE: .*files may not become that large/)])
    expect(readdirSync(out)).not.toContain('checkpoint')
  })
})

describe('a folder', () => {
  test('with a checkpoint is not begun anew', async () => {
    const out = await trained()
    const before = headsBytes(out)
    await failure(() => trainHeads(options(out)), 'ERR_CHECKPOINT', /already holds a checkpoint.*--resume/)
    expect(headsBytes(out).equals(before)).toBe(true)
  })

  test('without one is nothing to go on from, which shows before anything is read', async () => {
    const events: TrainingProgress[] = []
    const given = { resume: true, selfDistill: 100, onProgress: (event: TrainingProgress) => void events.push(event) }
    await failure(() => trainHeads(options(newOut(), given)), 'ERR_CHECKPOINT', /has no checkpoint/)
    expect(events).toEqual([])
  })

  test('of a model, or with other heads, is left alone', async () => {
    await failure(() => trainHeads(options(model)), 'ERR_OPTION', /already has config\.json\. Give another folder/)
    const out = await trained()
    rmSync(join(out, 'checkpoint'), { recursive: true })
    await failure(() => trainHeads(options(out)), 'ERR_OPTION', /already has medusa_lm_head\.safetensors, config\.json/)
  })

  test.each(['training.jsonl', 'accuracy.json', 'training.svg', 'config.json', 'medusa_lm_head.safetensors'])(
    'with a %s of somebody else keeps it',
    async (name) => {
      const out = newOut()
      mkdirSync(out)
      writeFileSync(join(out, name), 'mine')
      const error = await failure(() => trainHeads(options(out)), 'ERR_OPTION', /Give another folder/)
      expect(error.details).toMatchObject({ path: 'out', value: out, there: [name] })
      expect(readFileSync(join(out, name), 'utf8')).toBe('mine')
      expect(readdirSync(out)).toEqual([name])
    },
  )

  test('may have an empty log, which is what a kill before the first checkpoint leaves', async () => {
    const out = newOut()
    mkdirSync(out)
    writeFileSync(join(out, 'training.jsonl'), '')
    await trainHeads(options(out))
    expect(headsBytes(out).equals(headsBytes(await trained()))).toBe(true)
  })

  test('keeps what else is in it, and what lies where hidden rows were', async () => {
    const out = newOut()
    mkdirSync(join(out, 'hidden-cache'), { recursive: true })
    for (const name of ['notes.txt', 'hidden-cache/mine.txt']) writeFileSync(join(out, name), 'mine')
    await trainHeads(options(out, { epochs: 2 }))
    for (const name of ['notes.txt', 'hidden-cache/mine.txt'])
      expect(readFileSync(join(out, name), 'utf8')).toBe('mine')
    expect(readdirSync(join(out, 'hidden-cache'))).toEqual(['mine.txt'])
  })

  test.each(['training.jsonl', 'accuracy.json'])('has a %s that is not read as text', async (name) => {
    const out = await interrupted((event) => event.phase === 'train' && event.done === 2)
    writeFileSync(join(out, name), '[1,2,3,4,5]\n')
    const given = { data: [data, join(out, 'checkpoint', '..', name)], resume: true }
    await failure(() => trainHeads(options(out, given)), 'ERR_OPTION', /^data has .*, which the run itself would write/)
    expect(readFileSync(join(out, name), 'utf8')).toBe('[1,2,3,4,5]\n')
  })

  test("is one run's at a time", async () => {
    const out = newOut()
    let second: Promise<unknown> | undefined
    await trainHeads(
      options(out, {
        onProgress(event) {
          if (event.phase !== 'train' || event.done !== 2) return
          second = failure(
            () => trainHeads(options(out, { resume: true })),
            'ERR_OPTION',
            /process \d+ on .* is training/,
          )
        },
      }),
    )
    await second
    expect(second).toBeDefined()
    expect(headsBytes(out).equals(headsBytes(await trained()))).toBe(true)
    expect(existsSync(join(out, 'training.lock'))).toBe(false)
  })

  test('is free again after whatever ended a run', async () => {
    const out = newOut()
    await failure(() => trainHeads(options(out, { data: join(dir, 'nowhere') })), 'ERR_FILE')
    expect(readdirSync(out)).toEqual([])
  })

  test('has no parts of files in the end that a kill left', async () => {
    const out = newOut()
    mkdirSync(out)
    for (const name of ['medusa_lm_head.safetensors', 'accuracy.json', 'self-distilled.jsonl']) {
      writeFileSync(join(out, `${name}.0123456789ab.part`), 'torn')
    }
    await trainHeads(options(out))
    expect(readdirSync(out).filter((name) => name.endsWith('.part'))).toEqual([])
  })

  test('that cannot be made is told', async () => {
    await failure(() => trainHeads(options(join(data, 'out'))), 'ERR_WRITE', /a part of its path is a file/)
  })
})

describe('a checkpoint is refused', () => {
  test.each<[string, () => Given | Promise<Given>, RegExp]>([
    ['with another learning rate', () => ({ learningRate: 0.02 }), /another learningRate \(0\.01, now 0\.02\)/],
    ['with more steps', () => ({ steps: 7 }), /another steps \(6, now 7\)\. The learning rate follows from/],
    [
      'with other heads',
      () => ({ heads: 3, private: true }),
      /another heads \(2, now 3\), private \(false, now true\)/,
    ],
    [
      'with other texts',
      () => ({ data: writeTexts(join(dir, 'more.jsonl'), 21) }),
      /another data \([0-9a-f]{12}…, now/,
    ],
    [
      'with another model',
      async () => ({ model: await tinyTrainee(join(dir, 'other'), { seed: 5 }) }),
      /another model \([0-9a-f]{12}…, now/,
    ],
    ['with another dtype', () => ({ dtype: 'bf16' }), /another dtype \(f32, now bf16\)/],
  ])('%s', async (_, given, says) => {
    const out = await interrupted((event) => event.phase === 'train' && event.done === 2)
    await failure(async () => trainHeads(options(out, { ...(await given()), resume: true })), 'ERR_CHECKPOINT', says)
  })

  test('on another backend, whose numbers are others', async () => {
    const out = await interrupted((event) => event.phase === 'train' && event.done === 2)
    const { addon } = watched(() => ({}))
    const elsewhere: Native = { ...addon, modelInfo: (handle) => ({ ...addon.modelInfo(handle), backend: 'cuda' }) }
    const again = parseTrainOptions(options(out, { resume: true }))
    await failure(() => trainHeadsWith(again, elsewhere), 'ERR_CHECKPOINT', /another backend \(cpu, now cuda\)/)
  })

  test.each<[string, (checkpoint: string) => void, RegExp]>([
    ['without its state', (at) => rmSync(join(at, 'state.json')), /state\.json is missing/],
    ['whose state is no JSON', (at) => writeFileSync(join(at, 'state.json'), '{'), /state\.json/],
    ['whose state is another thing', (at) => writeFileSync(join(at, 'state.json'), '{"version":2}'), /makes no sense/],
    ['without weights', (at) => rmSync(join(at, 'heads.safetensors')), /damaged: .*heads\.safetensors cannot be read/],
    ['whose weights end early', (at) => truncateSync(join(at, 'heads.safetensors'), 5000), /damaged/],
    [
      'of which a bit has changed',
      (at) => {
        const bytes = readFileSync(join(at, 'heads.safetensors'))
        bytes[bytes.length - 100]! ^= 1
        writeFileSync(join(at, 'heads.safetensors'), bytes)
      },
      /its numbers are not those that were written/,
    ],
  ])('%s', async (_, damage, says) => {
    const out = await interrupted((event) => event.phase === 'train' && event.done === 2)
    damage(join(out, 'checkpoint'))
    const { addon, open } = watched(() => ({}))
    const again = parseTrainOptions(options(out, { resume: true }))
    await failure(() => trainHeadsWith(again, addon), 'ERR_CHECKPOINT', says)
    expect(open).toEqual({ models: 0, trainers: 0 })
  })
})

describe('texts', () => {
  test('of another vocabulary are refused', async () => {
    const path = join(dir, 'foreign.jsonl')
    writeFileSync(path, '[1,2,3]\n[1,64,2]\n')
    await failure(() => trainHeads(options(newOut(), { data: path })), 'ERR_DATA', /foreign\.jsonl:2: token 1 is 64/)
  })

  test('that are too short are refused', async () => {
    const path = join(dir, 'short.jsonl')
    writeFileSync(path, '[1,2]\n[3,4]\n[5]\n')
    await failure(() => trainHeads(options(newOut(), { data: path })), 'ERR_DATA', /fewer than three/)
  })

  test('are cut to a context that the model has', async () => {
    await failure(
      () => trainHeads(options(newOut(), { context: 65 })),
      'ERR_OPTION',
      /context is 65, but the model was made for 64 positions/,
    )
    const report = await trainHeads(options(newOut(), { context: 10 }))
    expect(report.steps).toBe(SHORT.steps)
  })

  test('may lie around the folder that is written to', async () => {
    const around = join(dir, 'around')
    writeTexts(join(around, 'texts.jsonl'))
    const given = { data: around, out: join(around, 'heads') }
    const isTime = (event: TrainingProgress) => event.phase === 'train' && event.done === 4
    await interrupted(isTime, given)
    await trainHeads(options(given.out, { ...given, resume: true }))
    expect(headsBytes(given.out).equals(headsBytes(await trained()))).toBe(true)
  })

  test('of the model itself are written first, and found again', async () => {
    const given = { selfDistill: 300, data: writeTexts(join(dir, 'prompts.jsonl'), 6), temperature: 1 }
    const whole = await trained(given)
    const lines = readFileSync(join(whole, 'self-distilled.jsonl'), 'utf8').trim().split('\n')
    const texts = lines.map((line) => JSON.parse(line) as { tokens: number[]; from: number })
    expect(texts.reduce((sum, { tokens, from }) => sum + tokens.length - from, 0)).toBeGreaterThanOrEqual(300)
    const out = await interrupted((event) => event.phase === 'train' && event.done === 2, given)
    const events: TrainingProgress[] = []
    await trainHeads(options(out, { ...given, resume: true, onProgress: (event) => void events.push(event) }))
    expect(events.some(({ phase }) => phase === 'distill')).toBe(false)
    expect(await numbersOf(out)).toEqual(await numbersOf(whole))
  })
})

test('the program of these tests says what went wrong', async () => {
  const { exitCode, stdout } = await runProgram('heads/train/programs/train.ts', [
    JSON.stringify(options(newOut(), { data: join(dir, 'nowhere') })),
  ])
  expect(exitCode).toBe(1)
  expect(stdout).toMatch(/^failed ERR_FILE: /)
})
