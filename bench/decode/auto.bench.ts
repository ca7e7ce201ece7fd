// Question: does the tree chosen by measurement keep up with the best fixed one, on every instruction set, and with plain decoding where no
// tree pays?
//
// Expected from arithmetic: a step of N nodes takes c(N) and commits E(N) tokens; the best fixed tree has the largest E(N) / c(N). auto knows c
// from measurement and E from the heads' accuracies, then from the text, so it should come within 5 % of the best, and now and then pass it,
// where the text is easier or harder than its average. With drafts that are never right, E(N) is 1: auto has to be plain decoding, less 2 % for
// looking at drafts, and less the first few steps of an engine that has not seen its heads fail yet (each round has a new one): 0.97 over
// 400 tokens.
//
//   npm run bench -- decode/auto [options]
//
// Every arm's tokens are compared with those of plain decoding before anything is reported.
import { promptsFor } from '../../src/bench/prompts.js'
import { table } from '../../src/cli/format.js'
import { type Engine, type GenerateOptions, GorgonError, type LoadOptions, parseLoadOptions } from '../../src/index.js'
import { loadEngineWith } from '../../src/load-engine.js'
import { type Drafts, type Native, native } from '../../src/native.js'
import { usableIsas } from '../kernels/native-ops.js'
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
import { interleave } from '../support/interleave.js'
import { machineRecord } from '../support/machine.js'
import { type BenchResult, writeResult } from '../support/results.js'
import { AUTO, type AutoMeasurement, type AutoOptions, autoTable, PLAIN, summariseAuto } from './auto.report.js'

const BENCH = 'decode/auto'
const DRAFTS = ['own', 'useless'] as const

interface Given {
  readonly model: string
  readonly heads?: string
  readonly isas: readonly string[]
  readonly drafts: readonly (typeof DRAFTS)[number][]
  readonly trees: readonly number[]
  readonly promptLengths: readonly number[]
  readonly tokens: number
  readonly rounds: number
  readonly threads: number
  readonly out: string
}

/** Heads that cost what they cost and are never right, if not by chance: each draft is the token after the one it was. */
function spoiled(addon: Native, vocab: number): Native {
  const spoil = (drafts: Drafts): Drafts => ({ ...drafts, tokens: drafts.tokens.map((token) => (token + 1) % vocab) })
  return {
    ...addon,
    commit: async (batch) => (await addon.commit(batch)).map(spoil),
    prefill: async (batch) =>
      (await addon.prefill(batch)).map((step) => ({
        ...step,
        result: step.result && { ...step.result, drafts: spoil(step.result.drafts) },
      })),
  }
}

async function main(given: Given): Promise<void> {
  // What a load measures is part of what is asked about: nothing kept from another day.
  process.env['GORGON_CACHE'] = 'off'
  const measurements: AutoMeasurement[] = []
  let machine: BenchResult['machine'] | undefined
  for (const isa of given.isas) {
    const load: LoadOptions = {
      model: given.model,
      threads: given.threads,
      isa,
      kv: { policy: 'full' },
      ...(given.heads !== undefined && { heads: given.heads }),
    }
    await using engine = await loadEngineWith(parseLoadOptions(load), native())
    if (!engine.info.heads) {
      throw new GorgonError(
        'ERR_OPTION',
        `${given.model} has no Medusa heads, so there is no tree to choose. Give --heads.`,
      )
    }
    machine ??= machineRecord(engine.info)
    if (given.drafts.includes('own')) measurements.push(...(await measureTrees(engine, isa, given)))
    if (given.drafts.includes('useless')) measurements.push(...(await measureUseless(engine, load, isa, given)))
  }
  showProgress()

  const { model, tokens, rounds } = given
  const result: BenchResult<AutoOptions, AutoMeasurement> = {
    schema: 1,
    bench: BENCH,
    command: commandLine(BENCH),
    machine: machine!,
    options: { model, tokens, rounds },
    measurements,
  }
  const path = await writeResult(result, given.out)
  process.stdout.write(`${table(autoTable(summariseAuto(measurements)))}\n${path}\n`)
}

type Context = Pick<AutoMeasurement, 'isa' | 'heads' | 'promptTokens' | 'round'>

async function runArm(
  engine: Engine,
  arm: string,
  prompt: Int32Array,
  tokens: number,
  context: Context,
): Promise<{ measurement: AutoMeasurement; said: Int32Array }> {
  const speculation: GenerateOptions['speculation'] =
    arm === PLAIN ? { mode: 'off' } : arm === AUTO ? { mode: 'auto' } : { mode: 'medusa', tree: Number(arm) }
  const result = await engine.generate(prompt, {
    maxTokens: tokens,
    ignoreEos: true,
    speculation,
  })
  const { nodes, tokensPerStep, gate } = result.speculation
  const { tokensPerSecond } = result.timing
  const decision = gate.decision === 'off' ? null : gate.decision
  return {
    measurement: { ...context, arm, tokensPerSecond, tokensPerStep, nodes, gate: decision },
    said: result.tokens,
  }
}

/** Of the same prompt, once a round. */
class Comparison {
  #round = Number.NaN
  #said: Int32Array | null = null

  check(round: number, arm: string, said: Int32Array, where: string): void {
    if (round !== this.#round) this.#said = null
    this.#round = round
    this.#said ??= said
    if (said.length !== this.#said.length || said.some((token, at) => token !== this.#said![at])) {
      throw wrongResult(`${where}: ${arm} gave other tokens than the arm before it`)
    }
  }
}

async function measureTrees(engine: Engine, isa: string, given: Given): Promise<AutoMeasurement[]> {
  const { promptLengths, rounds, tokens } = given
  const prompts = await promptsFor(engine, { count: rounds + 1 })
  const measurements: AutoMeasurement[] = []
  for (const promptTokens of promptLengths) {
    const comparison = new Comparison()
    const arms = [PLAIN, ...given.trees.map(String), AUTO].map((arm) => [
      arm,
      async (round: number) => {
        const prompt = await prompts.take(round + 1, promptTokens)
        const context = { isa, heads: 'own', promptTokens, round } as const
        const { measurement, said } = await runArm(engine, arm, prompt, tokens, context)
        comparison.check(round, arm, said, `${isa}, prompt of ${promptTokens} tokens`)
        return measurement
      },
    ])
    const samples = await interleave(
      Object.fromEntries(arms) as Record<string, (round: number) => Promise<AutoMeasurement>>,
      {
        rounds,
        warmup: 1,
        onSample: (arm, _, round) =>
          showProgress(`${isa}, ${promptTokens} tokens, round ${round + 1} of ${rounds}: ${arm}`),
      },
    )
    measurements.push(...Object.values(samples).flat())
  }
  return measurements
}

/** A new engine each round: what it learns of its heads, it has to learn in that round. */
async function measureUseless(
  engine: Engine,
  load: LoadOptions,
  isa: string,
  given: Given,
): Promise<AutoMeasurement[]> {
  const { promptLengths, rounds, tokens } = given
  const prompts = await promptsFor(engine, { count: rounds })
  const addon = spoiled(native(), engine.info.vocab)
  const measurements: AutoMeasurement[] = []
  for (const promptTokens of promptLengths) {
    for (let round = 0; round < rounds; round++) {
      showProgress(`${isa}, ${promptTokens} tokens, useless heads, round ${round + 1} of ${rounds}`)
      await using fresh = await loadEngineWith(parseLoadOptions(load), addon)
      const prompt = await prompts.take(round, promptTokens)
      const context = { isa, heads: 'useless', promptTokens, round } as const
      await runArm(fresh, PLAIN, prompt, 8, context)
      const comparison = new Comparison()
      for (const arm of round % 2 === 0 ? [PLAIN, AUTO] : [AUTO, PLAIN]) {
        const { measurement, said } = await runArm(fresh, arm, prompt, tokens, context)
        comparison.check(round, arm, said, `${isa}, useless heads, prompt of ${promptTokens} tokens`)
        measurements.push(measurement)
      }
    }
  }
  return measurements
}

// Best first: the first one's machine is what the result is filed under.
const isas = usableIsas().toReversed()
await runBench(
  benchCommand(
    BENCH,
    'The tree chosen by measurement beside fixed ones and plain decoding; with heads that are never right, too.',
  )
    .option('--model <dir>', 'model folder', 'demo')
    .option('--heads <dir>', 'heads folder')
    .option('--isas <list>', 'instruction sets', wordList(isas), isas)
    .option('--drafts <kinds>', 'own: those of the heads; useless: never right', wordList(DRAFTS), [...DRAFTS])
    .option('--trees <n,n…>', 'nodes of the fixed trees', numberList(), [1, 2, 4, 8, 16, 32, 64])
    .option('--prompt-lengths <n,n…>', 'tokens of the prompts', numberList(), [400, 4000])
    .option('--tokens <n>', 'tokens to generate', wholeNumber(16), 400)
    .option('--rounds <n>', 'runs of each, a prompt of its own for each', wholeNumber(), 9)
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 0)
    .addHelpText(
      'after',
      '\nWith default options and the demo model: some minutes for amx and avx512 together, as many for avx2, and much longer for portable,\nwhose long prompts are slow: --isas portable --prompt-lengths 400 --rounds 3.',
    )
    .action(main),
)
