// Question: how close does the packed product come to what memory can give and the cores can compute, for each number of rows?
//
// Expected from arithmetic: a product of M rows reads N*K weights and does 2*M*N*K operations, so it takes the longer of bytes over
// bandwidth and operations over peak. One core of an AMX machine computes 2 TFLOP/s and reads some 10 GB/s from memory: bf16 rows are free
// to about 200 there, from the second-level cache to about 30. AVX-512 gives a fourteenth of that: free to about 14 rows, AVX2 to about 7.
// Aims: at M = 1 at least 80 % of the bandwidth beyond the caches; at M = 512 at least 60 % of the peak.
//
//   npm run bench -- kernels/linear                                       all shapes, every instruction set of the machine
//   npm run bench -- kernels/linear --shapes demo --rows 1,16 --isas avx2,avx512
//   npm run bench -- kernels/linear --shapes mistral-7b --isas sm_90a --rows 1,8,16,32,64,512
//
// On an H200 the bandwidth is 4.3 TB/s and the peak 790 TFLOP/s: rows are free to about 180; the aim is 90 % of the bandwidth for the large
// products, 80 % for those of 8 to 12 µs.
//
// Before a case is timed, each instruction set's columns are compared with the portable path: bit for bit, a GPU's within rounding.
import {
  benchCommand,
  numberList,
  publishResult,
  runBench,
  showProgress,
  wholeNumber,
  wordList,
} from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { coldBytesOf, lastLevelCacheBytes, physicalCores } from '../support/processor.js'
import { productsOf, SHAPE_NAMES, SHAPES, type ShapeName } from '../support/shapes.js'
import { linearTables } from './linear.report.js'
import { deviceIsas, isDeviceIsa, usableIsas } from './native-ops.js'
import { coldCopies, type LinearDtype, type LinearTime, timeLinear, weightBytes } from './time-linear.js'

export interface LinearOptions {
  readonly shapes: readonly ShapeName[]
  readonly rows: readonly number[]
  readonly dtypes: readonly LinearDtype[]
  readonly isas: readonly string[]
  readonly threads: number
  readonly rounds: number
  readonly sampleMs: number
  readonly slowestMs: number
  readonly coldBytes: number
}

export interface LinearMeasurement extends LinearTime {
  readonly shape: ShapeName
  readonly product: string
  readonly columns: number
  readonly depth: number
  readonly dtype: LinearDtype
  /** `cold`: copies were gone through in turn, more of them than the caches hold. */
  readonly cache: 'hot' | 'cold'
}

/** More than the second-level cache of any GPU so far, with room: Hopper's is 50 MB. */
const DEVICE_CACHE_BYTES = 64 * 2 ** 20

const cacheBytesOf = (used: readonly string[]): number =>
  used.some(isDeviceIsa) ? DEVICE_CACHE_BYTES : lastLevelCacheBytes()

async function measure(options: LinearOptions): Promise<LinearMeasurement[]> {
  const { shapes, dtypes, coldBytes, ...request } = options
  const cacheBytes = cacheBytesOf(options.isas)
  const measurements: LinearMeasurement[] = []
  for (const shape of shapes) {
    for (const { name: product, columns, depth } of productsOf(SHAPES[shape])) {
      for (const dtype of dtypes) {
        const bytes = weightBytes({ columns, depth, dtype })
        for (const cache of ['hot', 'cold'] as const) {
          // Larger than the caches it is never hot.
          if (cache === 'hot' && bytes > cacheBytes / 2) continue
          const copies = cache === 'hot' ? 1 : coldCopies(bytes, coldBytes, cacheBytes)
          // So small that it is never cold.
          if (copies === null) continue
          showProgress(`${shape} ${product} ${dtype} ${cache}`)
          const times = await timeLinear({ ...request, columns, depth, dtype, copies })
          measurements.push(...times.map((time) => ({ shape, product, columns, depth, dtype, cache, ...time })))
        }
      }
    }
  }
  showProgress()
  return measurements
}

type Given = Omit<LinearOptions, 'coldBytes'> & { readonly coldBytes?: number; readonly out: string }

async function main({ out, ...given }: Given): Promise<void> {
  const options: LinearOptions = { ...given, coldBytes: given.coldBytes ?? coldBytesOf(cacheBytesOf(given.isas)) }
  const measurements = await measure(options)
  const machine = machineRecord({ isa: options.isas.at(-1)!, threads: options.threads })
  await publishResult({ bench: 'kernels/linear', machine, options, measurements }, out, (result) =>
    Object.values(linearTables(result)).join('\n'),
  )
}

const isas = usableIsas()
const allIsas = [...isas, ...deviceIsas()]
/** The largest takes gigabytes on the way to where it is multiplied. */
const USUAL_SHAPES = SHAPE_NAMES.filter((name) => name !== 'llama-3-8b')
await runBench(
  benchCommand('kernels/linear', 'The packed product beside what memory gives and the cores compute.')
    .option('--shapes <names>', SHAPE_NAMES.join(', '), wordList(SHAPE_NAMES), USUAL_SHAPES)
    .option('--rows <list>', 'numbers of rows', numberList(), [1, 4, 8, 16, 32, 64, 512])
    .option('--dtypes <list>', 'of the weights', wordList<LinearDtype>(['bf16', 'int8', 'f16', 'f32']), [
      'bf16',
      'int8',
    ])
    .option('--isas <list>', 'instruction sets; those of a GPU are named sm_…', wordList(allIsas), isas)
    .option('--threads <n>', 'compute threads', wholeNumber(), Math.min(64, physicalCores()))
    .option('--rounds <n>', 'samples of each case', wholeNumber(), 11)
    .option('--sample-ms <n>', 'least length of a sample', wholeNumber(), 2)
    .option('--slowest-ms <n>', 'a call expected to take longer is left out', wholeNumber(), 200)
    .option('--cold-bytes <n>', 'memory gone through so that no cache holds it: four times the largest', wholeNumber())
    .action(main),
)
