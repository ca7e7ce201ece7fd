// Question: how long does a prompt take on a GPU, how much memory, and what of that is compression?
//
// Expected from arithmetic: a token costs 14.0 GFLOP in the products of a 7B model, and a prompt of N tokens 262144 N^2 FLOP in attention, which
// is the larger part from 53000 tokens on. At 650 TFLOP/s for products and 500 for attention: 0.1 s for 4096 tokens, 1.3 s for 32768, 12 s for
// 131072, 84 s for 380000. A prompt runs layer by layer, so that compressed only one layer's cache is there in full: 4 KiB for each token, beside
// the residual stream. Scoring and selecting read the keys once more: a thousandth of the time.
//
//   npm run bench -- device/prefill
//   npm run bench -- device/prefill --tokens 380000 --kv snapkv --rounds 1
//
// Random weights, random tokens, an empty cache, one prompt at a time. FLOP are those a prompt needs: what only the last token of the last layer
// needs is counted for that token alone. Short prompts are repeated, long ones are run once.
import { Option } from 'commander'
import { randomTokens } from '../../src/bench/prompts.js'
import type { WeightForm } from '../../src/native.js'
import {
  benchCommand,
  numberList,
  publishResult,
  runBench,
  showProgress,
  wholeNumber,
  wordList,
} from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { machineRecord } from '../support/machine.js'
import { prefillFlops, SHAPE_NAMES, SHAPES, type ShapeName } from '../support/shapes.js'
import { type Summary, summaryOf } from '../support/statistics.js'
import { type DeviceModel, openDeviceModel, type Prompt } from './device-model.js'
import { compressionOf, POLICIES, type Policy } from './policies.js'
import { prefillTable } from './prefill.report.js'

export interface DevicePrefillOptions {
  readonly shape: ShapeName
  readonly weights: WeightForm
  readonly tokens: readonly number[]
  readonly kv: readonly Policy[]
  readonly budget: number
  readonly rounds: number
  readonly backend: string
  readonly isa: string
  readonly model?: string
  readonly quick: boolean
}

export interface DevicePrefillMeasurement {
  readonly shape: ShapeName
  readonly weights: WeightForm
  readonly kv: Policy
  readonly tokens: number
  readonly ms: Summary
  /** Within it: votes, selection and gathering; null where nothing is compressed. */
  readonly compressionMs: Summary | null
  /** Rows per layer afterwards. */
  readonly rows: number
  readonly productFlops: number
  readonly attentionFlops: number
  /** Weights and all; 0 where nobody says. */
  readonly peakBytes: number
  readonly weightBytes: number
}

const BENCH = 'device/prefill'
/** Compiles code, touches memory, lets the clocks rise. */
const WARMUP_TOKENS = 2048
/** Longer prompts are run once: they take seconds, and vary little. */
const REPEATED_TOKENS = 40_000

async function runPrompt(model: DeviceModel, tokens: Int32Array, kv: Policy, budget: number) {
  const session = model.session()
  try {
    const prompt = await session.prefill(tokens, compressionOf(kv, budget))
    return { ...prompt, rows: session.rows() }
  } finally {
    await session.close()
  }
}

async function measureLength(
  model: DeviceModel,
  count: number,
  { shape, kv, budget, rounds, weights }: DevicePrefillOptions,
): Promise<DevicePrefillMeasurement[]> {
  const tokens = randomTokens(count, model.shape.vocab, count)
  const arms = Object.fromEntries(kv.map((policy) => [policy, () => runPrompt(model, tokens, policy, budget)]))
  const samples: Record<string, (Prompt & { rows: number })[]> = await interleave(arms, {
    rounds: count > REPEATED_TOKENS ? 1 : rounds,
  })
  const { products, attention } = prefillFlops(model.shape, count)
  return kv.map((policy) => {
    const own = samples[policy]!
    const compressed = own.flatMap(({ compression }) => (compression === null ? [] : [compression.ms]))
    return {
      shape,
      weights,
      kv: policy,
      tokens: count,
      ms: summaryOf(own.map(({ ms }) => ms)),
      compressionMs: compressed.length > 0 ? summaryOf(compressed) : null,
      rows: own[0]!.rows,
      productFlops: products,
      attentionFlops: attention,
      peakBytes: Math.max(...own.map(({ peakBytes }) => peakBytes)),
      weightBytes: model.info.weightBytes,
    }
  })
}

type Given = DevicePrefillOptions & { readonly out: string }

async function main({ out, ...given }: Given): Promise<void> {
  const options: DevicePrefillOptions = given.quick
    ? { ...given, tokens: given.tokens.filter((count) => count <= 4096), rounds: 1 }
    : given
  showProgress('weights')
  const model = await openDeviceModel({ ...options, shape: SHAPES[options.shape], medusaHeads: 0 })
  try {
    const measurements: DevicePrefillMeasurement[] = []
    for (const policy of options.kv) {
      await runPrompt(model, randomTokens(WARMUP_TOKENS, model.shape.vocab), policy, WARMUP_TOKENS / 2)
    }
    for (const count of options.tokens.toSorted((a, b) => a - b)) {
      showProgress(`${count} tokens`)
      measurements.push(...(await measureLength(model, count, options)))
    }
    showProgress()
    const machine = machineRecord(model.info)
    await publishResult({ bench: BENCH, machine, options, measurements }, out, () => prefillTable(measurements))
  } finally {
    await model.close()
  }
}

await runBench(
  benchCommand(BENCH, 'Prompts of a large model on a GPU: seconds, TFLOP/s, memory, and the share of compression.')
    .addOption(new Option('--shape <name>', 'of the model').choices(SHAPE_NAMES).default('mistral-7b'))
    .addOption(new Option('--weights <form>', 'how they are held').choices(['full', 'int8']).default('full'))
    .option('--tokens <list>', 'of the prompts', numberList(), [4096, 32768, 131072])
    .option('--kv <list>', POLICIES.join(', '), wordList(POLICIES), [...POLICIES])
    .option('--budget <n>', 'rows that SnapKV keeps, per layer and KV head', wholeNumber(), 2048)
    .option('--rounds <n>', 'times a prompt of at most 40000 tokens is run', wholeNumber(), 3)
    .addOption(new Option('--backend <name>', 'what computes').default('cuda'))
    .addOption(new Option('--isa <name>', 'of the backend').default('auto'))
    .option('--model <dir>', 'a folder instead of random weights')
    .option('--quick', 'one short prompt: only shows that it runs', false)
    .action(main),
)
