// gorgon bench: plain decoding, Medusa, SnapKV and both, for any model, measured here.
import { readFile } from 'node:fs/promises'
import { Option } from 'commander'
import { type DecodeRun, measureDecode, planDecode } from '../bench/decode.js'
import { acceptanceRows, speedRows, summariseDecode } from '../bench/decode-summary.js'
import { machineRecord } from '../bench/machine.js'
import { type PromptKind, promptsFor } from '../bench/prompts.js'
import { type BenchResult, encodeResult } from '../bench/results.js'
import { type Engine, GorgonError, loadEngine } from '../index.js'
import { type Given, optionsOf, readGenerateOptions, readLoadOptions, UsageError } from './args.js'
import { placeOf, table } from './format.js'
import { type Io, write } from './io.js'
import { checkWritable, writeOutput } from './output-file.js'
import { createProgress } from './progress.js'
import { numberList, wholeNumber } from './values.js'

/** What was measured, beside the engine: the options of the result file. */
export interface DecodeBenchOptions {
  /** As it was asked for. */
  readonly model: string
  readonly promptLengths: readonly number[]
  readonly tokens: number
  readonly rounds: number
  readonly temperature: number
  readonly mode: 'auto' | 'medusa'
  readonly tree: string
  readonly budget: number
  readonly window: number
  readonly dtype: string
  readonly weights: 'full' | 'int8'
  readonly prompts: PromptKind
}

/** Flags of this benchmark beside those that set options. */
interface BenchFlags {
  readonly promptFile?: string
  readonly promptLengths: number[]
  readonly tokens: number
  readonly rounds: number
}

/** Below the context of most models, and where SnapKV keeps a twelfth of the longest prompt. */
const BUDGET = 1024
/** So that there are gaps between chunks, whatever a step commits. */
const FEWEST_TOKENS = 16

/** Engine options this benchmark decides itself, or tells otherwise. */
const NOT_OFFERED = ['--kv', '--accept', '--budget']

/** Everything that can be asked of the benchmark, but where its result goes. */
export function benchOptions(): Option[] {
  const own = [
    new Option('--prompt-lengths <N,N…>', 'tokens of the prompts')
      .argParser(numberList())
      .default([512, 4096, 12000], '512,4096,12000'),
    new Option('--prompt-file <F>', "text to cut prompts from; this package's sources when left out"),
    new Option('--tokens <N>', 'tokens to generate').argParser(wholeNumber(FEWEST_TOKENS)).default(128),
    new Option('--rounds <N>', 'runs of each arm and length, each with another prompt')
      .argParser(wholeNumber(1, 1000))
      .default(3),
  ]
  const budget = new Option('--budget <N>', `rows kept per layer and KV head, window included (default ${BUDGET})`)
  return [
    ...own.map((option) => option.helpGroup('Measurement:')),
    ...optionsOf('generate').filter((option) => option.long === '--temperature'),
    ...optionsOf('load').filter((option) => !NOT_OFFERED.includes(option.long!)),
    budget.helpGroup('KV cache:'),
  ]
}

/** What a measurement tells while it goes on, and how it is stopped. */
export interface Surroundings {
  readonly signal: AbortSignal
  /** A line for people: notes and warnings. */
  readonly remark: (text: string) => void | Promise<void>
  readonly progress: (label: string, done: number, total: number) => void
  /** Called as soon as there is an engine: what is measured, and the runs, which grow meanwhile. */
  readonly onStart: (started: Measured) => void
}

export interface Measured {
  readonly info: Engine['info']
  readonly options: DecodeBenchOptions
  readonly runs: readonly DecodeRun[]
}

/**
 * Measures what the flags ask for.
 *
 * @throws {GorgonError} ERR_OPTION, ERR_FILE, ERR_CONTEXT_OVERFLOW when no prompt fits, ERR_INTERNAL when speculation changed the tokens,
 *   and what loading may raise; the signal's reason when it fires.
 */
export async function runDecodeBench(given: Given, around: Surroundings): Promise<Measured> {
  const { promptFile, promptLengths, tokens, rounds } = given as unknown as BenchFlags
  const { signal, remark, progress } = around
  const load = readLoadOptions(given, { model: 'demo', kv: { budget: BUDGET } })
  const { temperature } = readGenerateOptions(given, {})
  const { tree, mode } = load.speculation
  if (mode === 'off') throw new UsageError('--mode is "off", but speculation is what is measured. Use auto or medusa.')
  const text = promptFile === undefined ? undefined : await readPromptFile(promptFile, signal)

  await using engine = await loadEngine({
    ...load,
    signal,
    onProgress: ({ done, total }) => progress('loading', done, total),
  })
  for (const warning of engine.info.warnings) await remark(`warning: ${warning}`)
  const plan = planDecode(engine.info, { promptLengths, tokens })
  const prompts = await promptsFor(engine, { text, count: rounds })
  for (const note of plan.notes) await remark(note)
  if (prompts.kind === 'random') await remark('No tokenizer: prompts are random token ids, which drafts cannot follow.')
  if (plan.promptLengths.length === 0) {
    throw new GorgonError(
      'ERR_CONTEXT_OVERFLOW',
      `No prompt fits: the context holds ${engine.info.context} tokens. Give shorter --prompt-lengths or fewer --tokens.`,
      { context: engine.info.context, promptLengths, tokens },
    )
  }

  const runs: DecodeRun[] = []
  const options: DecodeBenchOptions = {
    model: load.model,
    promptLengths: plan.promptLengths,
    tokens,
    rounds,
    temperature,
    mode,
    tree: typeof tree === 'object' ? 'custom' : String(tree),
    budget: load.kv.budget,
    window: load.kv.window,
    dtype: engine.info.dtype,
    weights: engine.info.weights,
    prompts: prompts.kind,
  }
  const measured = { info: engine.info, options, runs }
  around.onStart(measured)
  // A run costs about as many units as it has tokens, prompt and output: a bar that counts runs would stand still at the end.
  const total = plan.promptLengths.reduce((sum, length) => sum + (length + tokens) * rounds * plan.arms.length, 0)
  let done = 0
  progress('measuring', done, total)
  await measureDecode(engine, prompts, plan, {
    tokens,
    rounds,
    temperature,
    mode,
    signal,
    onRun(run) {
      runs.push(run)
      done += run.promptTokens + tokens
      progress('measuring', done, total)
    },
  })
  return measured
}

async function readPromptFile(file: string, signal: AbortSignal): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(file, { signal }))
  } catch (error) {
    if (signal.aborted) throw error
    const why = error instanceof TypeError ? 'it is not UTF-8 text' : (error as NodeJS.ErrnoException).code
    throw new GorgonError('ERR_FILE', `--prompt-file ${JSON.stringify(file)} cannot be read: ${why}.`, { file }, error)
  }
}

/** What was measured, for people. */
export function describeDecode({ info, options, runs }: Measured): string {
  const summaries = summariseDecode(runs)
  const acceptance = acceptanceRows(summaries)
  const rounds = Math.max(0, ...summaries.map((one) => one.n))
  return [
    `${options.model} on ${placeOf(info)}; ${options.tokens} tokens after each prompt, `,
    `temperature ${options.temperature}, mode ${options.mode}, tree ${options.tree}, budget ${options.budget}, window ${options.window}\n\n`,
    table(speedRows(summaries)),
    ...(acceptance.length > 0
      ? ['\ntrees, what the gate decided, and drafts accepted of those offered at a depth\n', table(acceptance)]
      : []),
    `\nmedians of ${rounds} ${rounds === 1 ? 'round' : 'rounds, p10–p90 in brackets'}; x plain: decoding speed over plain decoding's in the same round\n`,
    'tokens are those of plain decoding over the same cache, checked in every round\n',
  ].join('')
}

/** The command. What was done before an interruption is still printed and written. */
export async function bench(given: Given, command: string, io: Io): Promise<void> {
  const { json, out } = given as { readonly json?: true; readonly out?: string }
  if (out !== undefined) await checkWritable('--out', out)
  const progress = createProgress(io.stderr)
  let measured: Measured | undefined
  let failure: { readonly error: unknown } | undefined
  try {
    await runDecodeBench(given, {
      signal: io.signal,
      progress: progress.show,
      onStart: (started) => {
        measured = started
      },
      async remark(text) {
        progress.clear()
        await write(io.stderr, `gorgon: ${text}\n`)
      },
    })
  } catch (error) {
    failure = { error }
  } finally {
    progress.clear()
  }
  // A wrong token makes every number here worthless; an interruption does not.
  const isWorthTelling = !failure || (io.signal.aborted && (measured?.runs.length ?? 0) > 0)
  if (measured && isWorthTelling) {
    const result = resultOf(measured, command)
    await write(io.stdout, json ? encodeResult(result) : describeDecode(measured))
    if (out !== undefined) await writeOutput('--out', out, encodeResult(result))
  }
  if (failure) throw failure.error
}

/** As `npm run bench -- decode/decode` writes it. */
export function resultOf(
  { info, options, runs }: Measured,
  command: string,
): BenchResult<DecodeBenchOptions, DecodeRun> {
  return { schema: 1, bench: 'decode/decode', command, machine: machineRecord(info), options, measurements: runs }
}
