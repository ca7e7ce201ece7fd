// The types of `gorgon/heads`, as whoever makes heads meets them: this file compiles or it does not.
import {
  type HeldOutLine,
  readTrainingLog,
  type StepLine,
  TRAINING_DEFAULTS,
  type TrainingProgress,
  type TrainingReport,
  type TrainOptions,
  trainHeads,
} from '../../heads/index.js'

export async function asUsed(signal: AbortSignal): Promise<void> {
  const least: TrainOptions = { model: 'demo', data: 'texts', out: 'heads' }
  const options: TrainOptions = {
    model: './model',
    data: ['texts', 'more.jsonl'],
    out: './heads',
    heads: TRAINING_DEFAULTS.heads + 1,
    private: true,
    epochs: 2,
    backend: 'cuda',
    device: 1,
    resume: true,
    signal,
    onProgress(event: TrainingProgress) {
      if (event.phase === 'train') event.top1.map((share) => share.toFixed(2))
      else if (event.phase === 'checkpoint') event.step.toFixed()
      else if (event.phase === 'warning') event.message.toUpperCase()
    },
  }
  const report: TrainingReport = await trainHeads(least)
  report.heldOut?.heads[0]?.top5.toFixed(2)
  report.engine.device?.toUpperCase()
  await trainHeads(options)
  for (const line of await readTrainingLog('heads/training.jsonl')) {
    if (line.kind === 'step') asStep(line)
    else asHeldOut(line)
  }

  // @ts-expect-error: a model is needed
  await trainHeads({ data: 'texts', out: 'heads' })
  // @ts-expect-error: no such option
  await trainHeads({ ...least, epoch: 3 })
}

function asStep({ learningRate, gradientNorm }: StepLine): void {
  learningRate.toFixed(gradientNorm)
}

function asHeldOut({ heads }: HeldOutLine): void {
  heads[0]?.loss?.toFixed(3)
}
