// What this machine can do at most: bytes read and multiply-adds computed in a second, measured as the kernels would have to do it.

import { RandomWeights } from '../support/random-weights.js'
import { runOperation, timeOperation, usableIsas } from './native-ops.js'

export interface Where {
  readonly isa: string
  readonly threads: number
}

/** A read bandwidth and the way of reading that gave it. */
export interface Bandwidth {
  readonly bytes: number
  readonly bytesPerSecond: number
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
const SAMPLES = 7
/** Long enough for a core to reach the speed it can hold. */
const SAMPLE_MS = 20
const ROUGH_STEPS = 1000
/** Values that fill a buffer, over and over. */
const PATTERN = 1 << 20

let pattern: Float32Array | undefined
const bandwidths = new Map<string, Bandwidth>()
const peaks = new Map<string, number>()

/**
 * Bytes per second when `bytes` are read again and again: from a cache where they fit into one. The fastest sample of several ways of
 * reading: a yardstick that a neighbour slowed down would flatter what it measures.
 */
export function readBandwidth(bytes: number, threads: number, isa: string = usableIsas().at(-1)!): Bandwidth {
  const lines = Math.ceil(bytes / LINE_BYTES)
  const key = `${lines} ${threads} ${isa}`
  const known = bandwidths.get(key)
  if (known) return known
  pattern ??= new RandomWeights(1, 1).values(PATTERN)
  const values = pattern.subarray(0, Math.min(PATTERN, lines * 16))
  // Small buffers are read many times in a sample: a guess of the speed is enough to count.
  const calls = Math.max(1, Math.round((SAMPLE_MS * 1e-3 * 5e10) / bytes))
  const found = WAYS.map((way) => {
    const args = { values, lines, ...way }
    const ns = Math.min(...timeOperation('streamRead', { isa, threads }, args, { calls, samples: SAMPLES }))
    return { bytes, bytesPerSecond: (lines * LINE_BYTES) / (ns * 1e-9), ...way }
  })
  const best = found.reduce((a, b) => (b.bytesPerSecond > a.bytesPerSecond ? b : a))
  bandwidths.set(key, best)
  return best
}

/** Floating-point operations per second of multiply-adds that never leave the registers: the fastest sample. */
export function multiplyAddPeak({ isa, threads }: Where): number {
  const key = `${isa} ${threads}`
  const known = peaks.get(key)
  if (known !== undefined) return known
  const { flops } = runOperation('multiplyAdd', isa, threads, { steps: 1, x: 1 }) as { flops: number }
  const measure = (steps: number, samples: number): number =>
    (flops * steps) /
    (Math.min(...timeOperation('multiplyAdd', { isa, threads }, { steps, x: 1 }, { calls: 1, samples })) * 1e-9)
  const rough = measure(ROUGH_STEPS, 3)
  const peak = measure(Math.max(ROUGH_STEPS, Math.round((SAMPLE_MS * 1e-3 * rough) / flops)), SAMPLES)
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
