// Question: how many tokens does one decode step commit, and at which depth do drafts stop being accepted?
//
// Expected from arithmetic: tokens/step = 1 + the sum over a tree's nodes of the probability that its whole path is right; with the demo
// heads' rank accuracies (heads/demo/accuracy.json, of sampled texts) that is 2.8 for the first 15 paths of mc_sim_7b_63 and 3.3 for all 63.
//
//   npm run bench -- decode/acceptance                      the project's own sources as prompts
//   npm run bench -- decode/acceptance FILE... [options]    any text files
//
// A prompt is the head of a file after a line with its path; the text behind it is never shown to the model. Before anything is reported,
// each tree's tokens are compared with plain decoding of the same prompt over the same cache.
import { relative } from 'node:path'
import { Option } from 'commander'
import { table } from '../../src/cli/format.js'
import { type Engine, type GenerateOptions, loadEngine, type Result } from '../../src/index.js'
import { benchCommand, commandLine, runBench, showProgress, wholeNumber, wrongResult } from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { machineRecord } from '../support/machine.js'
import { ownSources, sourceText } from '../support/own-sources.js'
import { type BenchResult, writeResult } from '../support/results.js'
import { type AcceptanceMeasurement, type AcceptanceOptions, acceptanceTable } from './acceptance.report.js'

const BENCH = 'decode/acceptance'

interface Given {
  readonly model: string
  readonly heads?: string
  readonly tree: readonly string[]
  readonly prompts: number
  readonly promptTokens: number
  readonly tokens: number
  readonly rounds: number
  readonly kv: 'full' | 'snapkv' | 'h2o' | 'streaming'
  readonly budget: number
  readonly temperature: number
  readonly threads: number
  readonly out: string
}

async function promptOf(engine: Engine, file: string, tokens: number): Promise<Int32Array> {
  return (await engine.tokenize(await sourceText(file))).slice(0, tokens)
}

async function measure(engine: Engine, file: string, given: Given): Promise<AcceptanceMeasurement[]> {
  const prompt = await promptOf(engine, file, given.promptTokens)
  const run = (speculation: GenerateOptions['speculation']) => async (): Promise<Result> =>
    engine.generate(prompt, {
      maxTokens: given.tokens,
      ignoreEos: true,
      temperature: given.temperature,
      seed: 1,
      kv: { policy: given.kv, budget: given.budget },
      speculation,
    })
  const decodeMs = ({ timing, usage }: Result): number => timing.decodeMs / usage.completion
  const measurements: AcceptanceMeasurement[] = []
  for (const tree of given.tree) {
    const arms = {
      plain: run({ mode: 'off' }),
      speculated: run({ mode: 'medusa', tree }),
    }
    const { plain, speculated } = await interleave(arms, { rounds: given.rounds })
    for (const { tokens } of [...plain, ...speculated]) {
      if (Buffer.compare(Buffer.from(tokens.buffer), Buffer.from(plain[0]!.tokens.buffer)) !== 0) {
        throw wrongResult(`${file}: tree ${tree} gave other tokens than plain decoding`)
      }
    }
    const { speculation } = speculated[0]!
    measurements.push({
      prompt: relative(process.cwd(), file),
      tree,
      nodes: speculation.nodes,
      tokensPerStep: speculation.tokensPerStep,
      byDepth: speculation.byDepth.map(({ offered, accepted }) => ({ offered, accepted })),
      msPerToken: speculated.map(decodeMs),
      plainMsPerToken: plain.map(decodeMs),
    })
  }
  return measurements
}

async function main(files: string[], given: Given): Promise<void> {
  const paths = files.length > 0 ? files : await ownSources(given.prompts)
  await using engine = await loadEngine({
    model: given.model,
    threads: given.threads,
    ...(given.heads !== undefined && { heads: given.heads }),
  })
  const measurements: AcceptanceMeasurement[] = []
  for (const [i, file] of paths.entries()) {
    showProgress(`${i + 1} of ${paths.length} prompts`)
    measurements.push(...(await measure(engine, file, given)))
  }
  showProgress()
  const { model, promptTokens, tokens, kv, budget, temperature } = given
  const result: BenchResult<AcceptanceOptions, AcceptanceMeasurement> = {
    schema: 1,
    bench: BENCH,
    command: commandLine(BENCH),
    machine: machineRecord(engine.info),
    options: { model, promptTokens, tokens, kv, budget, temperature },
    measurements,
  }
  const path = await writeResult(result, given.out)
  process.stdout.write(`${table(acceptanceTable(measurements))}\n`)
  process.stdout.write(
    'depth d: drafts accepted of those offered there; x plain: decoding speed over plain decoding, median of prompts (p10–p90)\n',
  )
  process.stdout.write(`${path}\n`)
}

const policies = new Option('--kv <policy>', 'which rows of the prompt are kept').choices([
  'full',
  'snapkv',
  'h2o',
  'streaming',
])
await runBench(
  benchCommand(BENCH, 'Tokens per step and acceptance by depth, beside plain decoding.')
    .argument('[files...]', "prompts; without any, the project's own sources")
    .option('--model <dir>', 'model folder', 'demo')
    .option('--heads <dir>', 'heads folder')
    .option('--tree <tree...>', 'trees to compare', ['auto', '8', '16', 'mc_sim_7b_63', 'chain:4'])
    .option('--prompts <n>', 'how many of the own sources', wholeNumber(), 16)
    .option('--prompt-tokens <n>', 'tokens of a file that become the prompt', wholeNumber(), 400)
    .option('--tokens <n>', 'tokens to generate', wholeNumber(2), 100)
    .option('--rounds <n>', 'runs of each tree and prompt', wholeNumber(), 2)
    .addOption(policies.default('full'))
    .option('--budget <n>', 'rows kept', wholeNumber(), 1024)
    .option('--temperature <t>', '0 is greedy', Number, 0)
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 0)
    .addHelpText('after', '\nWith default options: about 10 s on a server with AMX, a minute elsewhere.')
    .action(main),
)
