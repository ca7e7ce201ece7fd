// Cases of operations: instruction sets agree on them, what they count is what they do, and a difference stops everything.
import { describe, expect, it } from 'vitest'
import { usableIsas } from '../../../bench/kernels/native-ops.js'
import { CASES, OPERATION_NAMES, type OperationCase } from '../../../bench/kernels/operation-cases.js'
import { checkCase, timeCase } from '../../../bench/kernels/time-operation.js'
import { SHAPE_NAMES } from '../../../bench/support/shapes.js'

const isas = usableIsas()
const caseOf = (cases: readonly OperationCase[], name: RegExp): OperationCase => cases.find((c) => name.test(c.name))!

/** The smallest of each operation, so that the portable path is done soon. */
const SMALL: [string, OperationCase][] = [
  ['treeAttention', caseOf(CASES.treeAttention('demo'), /1024 rows, T = 4$/)],
  ['snapkvSelect', CASES.snapkvSelect('demo')[0]!],
  ['kvGather', CASES.kvGather('demo')[0]!],
  ['posterior', caseOf(CASES.posterior('demo'), /T = 1,/)],
  ['topK', CASES.topK('demo')[0]!],
  ['rmsNorm', caseOf(CASES.rmsNorm('demo'), /16 x/)],
  ['rope', caseOf(CASES.rope('demo'), /16 tokens/)],
  ['siluMul', caseOf(CASES.siluMul('demo'), /16 x/)],
  ['crossEntropy', CASES.crossEntropy('demo')[0]!],
  ['linearGradient', caseOf(CASES.linearGradient('demo'), /block/)],
  ['residualSilu', CASES.residualSilu('demo')[0]!],
  ['residualSiluGradient', CASES.residualSiluGradient('demo')[0]!],
  ['packWeight', caseOf(CASES.packWeight('demo'), /384$/)],
  ['packWeight', caseOf(CASES.packWeight('demo'), /transposed/)],
  ['unpackWeight', CASES.unpackWeight('demo')[0]!],
  ['adamw', CASES.adamw('demo')[0]!],
  ['sumOfSquares', CASES.sumOfSquares('demo')[0]!],
]

describe('cases of operations', () => {
  it.each(SMALL)('%s gives the same bits on every instruction set', (_, c) => {
    checkCase(c, isas, 2)
  })

  it('have names of their own, and work to do', () => {
    const all = OPERATION_NAMES.flatMap((operation) => SHAPE_NAMES.flatMap((shape) => CASES[operation](shape)))
    expect(new Set(all.map((c) => `${c.operation} ${c.name}`)).size).toBe(all.length)
    expect(all.every(({ bytes, flops }) => bytes > 0 && flops >= 0)).toBe(true)
  })

  it('count what attention reads and computes', () => {
    // Two KV heads of 64, K and V, two bytes; six query heads, a score and a weighted value for each key.
    const c = caseOf(CASES.treeAttention('demo'), /12000 rows, T = 16$/)
    expect(c.bytes).toBe(2 * 2 * 2 * 64 * (12000 + 16))
    expect(c.flops).toBe(2 * 2 * 64 * 6 * 16 * (12000 + 16))
  })

  it('are timed on each instruction set, beside a floor', async () => {
    const c = CASES.topK('demo')[0]!
    const times = await timeCase(c, { isas, threads: 1, rounds: 2, sampleMs: 0, slowestMs: 1e6 })
    expect(times.map(({ isa }) => isa)).toEqual(isas)
    for (const { ns, floorNs } of times) {
      expect(ns).toMatchObject({ n: 6 })
      expect(floorNs).toBeGreaterThan(0)
    }
  })

  it('are not timed when results differ', async () => {
    let drawn = 0
    const other: OperationCase = {
      ...CASES.topK('demo')[0]!,
      prepare() {
        const ids = new Int32Array(1)
        const scores = Float32Array.of(0, 1, 0)
        scores[drawn++ % 3] = 2
        return { args: { scores, stride: 3, rows: 1, columns: 3, k: 1, ids }, results: [ids] }
      },
    }
    const timing = timeCase(other, {
      isas: ['portable', 'portable'],
      threads: 1,
      rounds: 1,
      sampleMs: 0,
      slowestMs: 1e6,
    })
    await expect(timing).rejects.toMatchObject({ code: 'ERR_INTERNAL' })
  })
})
