// Question: how many tokens per second do Medusa and SnapKV give, alone and together, as prompts grow, and which part of the time is the prompt's?
//
// Expected from arithmetic: on an H200 a 7B model streams 14.2 GB for each step, 3.3 ms; a cache of 16384 rows adds 0.5 ms, of 131072 rows 4 ms,
// one of 2048 rows 0.06 ms. A tree of 64 nodes over 2048 rows costs 3 % more than a plain step, over 131072 rows 80 %. With 2.8 tokens a step
// Medusa gives 2.6x at 1024 tokens and 1.6x at 131072, SnapKV 1.1x at 16384 and 2.2x at 131072, both together 2.6x to 5.6x.
//
//   npm run bench -- device/throughput
//   npm run bench -- device/throughput --prompts 1024,16384 --tokens 512
//
// The comparison of the SnapKV paper ("Case Study: Compatibility with Parallel Decoding") in our terms. Every prompt is really run, once for
// each cache; then tokens are generated behind it, plainly, then by trees, so that the later arm's cache has `--tokens` rows more. Weights are
// random, so no draft would ever be right: paths are committed as if drafts were accepted with one chance at every depth, so that a step
// commits `--acceptance` tokens in the mean. All else is real: the heads run, trees are drafted, verified and walked, rows are moved.
import { performance } from 'node:perf_hooks'
import { Option } from 'commander'
import { randomTokens } from '../../src/bench/prompts.js'
import { NODE_LIMIT, parseTree } from '../../src/decode/index.js'
import { GorgonError } from '../../src/index.js'
import type { WeightForm } from '../../src/native.js'
import { bandwidthOf } from '../kernels/yardsticks.js'
import { benchCommand, numberList, publishResult, runBench, showProgress, wholeNumber } from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { SHAPE_NAMES, SHAPES, type ShapeName } from '../support/shapes.js'
import { type Summary, summaryOf } from '../support/statistics.js'
import { AcceptedPaths } from './accepted-paths.js'
import { type DeviceModel, type DeviceSession, openDeviceModel } from './device-model.js'
import { compressionOf, POLICIES, type Policy } from './policies.js'
import { throughputTables } from './throughput.report.js'

export interface ThroughputOptions {
  readonly shape: ShapeName
  readonly weights: WeightForm
  readonly prompts: readonly number[]
  /** To generate behind each prompt. */
  readonly tokens: number
  /** Nodes of the tree, root included. */
  readonly nodes: number
  /** Tokens a step of the tree commits in the mean, root included. */
  readonly acceptance: number
  readonly medusaHeads: number
  readonly budget: number
  readonly backend: string
  readonly isa: string
  readonly model?: string
  readonly quick: boolean
}

export interface ThroughputMeasurement {
  readonly promptTokens: number
  readonly kv: Policy
  readonly speculates: boolean
  readonly promptMs: number
  /** Of it, where the cache was compressed. */
  readonly compressionMs: number | null
  readonly generationMs: number
  readonly tokens: number
  readonly steps: number
  readonly stepMs: Summary
  /** In the cache when generation began. */
  readonly rows: number
  /** Of a plain step there: bytes over bandwidth. */
  readonly floorMs: number
}

const BENCH = 'device/throughput'
const WARMUP_TOKENS = 1024
const WARMUP_STEPS = 4

async function generate(
  session: DeviceSession,
  speculates: boolean,
  { tokens, nodes, acceptance }: ThroughputOptions,
): Promise<Pick<ThroughputMeasurement, 'generationMs' | 'tokens' | 'steps' | 'stepMs'>> {
  const tree = parseTree(speculates ? nodes : 1, NODE_LIMIT - 1)
  const paths = new AcceptedPaths(tree, speculates ? acceptance : 1)
  const samples: number[] = []
  let made = 0
  // Recordings are made, and the heads draft for the first tree.
  for (let i = 0; i < WARMUP_STEPS; i++) await session.step(tree, { drafts: speculates })
  const start = performance.now()
  while (made < tokens) {
    const path = paths.next()
    samples.push((await session.step(tree, { drafts: speculates, path })).ms)
    made += path.length
  }
  const generationMs = performance.now() - start
  return { generationMs, tokens: made, steps: samples.length, stepMs: summaryOf(samples) }
}

/** One prompt behind which both ways generate, for each cache. */
async function measurePrompt(
  model: DeviceModel,
  promptTokens: number,
  options: ThroughputOptions,
): Promise<ThroughputMeasurement[]> {
  const measurements: ThroughputMeasurement[] = []
  for (const kv of POLICIES) {
    showProgress(`${promptTokens} tokens, ${kv}`)
    const session = model.session()
    try {
      const tokens = randomTokens(promptTokens, model.shape.vocab, promptTokens)
      const prompt = await session.prefill(tokens, compressionOf(kv, options.budget))
      for (const speculates of [false, true]) {
        const rows = session.rows()
        const bytes = model.stepBytes(rows)
        measurements.push({
          promptTokens,
          kv,
          speculates,
          promptMs: prompt.ms,
          compressionMs: prompt.compression?.ms ?? null,
          ...(await generate(session, speculates, options)),
          rows,
          floorMs: (1e3 * bytes) / bandwidthOf(model.info.isa, bytes, model.info.threads),
        })
      }
    } finally {
      await session.close()
    }
  }
  return measurements
}

type Given = ThroughputOptions & { readonly out: string }

async function main({ out, ...given }: Given): Promise<void> {
  const options: ThroughputOptions = given.quick ? { ...given, prompts: given.prompts.slice(0, 1), tokens: 32 } : given
  const { depth } = parseTree(options.nodes, NODE_LIMIT - 1)
  if (options.acceptance > depth + 1) {
    const message = `--acceptance ${options.acceptance}: a tree of ${options.nodes} nodes commits at most ${depth + 1} tokens a step.`
    throw new GorgonError('ERR_OPTION', message, { acceptance: options.acceptance, most: depth + 1 })
  }
  showProgress('weights')
  const model = await openDeviceModel({ ...options, shape: SHAPES[options.shape] })
  try {
    const warm = { ...options, tokens: 2 * WARMUP_STEPS, budget: WARMUP_TOKENS / 2 }
    await measurePrompt(model, WARMUP_TOKENS, warm)
    const measurements: ThroughputMeasurement[] = []
    for (const promptTokens of options.prompts)
      measurements.push(...(await measurePrompt(model, promptTokens, options)))
    showProgress()
    const machine = machineRecord(model.info)
    await publishResult({ bench: BENCH, machine, options, measurements }, out, () =>
      Object.values(throughputTables(measurements)).join('\n'),
    )
  } finally {
    await model.close()
  }
}

await runBench(
  benchCommand(BENCH, 'Tokens per second of a large model on a GPU by prompt length: plain, Medusa, SnapKV and both.')
    .addOption(new Option('--shape <name>', 'of the model').choices(SHAPE_NAMES).default('mistral-7b'))
    .addOption(new Option('--weights <form>', 'how they are held').choices(['full', 'int8']).default('full'))
    .option('--prompts <list>', 'tokens of the prompts', numberList(), [1024, 4096, 16384, 65536, 131072])
    .option('--tokens <n>', 'to generate behind each', wholeNumber(), 256)
    .option('--nodes <n>', 'nodes of the tree, root included', wholeNumber(), 64)
    .option('--acceptance <x>', 'tokens a step of the tree commits in the mean', Number, 2.8)
    .option('--medusa-heads <n>', 'Medusa heads, with a shared output projection', wholeNumber(), 4)
    .option('--budget <n>', 'rows that SnapKV keeps, per layer and KV head', wholeNumber(), 2048)
    .addOption(new Option('--backend <name>', 'what computes').default('cuda'))
    .addOption(new Option('--isa <name>', 'of the backend').default('auto'))
    .option('--model <dir>', 'a folder instead of random weights')
    .option('--quick', 'one short prompt: only shows that it runs', false)
    .action(main),
)
