// One packed product, timed for several numbers of rows on several instruction sets, after its results were compared.

import { NODE_LIMIT } from '../../src/decode/choices.js'
import { wrongResult } from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { RandomWeights } from '../support/random-weights.js'
import { type Summary, summaryOf } from '../support/statistics.js'
import { isClose, relativeDistance } from './close.js'
import { firstDifference, isDeviceIsa, MOST_COPIES, packCopies, runOperation, timeOperation } from './native-ops.js'
import { bandwidthOf, type Floor, floorOf, multiplyAddPeak } from './yardsticks.js'

export type LinearDtype = 'bf16' | 'int8' | 'f16' | 'f32'

export interface LinearRequest {
  readonly columns: number
  readonly depth: number
  readonly dtype: LinearDtype
  /** Weights laid out this often and gone through in turn; 1 finds them where the call before left them. */
  readonly copies: number
  readonly rows: readonly number[]
  readonly isas: readonly string[]
  readonly threads: number
  readonly rounds: number
  readonly sampleMs: number
  /** An instruction set that would need longer than this for a call is left out. */
  readonly slowestMs: number
}

export interface LinearTime {
  readonly rows: number
  readonly isa: string
  /** Of one call; null when it was left out. */
  readonly ns: Summary | null
  readonly bytes: number
  readonly flops: number
  readonly bytesPerSecond: number
  readonly flopsPerSecond: number
  readonly floorNs: number
  readonly bound: Floor['bound']
}

/** Columns that the portable path computes to compare with, and rows: its speed is not what is asked. */
const CHECKED_COLUMNS = 48
const MOST_CHECKED_ROWS = 512

/** Bytes of a weight as it is streamed: int8 has a scale for each column. */
export function weightBytes({ columns, depth, dtype }: Pick<LinearRequest, 'columns' | 'depth' | 'dtype'>): number {
  const elements = columns * depth
  return dtype === 'int8' ? elements + 4 * columns : elements * (dtype === 'f32' ? 4 : 2)
}

/**
 * How often a weight has to be there so that one call finds nothing left of it in a cache.
 *
 * @param bytes of the weight.
 * @param coldBytes to go through before it comes back; fewer where that takes more copies than the addon makes.
 * @returns null when as many copies as there may be still fit into the cache.
 */
export function coldCopies(bytes: number, coldBytes: number, cacheBytes: number): number | null {
  const wanted = Math.max(1, Math.ceil(coldBytes / bytes))
  if (wanted <= MOST_COPIES) return wanted
  return MOST_COPIES * bytes > cacheBytes ? MOST_COPIES : null
}

/**
 * @throws {GorgonError} ERR_INTERNAL when an instruction set has other bits than the portable one, or a GPU is far from it: nothing is timed then.
 */
export async function timeLinear(request: LinearRequest): Promise<LinearTime[]> {
  const { columns, depth, dtype, copies, threads, rounds, sampleMs } = request
  const xStride = Math.ceil(depth / 32) * 32
  const w = new RandomWeights(1, 1 / Math.sqrt(depth)).values(columns * depth)
  const x = activations(Math.max(...request.rows), depth, xStride)
  const packed = new Map<string, unknown>()
  // The CPU's instruction sets share one layout, each of a GPU has its own.
  const layoutOf = (isa: string): string => (isDeviceIsa(isa) ? isa : 'auto')
  for (const isa of new Set(request.isas.map(layoutOf))) {
    packed.set(isa, packCopies({ isa, w, dtype, columns, depth, copies }))
  }
  const bytes = weightBytes(request)

  const times: LinearTime[] = []
  for (const rows of request.rows) {
    const out = new Float32Array(rows * columns)
    const plain = {
      x,
      xStride,
      rows,
      depth,
      dtype,
      columns,
      bias: null,
      out,
      outStride: columns,
      add: false,
      prompt: rows > NODE_LIMIT,
    }
    const argsOf = (isa: string) => ({ ...plain, w: packed.get(layoutOf(isa)) })
    const flops = 2 * rows * columns * depth
    const floors = new Map(
      request.isas.map((isa) => {
        const limits = {
          bytesPerSecond: bandwidthOf(isa, bytes * copies, threads),
          flopsPerSecond: multiplyAddPeak({ isa, threads }),
        }
        return [isa, { ...limits, ...floorOf({ bytes, flops }, limits) }]
      }),
    )
    const timed = request.isas.filter((isa) => floors.get(isa)!.seconds * 1e3 <= request.slowestMs)
    const expected = portableColumns(request, { w, x, xStride, rows: Math.min(rows, MOST_CHECKED_ROWS) })
    for (const isa of timed) {
      out.fill(Number.NaN)
      runOperation('linear', isa, threads, argsOf(isa))
      checkColumns(out, expected, { rows, columns, isa, what: `linear ${dtype} M=${rows} K=${depth} N=${columns}` })
    }
    const sample = (isa: string): number =>
      timeOperation('linear', { isa, threads }, argsOf(isa), { sampleMs, samples: 1 })[0]!
    const samples = await interleave(Object.fromEntries(timed.map((isa) => [isa, () => sample(isa)])), {
      rounds,
      warmup: 1,
    })
    for (const isa of request.isas) {
      const { seconds, bound, bytesPerSecond, flopsPerSecond } = floors.get(isa)!
      const ns = samples[isa] ? summaryOf(samples[isa]) : null
      times.push({ rows, isa, ns, bytes, flops, bytesPerSecond, flopsPerSecond, floorNs: seconds * 1e9, bound })
    }
  }
  return times
}

/** bf16 values, zeros past the depth. */
function activations(rows: number, depth: number, stride: number): Float32Array {
  const values = new RandomWeights(2, 1).values(rows * depth)
  if (stride === depth) return values
  const x = new Float32Array(rows * stride)
  for (let row = 0; row < rows; row++) x.set(values.subarray(row * depth, (row + 1) * depth), row * stride)
  return x
}

interface Inputs {
  readonly w: Float32Array
  readonly x: Float32Array
  readonly xStride: number
  readonly rows: number
}

/** [rows, up to CHECKED_COLUMNS]: the first columns, from the portable path. */
function portableColumns(
  { depth, dtype, threads, columns }: LinearRequest,
  { w, x, xStride, rows }: Inputs,
): Float32Array {
  const count = Math.min(columns, CHECKED_COLUMNS)
  const out = new Float32Array(rows * count)
  const args = { x, xStride, rows, depth, w, dtype, columns: count, bias: null, out, outStride: count, add: false }
  runOperation('linear', 'portable', threads, args)
  return out
}

function checkColumns(
  out: Float32Array,
  expected: Float32Array,
  {
    rows,
    columns,
    isa,
    what,
  }: { readonly rows: number; readonly columns: number; readonly isa: string; readonly what: string },
): void {
  const checked = Math.min(rows, MOST_CHECKED_ROWS)
  const count = expected.length / checked
  if (isDeviceIsa(isa)) {
    const got = Float32Array.from(expected, (_, i) => out[Math.floor(i / count) * columns + (i % count)]!)
    if (!isClose(got, expected)) {
      throw wrongResult(`${what}: ${isa} is ${relativeDistance(got, expected)} of the norm away from portable`)
    }
  }
  for (let row = 0; row < (isDeviceIsa(isa) ? 0 : checked); row++) {
    const got = out.subarray(row * columns, row * columns + count)
    const at = firstDifference(got, expected.subarray(row * count, (row + 1) * count))
    if (at >= 0)
      throw wrongResult(
        `${what}: row ${row}, column ${at} is ${got[at]} on ${isa}, ${expected[row * count + at]} on portable`,
      )
  }
  if (out.some(Number.isNaN)) throw wrongResult(`${what}: ${isa} left columns without a value`)
}
