// Trains as the options on its command line say, and prints a line for each step and each checkpoint. A number behind them is a step in the
// middle of whose checkpoint it kills itself.
import { parseTrainOptions, type TrainingProgress } from '../../../../heads/train/options.js'
import { trainHeadsWith } from '../../../../heads/train/train.js'
import { native } from '../../../../src/native.js'

const [options, killedAt] = process.argv.slice(2)
const addon = native()
const { training } = addon
let step = 0

const killing: typeof training = {
  ...training,
  update(trainer, spec) {
    step = spec.step
    return training.update(trainer, spec)
  },
  async read(trainer, slice, count) {
    if (step === Number(killedAt) && slice.part === 'variance') process.kill(process.pid, 'SIGKILL')
    return training.read(trainer, slice, count)
  },
}

function onProgress(event: TrainingProgress): void {
  if (event.phase === 'train') process.stdout.write(`step ${event.done}\n`)
  if (event.phase === 'checkpoint') process.stdout.write(`checkpoint ${event.step}\n`)
}

try {
  const parsed = parseTrainOptions({ ...JSON.parse(options!), onProgress })
  await trainHeadsWith(parsed, { ...addon, training: killing })
} catch (error) {
  const { code, message } = error as { readonly code: string; readonly message: string }
  process.stdout.write(`failed ${code}: ${message}\n`)
  process.exitCode = 1
}
