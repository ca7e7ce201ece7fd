// top_k: exactly the oracle's columns, in one order for all.
import { describe, expect, it } from 'vitest'
import { topK } from '../oracle/top-k.js'
import { expectSame } from '../support/compare.js'
import { failure } from '../support/errors.js'
import { isas, ops, referenceIsa, strided } from '../support/ops.js'
import { Random } from '../support/random.js'

interface TopKCase {
  rows: number
  columns: number
  k: number
}

function run(isa: string, threads: number, { rows, columns, k }: TopKCase, scores: ArrayLike<number>): Int32Array {
  const stride = columns + 3
  const guarded = new Int32Array(rows * k + 2).fill(-7)
  // What lies between the rows would be the best of all.
  const given = strided(scores, rows, columns, stride, Number.POSITIVE_INFINITY)
  ops.topK(isa, threads, { scores: given, stride, rows, columns, k, ids: guarded.subarray(1, rows * k + 1) })
  expect([guarded[0], guarded[rows * k + 1]]).toEqual([-7, -7])
  return guarded.slice(1, rows * k + 1)
}

function check(c: TopKCase, scores: ArrayLike<number>, random: Random, teams: readonly number[] = [1, 3]): void {
  const expected = topK({ ...c, scores, stride: c.columns })
  for (const isa of isas) {
    for (const threads of teams) {
      const place = { random, axes: { m: c.rows, i: c.k }, what: `${isa}, ${threads} threads` }
      expectSame(run(isa, threads, c, scores), expected, place)
    }
  }
}

describe('top_k against the oracle', () => {
  it('every number of columns around a vector, every k up to it', () => {
    for (const columns of [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 300]) {
      for (const k of [1, 2, 10, 16, 63, 64, columns].filter((wanted) => wanted <= Math.min(64, columns))) {
        const random = new Random(`top_k columns=${columns} k=${k}`)
        check({ rows: 3, columns, k }, random.normals(3 * columns), random)
      }
    }
  })

  it('ties go to the lower column', () => {
    for (const levels of [0, 1, 2, 10]) {
      for (const k of [1, 7, 64]) {
        const random = new Random(`top_k levels=${levels} k=${k}`)
        const scores = Float32Array.from({ length: 2 * 200 }, () => random.integer(-levels, levels))
        check({ rows: 2, columns: 200, k }, scores, random)
      }
    }
  })

  it('NaN ranks below everything, 0 and -0 tie, infinities are in their places', () => {
    const odd = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0, 3.4028234663852886e38, 1, -1]
    for (const k of [1, 3, 20, 64]) {
      for (let round = 0; round < 10; round++) {
        const random = new Random(`top_k odd k=${k} round=${round}`)
        check(
          { rows: 2, columns: 70, k },
          Float32Array.from({ length: 140 }, () => random.pick(odd)),
          random,
        )
      }
    }
    const random = new Random('top_k all NaN')
    check({ rows: 2, columns: 20, k: 5 }, new Float32Array(40).fill(Number.NaN), random)
    check({ rows: 1, columns: 20, k: 20 }, new Float32Array(20).fill(Number.NEGATIVE_INFINITY), random)
  })

  it('rising and falling scores', () => {
    const random = new Random('top_k sorted')
    const rising = Float32Array.from({ length: 500 }, (_, i) => i)
    check({ rows: 1, columns: 500, k: 64 }, rising, random)
    check({ rows: 1, columns: 500, k: 64 }, rising.toReversed(), random)
  })

  it('long rows, which are cut into pieces when there are fewer rows than threads', () => {
    for (const columns of [8192, 8193, 30001]) {
      for (const rows of [1, 2, 5]) {
        const random = new Random(`top_k long columns=${columns} rows=${rows}`)
        const scores = Float32Array.from({ length: rows * columns }, () => random.integer(0, 2000))
        check({ rows, columns, k: 10 }, scores, random, [1, 2, 3, 4])
      }
    }
  })
})

describe('top_k', () => {
  it('refuses a k it cannot give, and says what it can', async () => {
    for (const [columns, k] of [
      [10, 0],
      [10, 11],
      [100, 65],
    ] as const) {
      await failure(() => run(referenceIsa, 1, { rows: 1, columns, k }, new Float32Array(columns)), 'ERR_SHAPE', /k is/)
    }
  })
})
