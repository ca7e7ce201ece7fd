// One case of an operation, timed on several instruction sets in turns, after their results were compared bit for bit.
import { wrongResult } from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { type Summary, summaryOf } from '../support/statistics.js'
import { areMostlyEqual, isClose } from './close.js'
import { firstDifference, isDeviceIsa, runOperation, timeOperation, usableIsas } from './native-ops.js'
import type { OperationCase } from './operation-cases.js'
import { bandwidthOf, type Floor, floorOf, multiplyAddPeak } from './yardsticks.js'

export interface OperationRequest {
  readonly isas: readonly string[]
  readonly threads: number
  readonly rounds: number
  readonly sampleMs: number
  /** An instruction set that would need longer than this for a call is left out. */
  readonly slowestMs: number
}

export interface OperationTime {
  readonly isa: string
  /** Of one call; null when it was left out. */
  readonly ns: Summary | null
  readonly bytes: number
  readonly flops: number
  readonly floorNs: number
  readonly bound: Floor['bound']
}

/** Laying out caches takes longer than reading them: each layout gives several samples. */
const SAMPLES_PER_ROUND = 3

/** @throws {GorgonError} ERR_INTERNAL when instruction sets differ: nothing is timed then. */
export async function timeCase(c: OperationCase, request: OperationRequest): Promise<OperationTime[]> {
  const { threads, rounds, sampleMs, slowestMs } = request
  const floors = new Map(
    request.isas.map((isa) => {
      const bytesPerSecond = bandwidthOf(isa, c.bytes * c.copies, threads)
      return [isa, floorOf(c, { bytesPerSecond, flopsPerSecond: multiplyAddPeak({ isa, threads }) })]
    }),
  )
  const timed = request.isas.filter((isa) => floors.get(isa)!.seconds * 1e3 <= slowestMs)
  // A GPU alone is compared with the CPU's best.
  const reference = timed.length > 0 && timed.every(isDeviceIsa) ? usableIsas().slice(-1) : []
  checkCase(c, [...reference, ...timed], threads)

  const { args } = c.prepare()
  const sample = (isa: string): number[] =>
    timeOperation(c.operation, { isa, threads }, args, { sampleMs, samples: SAMPLES_PER_ROUND })
  const arms = Object.fromEntries(timed.map((isa) => [isa, () => sample(isa)]))
  const samples = await interleave(arms, { rounds })
  return request.isas.map((isa) => {
    const { seconds, bound } = floors.get(isa)!
    const ns = samples[isa] ? summaryOf(samples[isa].flat()) : null
    return { isa, ns, bytes: c.bytes, flops: c.flops, floorNs: seconds * 1e9, bound }
  })
}

/** Numbers are close, ids mostly the same; the bytes of a cache have each backend's own layout. */
function isNearly(result: ArrayBufferView, reference: ArrayBufferView): boolean {
  if (result instanceof Float32Array && reference instanceof Float32Array) return isClose(result, reference)
  if (result instanceof Int32Array && reference instanceof Int32Array) return areMostlyEqual(result, reference)
  return true
}

/** Every instruction set's results against the first one's; the first is one of the CPU's where there is one. */
export function checkCase(c: OperationCase, isas: readonly string[], threads: number): void {
  const runs = isas.map((isa) => {
    const { args, results } = c.prepare()
    const returned = runOperation(c.operation, isa, threads, args)
    return { isa, results, returned: JSON.stringify(returned ?? null) }
  })
  const [reference, ...others] = runs
  for (const { isa, results, returned } of others) {
    if (isDeviceIsa(isa)) {
      const isNear = results.every((result, i) => isNearly(result, reference!.results[i]!))
      if (!isNear) throw wrongResult(`${c.operation} ${c.name}: ${isa} is far from ${reference!.isa}`)
      continue
    }
    const differs =
      returned !== reference!.returned ||
      results.some((result, i) => firstDifference(result, reference!.results[i]!) >= 0)
    if (differs) throw wrongResult(`${c.operation} ${c.name}: ${isa} has other bits than ${reference!.isa}`)
  }
}
