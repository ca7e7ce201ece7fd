// The backend that tests of native code run on: GORGON_BACKEND, or the CPU; and tests that are about one of them only.
import { describe, it } from 'vitest'
import { chooseBackend } from '../../src/backend.js'
import { native } from '../../src/native.js'

/**
 * Never what `auto` would choose: a machine's GPU must not change what `npm test` says. As everywhere, GORGON_CPU and GORGON_CUDA force an
 * instruction set, and GORGON_DEVICE a device.
 */
export const testBackend = chooseBackend(
  { backend: process.env['GORGON_BACKEND'] || 'cpu', isa: 'auto' },
  process.env,
  native().backends(),
)

export const isCpu = testBackend.backend === 'cpu'

/** Rows of a cache that are reserved together, and rows of a prompt that go through a layer together. */
export const ROW_GROUP = isCpu ? 32 : 64
export const PROMPT_ROWS = isCpu ? 512 : 4096

/** Whether CUDA can be used here, whatever is tested. */
export const hasCuda = native()
  .backends()
  .some(({ name, usable }) => name === 'cuda' && usable)

/** What lies in rows of a cache that nobody may read: the CPU's may hold anything, a device's any finite number. */
export const POISONS: readonly number[] = isCpu
  ? [Number.NaN, 3e38, -3e38, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  : [6e4, -6e4]
export const POISON = POISONS[0]!

/** A suite about the CPU; elsewhere it is skipped, and its name says why. */
export function describeOnCpu(name: string, why: string, body: () => void): void {
  if (isCpu) describe(name, body)
  else describe.skip(`${name} (not on ${testBackend.backend}: ${why})`, body)
}

/** A suite about GPUs; where CUDA is not what is tested it is skipped, and its name says why. */
export function describeOnGpu(name: string, body: () => void): void {
  const cuda = native()
    .backends()
    .find((backend) => backend.name === 'cuda')
  const why = cuda?.usable ? 'GORGON_BACKEND is not cuda' : (cuda?.detail ?? 'CUDA was not built')
  if (testBackend.backend === 'cuda') describe(name, body)
  else describe.skip(`${name} (skipped: ${why})`, body)
}

/** A test about the CPU; elsewhere it is skipped, and its name says why. */
export function itOnCpu(name: string, why: string, body: () => void | Promise<void>): void {
  if (isCpu) it(name, body)
  else it.skip(`${name} (not on ${testBackend.backend}: ${why})`, body)
}
