// Question: do the rows that the last tokens of a prompt attend to stay the rows that generation attends to?
//
// Expected from arithmetic: rows drawn at random would be hit with p, 5 %. The SnapKV paper found most of the important rows among the
// window's favourites in Mistral 7B, in every layer but the first ones, and hardly fewer hundreds of tokens later.
//
//   npm run bench -- quality/hit-rate
//
// A prompt is long TypeScript of this project; what follows is generated over the full cache, at a temperature (greedy text soon repeats
// itself and would flatter every window). Then prompt and continuation run through the model once more, and per layer and query head the
// attention of some generated tokens, at several depths of the generation, is compared with the votes of windows of several widths: the
// paper's hit rate, and how much of the attention paid to the prompt falls on the rows each policy keeps.
//
// Checked first: an arm that keeps everything has all of the attention, and the engine kept the rows that are taken for kept here.
import { InvalidArgumentError } from 'commander'
import { type Engine, GorgonError } from '../../src/index.js'
import {
  benchCommand,
  commandLine,
  numberList,
  runBench,
  showProgress,
  wholeNumber,
  wordList,
  wrongResult,
} from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { writeResult } from '../support/results.js'
import { ARM_KINDS, type Arm, type ArmOptions, armsOf } from './arms.js'
import { type AttentionModel, openAttention } from './attention.js'
import { favourites, hitsOf, massOf } from './hit-rates.js'
import { type EngineOptions, encoderOf, minutesOf, withEngine, withEngineOptions } from './run.js'
import {
  chooseCompletions,
  completionPrompt,
  completionsOf,
  fileText,
  readSources,
  type SourceFile,
} from './sources.js'
import { LayerSums, type StudyMeasurement } from './study.js'

interface Options extends ArmOptions, EngineOptions {
  readonly data: string
  readonly folders: string
  readonly lengths: readonly number[]
  readonly cases: number
  readonly windows: readonly number[]
  readonly depths: readonly number[]
  readonly rows: number
  readonly share: number
  readonly thresholds: readonly number[]
  readonly temperature: number
  readonly seed: number
  readonly minutes: number
  readonly out: string
  readonly quick?: boolean
}

const shareOf = (text: string): number => {
  const share = Number(text)
  if (share > 0 && share < 1) return share
  throw new InvalidArgumentError('Use a number above 0 and below 1.')
}

/** Generated tokens whose attention is looked at: `rows` from each depth on. */
const queriesOf = ({ depths, rows }: Options, promptTokens: number): { depth: number; token: number }[] =>
  depths.flatMap((depth) => Array.from({ length: rows }, (_, i) => ({ depth, token: promptTokens + depth + i })))

/** What a prompt's continuation and its attention add to the sums. */
async function study(
  engine: Engine,
  attention: AttentionModel,
  prompt: Int32Array,
  arms: readonly Arm[],
  options: Options,
  sums: LayerSums,
): Promise<void> {
  const { windows, share, thresholds, window } = options
  const length = prompt.length
  const queries = queriesOf(options, length)
  const { tokens } = await engine.generate(prompt, {
    maxTokens: Math.max(...options.depths) + options.rows,
    ignoreEos: true,
    temperature: options.temperature,
    seed: options.seed,
    kv: { policy: 'full' },
  })
  const widths = [...new Set([...windows, window])]
  const wantsAll = arms.some((arm) => arm.kind === 'h2o')
  const ranges: [number, number][] = [
    ...queries.map(({ token }): [number, number] => [token, token + 1]),
    ...widths.map((width): [number, number] => [length - width, length]),
    ...(wantsAll ? [[0, length] as [number, number]] : []),
  ]
  const rangeOf = (width: number): number => queries.length + widths.indexOf(width)
  const all = queries.length + widths.length

  for (const [layer, votes] of attention.votes(Int32Array.of(...prompt, ...tokens), ranges).entries()) {
    for (const width of windows) {
      const chosen = favourites(votes, rangeOf(width), length - width, share)
      for (const threshold of thresholds) {
        for (const [query, { depth }] of queries.entries()) {
          const { hits, important } = hitsOf(votes, chosen, query, threshold)
          sums.add({ measure: 'hit rate', length, depth, window: width, threshold }, layer, hits, important)
        }
      }
    }
    for (const arm of arms) {
      const kept = attention.kept(arm, votes, { tokens: length, window: rangeOf(window), all })
      for (const [query, { depth }] of queries.entries()) {
        const mass = massOf(votes, kept, query, length)
        if (arm.kind === 'full' && mass.kept !== mass.whole)
          throw wrongResult('The full cache has not all of the attention')
        sums.add(
          { measure: 'recall', length, depth, arm: arm.name, kind: arm.kind, budget: arm.budget },
          layer,
          mass.kept,
          mass.whole,
        )
      }
    }
  }
}

/** The engine's own selection for a prompt, against what is taken for it here. */
async function checkKept(
  engine: Engine,
  attention: AttentionModel,
  prompt: Int32Array,
  arms: readonly Arm[],
  window: number,
): Promise<void> {
  const length = prompt.length
  const votes = attention.votes(prompt, [
    [length - window, length],
    [0, length],
  ])
  for (const arm of arms) {
    if (arm.budget === null || arm.budget >= length || arm.kind === 'streaming') continue
    const { kv } = await engine.generate(prompt, { maxTokens: 1, kv: { ...arm.kv, reportKept: true } })
    for (const [layer, own] of votes.entries()) {
      const kept = attention.kept(arm, own, { tokens: length, window: 0, all: 1 })
      for (const [head, rows] of kept.entries()) {
        const engines = new Set(kv.kept![layer]![head]!)
        const before = [...rows].filter((row) => row < length - window)
        const shared = before.filter((row) => engines.has(row)).length
        // H2O adds up a prompt's votes chunk by chunk: sums, and so near ties, may differ in the last bits.
        const allowed = arm.kind === 'h2o' ? Math.ceil(0.01 * before.length) : 0
        if (engines.size !== before.length || shared < before.length - allowed) {
          throw wrongResult(`${arm.name}: the engine kept other rows in layer ${layer}, KV head ${head}`)
        }
      }
    }
  }
}

async function main(options: Options): Promise<void> {
  const { data, folders, lengths, cases, seed, minutes, windows, depths, rows, window } = options
  const files: SourceFile[] = await readSources(data, folders.split(','))
  const chosen = chooseCompletions(completionsOf(files), cases, seed)
  const arms = armsOf(options)
  const shortest = Math.min(...lengths)
  const widest = Math.max(...windows, window)
  if (widest >= shortest) {
    throw new GorgonError(
      'ERR_OPTION',
      `--windows: ${widest} tokens are no window of a prompt of ${shortest}. Use less.`,
      { widest },
    )
  }
  const start = performance.now()
  const result = await withEngine(options, 1, async (engine) => {
    const longest = Math.max(...lengths) + Math.max(...depths) + rows
    if (longest > engine.info.context) {
      throw new GorgonError(
        'ERR_OPTION',
        `--lengths: the longest prompt and what is generated are ${longest} tokens, the model's context is ${engine.info.context}. Use shorter prompts or depths.`,
        { longest, context: engine.info.context },
      )
    }
    const attention = await openAttention(engine.info)
    try {
      const { encode, prefix } = await encoderOf(engine)
      const idsOf = (file: number) => encode(fileText(files[file]!))
      const sums = new LayerSums(attention.layers)
      let texts = 0
      let longestMs = 0
      for (const completion of chosen) {
        const begun = performance.now()
        if (texts > 0 && minutes > 0 && begun - start + longestMs > minutes * 60_000) break
        for (const length of lengths) {
          const prompt = await completionPrompt(files, completion, length, { prefix, encode, idsOf })
          if (texts === 0 && length === shortest) await checkKept(engine, attention, prompt, arms, window)
          await study(engine, attention, prompt, arms, options, sums)
          showProgress(`quality/hit-rate: text ${texts + 1} of ${chosen.length}, ${length} tokens`)
        }
        texts++
        longestMs = Math.max(longestMs, performance.now() - begun)
      }
      showProgress()
      const { out: _, ...asIs } = options
      return {
        schema: 1 as const,
        bench: 'quality/hit-rate',
        command: commandLine('quality/hit-rate'),
        machine: machineRecord(engine.info),
        options: { ...asIs, texts, seconds: Math.round((performance.now() - start) / 1000) },
        measurements: sums.measurements() satisfies StudyMeasurement[],
      }
    } finally {
      await attention.close()
    }
  })
  process.stderr.write(`${await writeResult(result, options.out)}\n`)
}

const command = benchCommand(
  'quality/hit-rate',
  "What a window's votes have in common with the attention of generated tokens.",
)
  .option('--arms <kinds>', `of ${ARM_KINDS.join(', ')}`, wordList(ARM_KINDS), [...ARM_KINDS])
  .option('--budgets <list>', 'rows kept by snapkv', numberList(2), [128, 256, 512, 1024, 2048])
  .option('--compare <list>', 'rows kept by the other arms', numberList(2), [1024])
  .option('--window <n>', 'prompt tokens whose queries vote, for the arms', wholeNumber(), 32)
  .option('--pool-size <n>', 'width of the pool', wholeNumber(), 7)
  .option('--windows <list>', 'windows whose hit rate is measured', numberList(), [16, 32, 64])
  .option('--depths <list>', 'generated tokens before those that are looked at', numberList(0), [0, 32, 128, 248])
  .option('--rows <n>', 'generated tokens looked at from each depth on', wholeNumber(), 8)
  .option('--share <p>', "share of the rows that are a window's favourites", shareOf, 0.05)
  .option(
    '--thresholds <list>',
    'attention that makes a row important',
    (text: string) => text.split(',').map(shareOf),
    [0.05, 0.005],
  )
  .option('--temperature <t>', 'of what is generated', Number, 0.7)
  .option('--lengths <list>', 'tokens of a prompt', numberList(), [4096, 12288])
  .option('--cases <n>', 'prompts of each length', wholeNumber(), 16)
  .option('--minutes <n>', 'stop before this is over, with the prompts there are; 0 for no limit', minutesOf, 0.75)
  .option('--seed <n>', 'of what is drawn', wholeNumber(0), 1)
  .option('--data <dir>', 'folder of a TypeScript project', '.')
  .option('--folders <list>', 'folders of it', 'src,test')
  .option('--quick', 'one short prompt')
  .hook('preAction', (run) => {
    if (!run.opts()['quick']) return
    for (const [name, value] of Object.entries({ lengths: [1536], cases: 1, depths: [0, 24] })) {
      if (run.getOptionValueSource(name) === 'default') run.setOptionValue(name, value)
    }
  })
  .action(main)

await runBench(withEngineOptions(command))
