// Question: how many tokens per step do fresh heads reach on a frozen model, after how many seconds, beside the heads it came with?
//
// Expected from arithmetic: a token costs a pass of the frozen model, 2 * 11.0 M flops for the demo, and of each head 4 * C * V for the
// projection, forward and backward, and 6 * C * C for the block: 4 * 7.2 M. Hidden rows are kept, so later epochs cost the heads alone. The
// demo's own heads were trained together with the model on 1.0 G tokens; fresh ones see a million, some times over, and cannot change the model:
// less than theirs, and 0.93 of it is asked for.
//
//   npm run bench -- heads/training                                        a million tokens that the model writes after beginnings of ours
//   npm run bench -- heads/training --data FILE... [--self-distill N]      text, or what the model writes after beginnings of it
//
// What is learnt from begins with tests and benchmarks of this project; tokens per step are measured on its sources, of which nothing was
// learnt. Every arm's tokens are compared with those of plain decoding.
import { cpSync, readFileSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { Option } from 'commander'
import { readTrainingLog } from '../../heads/train/log.js'
import { DEFAULTS, type TrainingProgress } from '../../heads/train/options.js'
import { trainHeads } from '../../heads/train/train.js'
import { table } from '../../src/cli/format.js'
import { loadEngine } from '../../src/index.js'
import { openSafetensors, type TensorData, writeSafetensors } from '../../src/weights/safetensors.js'
import { benchCommand, nameOfPath, publishResult, runBench, showProgress, wholeNumber } from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { ownSources, ownTests, sourceText } from '../support/own-sources.js'
import { withTemporaryFolder } from '../support/temporary-folder.js'
import { type RateOptions, ratesOf } from './rates.js'
import { progressTable, ratesTable, type TrainingBenchOptions, type TrainingMeasurement } from './training.report.js'

const BENCH = 'heads/training'
/** Of which the model goes on with beginnings, when it is given nothing else. */
const OWN_TESTS = ['test/**/*.ts', 'bench/**/*.ts']
const OWN_TOKENS = 1_000_000

interface Given {
  readonly model: string
  readonly data: readonly string[]
  readonly selfDistill: number
  readonly temperature: number
  readonly heads: number
  readonly layers: number
  readonly private: boolean
  readonly epochs: number
  readonly batchTokens: number
  readonly learningRate: number
  readonly weightDecay: number
  readonly depthDecay: number
  readonly seed: number
  readonly measureEvery: number
  readonly prompts: number
  readonly promptTokens: number
  readonly tokens: number
  readonly tree: readonly string[]
  readonly temperatures: readonly number[]
  readonly threads: number
  readonly out: string
}

/** A checkpoint that was put aside. */
interface Moment {
  readonly dir: string
  readonly step: number
  readonly tokens: number
  readonly seconds: number
}

/** One file of them all. */
async function writeOwnTests(path: string): Promise<string> {
  const texts = await Promise.all((await ownTests()).map(sourceText))
  await writeFile(path, texts.map((text) => `${JSON.stringify({ text })}\n`).join(''))
  return path
}

/** The part of a checkpoint's state that is shown. */
function stateOf(checkpoint: string): { readonly tokens: number; readonly seconds: number } {
  return JSON.parse(readFileSync(join(checkpoint, 'state.json'), 'utf8')) as { tokens: number; seconds: number }
}

/** Makes a folder of heads from a checkpoint: its weights in f32, under the names that loaders know. */
async function headsOf(checkpoint: string, dir: string): Promise<string> {
  const path = join(checkpoint, 'heads.safetensors')
  const bytes = await readFile(path)
  const { tensors } = await openSafetensors(path)
  const names = [...tensors.keys()]
  const isBlockWeight = (name: string): boolean => name.endsWith('.weight.weights')
  const weights = [...tensors].flatMap(([name, { dtype, shape, begin, end }]): [string, TensorData][] => {
    const [, head, block, kind] = /^(\d+)\.block\.(\d+)\.(weight|bias)\.weights$/.exec(name) ?? []
    const projected = /^(\d+)\.projection\.weights$/.exec(name)?.[1]
    if (kind === undefined && projected === undefined) return []
    const blocks = names.filter((other) => other.startsWith(`${projected}.block.`) && isBlockWeight(other)).length
    const layoutName = kind ? `${head}.${block}.linear.${kind}` : `${projected}.${blocks}.weight`
    return [[layoutName, { dtype, shape, data: bytes.subarray(begin, end) }]]
  })
  await mkdir(dir, { recursive: true })
  await writeSafetensors(join(dir, 'medusa_lm_head.safetensors'), new Map(weights))
  return dir
}

function told(progress: TrainingProgress): string {
  if (progress.phase !== 'train') return progress.phase
  const { done, total, loss, tokensPerSecond } = progress
  return `step ${done} of ${total}, loss ${loss.toFixed(3)}, ${tokensPerSecond.toFixed(0)} tokens/s`
}

async function main(given: Given): Promise<void> {
  const { model, epochs, batchTokens, learningRate, layers, threads } = given
  const isOwn = given.data.length === 0
  const selfDistill = isOwn ? given.selfDistill || OWN_TOKENS : given.selfDistill
  const how: RateOptions = {
    model,
    files: await ownSources(given.prompts),
    promptTokens: given.promptTokens,
    tokens: given.tokens,
    trees: given.tree,
    temperatures: given.temperatures,
    threads,
  }
  await withTemporaryFolder('gorgon-bench-heads-', {}, async (dir) => {
    const out = join(dir, 'out')
    const moments: Moment[] = []
    let distilling = 0
    let distilled = 0
    await trainHeads({
      model,
      data: isOwn ? await writeOwnTests(join(dir, 'tests.jsonl')) : [...given.data],
      out,
      heads: given.heads,
      layers,
      private: given.private,
      epochs,
      selfDistill,
      temperature: given.temperature,
      batchTokens,
      learningRate,
      weightDecay: given.weightDecay,
      depthDecay: given.depthDecay,
      seed: given.seed,
      threads,
      checkpointEvery: given.measureEvery,
      evaluateEvery: given.measureEvery,
      onProgress(progress) {
        showProgress(told(progress))
        if (progress.phase === 'distill') {
          distilling ||= performance.now()
          distilled = performance.now()
        }
        if (progress.phase !== 'checkpoint') return
        const kept = join(dir, `step-${progress.step}`)
        cpSync(join(out, 'checkpoint'), kept, { recursive: true })
        moments.push({ dir: kept, step: progress.step, ...stateOf(kept) })
      },
    })
    const heldOut = (await readTrainingLog(join(out, 'training.jsonl'))).filter(({ kind }) => kind === 'held-out')
    const measurements: TrainingMeasurement[] = [
      { heads: 'shipped', step: 0, tokens: 0, seconds: 0, rates: await ratesOf(null, how), heldOut: null },
    ]
    for (const [i, { dir: checkpoint, step, tokens, seconds }] of moments.entries()) {
      showProgress(`measuring step ${step}`)
      // The last are those the run wrote, with their accuracies.
      const heads = i === moments.length - 1 ? out : await headsOf(checkpoint, join(checkpoint, 'heads'))
      const scores = heldOut.find((line) => line.step === step)?.heads
      measurements.push({
        heads: 'fresh',
        step,
        tokens,
        seconds,
        rates: await ratesOf(heads, how),
        heldOut: scores?.map(({ top1, top5, top10 }) => ({ top1, top5, top10 })) ?? null,
      })
    }
    showProgress()
    await using engine = await loadEngine({ model, threads, heads: false })
    const options: TrainingBenchOptions = {
      model,
      data: isOwn ? OWN_TESTS : given.data.map(nameOfPath),
      selfDistill,
      distillSeconds: distilled > distilling ? (distilled - distilling) / 1000 : null,
      medusaHeads: given.heads,
      layers,
      private: given.private,
      epochs,
      batchTokens,
      learningRate,
      prompts: how.files.length,
      promptTokens: given.promptTokens,
      tokens: given.tokens,
    }
    await publishResult(
      { bench: BENCH, machine: machineRecord(engine.info), options, measurements },
      given.out,
      () => `${table(ratesTable(measurements))}\n${table(progressTable(measurements))}`,
    )
  })
}

const temperatures = new Option('--temperatures <list>', 'at which tokens per step are measured; 0 is greedy')
await runBench(
  benchCommand(BENCH, "Tokens per step of fresh heads, as they are trained, beside the model's own.")
    .option('--model <dir>', 'model folder, with heads of its own', 'demo')
    .option('--data <path...>', 'text to learn from, or to go on from; our tests and benchmarks', [])
    .option('--self-distill <n>', 'tokens the model writes to learn from; without --data a million', wholeNumber(0), 0)
    .option('--temperature <t>', 'at which it writes them', Number, DEFAULTS.temperature)
    .option('--heads <n>', 'Medusa heads', wholeNumber(), DEFAULTS.heads)
    .option('--layers <n>', 'residual blocks per head', wholeNumber(0), DEFAULTS.layers)
    .option('--private', 'a projection for each head', false)
    .option('--epochs <n>', 'times through the text', wholeNumber(), DEFAULTS.epochs)
    .option('--batch-tokens <n>', 'tokens per step', wholeNumber(), DEFAULTS.batchTokens)
    .option('--learning-rate <x>', 'height of the schedule', Number, DEFAULTS.learningRate)
    .option('--weight-decay <x>', "AdamW's", Number, DEFAULTS.weightDecay)
    .option('--depth-decay <x>', "a head's loss over that of the one before", Number, DEFAULTS.depthDecay)
    .option('--seed <n>', 'of the run', wholeNumber(0), 1)
    .option('--measure-every <n>', 'steps from one measurement to the next', wholeNumber(), 200)
    .option('--prompts <n>', 'how many of the own sources', wholeNumber(), 24)
    .option('--prompt-tokens <n>', 'tokens of a file that become the prompt', wholeNumber(), 400)
    .option('--tokens <n>', 'tokens to generate', wholeNumber(2), 150)
    .option('--tree <tree...>', 'trees to measure with', ['auto', 'mc_sim_7b_63'])
    .addOption(temperatures.argParser((text: string) => text.split(',').map(Number)).default([0, 0.7]))
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 0)
    .action(main),
)
