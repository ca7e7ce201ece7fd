// Question: what does a step cost when the model is too small to wait for memory, and how much of that is spent outside its layers?
//
// Expected from arithmetic: the demo model's 22 MB take 5 µs to read on an H200. Its time is the number of kernels that wait for each other: five
// a layer, some 40 in all, 1.3 to 2.5 µs each. What does not grow with the layers is the rest: the call from JavaScript and back, a graph's launch,
// the head, the kernels around it. Aim: below 100 µs for the plain step of six layers, a third of it outside the layers.
//
//   npm run bench -- device/latency
//   npm run bench -- device/latency --layers 1,6,12 --nodes 1,64
//
// Steps of models of the demo's shape, random weights, as many layers as asked for, take turns. A line through them (least squares) says what a
// layer costs and what is left without any: an upper bound of what the host adds, since embedding, output projection and sampling are in it.
// The demo model itself, with its heads, stands beside them. Tokens per second with and without speculation are what decode/decode measures.
import { Option } from 'commander'
import { NODE_LIMIT, parseTree } from '../../src/decode/index.js'
import { demoModel } from '../../src/index.js'
import { benchCommand, numberList, publishResult, runBench, showProgress, wholeNumber } from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { type MachineRecord, machineRecord } from '../support/machine.js'
import { SHAPES } from '../support/shapes.js'
import { type Summary, summaryOf } from '../support/statistics.js'
import { type DeviceModel, type DeviceSession, openDeviceModel } from './device-model.js'
import { latencyTables } from './latency.report.js'

export interface LatencyOptions {
  readonly layers: readonly number[]
  readonly nodes: readonly number[]
  readonly rows: number
  readonly rounds: number
  readonly synthetic: boolean
  readonly backend: string
  readonly isa: string
  readonly quick: boolean
}

export interface LatencyMeasurement {
  /** `demo` with its weights and heads, or random ones. */
  readonly model: 'demo' | 'random'
  readonly layers: number
  readonly nodes: number
  /** Whether the Medusa heads ran too. */
  readonly drafts: boolean
  readonly rows: number
  readonly ms: Summary
  readonly verifyMs: Summary
  readonly commitMs: Summary
}

const BENCH = 'device/latency'
const WARMUP = 20

interface Arm extends Pick<LatencyMeasurement, 'model' | 'layers' | 'nodes' | 'drafts'> {
  readonly session: DeviceSession
}

async function measure(
  options: LatencyOptions,
): Promise<{ machine: MachineRecord; measurements: LatencyMeasurement[] }> {
  const { nodes, rows, rounds } = options
  const models: DeviceModel[] = []
  const sessions: DeviceSession[] = []
  const open = async (of: Parameters<typeof openDeviceModel>[0]): Promise<DeviceSession> => {
    const model = await openDeviceModel(of)
    models.push(model)
    const session = model.session()
    sessions.push(session)
    await session.assume(rows)
    return session
  }
  try {
    const { backend, isa } = options
    const common = { backend, isa, weights: 'full' } as const
    const arms: Arm[] = []
    for (const layers of options.synthetic ? options.layers : []) {
      showProgress(`${layers} layers`)
      const session = await open({ ...common, shape: { ...SHAPES.demo, layers }, medusaHeads: 0 })
      arms.push(...nodes.map((count) => ({ model: 'random' as const, layers, nodes: count, drafts: false, session })))
    }
    showProgress('the demo model')
    const demo = await open({ ...common, model: demoModel(), shape: SHAPES.demo, medusaHeads: 4 })
    for (const drafts of [false, true]) {
      const layers = SHAPES.demo.layers
      arms.push(...nodes.map((count) => ({ model: 'demo' as const, layers, nodes: count, drafts, session: demo })))
    }
    showProgress('steps')
    const steps = arms.map(({ session, nodes: count, drafts }, i) => {
      const tree = parseTree(count, NODE_LIMIT - 1)
      return [`${i}`, () => session.step(tree, { drafts })] as const
    })
    const samples = await interleave(Object.fromEntries(steps), { rounds, warmup: WARMUP })
    const measurements = arms.map(({ session: _, ...arm }, i) => {
      const own = samples[`${i}`]!
      return {
        ...arm,
        rows,
        ms: summaryOf(own.map(({ ms }) => ms)),
        verifyMs: summaryOf(own.map(({ verifyMs }) => verifyMs)),
        commitMs: summaryOf(own.map(({ commitMs }) => commitMs)),
      }
    })
    return { machine: machineRecord(models[0]!.info), measurements }
  } finally {
    for (const session of sessions) await session.close()
    for (const model of models) await model.close()
  }
}

type Given = LatencyOptions & { readonly out: string }

async function main({ out, ...given }: Given): Promise<void> {
  const nodes = [...new Set([1, ...given.nodes])].sort((a, b) => a - b)
  const options: LatencyOptions = { ...given, nodes, rounds: given.quick ? 5 : given.rounds }
  const { machine, measurements } = await measure(options)
  showProgress()
  await publishResult({ bench: BENCH, machine, options, measurements }, out, () =>
    Object.values(latencyTables(measurements)).join('\n'),
  )
}

await runBench(
  benchCommand(BENCH, 'Steps of small models on a GPU: what a layer costs, and what is left without any.')
    .option('--layers <list>', 'of the random models', numberList(), [1, 6, 12, 24])
    .option('--nodes <list>', 'nodes of the tree, root included', numberList(), [1, 4, 8, 16, 64])
    .option('--rows <n>', 'rows in the cache when steps begin', wholeNumber(), 512)
    .option('--rounds <n>', 'steps of each kind', wholeNumber(), 100)
    .option('--no-synthetic', 'the demo model alone')
    .addOption(new Option('--backend <name>', 'what computes').default('cuda'))
    .addOption(new Option('--isa <name>', 'of the backend').default('auto'))
    .option('--quick', 'a few steps: only shows that it runs', false)
    .action(main),
)
