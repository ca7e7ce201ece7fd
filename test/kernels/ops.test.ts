// The bindings of single operations: what they refuse, and choosing an instruction set by name.
import { describe, expect, it } from 'vitest'
import { isGorgonError } from '../../src/errors.js'
import { native } from '../../src/native.js'
import { itOnCpu } from '../support/backend.js'
import { failure } from '../support/errors.js'
import { isas, ops, referenceIsa } from '../support/ops.js'

const norm = (changes: object = {}) => ({
  x: new Float32Array(8),
  xStride: 8,
  rows: 1,
  width: 8,
  weight: new Float32Array(8),
  eps: 1e-5,
  dtype: 'f32' as const,
  operand: false,
  out: new Float32Array(8),
  outStride: 8,
  ...changes,
})

describe('instruction sets', () => {
  itOnCpu('portable is always there', 'it is the processor that it is portable among', () => {
    expect(isas).toContain('portable')
  })

  it('an unknown one is refused with a list of those there are', async () => {
    const error = await failure(() => ops.rmsNorm('avx1024', 1, norm()), 'ERR_DEVICE', /avx1024/)
    for (const isa of isas) expect(error.message).toContain(isa)
  })

  it('one this machine does not have is refused by name', async () => {
    const all = native().backends()[0]!.isas
    for (const { name, usable } of all) {
      if (usable) ops.rmsNorm(name, 1, norm())
      else await failure(() => ops.rmsNorm(name, 1, norm()), 'ERR_DEVICE', new RegExp(name))
    }
  })
})

/** Such messages are for whoever writes the call: a test or a bench. */
function refused(call: () => void, code: string, says: RegExp): void {
  try {
    call()
  } catch (error) {
    if (!isGorgonError(error)) throw error
    expect(error.code, error.message).toBe(code)
    expect(error.message).toMatch(says)
    return
  }
  expect.fail(`expected ${code}, but nothing failed`)
}

describe('arguments that would corrupt memory are refused', () => {
  it('arrays that are too short, of the wrong type or missing', () => {
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ x: new Float32Array(7) })), 'ERR_ARGUMENT', /x has 7 elements, 8/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ out: new Float32Array(0) })), 'ERR_ARGUMENT', /out has 0/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ weight: new Float64Array(8) })), 'ERR_ARGUMENT', /weight/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ weight: undefined })), 'ERR_ARGUMENT', /weight/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ rows: 2 })), 'ERR_ARGUMENT', /16 are needed/)
  })

  it('sizes and strides out of range', () => {
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ rows: 0 })), 'ERR_ARGUMENT', /rows is 0/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ width: -1 })), 'ERR_ARGUMENT', /width is -1/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ width: 2 ** 40 })), 'ERR_ARGUMENT', /width is/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ width: 1.5 })), 'ERR_ARGUMENT', /width is not a whole/)
    refused(() => ops.rmsNorm(referenceIsa, 1, norm({ xStride: 7 })), 'ERR_ARGUMENT', /xStride/)
    refused(() => ops.rmsNorm(referenceIsa, 0, norm()), 'ERR_ARGUMENT', /threads/)
  })

  it('an unknown dtype', () => {
    const table = new Uint8Array(64)
    const args = { ids: Int32Array.of(0), tokens: 1, table, vocab: 1, width: 4, out: new Float32Array(4), outStride: 4 }
    refused(() => ops.embed(referenceIsa, 1, { ...args, dtype: 'f8' as 'f32' }), 'ERR_DTYPE', /f8/)
    refused(() => ops.embed(referenceIsa, 1, { ...args, dtype: 'f32', ids: Int32Array.of(1) }), 'ERR_ARGUMENT', /table/)
  })
})
