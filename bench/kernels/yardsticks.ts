// What this machine can do at most: bytes read and multiply-adds computed in a second, measured as the kernels would have to do it.

import { coldBytesOf, lastLevelCacheBytes } from '../support/processor.js'
import { RandomWeights } from '../support/random-weights.js'
import { medianOf } from '../support/statistics.js'
import { isDeviceIsa, runOperation, timeOperation, usableIsas } from './native-ops.js'

export interface Where {
  readonly isa: string
  readonly threads: number
}

/** A read bandwidth and the way of reading that gave it. */
export interface Bandwidth {
  readonly bytes: number
  readonly bytesPerSecond: number
  /** That read it: one alone is faster where starting the others takes longer than reading. */
  readonly threads: number
  readonly streams: number
  readonly prefetchLines: number
}

const LINE_BYTES = 64
/** Ways to read that have been the fastest somewhere: places read from in turn, and how many lines ahead. */
const WAYS = [
  { streams: 1, prefetchLines: 0 },
  { streams: 2, prefetchLines: 0 },
  { streams: 4, prefetchLines: 0 },
  { streams: 1, prefetchLines: 32 },
  { streams: 4, prefetchLines: 32 },
] as const
/** Long enough for a core to reach the speed it can hold. */
const SAMPLING = { sampleMs: 10, samples: 7 }
/** Of multiply-adds: a millisecond of them, or a few. */
const STEPS = 50_000
/** Below this, one thread may be the fastest team. */
const SMALL_BYTES = 1 << 20
/** Values that fill a buffer, over and over. */
const PATTERN = 1 << 20
/** Read from a device's memory: many times its second-level cache, and long enough for a launch not to count. */
const DEVICE_BYTES = 2 ** 31
/**
 * Of an H200's matrix units, in bf16: what a large product of random numbers reaches with the vendor's library (bench/peers/transformers measures
 * it); by its datasheet it is 989e12.
 */
const DEVICE_FLOPS_PER_SECOND = 790e12

let pattern: Float32Array | undefined
const bandwidths = new Map<string, Bandwidth>()
const peaks = new Map<string, number>()

/**
 * Bytes per second when so many are read again and again: from a cache where they fit into one. The fastest sample of several ways of
 * reading, with the best instruction set: a yardstick that a neighbour slowed down would flatter what it measures.
 */
export function readBandwidth(wanted: number, threads: number): Bandwidth {
  const isa = usableIsas().at(-1)!
  // Beyond the caches it no longer depends on the size: gigabytes need not be read to know it.
  const bytes = Math.min(wanted, coldBytesOf(lastLevelCacheBytes()))
  const lines = Math.ceil(bytes / LINE_BYTES)
  const key = `${lines} ${threads}`
  const known = bandwidths.get(key)
  if (known) return known
  pattern ??= new RandomWeights(1, 1).values(PATTERN)
  const values = pattern.subarray(0, Math.min(PATTERN, lines * 16))
  const teams = bytes < SMALL_BYTES && threads > 1 ? [1, threads] : [threads]
  const found = teams.flatMap((team) =>
    WAYS.map((way): Bandwidth => {
      const args = { values, lines, ...way }
      const ns = Math.min(...timeOperation('streamRead', { isa, threads: team }, args, SAMPLING))
      return { bytes, bytesPerSecond: (lines * LINE_BYTES) / (ns * 1e-9), threads: team, ...way }
    }),
  )
  const best = found.reduce((a, b) => (b.bytesPerSecond > a.bytesPerSecond ? b : a))
  bandwidths.set(key, best)
  return best
}

/** Bytes per second of one pass over a device's memory: the median, since nothing else runs there. */
export function deviceBandwidth(isa: string): number {
  const known = bandwidths.get(isa)
  if (known) return known.bytesPerSecond
  pattern ??= new RandomWeights(1, 1).values(PATTERN)
  const lines = DEVICE_BYTES / LINE_BYTES
  const args = { values: pattern, lines, streams: 1, prefetchLines: 0 }
  const ns = medianOf(timeOperation('streamRead', { isa, threads: 1 }, args, SAMPLING))
  const bytesPerSecond = DEVICE_BYTES / (ns * 1e-9)
  bandwidths.set(isa, { bytes: DEVICE_BYTES, bytesPerSecond, threads: 1, streams: 1, prefetchLines: 0 })
  return bytesPerSecond
}

/** What an instruction set has to feed it: the device's memory, or the CPU's at its best. */
export function bandwidthOf(isa: string, bytes: number, threads: number): number {
  return isDeviceIsa(isa) ? deviceBandwidth(isa) : readBandwidth(bytes, threads).bytesPerSecond
}

/** Floating-point operations per second of multiply-adds that never leave the registers: the fastest sample. */
export function multiplyAddPeak({ isa, threads }: Where): number {
  if (isDeviceIsa(isa)) return DEVICE_FLOPS_PER_SECOND
  const key = `${isa} ${threads}`
  const known = peaks.get(key)
  if (known !== undefined) return known
  const args = { steps: STEPS, x: 1 }
  const { flops } = runOperation('multiplyAdd', isa, threads, args) as { flops: number }
  const peak = flops / (Math.min(...timeOperation('multiplyAdd', { isa, threads }, args, SAMPLING)) * 1e-9)
  peaks.set(key, peak)
  return peak
}

/** What some work takes at least, and which of the two limits says so. */
export interface Floor {
  readonly seconds: number
  readonly bound: 'memory' | 'compute'
}

/** The roofline: bytes at the bandwidth or operations at the peak, whichever takes longer. */
export function floorOf(
  work: { readonly bytes: number; readonly flops: number },
  limits: { readonly bytesPerSecond: number; readonly flopsPerSecond: number },
): Floor {
  const memory = work.bytes / limits.bytesPerSecond
  const compute = work.flops / limits.flopsPerSecond
  return memory >= compute ? { seconds: memory, bound: 'memory' } : { seconds: compute, bound: 'compute' }
}
