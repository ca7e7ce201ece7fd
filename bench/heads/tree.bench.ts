// Question: does a tree do what its calibration promises, and more than the same number of nodes of others?
//
// Expected from arithmetic: a walk over a text takes the very steps that the engine takes, so promise and fact differ by what texts differ by.
// Tokens per step of one text vary by a quarter and more: those of 100 texts are uncertain by 2.5 % (one standard error). A tree grown for a
// model's heads and texts accepts more than mc_sim_7b_63, grown for other heads. Where temperature makes most drafts wrong there is less to
// choose from, and the difference is small.
//
//   npm run bench -- heads/tree                        the project's own sources
//   npm run bench -- heads/tree --data FILE|DIR...     other texts, each kind for itself
//
// Trees of a kind of text are grown from three quarters of its beginnings, and checked by the engine on the others.
import { Option } from 'commander'
import { checkTree } from '../../heads/calibrate/check.js'
import { countRanks, growTree } from '../../heads/calibrate/grow.js'
import { DEFAULTS } from '../../heads/calibrate/options.js'
import { readPrompts } from '../../heads/calibrate/prompts.js'
import { type CalibrationText, dealTexts } from '../../heads/calibrate/texts.js'
import { type Trace, traceTexts } from '../../heads/calibrate/trace.js'
import { type Rate, rateOf, walkTexts } from '../../heads/calibrate/walk.js'
import { table } from '../../src/cli/format.js'
import { smoothAccuracy } from '../../src/decode/accuracy.js'
import { CHOICES, type Choices } from '../../src/decode/choices.js'
import { autoFamily, growPaths } from '../../src/decode/tree-family.js'
import { Engine } from '../../src/engine.js'
import { parseLoadOptions } from '../../src/index.js'
import { loadParts } from '../../src/load-engine.js'
import { native } from '../../src/native.js'
import type { EngineParts } from '../../src/parts.js'
import {
  benchCommand,
  nameOfPath,
  numberList,
  publishResult,
  runBench,
  showProgress,
  wholeNumber,
  wrongResult,
} from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { type TreeBenchOptions, type TreeMeasurement, treeTable } from './tree.report.js'

const BENCH = 'heads/tree'

/** Trees that the engine decodes with; the walk over the same texts has to agree with it, and speaks for the others. */
const DECODED: readonly TreeMeasurement['tree'][] = ['grown', 'mc_sim_7b_63']

interface Given {
  readonly model: string
  readonly heads?: string
  readonly data: readonly string[]
  readonly nodes: readonly number[]
  readonly temperature: readonly number[]
  readonly prompts: number
  readonly promptTokens: number
  readonly tokens: number
  readonly batch: number
  readonly seed: number
  readonly threads: number
  readonly out: string
}

async function measure(engine: Engine, parts: EngineParts, data: string, given: Given): Promise<TreeMeasurement[]> {
  const { signal } = new AbortController()
  const encoding = { count: given.prompts, promptTokens: given.promptTokens, field: 'text', seed: given.seed }
  const prompts = await readPrompts([data], parts, encoding)
  const texts = dealTexts(prompts, { temperatures: given.temperature, seed: given.seed })
  const making = { tokens: given.tokens, kv: parts.kv, batch: given.batch, signal }
  showProgress(`${data}: ${prompts.length} texts`)
  const traces = await traceTexts(parts, texts.grown, making)
  // By plain steps as well: what the engine then does with trees has to agree, to the step.
  const heldOutTraces = await traceTexts(parts, texts.heldOut, making)
  const { medusaHeads } = parts
  const trees: Record<TreeMeasurement['tree'], Choices> = {
    grown: growTree(traces).map(({ ranks }) => ranks),
    independent: growPaths(smoothAccuracy(countRanks(traces).accuracy), medusaHeads),
    shipped: autoFamily(parts.measured, medusaHeads).paths,
    mc_sim_7b_63: CHOICES.mc_sim_7b_63.filter((path) => path.length <= medusaHeads),
  }
  const how = { data: nameOfPath(data), texts: texts.grown.length, heldOut: texts.heldOut.length }
  const measurements: TreeMeasurement[] = []
  for (const nodes of given.nodes) {
    for (const [tree, all] of Object.entries(trees) as [TreeMeasurement['tree'], Choices][]) {
      const paths = all.slice(0, nodes - 1)
      const ofTemperature = (side: readonly CalibrationText[], of: readonly Trace[], temperature: number): Rate =>
        rateOf(
          walkTexts(
            paths,
            of.filter((_, text) => side[text]!.temperature === temperature),
          ),
        )
      for (const temperature of given.temperature) {
        const promised = ofTemperature(texts.grown, traces, temperature)
        const measured = ofTemperature(texts.heldOut, heldOutTraces, temperature)
        measurements.push({ ...how, temperature, tree, nodes: paths.length + 1, promised, measured })
      }
      if (!DECODED.includes(tree)) continue
      showProgress(`${data}: ${tree}, ${nodes} nodes`)
      const options = { tokens: given.tokens, stepRatio: null, timed: 0, signal }
      const checks = await checkTree(engine, paths, texts, traces, options)
      for (const [i, { measured, temperature }] of checks.entries()) {
        const walked = measurements.at(i - checks.length)!.measured
        if (walked.tokensPerStep === measured?.tokensPerStep) continue
        throw wrongResult(
          `${data}, ${tree} of ${nodes} nodes, temperature ${temperature}: ${walked.tokensPerStep} tokens per step by the walk, ${measured?.tokensPerStep} by the engine`,
        )
      }
    }
  }
  return measurements
}

async function main(given: Given): Promise<void> {
  const { model, heads, data, threads, batch, prompts } = given
  const parts = await loadParts(
    parseLoadOptions({
      model,
      threads,
      limits: { maxSequences: batch, maxQueue: prompts },
      speculation: { mode: 'medusa', tree: 2 },
      ...(heads !== undefined && { heads }),
    }),
    native(),
  )
  await using engine = new Engine(parts)
  const measurements: TreeMeasurement[] = []
  for (const one of data) measurements.push(...(await measure(engine, parts, one, given)))
  showProgress()
  const { promptTokens, tokens, seed } = given
  const options: TreeBenchOptions = { model, promptTokens, tokens, seed, kv: parts.kv.policy }
  const run = { bench: BENCH, machine: machineRecord(engine.info), options, measurements }
  await publishResult(run, given.out, () => table(treeTable(measurements)))
}

await runBench(
  benchCommand(BENCH, 'Tokens per step of grown trees, promised and measured, beside other trees of the same size.')
    .option('--model <dir>', 'model folder', 'demo')
    .option('--heads <dir>', 'heads folder')
    .addOption(new Option('--data <path...>', 'texts: each path is a kind of its own').default(['src'], 'src'))
    .option('--nodes <n,n...>', 'sizes of trees', numberList(2), [8, 16, 64])
    .option('--temperature <t,t...>', '0 is greedy', (text) => text.split(',').map(Number), [...DEFAULTS.temperatures])
    .option('--prompts <n>', 'beginnings of each kind', wholeNumber(4), 800)
    .option('--prompt-tokens <n>', 'tokens of each, at most', wholeNumber(), DEFAULTS.promptTokens)
    .option('--tokens <n>', 'tokens to make after each', wholeNumber(), DEFAULTS.tokens)
    .option('--batch <n>', 'texts made at once', wholeNumber(), DEFAULTS.batch)
    .option('--seed <n>', 'chooses the beginnings, and what is drawn', wholeNumber(0), 1)
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 0)
    .addHelpText('after', '\nWith default options: about 4 minutes on two cores.')
    .action(main),
)
