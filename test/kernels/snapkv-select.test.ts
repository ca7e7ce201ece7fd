// snapkv_select: votes to kept rows, exactly the oracle's.
import { describe, expect, it } from 'vitest'
import { bestRows, poolScores, reduceGroup } from '../oracle/snapkv.js'
import { expectSame } from '../support/compare.js'
import { isas, ops, strided } from '../support/ops.js'
import { Random } from '../support/random.js'

interface SelectCase {
  queryHeads: number
  kvHeads: number
  n: number
  count: number
  pool: 'max' | 'avg'
  poolSize: number
  groupReduce: 'mean' | 'max'
}

const nameOf = (c: SelectCase): string =>
  `Hq=${c.queryHeads} Hkv=${c.kvHeads} n=${c.n} count=${c.count} ${c.pool} ${c.poolSize} ${c.groupReduce}`

/** i32 [Hkv, count]; what lies between and behind the rows is checked to be untouched. */
function run(isa: string, threads: number, c: SelectCase, votes: ArrayLike<number>): Int32Array {
  const votesStride = c.n + 3
  const rowsStride = c.count + 2
  const rows = new Int32Array(c.kvHeads * rowsStride).fill(-7)
  const given = strided(votes, c.queryHeads, c.n, votesStride, Number.POSITIVE_INFINITY)
  ops.snapkvSelect(isa, threads, { ...c, votes: given, votesStride, rows, rowsStride })
  const out = new Int32Array(c.kvHeads * c.count)
  for (let h = 0; h < c.kvHeads; h++) {
    out.set(rows.subarray(h * rowsStride, h * rowsStride + c.count), h * c.count)
    expect(Array.from(rows.subarray(h * rowsStride + c.count, (h + 1) * rowsStride))).toEqual([-7, -7])
  }
  return out
}

function oracle(c: SelectCase, votes: ArrayLike<number>): number[] {
  const group = c.queryHeads / c.kvHeads
  return Array.from({ length: c.kvHeads }, (_, kvHead) => {
    const heads = Array.from({ length: group }, (_, i) =>
      Array.from({ length: c.n }, (_, row) => votes[(kvHead * group + i) * c.n + row]!),
    )
    return bestRows(poolScores(reduceGroup(heads, c.groupReduce), c.pool, c.poolSize), c.count)
  }).flat()
}

/** Votes in whole steps whose sums, and means over a group, are exact: rows tie in f32 where they tie in f64. */
function coarseVotes(random: Random, c: SelectCase, levels: number): Float32Array {
  const step = c.queryHeads / c.kvHeads / 256
  return Float32Array.from({ length: c.queryHeads * c.n }, () => random.integer(0, levels) * step)
}

function check(c: SelectCase, levels: number): void {
  const random = new Random(`snapkv_select ${nameOf(c)} levels=${levels}`)
  const votes = coarseVotes(random, c, levels)
  const expected = oracle(c, votes)
  for (const isa of isas) {
    for (const threads of [1, 3]) {
      const got = run(isa, threads, c, votes)
      expectSame(got, expected, { random, axes: { kvHead: c.kvHeads, i: c.count }, what: `${isa}, ${threads} threads` })
    }
  }
}

describe('snapkv_select against the oracle', () => {
  for (const pool of ['max', 'avg'] as const) {
    for (const groupReduce of ['mean', 'max'] as const) {
      it(`${pool} pool, ${groupReduce} of the group: every pool size, grouping and number of ties`, () => {
        for (const poolSize of [1, 3, 5, 7, 13, 101]) {
          for (const [queryHeads, kvHeads] of [
            [1, 1],
            [3, 1],
            [8, 2],
          ] as const) {
            for (const levels of [0, 1, 3, 4000]) {
              check({ queryHeads, kvHeads, n: 50, count: 20, pool, poolSize, groupReduce }, levels)
            }
          }
        }
      })

      it(`${pool} pool, ${groupReduce} of the group: every budget, from nothing to everything`, () => {
        for (const n of [1, 2, 15, 16, 17, 63, 65, 300]) {
          for (const count of [0, 1, 2, Math.floor(n / 2), n - 1, n].filter((rows) => rows <= n)) {
            check({ queryHeads: 4, kvHeads: 2, n, count, pool, poolSize: 7, groupReduce }, 200)
          }
        }
      })
    }
  }

  it('nothing to choose from', () => {
    for (const isa of isas) {
      const c: SelectCase = { queryHeads: 2, kvHeads: 1, n: 0, count: 0, pool: 'max', poolSize: 7, groupReduce: 'mean' }
      expect(run(isa, 1, c, []).length, isa).toBe(0)
    }
  })
})

describe('snapkv_select and ties', () => {
  const plain = { queryHeads: 1, kvHeads: 1, pool: 'max', poolSize: 1, groupReduce: 'mean' } as const

  it('the lower of two equal rows stays', () => {
    const votes = [1, 2, 1, 2, 1, 2, 1]
    for (const isa of isas) {
      expect(Array.from(run(isa, 1, { ...plain, n: 7, count: 2 }, votes)), isa).toEqual([1, 3])
      expect(Array.from(run(isa, 1, { ...plain, n: 7, count: 4 }, votes)), isa).toEqual([0, 1, 3, 5])
      expect(Array.from(run(isa, 1, { ...plain, n: 7, count: 5 }, votes)), isa).toEqual([0, 1, 2, 3, 5])
    }
  })

  it('0 and -0 are equal', () => {
    for (const isa of isas) {
      expect(Array.from(run(isa, 1, { ...plain, n: 4, count: 2 }, [-0, 0, -0, 0])), isa).toEqual([0, 1])
    }
  })

  it('votes that differ in their last bit do not tie', () => {
    const votes = Float32Array.from([1, 1 + 2 ** -23, 1 - 2 ** -24, 1 + 2 ** -22])
    for (const isa of isas) expect(Array.from(run(isa, 1, { ...plain, n: 4, count: 2 }, votes)), isa).toEqual([1, 3])
  })

  it('infinity is best, NaN never better than a number; the rows are valid whatever the votes', () => {
    const votes = Float32Array.from([Number.NaN, 1, Number.POSITIVE_INFINITY, Number.NaN, Number.NEGATIVE_INFINITY, 2])
    for (const isa of isas) {
      expect(Array.from(run(isa, 1, { ...plain, n: 6, count: 3 }, votes)), isa).toEqual([1, 2, 5])
      expect(Array.from(run(isa, 1, { ...plain, n: 6, count: 4 }, votes)), isa).toEqual([1, 2, 4, 5])
      for (const pool of ['max', 'avg'] as const) {
        const rows = Array.from(run(isa, 1, { ...plain, n: 6, count: 5, pool, poolSize: 3 }, votes))
        expect(rows, isa).toEqual([...new Set(rows)].sort((a, b) => a - b))
        expect(rows.every((row) => row >= 0 && row < 6)).toBe(true)
      }
    }
  })
})
