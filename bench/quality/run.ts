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
import { answerOf, openSharedPrefill, type Question } from './shared-prefill.js'

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
  readonly ownPrefill?: boolean
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
    .option('--own-prefill', 'a prefill for every arm, through the engine alone; else a prompt runs once for all arms')
    .option('--concurrency <n>', 'questions asked at once, with --own-prefill', wholeNumber(), 8)
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

/** A question that every arm is asked. */
export interface Case extends Costed {
  /** Of `--lengths`. */
  readonly length: number
  /** Where in the result its scores stand. */
  readonly index: number
  readonly prompt: Int32Array
  readonly question: Question
  /** What an answer is worth, from 0 to 1. */
  score(answer: string): number
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

/** Puts a plan's cases to all arms. */
async function askAll<Options extends QualityOptions>(
  engine: Engine,
  { bench, options, rounds }: Plan<Options>,
  arms: readonly Arm[],
): Promise<{ readonly case: Case; readonly scores: readonly number[] }[]> {
  const start = performance.now()
  const showCases = (cases: number) =>
    showProgress(`${bench}: ${cases} cases, ${Math.round((performance.now() - start) / 1000)} s`)
  const limitMs = options.minutes === 0 ? Number.POSITIVE_INFINITY : options.minutes * 60_000
  if (options.ownPrefill) {
    const ask = async ({ prompt, question, score }: Case, arm: Arm) =>
      score(await answerOf(engine, arm, prompt, question))
    const asked = await runRounds(rounds(engine), arms, ask, {
      concurrency: options.concurrency,
      limitMs,
      onAnswer: (answers) => showCases(Math.floor(answers / arms.length)),
    })
    return asked.map((place) => ({ case: place.case, scores: place.answers }))
  }
  const shared = await openSharedPrefill(engine)
  try {
    let isChecked = false
    const shortest = Math.min(...options.lengths)
    const ask = async ({ length, prompt, question, score }: Case) => {
      const scores = shared.answers(arms, prompt, question).map(score)
      if (!isChecked && length === shortest) {
        // A shortcut is only worth what it has in common with the way everybody goes.
        isChecked = true
        for (const [i, arm] of arms.entries()) {
          const engines = await answerOf(engine, arm, prompt, question)
          if (score(engines) !== scores[i])
            throw wrongResult(`${arm.name}: the engine answered ${JSON.stringify(engines)}, which scores otherwise`)
        }
      }
      return scores
    }
    const asked = await runRounds(rounds(engine), ['all'], ask, { concurrency: 1, limitMs, onAnswer: showCases })
    return asked.map((place) => ({ case: place.case, scores: place.answers[0]! }))
  } finally {
    await shared.close()
  }
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
    const asked = await askAll(engine, plan, arms)
    showProgress()
    const measurements = arms.flatMap((arm, a) =>
      options.lengths.flatMap((length): ArmScores[] => {
        const own = asked.filter((place) => place.case.length === length)
        if (own.length === 0) return []
        const scores = new Array<number | null>(plan.cases).fill(null)
        for (const place of own) scores[place.case.index] = place.scores[a]!
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
      options: { ...asIs, ...plan.notes?.(), seconds: Math.round((performance.now() - start) / 1000) },
      measurements,
    }
    const path = await writeResult(result, options.out)
    process.stderr.write(`${path}\n`)
    return result
  })
}
