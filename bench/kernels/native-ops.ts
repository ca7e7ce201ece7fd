// Single operations of the addon by name, run once or timed in C++, where JavaScript does not count.
import { native } from '../../src/native.js'

/** As kernels/addon/ops.cpp reads them; arrays for results are written in place. */
export type OperationArgs = Readonly<Record<string, unknown>>

type Operation = (isa: string, threads: number, args: OperationArgs) => unknown

function operation(name: string): Operation {
  return native().ops[name] as unknown as Operation
}

/** Runs it once. */
export function runOperation(name: string, isa: string, threads: number, args: OperationArgs): unknown {
  return operation(name)(isa, threads, args)
}

/** Nanoseconds of one call, for each sample of at least `sampleMs`. A first call that warms up is not counted. */
export function timeOperation(
  name: string,
  where: { readonly isa: string; readonly threads: number },
  args: OperationArgs,
  { sampleMs, samples }: { readonly sampleMs: number; readonly samples: number },
): number[] {
  const nanoseconds = new Float64Array(samples)
  operation(name)(where.isa, where.threads, { ...args, timing: { leastMs: sampleMs, nanoseconds } })
  return [...nanoseconds]
}

/** Copies of a weight or a cache that the addon takes. */
export const MOST_COPIES = 1024

/** A weight laid out once for all instruction sets of the CPU (`auto`), or for one of a GPU, as often as `copies` says. */
export function packCopies(args: {
  readonly isa: string
  readonly w: Float32Array
  readonly dtype: string
  readonly columns: number
  readonly depth: number
  readonly copies: number
}): unknown {
  return (native().ops['packCopies'] as unknown as (args: OperationArgs) => unknown)(args)
}

/** Instruction sets the CPU has, slowest first. */
export function usableIsas(): string[] {
  return isasOf('cpu')
}

/** Instruction sets of a GPU that can be used, slowest first; none without one. */
export function deviceIsas(): string[] {
  return isasOf('cuda')
}

/** Whether operations of an instruction set run on a GPU. */
export function isDeviceIsa(isa: string): boolean {
  return deviceIsas().includes(isa)
}

function isasOf(backend: string): string[] {
  const found = native()
    .backends()
    .find(({ name, usable }) => name === backend && usable)
  return (found?.isas ?? [])
    .filter(({ usable }) => usable)
    .map(({ name }) => name)
    .toReversed()
}

/** The first coordinate at which two arrays have other bits, or -1. */
export function firstDifference(a: ArrayBufferView, b: ArrayBufferView): number {
  const bytes = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  const [x, y] = [bytes(a), bytes(b)]
  if (x.length !== y.length) return Math.min(x.length, y.length)
  if (Buffer.compare(x, y) === 0) return -1
  const at = x.findIndex((byte, i) => byte !== y[i])
  return Math.floor(at / ('BYTES_PER_ELEMENT' in a ? (a.BYTES_PER_ELEMENT as number) : 1))
}
