// Question: which options of training give the best heads from the same text?
//
// Expected from arithmetic: nothing; that is why it is tried. A difference of 0.01 tokens/step is noise: 24 prompts of 150 tokens are about
// 1100 steps, and their mean is uncertain by 1 %; the losses of texts held out tell runs apart more finely.
//
//   npm run bench -- heads/options --data FILE --try learningRate=0.001,0.01 --try batchTokens=512
//
// Each run differs from the first, which has the defaults, in one option. Hidden rows are shared by all runs.
import { join } from 'node:path'
import { readTrainingLog } from '../../heads/train/log.js'
import { DEFAULTS, type TrainOptionsInput } from '../../heads/train/options.js'
import { trainHeads } from '../../heads/train/train.js'
import { table } from '../../src/cli/format.js'
import { GorgonError, loadEngine } from '../../src/index.js'
import { benchCommand, nameOfPath, publishResult, runBench, showProgress, wholeNumber } from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { ownSources } from '../support/own-sources.js'
import { withTemporaryFolder } from '../support/temporary-folder.js'
import { type OptionsBenchOptions, type OptionsMeasurement, optionsTable } from './options.report.js'
import { type RateOptions, ratesOf } from './rates.js'

const BENCH = 'heads/options'

/** Options of training that runs may differ in. */
const TRIED = [
  'learningRate',
  'batchTokens',
  'epochs',
  'weightDecay',
  'warmup',
  'clip',
  'depthDecay',
  'layers',
] as const
type Tried = (typeof TRIED)[number]

interface Change {
  readonly name: Tried
  readonly value: number
}

interface Given {
  readonly model: string
  readonly data: readonly string[]
  readonly try: readonly Change[]
  readonly base: readonly Change[]
  readonly prompts: number
  readonly promptTokens: number
  readonly tokens: number
  readonly threads: number
  readonly out: string
}

/** `learningRate=0.001,0.01`, added to those before it. */
function changesOf(text: string, before: readonly Change[] = []): Change[] {
  const [name = '', values = ''] = text.split('=')
  const numbers = values.split(',').map(Number)
  if (!(TRIED as readonly string[]).includes(name) || values === '' || !numbers.every(Number.isFinite)) {
    throw new GorgonError(
      'ERR_OPTION',
      `"${text}" is no option with values. Use NAME=VALUE,… with ${TRIED.join(', ')}.`,
    )
  }
  return [...before, ...numbers.map((value) => ({ name: name as Tried, value }))]
}

const asOptions = (changes: readonly Change[]): Partial<Record<Tried, number>> =>
  Object.fromEntries(changes.map(({ name, value }) => [name, value]))

async function main(given: Given): Promise<void> {
  const { model, data, threads } = given
  const base = { ...Object.fromEntries(TRIED.map((name) => [name, DEFAULTS[name]])), ...asOptions(given.base) }
  const how: RateOptions = {
    model,
    files: await ownSources(given.prompts),
    promptTokens: given.promptTokens,
    tokens: given.tokens,
    trees: ['mc_sim_7b_63'],
    temperatures: [0, 0.7],
    threads,
  }
  const measurements: OptionsMeasurement[] = []
  await withTemporaryFolder('gorgon-bench-options-', {}, async (dir) => {
    for (const [i, changed] of [{}, ...given.try.map((change) => asOptions([change]))].entries()) {
      showProgress(`run ${i + 1} of ${given.try.length + 1}: ${JSON.stringify(changed)}`)
      const out = join(dir, `run-${i}`)
      const options: TrainOptionsInput = { model, data: [...data], out, threads, hiddenCache: join(dir, 'hidden') }
      await trainHeads({ ...options, ...base, ...changed })
      const lines = await readTrainingLog(join(out, 'training.jsonl'))
      const steps = lines.filter((line) => line.kind === 'step')
      const heldOut = lines.findLast((line) => line.kind === 'held-out')?.heads ?? []
      measurements.push({
        changed,
        steps: steps.length,
        tokens: steps.reduce((sum, { tokens }) => sum + tokens, 0),
        seconds: steps.at(-1)?.seconds ?? 0,
        heldOut: heldOut.map(({ loss, top1, top5, top10 }) => ({ loss, top1, top5, top10 })),
        rates: await ratesOf(out, how),
      })
    }
  })
  showProgress()
  await using engine = await loadEngine({ model, threads, heads: false })
  const options: OptionsBenchOptions = {
    model,
    data: data.map(nameOfPath),
    base,
    prompts: how.files.length,
    promptTokens: given.promptTokens,
    tokens: given.tokens,
  }
  await publishResult({ bench: BENCH, machine: machineRecord(engine.info), options, measurements }, given.out, () =>
    table(optionsTable(measurements)),
  )
}

await runBench(
  benchCommand(BENCH, 'Heads of training runs that differ in one option each.')
    .option('--model <dir>', 'model folder', 'demo')
    .requiredOption('--data <path...>', 'text to learn from')
    .option('--try <change>', `NAME=VALUE,… of ${TRIED.join(', ')}; may be repeated`, changesOf, [])
    .option('--base <change>', 'what every run has instead of a default; may be repeated', changesOf, [])
    .option('--prompts <n>', 'how many of the own sources', wholeNumber(), 24)
    .option('--prompt-tokens <n>', 'tokens of a file that become the prompt', wholeNumber(), 400)
    .option('--tokens <n>', 'tokens to generate', wholeNumber(2), 150)
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 0)
    .action(main),
)
