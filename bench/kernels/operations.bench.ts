// Question: what does each operation of a step, or of training, cost beside the packed product, and how far is it from its roofline?
//
// Expected from arithmetic: attention over 12000 rows of the demo's shape reads 6 MiB a layer and computes 18 MFLOP for each tree node: at
// 40 GB/s and 0.3 TFLOP/s of AVX-512 it turns from waiting for memory to computing at 3 nodes, with AMX at 30. The others touch a few
// hundred kilobytes that are in a cache: microseconds, of which starting the threads is about half of one. Of training, linear_gradient
// multiplies as much as linear does and should take its time; adamw and sum_of_squares wait for memory, the rest for a cache.
//
//   npm run bench -- kernels/operations                                             all operations, shapes and instruction sets
//   npm run bench -- kernels/operations --operations treeAttention,posterior --shapes demo --isas avx512
//   npm run bench -- kernels/operations --shapes mistral-7b --isas sm_90a
//
// Before a case is timed, the results of all instruction sets are compared: bit for bit, a GPU's within rounding and beside the CPU's best.
import { isGorgonError } from '../../src/index.js'
import { benchCommand, publishResult, runBench, showProgress, wholeNumber, wordList } from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { physicalCores } from '../support/processor.js'
import { SHAPE_NAMES, type ShapeName } from '../support/shapes.js'
import { deviceIsas, isDeviceIsa, usableIsas } from './native-ops.js'
import { CASES, OPERATION_NAMES, type OperationName } from './operation-cases.js'
import { operationsTable } from './operations.report.js'
import { type OperationTime, timeCase } from './time-operation.js'

export interface OperationsOptions {
  readonly operations: readonly OperationName[]
  readonly shapes: readonly ShapeName[]
  readonly isas: readonly string[]
  readonly threads: number
  readonly rounds: number
  readonly sampleMs: number
  readonly slowestMs: number
}

export interface OperationsMeasurement extends OperationTime {
  readonly operation: OperationName
  readonly case: string
}

async function main(given: OperationsOptions & { readonly out: string }): Promise<void> {
  const { out, ...options } = given
  const measurements: OperationsMeasurement[] = []
  const remarks: string[] = []
  for (const operation of options.operations) {
    for (const shape of options.shapes) {
      for (const c of CASES[operation](shape)) {
        showProgress(`${operation}: ${c.name}`)
        try {
          const times = await timeCase(c, options)
          measurements.push(...times.map((time) => ({ operation, case: c.name, ...time })))
        } catch (error) {
          // A GPU does some operations within others, and some wait for their results: one that cannot be timed alone is named.
          if (!options.isas.some(isDeviceIsa)) throw error
          remarks.push(`${operation}: ${c.name}: ${(error as Error).message}`)
          if (isGorgonError(error) && error.code === 'ERR_INTERNAL') process.exitCode = 1
        }
      }
    }
  }
  showProgress()
  const machine = machineRecord({ isa: options.isas.at(-1)!, threads: options.threads })
  for (const remark of remarks) process.stderr.write(`left out: ${remark}\n`)
  await publishResult({ bench: 'kernels/operations', machine, options, measurements }, out, () =>
    operationsTable(measurements),
  )
}

const isas = usableIsas()
const allIsas = [...isas, ...deviceIsas()]
/** Another vocabulary is all that the largest shape has of its own. */
const USUAL_SHAPES = SHAPE_NAMES.filter((name) => name !== 'llama-3-8b')
await runBench(
  benchCommand(
    'kernels/operations',
    'Every operation of a step or of training but the packed product, beside its roofline.',
  )
    .option('--operations <list>', OPERATION_NAMES.join(', '), wordList(OPERATION_NAMES), [...OPERATION_NAMES])
    .option('--shapes <names>', SHAPE_NAMES.join(', '), wordList(SHAPE_NAMES), USUAL_SHAPES)
    .option('--isas <list>', 'instruction sets; those of a GPU are named sm_…', wordList(allIsas), isas)
    .option('--threads <n>', 'compute threads', wholeNumber(), Math.min(64, physicalCores()))
    .option('--rounds <n>', 'times each case is taken up, for three samples each', wholeNumber(), 5)
    .option('--sample-ms <n>', 'least length of a sample', wholeNumber(), 2)
    .option('--slowest-ms <n>', 'a call expected to take longer is left out', wholeNumber(), 500)
    .action(main),
)
