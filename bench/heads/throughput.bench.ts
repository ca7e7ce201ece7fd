// Question: how many tokens a second do heads for a large model train on a GPU, beside what the frozen model's pass alone would allow?
//
// Expected from arithmetic: a token costs 14.0 GFLOP in the frozen layers of a 7B model, and in each of 4 heads 2 C^2 twice and 2 V C twice: 2.4
// GFLOP together at a vocabulary of 32000, 8.7 at 128256; private projections have a gradient of their own, which is half as much again. At 790
// TFLOP/s: 56000 tokens/s through the frozen model, 48000 through both. An update moves 36 bytes a weight: 0.5 ms where projections
// are shared, 5 ms and 17 ms where they are not. Aim: 75 % of the floor of it all.
//
//   npm run bench -- heads/throughput
//   npm run bench -- heads/throughput --shapes mistral-7b --projections shared --python ''
//
// A step is some texts of random tokens through the frozen model and the heads, forwards and backwards, then AdamW; weights are random. Measured:
// the frozen model alone (its rows come back to the process), the heads alone on rows that are given (and go to the device), both in one call, and
// the update. PyTorch and transformers do the same in the same run (bench/heads/pytorch.py): there rows never leave the device.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { promisify } from 'node:util'
import { Option } from 'commander'
import { z } from 'zod'
import { randomTokens } from '../../src/bench/prompts.js'
import { GorgonError, packageRoot } from '../../src/index.js'
import { type ModelHandle, native } from '../../src/native.js'
import type { TextScores, TrainerHandle, TrainingText } from '../../src/native-training.js'
import { deviceModelSpec } from '../device/device-model.js'
import { bandwidthOf, multiplyAddPeak } from '../kernels/yardsticks.js'
import {
  benchCommand,
  publishResult,
  runBench,
  showProgress,
  wholeNumber,
  wordList,
  wrongResult,
} from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { type MachineRecord, machineRecord } from '../support/machine.js'
import { type ModelShape, SHAPE_NAMES, SHAPES, type ShapeName } from '../support/shapes.js'
import { summaryOf } from '../support/statistics.js'
import { TrainingMeasurement, type TrainingOptions, throughputTables } from './throughput.report.js'
import { frozenFlops, type HeadsShape, headsFlops, type Projection, packBytes, updateBytes } from './training-work.js'

const BENCH = 'heads/throughput'
const SCRIPT = join(packageRoot(), 'bench', 'heads', 'pytorch.py')
const PROJECTIONS: readonly Projection[] = ['shared', 'private']
const WARMUP = 1
/** Importing, and ending what was begun. */
const GRACE_SECONDS = 60
/** Small: what a step changes must not show in what the next one costs. */
const LEARNING_RATE = 1e-4
const RULE = { clip: 1, learningRate: LEARNING_RATE, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 } as const
/** Of the text that is checked first; the logits of each are read. */
const CHECKED_TOKENS = 64
const CHECKED_UPDATES = 8
/** In nats: each pass rounds to bf16 in every layer, in an order of its own. The wrong token is off by more, somewhere. */
const LOSS_TOLERANCE = 0.25

type Given = Omit<TrainingOptions, 'peers'> & { readonly out: string; readonly python: string }

interface Training {
  readonly trainer: TrainerHandle
  readonly tokens: readonly Int32Array[]
  readonly medusaHeads: number
  /** Positions with a loss, of all heads. */
  readonly rows: number
}

async function timed<T>(work: () => Promise<T>): Promise<{ readonly ms: number; readonly result: T }> {
  const start = performance.now()
  const result = await work()
  return { ms: performance.now() - start, result }
}

/**
 * What a head that has learnt nothing loses: what the model itself says of a token, its head's distance too early. Another pass than training's.
 */
function expectedLosses(model: ModelHandle, tokens: Int32Array, medusaHeads: number): number[] {
  const forward = native().ops['forwardLogits'] as (of: ModelHandle, ids: Int32Array, chunk: number) => Float32Array
  const logits = forward(model, tokens, tokens.length)
  const vocab = logits.length / tokens.length
  const surprise = Array.from(tokens, (_, t) => {
    const row = logits.subarray(t * vocab, (t + 1) * vocab)
    const most = row.reduce((max, logit) => Math.max(max, logit), -Infinity)
    const normalizer = most + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - most), 0))
    return (token: number) => normalizer - row[token]!
  })
  return Array.from({ length: medusaHeads }, (_, head) =>
    surprise.map((of, t) => (t + 2 + head < tokens.length ? of(tokens[t + 2 + head]!) : 0)),
  ).flat()
}

/**
 * Before anything is timed: new heads lose what the model's own logits say, on rows that are computed and on rows that are given, and a few
 * updates lower that.
 *
 * @returns updates made.
 */
async function checkTraining(model: ModelHandle, { trainer, tokens, medusaHeads }: Training): Promise<number> {
  const { training } = native()
  const ids = tokens[0]!.subarray(0, CHECKED_TOKENS)
  const text: TrainingText = { tokens: ids, from: 0, hidden: null }
  const given = { ...text, hidden: await training.hiddenRows(trainer, ids) }
  const expected = expectedLosses(model, ids, medusaHeads)
  for (const [what, of] of Object.entries({ computed: text, given })) {
    const [{ losses }] = (await training.score(trainer, [of])) as [TextScores]
    const bad = losses.findIndex((loss, at) => !(Math.abs(loss - expected[at]!) <= LOSS_TOLERANCE))
    if (bad < 0) continue
    throw wrongResult(`loss ${bad} of ${what} rows is ${losses[bad]}, and ${expected[bad]} by the model's logits`)
  }
  const scales = new Float32Array(medusaHeads).fill(1)
  const lossOf = ({ losses }: TextScores): number => losses.reduce((sum, loss) => sum + loss, 0)
  const before = expected.reduce((sum, loss) => sum + loss, 0)
  for (let step = 1; step <= CHECKED_UPDATES; step++) {
    await training.accumulate(trainer, [text], scales)
    await training.update(trainer, { ...RULE, learningRate: LEARNING_RATE / 10, scale: 1 / ids.length, step })
  }
  const [after] = (await training.score(trainer, [text])) as [TextScores]
  if (!(lossOf(after) < before)) throw wrongResult(`learning a text took its loss from ${before} to ${lossOf(after)}`)
  return CHECKED_UPDATES
}

/** Milliseconds of a round's parts, by name. */
async function measureParts({ trainer, tokens, medusaHeads, rows }: Training, updates: number, rounds: number) {
  const { training } = native()
  const scales = new Float32Array(medusaHeads).fill(1)
  const computed: TrainingText[] = tokens.map((ids) => ({ tokens: ids, from: 0, hidden: null }))
  const given: TrainingText[] = []
  for (const text of computed) given.push({ ...text, hidden: await training.hiddenRows(trainer, text.tokens) })
  let step = updates
  return interleave(
    {
      frozen: async () => {
        const start = performance.now()
        for (const ids of tokens) await training.hiddenRows(trainer, ids)
        return { ms: performance.now() - start, updateMs: 0 }
      },
      heads: async () => ({ ...(await timed(() => training.accumulate(trainer, given, scales))), updateMs: 0 }),
      step: async () => {
        const both = await timed(() => training.accumulate(trainer, computed, scales))
        // Of this round's passes, given rows' and computed ones'.
        const update = await timed(() => training.update(trainer, { ...RULE, scale: 1 / rows, step: ++step }))
        if (!Number.isFinite(update.result.gradientNorm)) throw wrongResult('the gradients are not finite')
        return { ms: both.ms, updateMs: update.ms }
      },
    },
    { rounds, warmup: WARMUP },
  )
}

async function measure(
  shapeName: ShapeName,
  options: Given,
): Promise<{ of: TrainingMeasurement[]; machine: MachineRecord }> {
  const addon = native()
  const { texts, tokens, medusaHeads, blocks, rounds, backend, isa } = options
  const wanted = {
    backend,
    isa,
    weights: 'full',
    shape: SHAPES[shapeName],
    medusaHeads: 0,
    model: options.model,
  } as const
  const spec = await deviceModelSpec(wanted)
  const shape: ModelShape = { ...spec.shape, tied: false }
  const model = await addon.openModel(spec)
  try {
    const info = addon.modelInfo(model)
    const limits = {
      flopsPerSecond: multiplyAddPeak(info),
      bytesPerSecond: bandwidthOf(info.isa, info.weightBytes, info.threads),
    }
    const of: TrainingMeasurement[] = []
    for (const projection of options.projections) {
      showProgress(`${shapeName}, ${projection} projection`)
      const heads: HeadsShape = { medusaHeads, blocks, projection }
      const isPrivate = projection === 'private'
      const trainer = await addon.training.openTrainer(model, { medusaHeads, blocks, privateProjection: isPrivate })
      try {
        const ids = Array.from({ length: texts }, (_, i) => randomTokens(tokens, shape.vocab, i))
        const rows = texts * medusaHeads * tokens
        const training: Training = { trainer, tokens: ids, medusaHeads, rows }
        const samples = await measureParts(training, await checkTraining(model, training), rounds)
        const msOf = (part: keyof typeof samples): number[] => samples[part].map(({ ms }) => ms)
        of.push({
          kind: 'gorgon',
          shape: shapeName,
          projection,
          frozenMs: summaryOf(msOf('frozen')),
          headsMs: summaryOf(msOf('heads')),
          bothMs: summaryOf(msOf('step')),
          updateMs: summaryOf(samples.step.map(({ updateMs }) => updateMs)),
          stepMs: summaryOf(samples.step.map(({ ms, updateMs }) => ms + updateMs)),
          frozenFlops: frozenFlops(shape, { texts, tokens }),
          headsFlops: headsFlops(shape, heads, { texts, tokens }),
          updateBytes: updateBytes(shape, heads),
          packBytes: packBytes(shape, heads),
          ...limits,
          modelBytes: info.weightBytes,
          trainerBytes: addon.training.trainerInfo(trainer).bytes,
          peakBytes: addon.modelInfo(model).memoryPeak,
        })
      } finally {
        await addon.training.closeTrainer(trainer)
      }
    }
    return { of, machine: machineRecord(info) }
  } finally {
    await addon.close(model)
  }
}

const Output = z.object({
  info: z.object({ torch: z.string(), transformers: z.string() }),
  measurements: z.array(TrainingMeasurement),
})

async function runPython({ python, shapes, projections, texts, tokens, medusaHeads, blocks, rounds, seconds }: Given) {
  const named = JSON.stringify(shapes.map((name) => ({ name, ...SHAPES[name] })))
  const numbers = { texts, tokens, heads: medusaHeads, blocks, rounds, seconds }
  const words = Object.entries(numbers).flatMap(([name, value]) => [`--${name}`, `${value}`])
  const chosen = ['--shapes', named, '--projections', projections.join(','), '--compile']
  try {
    const { stdout } = await promisify(execFile)(python, [SCRIPT, ...chosen, ...words], {
      timeout: 1e3 * (seconds + GRACE_SECONDS),
      maxBuffer: 2 ** 24,
    })
    return Output.parse(JSON.parse(stdout.trim().split('\n').at(-1)!))
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string }
    const why = stderr.trim().split('\n').at(-1) || (error as Error).message
    throw new GorgonError('ERR_OPTION', `${python} cannot run the comparison: ${why}. Name one with --python.`, {
      python,
    })
  }
}

async function main({ quick, ...given }: Given): Promise<void> {
  const { out, python, ...options } = quick ? { ...given, texts: 1, tokens: 128, rounds: 2 } : given
  const measurements: TrainingMeasurement[] = []
  let machine: MachineRecord | undefined
  for (const shape of options.shapes) {
    const measured = await measure(shape, { ...options, quick, out, python })
    machine ??= measured.machine
    measurements.push(...measured.of)
  }
  let peers: TrainingOptions['peers'] = null
  if (python !== '') {
    showProgress('PyTorch')
    const theirs = await runPython({ ...options, quick, out, python })
    peers = theirs.info
    measurements.push(...theirs.measurements)
  }
  showProgress()
  const told = { ...options, quick, peers }
  await publishResult({ bench: BENCH, machine: machine!, options: told, measurements }, out, (result) =>
    Object.values(throughputTables(result)).join('\n'),
  )
}

await runBench(
  benchCommand(
    BENCH,
    'Training Medusa heads of large models on a GPU: tokens/s beside the frozen pass, memory, PyTorch.',
  )
    .option('--shapes <names>', SHAPE_NAMES.join(', '), wordList(SHAPE_NAMES), ['mistral-7b', 'llama-3-8b'])
    .option('--projections <list>', PROJECTIONS.join(', '), wordList(PROJECTIONS), [...PROJECTIONS])
    .option('--texts <n>', 'of a step', wholeNumber(), 2)
    .option('--tokens <n>', 'of a text', wholeNumber(), 2048)
    .option('--medusa-heads <n>', 'to train', wholeNumber(), 4)
    .option('--blocks <n>', 'residual blocks of a head', wholeNumber(0), 1)
    .option('--rounds <n>', 'steps of each kind', wholeNumber(), 7)
    .option('--python <file>', 'a Python that has torch; empty: no comparison', 'python3')
    .option('--seconds <n>', 'after which nothing new is begun there', wholeNumber(), 120)
    .addOption(new Option('--backend <name>', 'what computes').default('cuda'))
    .addOption(new Option('--isa <name>', 'of the backend').default('auto'))
    .option('--model <dir>', 'a folder instead of random weights, of whatever shape')
    .option('--quick', 'two steps of a short text: only shows that it runs', false)
    .action(main),
)
