// Training of Medusa heads on a frozen model: the loop, and what is written when it ends.

import { rm, stat } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { writeDurably } from '../../src/durable-file.js'
import { GorgonError, isGorgonError } from '../../src/errors.js'
import { type Native, native, type WeightDtype, type WeightForm } from '../../src/native.js'
import { readTrainingLog } from './log.js'
import type { HeadScores, ScoreTotals } from './loss.js'
import { DEFAULTS, parseTrainOptions, type TrainOptions, type TrainOptionsInput } from './options.js'
import { ACCURACY_FILE, CURVES_FILE, LOG_FILE } from './out-folder.js'
import { accuracyOf, trainingCurves } from './report.js'
import { openRun, type TrainingRun } from './run.js'
import type { TrainingTexts } from './training-texts.js'

/** What came of a run. */
export interface TrainingReport {
  /** The folder with the heads. */
  readonly out: string
  readonly heads: number
  readonly layers: number
  readonly private: boolean
  readonly steps: number
  /** Times through the texts to learn from. */
  readonly epochs: number
  /** Read by all steps, and the seconds these took; evaluations and checkpoints are not in it. */
  readonly tokens: number
  readonly seconds: number
  readonly tokensPerSecond: number
  /** Of all that this process did. */
  readonly wallSeconds: number
  /** The step that this process went on from; null when it began the run. */
  readonly resumedFrom: number | null
  readonly data: TrainingTexts['counts']
  /** What the heads make of texts that they did not learn from; null when none were held out. */
  readonly heldOut: { readonly loss: number; readonly heads: readonly HeadScores[] } | null
  readonly engine: {
    readonly backend: string
    readonly isa: string
    readonly threads: number
    readonly device: string | null
    readonly processor: string
    readonly dtype: WeightDtype
    readonly weights: WeightForm
  }
  readonly memory: {
    /** Of the heads in training: weights, gradients, moments, and what the passes work in. */
    readonly trainerBytes: number
    /** The most of the device's; 0 on the CPU. */
    readonly devicePeakBytes: number
    /** The most that the process had in memory. */
    readonly processPeakBytes: number
  }
}

/**
 * Trains heads for a model and writes them to `out`, with accuracy.json, the log and its curves. Interrupted by `signal` it leaves a
 * checkpoint, from which `resume` goes on to the same heads.
 *
 * @throws {GorgonError} ERR_OPTION, ERR_MODEL_NOT_FOUND and what reading the model may raise; ERR_DATA for texts that cannot be used;
 *   ERR_CHECKPOINT when `out` has one and `resume` is not set, or none that fits; ERR_DIVERGED when a loss, a gradient or a weight is no number;
 *   ERR_WRITE when the disk is full; ERR_OUT_OF_MEMORY. The last checkpoint is whole whatever happens. The signal's reason when it fires; if then
 *   the checkpoint cannot be written, ERR_WRITE with that reason as its cause.
 */
export async function trainHeads(options: TrainOptionsInput): Promise<TrainingReport> {
  return trainHeadsWith(parseTrainOptions(options), native())
}

/** As `trainHeads`, on a native side of the caller's. */
export async function trainHeadsWith(options: TrainOptions, addon: Native): Promise<TrainingReport> {
  const begun = performance.now()
  const run = await openRun(options, addon)
  let report: TrainingReport
  try {
    const heldOut = await learn(run)
    await finish(run, heldOut)
    report = reportOf(run, heldOut, (performance.now() - begun) / 1000)
  } catch (error) {
    const told = await stopped(run, error).catch((unsaved: unknown) => unsaved)
    await run.close().catch(() => undefined)
    throw told
  }
  await run.close()
  return report
}

/** The steps that are left, with looks at the held-out texts and checkpoints; what is made of those texts in the end. */
async function learn(run: TrainingRun): Promise<ScoreTotals | null> {
  const { options } = run
  const evaluateEvery = options.evaluateEvery ?? Math.ceil(run.steps / DEFAULTS.evaluations)
  // A look at the end is due anyway; one that a checkpoint came before is due still.
  const isDue = () => run.step < run.steps && run.step % evaluateEvery === 0 && run.log.lastHeldOutStep !== run.step
  // Whoever is killed from here on has something to go on from, and a full disk shows before the work is done.
  await run.save()
  if (isDue()) await evaluate(run)
  while (run.step < run.steps) {
    const { epoch, windows } = run.plan.at(run.step + 1)
    const result = await run.learn(windows.map((index) => run.texts.windows[index]!))
    await tell(run, epoch, result)
    if (isDue()) await evaluate(run)
    if (run.step % options.checkpointEvery === 0) await run.save()
  }
  const heldOut = await evaluate(run)
  await run.save()
  return heldOut
}

/** Keeps what is worth keeping of a run that ends early; the error that it ends with. */
async function stopped(run: TrainingRun, error: unknown): Promise<unknown> {
  const { signal } = run.options
  // Going on would come to the same: the hidden rows are of no more use.
  if (isGorgonError(error) && error.code === 'ERR_DIVERGED') await run.dropCache()
  if (!signal?.aborted || error !== signal.reason) return error
  try {
    await run.save()
    return error
  } catch (unsaved) {
    if (!isGorgonError(unsaved)) return unsaved
    return new GorgonError(unsaved.code, unsaved.message, unsaved.details, signal.reason)
  }
}

/** Writes the step just done to the log, and tells of it. */
async function tell(
  run: TrainingRun,
  epoch: number,
  { totals, ...figures }: Awaited<ReturnType<TrainingRun['learn']>>,
): Promise<void> {
  const { step, seconds, steps } = run
  const loss = totals.weightedLoss(run.weights)
  const heads = totals.heads()
  await run.log.write({ kind: 'step', step, epoch, loss, heads, ...figures, seconds })
  const { tokensPerSecond } = run
  run.options.onProgress?.({ phase: 'train', done: step, total: steps, loss, ...shares(heads), tokensPerSecond })
}

/** Looks at the held-out texts. Each look is in the log once, however often it is made. */
async function evaluate(run: TrainingRun): Promise<ScoreTotals | null> {
  const totals = await run.evaluate()
  if (totals === null || run.log.lastHeldOutStep === run.step) return totals
  const { step } = run
  const loss = totals.weightedLoss(run.weights)
  const heads = totals.heads()
  await run.log.write({ kind: 'held-out', step, loss, heads })
  run.options.onProgress?.({ phase: 'evaluated', step, loss, ...shares(heads) })
  return totals
}

const shares = (heads: readonly HeadScores[]) => ({
  top1: heads.map(({ top1 }) => top1),
  top5: heads.map(({ top5 }) => top5),
  top10: heads.map(({ top10 }) => top10),
})

/** Writes what a loader, a tree and a reader need. */
async function finish(run: TrainingRun, heldOut: ScoreTotals | null): Promise<void> {
  const { out, onProgress } = run.options
  onProgress?.({ phase: 'write', done: 0, total: 1 })
  await run.writeHeads()
  await writeAccuracy(run, heldOut)
  await run.log.sync()
  const lines = await readTrainingLog(join(out, LOG_FILE))
  const svg = trainingCurves({
    title: `${run.spec.medusaHeads} Medusa heads`,
    steps: lines.filter((line) => line.kind === 'step'),
    heldOut: lines.filter((line) => line.kind === 'held-out'),
  })
  await writeText(join(out, CURVES_FILE), svg)
  await run.dropCache()
  onProgress?.({ phase: 'write', done: 1, total: 1 })
}

/** accuracy.json tells of the heads beside it, and of no others. */
async function writeAccuracy(run: TrainingRun, heldOut: ScoreTotals | null): Promise<void> {
  const path = join(run.options.out, ACCURACY_FILE)
  const isThere = await stat(path).then(
    () => true,
    () => false,
  )
  // The same heads again: a calibration may have put more into it since.
  if (isThere && run.step === run.firstStep) return
  const accuracy = heldOut && accuracyOf(heldOut.rankCounts())
  if (accuracy) await writeText(path, `${JSON.stringify(accuracy, null, 1)}\n`)
  else if (isThere) await rm(path)
}

const writeText = (path: string, text: string): Promise<void> => writeDurably(path, (handle) => handle.writeFile(text))

function reportOf(run: TrainingRun, heldOut: ScoreTotals | null, wallSeconds: number): TrainingReport {
  const { options, steps, tokens, seconds, info, texts } = run
  const { backend, isa, threads, device, dtype, weights, memoryPeak } = info
  return {
    out: options.out,
    heads: options.heads,
    layers: options.layers,
    private: options.private,
    steps,
    epochs: tokens / texts.counts.tokens,
    tokens,
    seconds,
    tokensPerSecond: seconds > 0 ? tokens / seconds : 0,
    wallSeconds,
    resumedFrom: options.resume ? run.firstStep : null,
    data: texts.counts,
    heldOut: heldOut && { loss: heldOut.weightedLoss(run.weights), heads: heldOut.heads() },
    engine: { backend, isa, threads, device, processor: cpus()[0]?.model ?? '', dtype, weights },
    memory: {
      trainerBytes: run.trainerBytes,
      devicePeakBytes: memoryPeak,
      processPeakBytes: process.resourceUsage().maxRSS * 1024,
    },
  }
}
