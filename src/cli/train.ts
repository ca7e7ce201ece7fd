// gorgon train: Medusa heads for a model, from text.
import { headsTable, type TrainingProgress, type TrainingReport, trainHeads } from '../../heads/index.js'
import { type Given, readTrainOptions } from './args.js'
import { bytes, list, placeOf, table } from './format.js'
import { type Io, type Output, write } from './io.js'
import { createProgress } from './progress.js'

/** Labels of the bars. */
const DOING = {
  load: 'loading',
  read: 'reading texts',
  distill: 'writing texts',
  evaluate: 'evaluating',
  write: 'writing heads',
} as const

/** What the bar itself takes of a line. */
const BAR_COLUMNS = 'training [============] 100% '.length
const USUAL_COLUMNS = 80

export async function train(given: Given, io: Io): Promise<void> {
  const { json } = given as { readonly json?: true }
  const options = readTrainOptions(given)
  const view = createView(io)
  try {
    const report = await trainHeads({ ...options, signal: io.signal, onProgress: view.show })
    view.clear()
    await write(io.stdout, json ? `${JSON.stringify(report)}\n` : describe(report, options.model))
  } catch (error) {
    view.clear()
    // Whoever interrupts a run of hours wants to know what is left of it.
    if (io.signal.aborted) await write(io.stderr, `gorgon: ${view.whatIsLeft(options)}\n`)
    throw error
  } finally {
    view.clear()
  }
}

interface View {
  show(event: TrainingProgress): void
  clear(): void
  /** Of a run that was interrupted. */
  whatIsLeft(options: { readonly out: string; readonly resume: boolean }): string
}

/** A bar on a terminal; a line for each look at the held-out texts there and elsewhere. */
function createView({ stderr }: Io): View {
  const progress = createProgress(stderr)
  const say = (text: string): void => {
    progress.clear()
    // Whoever does not read it is found out when something is printed.
    void write(stderr, `${text}\n`).catch(() => undefined)
  }
  let clock: Clock | undefined
  let hasWritten = false
  let saved: Extract<TrainingProgress, { phase: 'checkpoint' }> | undefined
  return {
    clear: progress.clear,
    whatIsLeft({ out, resume }) {
      if (saved) {
        return `stopped after step ${saved.step} of ${saved.total}. Go on with the same command and --resume: ${out} has a checkpoint.`
      }
      if (resume)
        return `stopped before another step. Go on with the same command: the checkpoint in ${out} is as it was.`
      if (!hasWritten) return 'stopped before training began.'
      return `stopped before training began. The texts that the model finished are in ${out}: the same command goes on with them.`
    },
    show(event) {
      switch (event.phase) {
        case 'train':
          clock ??= { begun: performance.now(), step: event.done }
          progress.show('training', event.done, event.total, noteOf(event, clock, stderr))
          return
        case 'evaluated':
          say(`step ${event.step}: held-out loss ${event.loss.toFixed(3)}, top-1/5/10 ${allShares(event)} %`)
          return
        case 'checkpoint':
          saved = event
          return
        case 'warning':
          say(`gorgon: warning: ${event.message}`)
          return
        case 'distill':
          hasWritten = true
          progress.show(DOING.distill, event.done, event.total)
          return
        default:
          progress.show(DOING[event.phase], event.done, event.total)
      }
    },
  }
}

/** When this process's first step was done. */
interface Clock {
  readonly begun: number
  readonly step: number
}

type Shares = Pick<Extract<TrainingProgress, { phase: 'evaluated' }>, 'top1' | 'top5' | 'top10'>

const whole = (share: number): string => (100 * share).toFixed(0)

/** `62/81/88 47/70/80`: of each head. */
function allShares({ top1, top5, top10 }: Shares): string {
  return top1.map((first, head) => [first, top5[head]!, top10[head]!].map(whole).join('/')).join(' ')
}

/** As much of it as the line has room for. */
function noteOf(
  event: Extract<TrainingProgress, { phase: 'train' }>,
  { begun, step }: Clock,
  { columns = USUAL_COLUMNS }: Output,
): string {
  const { done, total, loss, tokensPerSecond } = event
  const secondsPerStep = done > step ? (performance.now() - begun) / 1000 / (done - step) : null
  const left = secondsPerStep === null ? '' : `, ${duration((total - done) * secondsPerStep)} left`
  const rate = `, ${Math.round(tokensPerSecond)} tokens/s`
  const first = `loss ${loss.toFixed(2)}`
  const notes = [
    `${first}, top-1/5/10 ${allShares(event)} %${rate}${left}`,
    `${first}, top-1 ${event.top1.map(whole).join(' ')} %${rate}${left}`,
    `${first}, top-1 ${event.top1.map(whole).join(' ')} %${left}`,
  ]
  return notes.find((note) => note.length <= columns - BAR_COLUMNS) ?? `${first}${left}`
}

/** `1:05:09` or `5:09` */
function duration(seconds: number): string {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60]
  const two = (count: number) => String(count).padStart(2, '0')
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`
}

const count = (number: number, one: string, many = `${one}s`): string =>
  `${number.toLocaleString('en')} ${number === 1 ? one : many}`

/** What came of it, for people. */
function describe(report: TrainingReport, model: string): string {
  const { out, heads, layers, data, steps, epochs, tokens, seconds, tokensPerSecond, resumedFrom } = report
  const { heldOut, engine, memory } = report
  const held = data.heldOutDocuments > 0 ? `; ${count(data.heldOutDocuments, 'text')} held out` : '; none held out'
  const { binary, empty } = data.skipped
  const without = binary + empty > 0 ? `; left out: ${count(binary, 'binary file')}, ${count(empty, 'empty one')}` : ''
  const device = engine.device === null ? null : { name: engine.device }
  const ofDevice = device === null ? '' : `, ${bytes(memory.devicePeakBytes)} of the device`
  const lines = list([
    ['heads', `${heads} of ${count(layers, 'block')}${report.private ? ', each with a projection' : ''}, in ${out}`],
    ['texts', `${count(data.documents, 'text')}, ${count(data.tokens, 'token')}${held}${without}`],
    [
      'training',
      `${count(steps, 'step')}, ${count(Math.round(10 * epochs) / 10, 'epoch')}, ${count(tokens, 'token')} in ${duration(seconds)}${resumedFrom === null ? '' : ` (from step ${resumedFrom} on here)`}: ${Math.round(tokensPerSecond)} tokens/s`,
    ],
    ['on', `${placeOf({ ...engine, device })}${device === null ? `, ${engine.processor}` : ''}`],
    [
      'memory',
      `${bytes(memory.trainerBytes)} for training, ${bytes(memory.processPeakBytes)} of the process${ofDevice}`,
    ],
  ])
  const figures = heldOut
    ? `\nheld-out texts: loss ${heldOut.loss.toFixed(3)}\n${table(headsTable(heldOut.heads))}`
    : ''
  const options = model === 'demo' ? '' : ` --model ${model}`
  return `${lines}${figures}\nTry them: gorgon generate${options} --heads ${out} PROMPT\n`
}
