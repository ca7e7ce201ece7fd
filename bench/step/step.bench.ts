// Question: what does a decode step cost with T tree nodes, on each instruction set, and how far is it from what memory allows?
//
// Expected from arithmetic: a step reads every weight and the cache once, whatever T is, so its floor is those bytes over the measured read
// bandwidth. The demo model is 21 MiB of weights and 3 KiB a row: 57 MiB at 12000 rows. It stays at its floor while the multiply-adds of T rows
// take less: to about T = 16 to 32 with AMX, 4 to 8 with AVX-512, 3 or 4 with AVX2. Aim: T = 16 at most 1.25x T = 1 on AMX.
//
//   npm run bench -- step/step                                      the demo model, every instruction set of the machine
//   npm run bench -- step/step --isas amx --rows 4096 --nodes 1,16
//   npm run bench -- step/step --model DIR --heads DIR --weights int8
//
// Sessions on the native boundary, greedy, full cache. A step drafts, verifies T nodes, accepts, commits, and runs the Medusa heads for the
// next one; at T = 1 there are no heads: it is plain decoding. Steps of all T take turns on one session, each committing its root alone, so
// that the cache has `rows` rows in the middle of the run. Before that, the answer after the root is compared between all T.

import { Option } from 'commander'
import { randomTokens } from '../../src/bench/prompts.js'
import { NODE_LIMIT, parseTree } from '../../src/decode/index.js'
import { demoModel, GorgonError } from '../../src/index.js'
import type { ModelInfo, WeightForm } from '../../src/native.js'
import { usableIsas } from '../kernels/native-ops.js'
import { readBandwidth } from '../kernels/yardsticks.js'
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
import { physicalCores } from '../support/processor.js'
import { pairedRatiosOf, type Summary, summaryOf } from '../support/statistics.js'
import type { StepTime } from '../support/timed-step.js'
import { type OpenModel, openModel } from './open-model.js'
import { stepTable } from './step.report.js'

export interface StepOptions {
  /** Left out: the demo model. */
  readonly model?: string
  readonly heads?: string
  readonly weights: WeightForm
  readonly isas: readonly string[]
  readonly nodes: readonly number[]
  readonly rows: readonly number[]
  readonly threads: number
  readonly rounds: number
}

export interface StepMeasurement {
  readonly isa: string
  /** In the cache, in the middle of the run. */
  readonly rows: number
  /** T. */
  readonly nodes: number
  readonly ms: Summary
  readonly verifyMs: Summary
  readonly commitMs: Summary
  /** Over the T = 1 step of the same round. */
  readonly ratio: Summary
  /** Read by a step: weights, cache, and the Medusa heads unless T is 1. */
  readonly bytes: number
  readonly bytesPerSecond: number
  readonly floorMs: number
}

const WARMUP = 2

/** Steps of all trees on one session. */
async function measureRows(
  model: OpenModel,
  rows: number,
  { isa, nodes, threads, rounds }: Omit<StepOptions, 'isas' | 'rows' | 'weights'> & { readonly isa: string },
): Promise<StepMeasurement[]> {
  const trees = nodes.map((count) => parseTree(count, NODE_LIMIT - 1))
  const steps = trees.length * (rounds + WARMUP)
  const session = model.session()
  try {
    await session.prefill(randomTokens(Math.max(1, rows - Math.round(steps / 2)), model.vocab))
    await session.checkRoots(trees)
    const arms = Object.fromEntries(trees.map((tree) => [`${tree.nodeCount}`, () => session.step(tree)]))
    const samples: Record<string, StepTime[]> = await interleave(arms, { rounds, warmup: WARMUP })
    const summary = (count: number, part: keyof StepTime): Summary =>
      summaryOf(samples[count]!.map((time) => time[part]))
    const msOf = (count: number): number[] => samples[count]!.map(({ ms }) => ms)
    return trees.map(({ nodeCount }) => {
      const bytes = model.verifyBytes(rows) + (nodeCount === 1 ? 0 : model.headsBytes())
      const { bytesPerSecond } = readBandwidth(bytes, threads)
      return {
        isa,
        rows,
        nodes: nodeCount,
        ms: summary(nodeCount, 'ms'),
        verifyMs: summary(nodeCount, 'verifyMs'),
        commitMs: summary(nodeCount, 'commitMs'),
        ratio: summaryOf(pairedRatiosOf(msOf(nodeCount), msOf(1))),
        bytes,
        bytesPerSecond,
        floorMs: (1e3 * bytes) / bytesPerSecond,
      }
    })
  } finally {
    await session.close()
  }
}

async function measure(options: StepOptions): Promise<{ info: ModelInfo; measurements: StepMeasurement[] }> {
  const { isas, rows, ...others } = options
  const measurements: StepMeasurement[] = []
  let info: ModelInfo | undefined
  for (const isa of isas) {
    const { heads, threads, weights } = options
    const model = await openModel({ model: options.model ?? demoModel(), heads, isa, threads, weights })
    try {
      info = model.info
      const needed = Math.max(...rows) + options.nodes.length * (options.rounds + WARMUP) + NODE_LIMIT
      if (needed > model.maxPositions) {
        const what = `--rows ${Math.max(...rows)} needs ${needed} positions, and the model was made for ${model.maxPositions}`
        throw new GorgonError('ERR_OPTION', `${what}. Use fewer rows.`, { rows, maxPositions: model.maxPositions })
      }
      for (const count of rows) {
        showProgress(`${isa}, ${count} rows`)
        measurements.push(...(await measureRows(model, count, { ...others, isa })))
      }
    } finally {
      await model.close()
    }
  }
  showProgress()
  return { info: info!, measurements }
}

async function main(given: StepOptions & { readonly out: string }): Promise<void> {
  const { out, ...rest } = given
  // What a step is compared with is always measured.
  const options = { ...rest, nodes: [...new Set([1, ...rest.nodes])].sort((a, b) => a - b) }
  const tooMany = options.nodes.find((count) => count > NODE_LIMIT)
  if (tooMany !== undefined) {
    throw new GorgonError('ERR_OPTION', `--nodes ${tooMany}: a tree has at most ${NODE_LIMIT} nodes.`, {
      nodes: tooMany,
    })
  }
  const { info, measurements } = await measure(options)
  const machine = machineRecord({ isa: options.isas.at(-1)!, threads: info.threads })
  await publishResult({ bench: 'step/step', machine, options, measurements }, out, () => stepTable(measurements))
}

const isas = usableIsas()
await runBench(
  benchCommand('step/step', 'The cost of a decode step for each number of tree nodes, beside its floor.')
    .option('--model <dir>', 'model folder; the demo model without')
    .option('--heads <dir>', 'heads folder; those that belong to the model without')
    .addOption(new Option('--weights <form>', 'how they are held').choices(['full', 'int8']).default('full'))
    .option('--isas <list>', 'instruction sets', wordList(isas), isas)
    .option('--nodes <list>', 'nodes of the tree, root included', numberList(), [1, 2, 4, 8, 16, 32, 64])
    .option('--rows <list>', 'rows in the cache', numberList(), [512, 4096, 12000])
    .option('--threads <n>', 'compute threads', wholeNumber(), Math.min(64, physicalCores()))
    .option('--rounds <n>', 'steps of each kind', wholeNumber(), 21)
    .action(main),
)
