// attention_votes: against its oracle, and the same however the voting tokens are cut into calls.
import { describe, expect, it } from 'vitest'
import type { Dtype } from '../oracle/dtype.js'
import { votes } from '../oracle/snapkv.js'
import {
  type AttentionInputs,
  type AttentionOptions,
  attentionInputs,
  cacheOf,
  HEAD_COUNTS,
  HEAD_WIDTHS,
  largestScore,
  paddedQueries,
  ROW_COUNTS,
  tokensOf,
} from '../support/attention.js'
import { isCpu, POISON, POISONS } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, type Place, tolerance } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']

type VoteOptions = AttentionOptions & { readonly voteRows: number }

interface Setup {
  random: Random
  inputs: AttentionInputs
  place: Place
}

function setup(o: VoteOptions): Setup {
  const random = new Random(
    `attention_votes ${o.dtype} T=${o.tokens} R=${o.rows} votes=${o.voteRows} Hq=${o.queryHeads} Hkv=${o.kvHeads} D=${o.headDim} window=${o.window ?? 0} scale=${o.scale ?? 1}`,
  )
  return { random, inputs: attentionInputs(random, o), place: { random, axes: { h: o.queryHeads, j: o.voteRows } } }
}

/** [Hq, voteRows], added to `initial`. */
function run(
  isa: string,
  threads: number,
  c: AttentionInputs,
  voteRows: number,
  initial: ArrayLike<number> = new Float32Array(c.queryHeads * voteRows),
  poison = POISON,
): Float32Array {
  const out = new Output({ rows: c.queryHeads, width: voteRows, stride: voteRows + 5, initial })
  const { dtype, queryHeads, kvHeads, headDim, window, tokens, rows, position } = c
  const shape = { dtype, queryHeads, kvHeads, headDim, window, tokens, rows, position }
  const arrays = { q: paddedQueries(c), cache: cacheOf(c, poison), votes: out.array }
  ops.attentionVotes(isa, threads, { ...shape, ...arrays, voteRows, votesStride: out.stride })
  return out.values()
}

function check(o: VoteOptions): void {
  const { inputs, place } = setup(o)
  const got = onEveryIsa(place, (isa, threads) => run(isa, threads, inputs, o.voteRows))
  const expected = votes(inputs, o.voteRows)
  const relative = tolerance({
    epsilon: EPSILON.f32,
    reduction: Math.ceil(o.headDim / 32) + 4,
    magnitude: 1 + largestScore(inputs),
    factor: isCpu ? 1 : 4,
  })
  // Below e^-87 of the largest a weight is zero.
  expectClose(got, expected, (i) => relative * expected[i]! + o.tokens * 2 ** -126, place)
}

describe('attention_votes against the oracle', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: every head width, every grouping`, () => {
      for (const headDim of HEAD_WIDTHS) {
        check({ dtype, headDim, queryHeads: 2, kvHeads: 1, rows: 37, tokens: 5, voteRows: 37 })
      }
      for (const [queryHeads, kvHeads] of HEAD_COUNTS) {
        check({ dtype, headDim: 16, queryHeads, kvHeads, rows: 130, tokens: 7, voteRows: 130 })
      }
    })

    it(`${dtype}: every number of rows around a chunk`, () => {
      for (const rows of ROW_COUNTS) {
        const shape = { dtype, headDim: 16, queryHeads: 2, kvHeads: 1, rows, tokens: 3 } as const
        check({ ...shape, voteRows: Math.max(rows, 1) })
        check({ ...shape, voteRows: rows + 3 })
      }
    })

    it(`${dtype}: attention windows`, () => {
      for (const window of [1, 5, 33, 128, 1000]) {
        check({ dtype, headDim: 16, queryHeads: 2, kvHeads: 2, rows: 150, tokens: 9, voteRows: 140, window })
      }
    })
  }

  it('a whole prompt votes: more queries than a block has rows', () => {
    check({ dtype: 'bf16', headDim: 16, queryHeads: 8, kvHeads: 1, rows: 0, tokens: 65, voteRows: 65 })
    check({ dtype: 'bf16', headDim: 128, queryHeads: 3, kvHeads: 1, rows: 70, tokens: 90, voteRows: 150, window: 100 })
    check({ dtype: 'f16', headDim: 64, queryHeads: 2, kvHeads: 2, rows: 300, tokens: 70, voteRows: 300 })
    check({ dtype: 'f32', headDim: 16, queryHeads: 3, kvHeads: 1, rows: 140, tokens: 40, voteRows: 140 })
  })

  it('more keys than are merged at once', () => {
    check({ dtype: 'bf16', headDim: 64, queryHeads: 2, kvHeads: 1, rows: 4200, tokens: 6, voteRows: 4200 })
    check({ dtype: 'f32', headDim: 16, queryHeads: 2, kvHeads: 1, rows: 4200, tokens: 3, voteRows: 4202 })
  })

  it('flat and sharp softmax', () => {
    for (const scale of [0, 30, 1000]) {
      check({ dtype: 'f32', headDim: 32, queryHeads: 2, kvHeads: 1, rows: 140, tokens: 3, voteRows: 140, scale })
    }
  })
})

describe('attention_votes', () => {
  const o: VoteOptions = { dtype: 'bf16', headDim: 16, queryHeads: 4, kvHeads: 2, rows: 100, tokens: 40, voteRows: 108 }

  it.each([16, 64])('votes of one call are those of several, bit for bit: heads of %i', (headDim) => {
    const { inputs, place } = setup({ ...o, headDim })
    for (const isa of isas) {
      const whole = run(isa, 2, inputs, o.voteRows)
      for (const cut of [1, 12, 28, 39]) {
        // A row of the cut-off tokens cannot have votes before it exists; there the first call's votes are zero.
        const early = Math.min(o.voteRows, o.rows + cut)
        const first = run(isa, 1, tokensOf(inputs, 0, cut), early)
        const sofar = new Float32Array(whole.length)
        for (let h = 0; h < o.queryHeads; h++) {
          sofar.set(first.subarray(h * early, (h + 1) * early), h * o.voteRows)
        }
        const both = run(isa, 3, tokensOf(inputs, cut, o.tokens - cut), o.voteRows, sofar)
        expectSameBits(both, whole, { ...place, what: `${isa}, cut at ${cut}` })
      }
    }
  })

  it('the votes of a query are its attention: all of them together are 1', () => {
    const { inputs } = setup({ ...o, tokens: 1, voteRows: 101 })
    const got = run(fastestIsa, 1, inputs, 101)
    for (let h = 0; h < o.queryHeads; h++) {
      const sum = got.subarray(h * 101, (h + 1) * 101).reduce((a, b) => a + b, 0)
      expect(sum).toBeCloseTo(1, 5)
    }
  })

  it('rows past the voted ones take part in the softmax and get nothing', () => {
    const { inputs, place } = setup(o)
    const all = run(fastestIsa, 1, inputs, 140)
    const some = run(fastestIsa, 1, inputs, o.voteRows)
    const expected = Float32Array.from(some, (_, i) => all[Math.floor(i / o.voteRows) * 140 + (i % o.voteRows)]!)
    expectSameBits(some, expected, place)
    for (const isa of isas) run(isa, 1, inputs, 0)
  })

  it('does not read rows behind the last one', () => {
    const { inputs, place } = setup(o)
    const clean = run(fastestIsa, 1, inputs, o.voteRows, undefined, 0)
    for (const poison of POISONS) {
      for (const isa of isas) {
        const got = run(isa, 1, inputs, o.voteRows, undefined, poison)
        expectSameBits(got, clean, { ...place, what: `${isa}, poison ${poison}` })
      }
    }
  })
})
