// What the quality benchmarks have in common: their options, the engine, asking it, and what they measure.
import { type Command, InvalidArgumentError } from 'commander'
import { type Engine, type LoadOptions, loadEngine } from '../../src/index.js'
import {
  benchCommand,
  commandLine,
  numberList,
  showProgress,
  wholeNumber,
  wordList,
  wrongResult,
} from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { type BenchResult, writeResult } from '../support/results.js'
import { ARM_KINDS, type Arm, type ArmOptions, armsOf } from './arms.js'
import type { Encoder } from './haystack.js'
import { type Costed, runRounds } from './rounds.js'
import { type ArmScores, encodeScores } from './scores.js'

export interface EngineOptions {
  readonly model: string
  readonly heads?: string
  readonly threads: number
  readonly isa: string
  readonly dtype: string
}

export interface QualityOptions extends ArmOptions, EngineOptions {
  readonly lengths: readonly number[]
  readonly cases: number
  readonly concurrency: number
  readonly minutes: number
  readonly seed: number
  readonly quick?: boolean
  readonly out: string
}

export interface Defaults {
  readonly lengths: readonly number[]
  /** What `--lengths` counts. */
  readonly lengthsAre: string
  readonly cases: number
  /** What `--cases` counts. */
  readonly casesAre: string
  readonly minutes: number
  /** Instead, with `--quick`. */
  readonly quick: { readonly lengths: readonly number[]; readonly cases: number }
}

export const minutesOf = (text: string): number => {
  const minutes = Number(text)
  if (text.trim() !== '' && Number.isFinite(minutes) && minutes >= 0) return minutes
  throw new InvalidArgumentError('Use a number of minutes, or 0 for no limit.')
}

/** Options that choose and load a model. */
export function withEngineOptions(command: Command): Command {
  return command
    .option('--model <dir>', 'model folder, or demo', 'demo')
    .option('--heads <dir>', 'heads folder')
    .option('--threads <n>', 'compute threads; 0 for one per core', wholeNumber(0), 0)
    .option('--isa <name>', 'instruction set', 'auto')
    .option('--dtype <name>', 'dtype of the weights', 'auto')
}

/** The command of a benchmark that asks all arms the same questions. */
export function qualityCommand(bench: string, description: string, defaults: Defaults): Command {
  const command = benchCommand(bench, description)
    .option('--arms <kinds>', `of ${ARM_KINDS.join(', ')}`, wordList(ARM_KINDS), [...ARM_KINDS])
    .option('--budgets <list>', 'rows kept by snapkv', numberList(2), [128, 256, 512, 1024, 2048])
    .option('--compare <list>', 'rows kept by the other arms', numberList(2), [1024])
    .option('--window <n>', 'prompt tokens whose queries vote', wholeNumber(), 32)
    .option('--pool-size <n>', 'width of the pool', wholeNumber(), 7)
    .option('--lengths <list>', defaults.lengthsAre, numberList(), [...defaults.lengths])
    .option('--cases <n>', defaults.casesAre, wholeNumber(), defaults.cases)
    .option('--concurrency <n>', 'questions asked at once', wholeNumber(), 8)
    .option(
      '--minutes <n>',
      'stop before this is over, with the rounds there are; 0 for no limit',
      minutesOf,
      defaults.minutes,
    )
    .option('--seed <n>', 'of what is drawn', wholeNumber(0), 1)
    .option('--quick', 'few and short cases, two budgets')
  return withEngineOptions(command).hook('preAction', (run) => {
    if (!run.opts()['quick']) return
    for (const [name, value] of Object.entries({ ...defaults.quick, budgets: [128, 1024] as ArmOptions['budgets'] })) {
      if (run.getOptionValueSource(name) === 'default') run.setOptionValue(name, value)
    }
  })
}

/** Runs with a loaded engine and closes it. */
export async function withEngine<T>(
  { model, heads, threads, isa, dtype }: EngineOptions,
  places: number,
  use: (engine: Engine) => Promise<T>,
): Promise<T> {
  const engine = await loadEngine({
    model,
    ...(heads === undefined ? {} : { heads }),
    threads,
    isa,
    dtype: dtype as NonNullable<LoadOptions['dtype']>,
    limits: { maxSequences: places },
  })
  try {
    return await use(engine)
  } finally {
    await engine.close()
  }
}

/** The engine's tokenizer, special tokens apart. */
export async function encoderOf(engine: Engine): Promise<Encoder> {
  const encode = (text: string) => engine.tokenize(text, { addSpecial: false })
  const plain = await encode('a')
  const whole = await engine.tokenize('a')
  return {
    encode,
    decode: (ids) => engine.detokenize(ids),
    prefix: whole.slice(0, whole.length - plain.length),
  }
}

export interface Question {
  readonly maxTokens: number
  readonly stop?: readonly string[]
  /** Told the text so far; true ends the generation. */
  readonly isDone?: (text: string) => boolean
}

/** What an arm generates after a prompt, greedily. */
export async function answerOf(engine: Engine, arm: Arm, prompt: Int32Array, question: Question): Promise<string> {
  const { maxTokens, stop = [], isDone } = question
  const generation = engine.generate(prompt, { maxTokens, stop, kv: arm.kv, onAbort: 'return' })
  let text = ''
  for await (const piece of generation.text) {
    text += piece
    if (isDone?.(text)) break
  }
  const { kv } = await generation
  const expected = Math.min(prompt.length, arm.budget ?? prompt.length)
  if (kv.keptTokens !== expected)
    throw wrongResult(`${arm.name} kept ${kv.keptTokens} rows of a prompt of ${prompt.length}, not ${expected}`)
  return text
}

/** A question, as every arm is asked it. */
export interface Case extends Costed {
  /** Of `--lengths`. */
  readonly length: number
  /** Where in the result its scores stand. */
  readonly index: number
  ask(engine: Engine, arm: Arm): Promise<number>
}

export interface Plan<Options extends QualityOptions> {
  readonly bench: string
  readonly options: Options
  /** Cases per length, if all are asked. */
  readonly cases: number
  /** What is not an option but decided the scores. */
  readonly notes?: () => Readonly<Record<string, unknown>>
  rounds(engine: Engine): AsyncIterable<readonly Case[]>
}

/** Asks, scores, writes the result. */
export async function measure<Options extends QualityOptions>(
  plan: Plan<Options>,
): Promise<BenchResult<unknown, ArmScores>> {
  const { bench, options } = plan
  const arms = armsOf(options)
  const start = performance.now()
  return withEngine(options, options.concurrency, async (engine) => {
    const machine = machineRecord(engine.info)
    let promptTokens = 0
    const asked = await runRounds<Case, Arm, number>(
      plan.rounds(engine),
      arms,
      async (one, arm) => {
        promptTokens += one.promptTokens
        return one.ask(engine, arm)
      },
      {
        concurrency: options.concurrency,
        limitMs: options.minutes === 0 ? Number.POSITIVE_INFINITY : options.minutes * 60_000,
        onAnswer: (answered) =>
          showProgress(`${bench}: ${answered} answers, ${Math.round((performance.now() - start) / 1000)} s`),
      },
    )
    showProgress()
    const measurements = arms.flatMap((arm, a) =>
      options.lengths.flatMap((length): ArmScores[] => {
        const own = asked.filter((place) => place.case.length === length)
        if (own.length === 0) return []
        const scores = new Array<number | null>(plan.cases).fill(null)
        for (const place of own) scores[place.case.index] = place.answers[a]!
        const tokens = own.map((place) => place.case.promptTokens)
        return [
          {
            arm: arm.name,
            kind: arm.kind,
            budget: arm.budget,
            length,
            promptTokens: Math.round(tokens.reduce((sum, count) => sum + count, 0) / tokens.length),
            scores: encodeScores(scores),
          },
        ]
      }),
    )
    const { out: _, ...asIs } = options
    const result = {
      schema: 1 as const,
      bench,
      command: commandLine(bench),
      machine,
      options: { ...asIs, ...plan.notes?.(), seconds: Math.round((performance.now() - start) / 1000), promptTokens },
      measurements,
    }
    const path = await writeResult(result, options.out)
    process.stderr.write(`${path}\n`)
    return result
  })
}
