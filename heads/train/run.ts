// A training run: the model, the heads in training, their texts, log and checkpoints, opened together and closed together.
import { rm, rmdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { chooseBackend } from '../../src/backend.js'
import { GorgonError } from '../../src/errors.js'
import { modelDir } from '../../src/load-engine.js'
import type { ModelHandle, ModelInfo, Native } from '../../src/native.js'
import type { TrainerSpec, TrainingText } from '../../src/native-training.js'
import { openModel } from '../../src/open-model.js'
import { type ModelFolder, modelSpecOf, readModelFolder } from '../../src/weights/load.js'
import { BatchPlan, grouped, type Window } from './batches.js'
import {
  type CheckpointState,
  type RunIdentity,
  readCheckpointState,
  restoreCheckpoint,
  type Trained,
  writeCheckpoint,
} from './checkpoint.js'
import { Closing } from './closing.js'
import { HIDDEN_CACHE_FILE, type HiddenCache, openHiddenCache } from './hidden-cache.js'
import { TrainingLog } from './log.js'
import { depthWeights, gradientScales, ScoreTotals } from './loss.js'
import { modelDigest } from './model-digest.js'
import { DEFAULTS, FIXED, type TrainOptions } from './options.js'
import { LOG_FILE, openOut } from './out-folder.js'
import { learningRateAt } from './schedule.js'
import { trainedTensors, writeTrainedHeads } from './trained-heads.js'
import { readTrainingTexts, type TrainingTexts } from './training-texts.js'

const CACHE_FOLDER = 'hidden-cache'
const BYTES_PER_VALUE = { f32: 4, f16: 2, bf16: 2 } as const

interface RunParts {
  readonly options: TrainOptions
  readonly addon: Native
  readonly folder: ModelFolder
  readonly texts: TrainingTexts
  readonly model: ModelHandle
  readonly trained: Trained
  readonly spec: TrainerSpec
  readonly plan: BatchPlan
  readonly steps: number
  readonly identity: RunIdentity
  readonly log: TrainingLog
  readonly cache: HiddenCache | null
  readonly state: Pick<CheckpointState, 'step' | 'tokens' | 'seconds'>
  /** All that is to be closed in the end. */
  readonly opened: Closing
}

/** What a step came to. */
export interface StepResult {
  readonly totals: ScoreTotals
  readonly learningRate: number
  readonly gradientNorm: number
  /** Read, context included. */
  readonly tokens: number
}

/**
 * Opens what a run needs, in `out` and in memory, at its first step or at its checkpoint.
 *
 * @throws {GorgonError} as `trainHeads`. What was opened until then is closed.
 */
export async function openRun(options: TrainOptions, addon: Native): Promise<TrainingRun> {
  options.signal?.throwIfAborted()
  const choice = chooseBackend(options, process.env, addon.backends())
  const folder = await readModelFolder(modelDir(options.model))
  const opened = new Closing()
  try {
    opened.add(await openOut(options))
    return await openParts(options, addon, choice, folder, opened)
  } catch (error) {
    await opened.closeAfterError()
    throw error
  }
}

async function openParts(
  options: TrainOptions,
  addon: Native,
  choice: ReturnType<typeof chooseBackend>,
  folder: ModelFolder,
  opened: Closing,
): Promise<TrainingRun> {
  const { signal, onProgress, out } = options
  const { training } = addon
  const digest = await modelDigest(folder, signal)
  const texts = await readTrainingTexts(options, folder, digest, addon)
  const spec = { medusaHeads: options.heads, blocks: options.layers, privateProjection: options.private }
  const plan = new BatchPlan(
    texts.windows.map(({ tokens }) => tokens.length),
    options.batchTokens,
    options.seed,
  )
  const steps = options.steps ?? plan.stepsOf(options.epochs ?? DEFAULTS.epochs)

  const progress = new Int32Array(new SharedArrayBuffer(8))
  const model = await openModel(addon, modelSpecOf(folder, null, { ...options, ...choice, progress }), {
    signal,
    onProgress: ({ done, total }) => onProgress?.({ phase: 'load', done, total }),
  })
  opened.add(() => addon.close(model))
  const info = addon.modelInfo(model)
  const identity = identityOf(options, { steps, context: texts.context, data: texts.digest, model: digest, info })
  const state = options.resume ? await readCheckpointState(out, identity) : null
  const trainer = await training.openTrainer(model, spec)
  opened.add(() => training.closeTrainer(trainer))
  const trained: Trained = { training, trainer, tensors: trainedTensors(spec, folder.config.shape) }
  if (state) {
    await restoreCheckpoint(out, trained, state)
    onProgress?.({ phase: 'checkpoint', step: state.step, total: steps })
  }
  const log = await TrainingLog.open(join(out, LOG_FILE), state?.step ?? null)
  opened.add(() => log.close())
  const cache = await openCache(options, folder, info, digest, steps > plan.stepsOf(1))
  if (cache) opened.add(() => cache.close())
  const parts = { options, addon, folder, texts, model, trained, spec, plan, steps, identity, log, cache, opened }
  return new TrainingRun({ ...parts, state: state ?? { step: 0, tokens: 0, seconds: 0 } })
}

/** Everything that the numbers of a run follow from. */
function identityOf(
  options: TrainOptions,
  {
    info,
    ...found
  }: { readonly steps: number; readonly context: number; readonly data: string; readonly model: string } & {
    readonly info: ModelInfo
  },
): RunIdentity {
  const { heads, layers, batchTokens, learningRate, weightDecay, warmup, clip, depthDecay, seed, heldOut } = options
  const { selfDistill, temperature } = options
  const { dtype, weights, backend } = info
  const written = selfDistill > 0 ? { selfDistill, temperature } : {}
  const given = { heads, layers, batchTokens, learningRate, weightDecay, warmup, clip, depthDecay, seed, heldOut }
  return { ...found, ...given, ...written, private: options.private, dtype, weights, backend }
}

function openCache(
  { hiddenCache, out, onProgress }: TrainOptions,
  { config }: ModelFolder,
  { dtype, weights, backend }: ModelInfo,
  digest: string,
  isReadAgain: boolean,
): Promise<HiddenCache | null> | null {
  if (hiddenCache === 'off' || (hiddenCache === 'auto' && !isReadAgain)) return null
  return openHiddenCache(hiddenCache === 'auto' ? join(out, CACHE_FOLDER) : hiddenCache, {
    identity: `${digest}/${dtype}/${weights}/${backend}`,
    bytesPerRow: config.shape.hidden * BYTES_PER_VALUE[dtype],
    onWarning: (message) => onProgress?.({ phase: 'warning', message }),
  })
}

export class TrainingRun {
  readonly options: TrainOptions
  readonly texts: TrainingTexts
  readonly spec: TrainerSpec
  readonly plan: BatchPlan
  readonly log: TrainingLog
  /** Updates in all. */
  readonly steps: number
  /** The step it began at. */
  readonly firstStep: number
  readonly weights: readonly number[]
  readonly #parts: RunParts
  #step: number
  #savedStep: number | null
  #tokens: number
  #seconds: number

  /** Made by `openRun()`. */
  constructor(parts: RunParts) {
    const { options, texts, spec, plan, log, steps, state } = parts
    this.options = options
    this.texts = texts
    this.spec = spec
    this.plan = plan
    this.log = log
    this.steps = steps
    this.firstStep = state.step
    this.weights = depthWeights(spec.medusaHeads, options.depthDecay)
    this.#parts = parts
    this.#step = state.step
    this.#savedStep = options.resume ? state.step : null
    this.#tokens = state.tokens
    this.#seconds = state.seconds
  }

  /** Updates done. */
  get step(): number {
    return this.#step
  }

  /** Read by all updates, those before a checkpoint included; and the seconds they took. */
  get tokens(): number {
    return this.#tokens
  }

  get seconds(): number {
    return this.#seconds
  }

  /** Of the updates that this process did. */
  get tokensPerSecond(): number {
    const { tokens, seconds } = this.#parts.state
    return this.#seconds > seconds ? (this.#tokens - tokens) / (this.#seconds - seconds) : 0
  }

  /** Where it runs, and what that takes. */
  get info(): ModelInfo {
    return this.#parts.addon.modelInfo(this.#parts.model)
  }

  /** Of the heads in training and what their passes work in. */
  get trainerBytes(): number {
    const { training, trainer } = this.#parts.trained
    return training.trainerInfo(trainer).bytes
  }

  /**
   * One update from these windows.
   *
   * @throws {GorgonError} ERR_DIVERGED before anything changes; the signal's reason between native calls.
   */
  async learn(batch: readonly Window[]): Promise<StepResult> {
    const { options, trained, steps } = this.#parts
    const { training, trainer } = trained
    const begun = performance.now()
    const step = this.#step + 1
    const { scales, scale } = gradientScales(batch, this.weights)
    const totals = await this.#gather(batch, (texts) => training.accumulate(trainer, texts, scales))
    if (totals.divergedHead !== null) throw this.#diverged(step, `the loss of head ${totals.divergedHead + 1}`)
    const { clip, weightDecay } = options
    const learningRate = learningRateAt(step, { ...options, steps, floor: FIXED.floor })
    const { beta1, beta2, epsilon } = FIXED
    const { gradientNorm } = await training.update(trainer, {
      scale,
      clip,
      learningRate,
      beta1,
      beta2,
      epsilon,
      weightDecay,
      step,
    })
    if (!Number.isFinite(gradientNorm)) throw this.#diverged(step, 'the norm of the gradients')
    const tokens = batch.reduce((sum, window) => sum + window.tokens.length, 0)
    this.#step = step
    this.#tokens += tokens
    this.#seconds += (performance.now() - begun) / 1000
    return { totals, learningRate, gradientNorm, tokens }
  }

  /**
   * What the heads make of the held-out windows now; null without any.
   *
   * @throws {GorgonError} ERR_DIVERGED; the signal's reason between native calls.
   */
  async evaluate(): Promise<ScoreTotals | null> {
    const { options, trained, texts } = this.#parts
    if (texts.heldOut.length === 0) return null
    let done = 0
    const total = texts.heldOut.length
    const totals = await this.#gather(texts.heldOut, (group) => {
      options.onProgress?.({ phase: 'evaluate', done, total })
      done += group.length
      return trained.training.score(trained.trainer, group)
    })
    const head = totals.divergedHead
    if (head !== null) throw this.#diverged(this.#step, `the loss of head ${head + 1} on held-out texts`)
    return totals
  }

  /**
   * Writes a checkpoint of where it is, unless that is the last one.
   *
   * @throws {GorgonError} ERR_DIVERGED when a weight is no number, ERR_WRITE; the last one is unchanged.
   */
  async save(): Promise<void> {
    const { options, trained, identity, log, steps } = this.#parts
    if (this.#savedStep === this.#step) return
    await log.sync()
    const state = { step: this.#step, tokens: this.#tokens, seconds: this.#seconds, run: identity }
    await writeCheckpoint(options.out, trained, state, (tensor) =>
      this.#diverged(this.#step, `a number of the tensor "${tensor}"`),
    )
    this.#savedStep = this.#step
    options.onProgress?.({ phase: 'checkpoint', step: this.#step, total: steps })
  }

  /** Writes the heads for a loader. */
  async writeHeads(): Promise<void> {
    const { options, trained, spec, folder } = this.#parts
    const { training, trainer } = trained
    const { dtype } = this.info
    const { shape } = folder.config
    await writeTrainedHeads(options.out, { training, trainer, spec, shape, dtype, baseModel: options.model })
  }

  /** Forgets hidden rows that only this run needed. */
  async dropCache(): Promise<void> {
    const { options, cache } = this.#parts
    if (!cache || options.hiddenCache !== 'auto') return
    await cache.close()
    const folder = join(options.out, CACHE_FOLDER)
    await rm(join(folder, HIDDEN_CACHE_FILE), { force: true })
    // Whatever else is in it is not ours.
    await rmdir(folder).catch(() => undefined)
  }

  /** Closes all of it, whatever fails on the way; the first error is thrown in the end. */
  close(): Promise<void> {
    return this.#parts.opened.close()
  }

  /** Scores of all windows, a few of them in each native call. */
  async #gather(
    windows: readonly Window[],
    call: (texts: TrainingText[]) => Promise<Parameters<ScoreTotals['add']>[0][]>,
  ): Promise<ScoreTotals> {
    const totals = new ScoreTotals(this.spec.medusaHeads)
    for (const group of grouped(windows, ({ tokens }) => tokens.length, FIXED.callTokens)) {
      const texts: TrainingText[] = []
      for (const { tokens, from } of group) {
        this.options.signal?.throwIfAborted()
        texts.push({ tokens, from, hidden: await this.#hiddenRows(tokens) })
      }
      for (const scores of await call(texts)) totals.add(scores)
    }
    return totals
  }

  async #hiddenRows(tokens: Int32Array): Promise<Uint8Array | null> {
    const { cache, trained } = this.#parts
    if (!cache) return null
    const known = await cache.get(tokens)
    if (known) return known
    const rows = await trained.training.hiddenRows(trained.trainer, tokens)
    await cache.put(tokens, rows)
    return rows
  }

  #diverged(step: number, what: string): GorgonError {
    const { learningRate, out } = this.options
    return new GorgonError(
      'ERR_DIVERGED',
      `Step ${step}: ${what} is not a number. The last checkpoint, of step ${this.#savedStep}, in ${resolve(out)} is as it was. Start anew in another folder with a learning rate below ${learningRate}, or look at the texts.`,
      { step, learningRate, checkpointStep: this.#savedStep, out },
    )
  }
}
