// Question: with a model that no cache holds, how much of the memory's bandwidth does decoding use, and of the cores' peak a prompt?
//
// Expected from arithmetic, for the 1.1B shape (TinyLlama's): a step reads 2.07 GB of bf16 weights, so at 20 GB/s it takes 103 ms, half of
// that with int8, and rows of a tree are free while 2.07 GFLOP a row take less. A prompt of 1024 tokens is 2.0 TFLOP of products.
// Aims: packed products at M = 1 at least 80 % of the measured read bandwidth; the large ones at M = 512 at least 60 % of the measured peak.
//
//   npm run bench -- memory-bound/memory-bound                                     writes 2.2 GB to the temporary folder, and removes it
//   npm run bench -- memory-bound/memory-bound --size layers=2,vocab=2000 --prompt 64 --rounds 3      a small one, to try it
//
// Weights are random: what they say does not change what they cost. bf16 and int8 take turns within each round. Before that, all numbers of
// nodes have to choose the same token after a root, and all instruction sets the same one after the prompt.
import { Option } from 'commander'
import { randomTokens } from '../../src/bench/prompts.js'
import { NODE_LIMIT, parseTree } from '../../src/decode/index.js'
import { GorgonError } from '../../src/index.js'
import type { WeightForm } from '../../src/native.js'
import { usableIsas } from '../kernels/native-ops.js'
import { coldCopies, type LinearTime, timeLinear, weightBytes } from '../kernels/time-linear.js'
import { multiplyAddPeak, readBandwidth } from '../kernels/yardsticks.js'
import { type OpenModel, type OpenSession, openModel } from '../step/open-model.js'
import {
  benchCommand,
  numberList,
  publishResult,
  runBench,
  showProgress,
  wholeNumber,
  wordList,
  wrongResult,
} from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { machineRecord } from '../support/machine.js'
import { coldBytesOf, lastLevelCacheBytes, physicalCores } from '../support/processor.js'
import {
  type ModelShape,
  prefillFlops,
  productsOf,
  SHAPE_NAMES,
  type ShapeName,
  sizedShape,
} from '../support/shapes.js'
import { pairedRatiosOf, type Summary, summaryOf } from '../support/statistics.js'
import { withTemporaryFolder } from '../support/temporary-folder.js'
import { memoryBoundTables } from './memory-bound.report.js'
import { type RandomModel, writeRandomModel } from './random-model.js'

export interface MemoryBoundOptions {
  readonly shape: ShapeName
  /** Over those of the shape. */
  readonly size: Partial<ModelShape>
  readonly weights: readonly WeightForm[]
  readonly isas: readonly string[]
  readonly nodes: readonly number[]
  readonly prompt: number
  readonly threads: number
  readonly rounds: number
  readonly prefillRounds: number
  readonly medusaHeads: number
  readonly products: boolean
}

/** A decode step of `nodes` tree nodes behind the prompt. */
export interface StepRecord {
  readonly kind: 'step'
  readonly isa: string
  readonly weights: WeightForm
  readonly nodes: number
  readonly ms: Summary
  /** Time of full weights over this one's, in the same round. */
  readonly timesFull: Summary | null
  /** Over the step of one node, in the same round. */
  readonly ratio: Summary
  readonly bytes: number
  readonly bytesPerSecond: number
}

export interface PrefillRecord {
  readonly kind: 'prefill'
  readonly isa: string
  readonly weights: WeightForm
  readonly tokens: number
  readonly ms: Summary
  readonly flops: number
  readonly flopsPerSecond: number
}

export interface ProductRecord extends LinearTime {
  readonly kind: 'product'
  readonly product: string
  readonly columns: number
  readonly depth: number
  readonly weights: WeightForm
}

export type MemoryBoundMeasurement = StepRecord | PrefillRecord | ProductRecord

const WARMUP = 1
/** One row, a tree's, a prompt's chunk. */
const PRODUCT_ROWS = [1, 16, 64, 512]

interface Opened {
  readonly weights: WeightForm
  readonly model: OpenModel
}

type Measured = Omit<MemoryBoundOptions, 'shape' | 'size'> & { readonly shape: ModelShape }

async function measureIsa(
  files: RandomModel,
  isa: string,
  options: Measured,
): Promise<{ root: ReadonlyMap<WeightForm, number>; measurements: MemoryBoundMeasurement[] }> {
  const opened: Opened[] = []
  const sessions: OpenSession[] = []
  try {
    for (const weights of options.weights) {
      showProgress(`${isa}: loading ${weights} weights`)
      const model = await openModel({
        model: files.model,
        heads: files.heads ?? false,
        isa,
        threads: options.threads,
        weights,
      })
      opened.push({ weights, model })
    }
    showProgress(`${isa}: prompts`)
    const prompt = randomTokens(options.prompt, options.shape.vocab)
    const prefills = await measurePrefill(opened, prompt, isa, options)
    const root = new Map<WeightForm, number>()
    const behind = new Map<WeightForm, OpenSession>()
    for (const { weights, model } of opened) {
      const session = model.session()
      sessions.push(session)
      await session.prefill(prompt)
      root.set(weights, session.root())
      behind.set(weights, session)
    }
    showProgress(`${isa}: steps`)
    const steps = await measureSteps(opened, behind, isa, options)
    return { root, measurements: [...steps, ...prefills] }
  } finally {
    for (const session of sessions) await session.close()
    for (const { model } of opened) await model.close()
  }
}

async function measurePrefill(
  opened: readonly Opened[],
  prompt: Int32Array,
  isa: string,
  { shape, threads, prefillRounds }: Measured,
): Promise<PrefillRecord[]> {
  const once = async (model: OpenModel): Promise<number> => {
    const session = model.session()
    try {
      return await session.prefill(prompt)
    } finally {
      await session.close()
    }
  }
  const arms = Object.fromEntries(opened.map(({ weights, model }) => [weights, () => once(model)]))
  const samples = await interleave(arms, { rounds: prefillRounds, warmup: WARMUP })
  const { products, attention } = prefillFlops(shape, prompt.length)
  const flopsPerSecond = multiplyAddPeak({ isa, threads })
  return opened.map(({ weights }) => ({
    kind: 'prefill',
    isa,
    weights,
    tokens: prompt.length,
    ms: summaryOf(samples[weights]!),
    flops: products + attention,
    flopsPerSecond,
  }))
}

async function measureSteps(
  opened: readonly Opened[],
  sessions: ReadonlyMap<WeightForm, OpenSession>,
  isa: string,
  { nodes, threads, rounds, prompt }: Measured,
): Promise<StepRecord[]> {
  const trees = nodes.map((count) => parseTree(count, NODE_LIMIT - 1))
  for (const session of sessions.values()) await session.checkRoots(trees)
  const cases = trees.flatMap((tree) => opened.map(({ weights, model }) => ({ tree, weights, model })))
  const nameOf = (weights: WeightForm, count: number): string => `${weights} ${count}`
  const arms = Object.fromEntries(
    cases.map(({ tree, weights }) => [
      nameOf(weights, tree.nodeCount),
      async () => (await sessions.get(weights)!.step(tree)).ms,
    ]),
  )
  const samples: Record<string, number[]> = await interleave(arms, { rounds, warmup: WARMUP })
  // Each step adds a row: this is how many there are in the middle.
  const rows = prompt + Math.round((trees.length * (rounds + WARMUP)) / 2)
  return cases.map(({ tree: { nodeCount }, weights, model }) => {
    const bytes = model.verifyBytes(rows) + (nodeCount === 1 ? 0 : model.headsBytes())
    const own = samples[nameOf(weights, nodeCount)]!
    const full = samples[nameOf('full', nodeCount)]
    return {
      kind: 'step',
      isa,
      weights,
      nodes: nodeCount,
      ms: summaryOf(own),
      timesFull: full ? summaryOf(pairedRatiosOf(full, own)) : null,
      ratio: summaryOf(pairedRatiosOf(own, samples[nameOf(weights, 1)]!)),
      bytes,
      bytesPerSecond: readBandwidth(bytes, threads).bytesPerSecond,
    }
  })
}

async function measureProducts({ shape, weights, isas, threads, rounds }: Measured): Promise<ProductRecord[]> {
  const records: ProductRecord[] = []
  for (const { name: product, columns, depth } of productsOf(shape)) {
    for (const form of weights) {
      showProgress(`product ${product}, ${form} weights`)
      const dtype = form === 'int8' ? 'int8' : 'bf16'
      const cacheBytes = lastLevelCacheBytes()
      const copies = coldCopies(weightBytes({ columns, depth, dtype }), coldBytesOf(cacheBytes), cacheBytes)
      if (copies === null) continue
      const limits = { rounds, sampleMs: 5, slowestMs: 2000 }
      const times = await timeLinear({ columns, depth, dtype, copies, rows: PRODUCT_ROWS, isas, threads, ...limits })
      records.push(
        ...times.map((time) => ({ kind: 'product' as const, product, columns, depth, weights: form, ...time })),
      )
    }
  }
  return records
}

async function measure(files: RandomModel, options: Measured): Promise<MemoryBoundMeasurement[]> {
  const measurements: MemoryBoundMeasurement[] = []
  const roots = new Map<WeightForm, number>()
  for (const isa of options.isas) {
    const { root, measurements: own } = await measureIsa(files, isa, options)
    for (const [weights, token] of root) {
      const known = roots.get(weights) ?? token
      if (known !== token) {
        throw wrongResult(
          `${weights} weights: ${isa} chooses token ${token} after the prompt, ${options.isas[0]} ${known}`,
        )
      }
      roots.set(weights, known)
    }
    measurements.push(...own)
  }
  if (options.products) measurements.push(...(await measureProducts(options)))
  showProgress()
  return measurements
}

type Given = MemoryBoundOptions & { readonly dir?: string; readonly keep?: boolean; readonly out: string }

async function main({ dir, keep, out, ...given }: Given): Promise<void> {
  // What a step is compared with is always measured.
  const options = { ...given, nodes: [...new Set([1, ...given.nodes])].sort((a, b) => a - b) }
  const tooMany = options.nodes.find((count) => count > NODE_LIMIT)
  if (tooMany !== undefined) {
    throw new GorgonError('ERR_OPTION', `--nodes ${tooMany}: a tree has at most ${NODE_LIMIT} nodes.`, {
      nodes: tooMany,
    })
  }
  const shape = sizedShape(options.shape, options.size)
  const measurements = await withTemporaryFolder('gorgon-memory-bound-', { parent: dir, keep }, async (folder) => {
    const files = await writeRandomModel(folder, shape, {
      medusaHeads: options.medusaHeads,
      maxPositions: options.prompt + options.nodes.length * (options.rounds + WARMUP) + NODE_LIMIT,
      onProgress: (written, total) => showProgress(`writing weights: ${Math.round((100 * written) / total)} %`),
    })
    if (keep) process.stderr.write(`${folder}\n`)
    return measure(files, { ...options, shape })
  })
  const machine = machineRecord({ isa: options.isas.at(-1)!, threads: options.threads })
  await publishResult({ bench: 'memory-bound/memory-bound', machine, options, measurements }, out, (result) =>
    Object.values(memoryBoundTables(result)).join('\n'),
  )
}

/** `layers=2,vocab=2000` */
function readSize(text: string): Partial<ModelShape> {
  return Object.fromEntries(
    text.split(',').map((word) => {
      const [name = '', value = ''] = word.split('=')
      return [name, wholeNumber()(value)]
    }),
  )
}

const isas = usableIsas()
await runBench(
  benchCommand(
    'memory-bound/memory-bound',
    'Decoding and prefill of a model that no cache holds, beside what memory and cores can do.',
  )
    .addOption(new Option('--shape <name>', 'of the model').choices(SHAPE_NAMES).default('tinyllama-1.1b'))
    .option('--size <list>', 'sizes over those of the shape, such as layers=2,vocab=2000', readSize, {})
    .option('--weights <list>', 'full, int8', wordList<WeightForm>(['full', 'int8']), ['full', 'int8'])
    .option('--isas <list>', 'instruction sets', wordList(isas), isas.slice(-1))
    .option('--nodes <list>', 'nodes of the tree, root included', numberList(), [1, 16, 64])
    .option('--prompt <n>', 'tokens of the prompt', wholeNumber(), 1024)
    .option('--threads <n>', 'compute threads', wholeNumber(), Math.min(64, physicalCores()))
    .option('--rounds <n>', 'steps of each kind, and samples of each product', wholeNumber(), 11)
    .option('--prefill-rounds <n>', 'prompts of each kind', wholeNumber(), 3)
    .option('--medusa-heads <n>', 'Medusa heads', wholeNumber(0), 4)
    .option('--no-products', 'leaves out the products on their own')
    .option('--dir <dir>', 'where to write the model; the temporary folder without')
    .option('--keep', 'leaves the model where it was written')
    .action(main),
)
