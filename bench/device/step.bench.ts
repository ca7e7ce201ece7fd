// Question: what does a decode step of a 7B and an 8B model cost on a GPU, for each tree and cache, and how far is it from its bytes?
//
// Expected from arithmetic: a step streams every product's weight and the cache once: 14.2 GB (Mistral-7B) or 15.0 GB (Llama-3-8B) in bf16, half
// of that in int8, and 128 KiB for each cached row. At 4.3 TB/s of an H200 that is 3.3 and 3.5 ms, and 4 ms more at 131072 rows. Trees are free
// until attention computes longer than it reads: four query heads share a row, so to T = 26 or so, and T = 64 costs 3 % at 2048 rows. Heads with
// a shared output projection read that once more: 92 µs at a vocabulary of 32000, 276 µs at 128256, half of it in int8. Aim: 85 % of the floor.
//
//   npm run bench -- device/step
//   npm run bench -- device/step --shapes mistral-7b --weights full --rows 2048 --nodes 1,64
//
// Sessions on the native boundary, greedy. Weights are random numbers and so are the rows of the cache: a step costs the same. Steps of all trees
// over one cache take turns, each committing its root alone. A step without drafting is verify and commit; with drafting the Medusa heads run too.
import { Option } from 'commander'
import { NODE_LIMIT, parseTree } from '../../src/decode/index.js'
import { GorgonError } from '../../src/index.js'
import type { WeightForm } from '../../src/native.js'
import { bandwidthOf } from '../kernels/yardsticks.js'
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
import { type MachineRecord, machineRecord } from '../support/machine.js'
import { SHAPE_NAMES, SHAPES, type ShapeName } from '../support/shapes.js'
import { pairedRatiosOf, type Summary, summaryOf } from '../support/statistics.js'
import type { StepTime } from '../support/timed-step.js'
import { type DeviceModel, openDeviceModel } from './device-model.js'
import { stepTables } from './step.report.js'

export interface DeviceStepOptions {
  readonly shapes: readonly ShapeName[]
  readonly weights: readonly WeightForm[]
  readonly rows: readonly number[]
  /** The same with int8 weights: a longer cache adds the same as with full ones. */
  readonly int8Rows: readonly number[]
  readonly nodes: readonly number[]
  /** In the cache while drafting is measured. */
  readonly draftRows: number
  readonly medusaHeads: number
  readonly rounds: number
  readonly backend: string
  readonly isa: string
  readonly model?: string
  readonly quick: boolean
}

export interface DeviceStepMeasurement {
  readonly shape: ShapeName
  readonly weights: WeightForm
  /** In the cache, in the middle of the run. */
  readonly rows: number
  /** T. */
  readonly nodes: number
  /** Whether the Medusa heads ran too. */
  readonly drafts: boolean
  readonly ms: Summary
  readonly verifyMs: Summary
  readonly commitMs: Summary
  /** Over the plain step (T = 1, no drafting) of the same rows and round. */
  readonly ratio: Summary
  /** Read by a step. */
  readonly bytes: number
  readonly bytesPerSecond: number
  readonly floorMs: number
}

const BENCH = 'device/step'
const WARMUP = 4

interface Arm {
  readonly rows: number
  readonly nodes: number
  readonly drafts: boolean
}

const nameOf = ({ rows, nodes, drafts }: Arm): string => `${rows} ${nodes} ${drafts}`

/** Steps over one cache, in turns. */
async function measureRows(model: DeviceModel, arms: readonly Arm[], rounds: number): Promise<Map<string, StepTime[]>> {
  const session = model.session()
  try {
    await session.assume(Math.max(1, arms[0]!.rows - Math.round((arms.length * (rounds + WARMUP)) / 2)))
    const steps = arms.map((arm) => {
      const tree = parseTree(arm.nodes, NODE_LIMIT - 1)
      return [nameOf(arm), () => session.step(tree, { drafts: arm.drafts })] as const
    })
    return new Map(Object.entries(await interleave(Object.fromEntries(steps), { rounds, warmup: WARMUP })))
  } finally {
    await session.close()
  }
}

async function measureModel(
  model: DeviceModel,
  shape: ShapeName,
  { rows, int8Rows, nodes, draftRows, rounds }: DeviceStepOptions,
): Promise<DeviceStepMeasurement[]> {
  const measurements: DeviceStepMeasurement[] = []
  for (const count of model.info.weights === 'int8' ? int8Rows : rows) {
    const isDrafting = count === draftRows && model.medusaHeads > 0
    const arms = (isDrafting ? [false, true] : [false]).flatMap((drafts) =>
      nodes.map((node): Arm => ({ rows: count, nodes: node, drafts })),
    )
    const samples = await measureRows(model, arms, rounds)
    const msOf = (arm: Arm): number[] => samples.get(nameOf(arm))!.map(({ ms }) => ms)
    for (const arm of arms) {
      const bytes = model.stepBytes(count) + (arm.drafts ? model.draftBytes() : 0)
      const bytesPerSecond = bandwidthOf(model.info.isa, bytes, model.info.threads)
      const part = (name: keyof StepTime): Summary => summaryOf(samples.get(nameOf(arm))!.map((time) => time[name]))
      measurements.push({
        shape,
        weights: model.info.weights,
        ...arm,
        ms: part('ms'),
        verifyMs: part('verifyMs'),
        commitMs: part('commitMs'),
        ratio: summaryOf(pairedRatiosOf(msOf(arm), msOf({ ...arm, nodes: 1, drafts: false }))),
        bytes,
        bytesPerSecond,
        floorMs: (1e3 * bytes) / bytesPerSecond,
      })
    }
  }
  return measurements
}

type Given = DeviceStepOptions & { readonly out: string }

async function main({ out, ...given }: Given): Promise<void> {
  // What a step is compared with is always measured, and where drafting is.
  const nodes = [...new Set([1, ...given.nodes])].sort((a, b) => a - b)
  const sorted = (list: readonly number[]): number[] => [...new Set([given.draftRows, ...list])].sort((a, b) => a - b)
  const lists = { nodes, rows: sorted(given.rows), int8Rows: sorted(given.int8Rows) }
  const options: DeviceStepOptions = { ...given, ...lists, rounds: given.quick ? 5 : given.rounds }
  if (nodes.at(-1)! > NODE_LIMIT) {
    const message = `--nodes ${nodes.at(-1)}: a tree has at most ${NODE_LIMIT} nodes.`
    throw new GorgonError('ERR_OPTION', message, { nodes: nodes.at(-1) })
  }
  const measurements: DeviceStepMeasurement[] = []
  let machine: MachineRecord | undefined
  for (const shape of options.shapes) {
    for (const weights of options.weights) {
      showProgress(`${shape}, ${weights} weights`)
      const model = await openDeviceModel({ ...options, shape: SHAPES[shape], weights })
      try {
        machine ??= machineRecord(model.info)
        measurements.push(...(await measureModel(model, shape, options)))
      } finally {
        await model.close()
      }
    }
  }
  showProgress()
  await publishResult({ bench: BENCH, machine: machine!, options, measurements }, out, () =>
    Object.values(stepTables(measurements)).join('\n'),
  )
}

await runBench(
  benchCommand(BENCH, 'Whole decode steps of large models on a GPU, beside the time their bytes take.')
    .option('--shapes <names>', SHAPE_NAMES.join(', '), wordList(SHAPE_NAMES), ['mistral-7b', 'llama-3-8b'])
    .option('--weights <list>', 'full, int8', wordList<WeightForm>(['full', 'int8']), ['full', 'int8'])
    .option('--rows <list>', 'rows in the cache', numberList(), [1024, 2048, 4096, 16384, 131072])
    .option('--int8-rows <list>', 'the same with int8 weights', numberList(), [2048])
    .option('--nodes <list>', 'nodes of the tree, root included', numberList(), [1, 8, 16, 32, 64])
    .option('--draft-rows <n>', 'rows in the cache while drafting is measured', wholeNumber(), 2048)
    .option('--medusa-heads <n>', 'Medusa heads, with a shared output projection', wholeNumber(0), 4)
    .option('--rounds <n>', 'steps of each kind', wholeNumber(), 50)
    .addOption(new Option('--backend <name>', 'what computes').default('cuda'))
    .addOption(new Option('--isa <name>', 'of the backend').default('auto'))
    .option('--model <dir>', 'a folder instead of random weights')
    .option('--quick', 'a few steps: only shows that it runs', false)
    .action(main),
)
