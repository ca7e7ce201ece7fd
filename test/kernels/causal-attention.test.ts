// causal_attention: against its oracle, and every row the same however the prompt is cut into calls.
import { describe, expect, it } from 'vitest'
import { causalAttention } from '../oracle/attention.js'
import { type Dtype, round } from '../oracle/dtype.js'
import {
  type AttentionInputs,
  type AttentionOptions,
  attentionInputs,
  attentionTolerance,
  HEAD_COUNTS,
  HEAD_WIDTHS,
  ROW_COUNTS,
  runCausal,
  tokensOf,
} from '../support/attention.js'
import { isCpu, itOnCpu, POISONS } from '../support/backend.js'
import { expectClose, expectSameBits, type Place } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa } from '../support/ops.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']

const nameOf = (o: AttentionOptions): string =>
  `${o.dtype} T=${o.tokens} R=${o.rows} Hq=${o.queryHeads} Hkv=${o.kvHeads} D=${o.headDim} window=${o.window ?? 0} scale=${o.scale ?? 1}`

function setup(o: AttentionOptions): { inputs: AttentionInputs; place: Place } {
  const random = new Random(`causal_attention ${nameOf(o)}`)
  return { inputs: attentionInputs(random, o), place: { random, axes: { t: o.tokens, h: o.queryHeads, d: o.headDim } } }
}

function check(o: AttentionOptions): void {
  const { inputs, place } = setup(o)
  const got = onEveryIsa(place, (isa, threads) => runCausal(isa, threads, inputs))
  expectClose(got, causalAttention(inputs), attentionTolerance(inputs), place)
}

describe('causal_attention against the oracle', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: every head width, every grouping`, () => {
      for (const headDim of HEAD_WIDTHS) check({ dtype, headDim, queryHeads: 2, kvHeads: 1, rows: 37, tokens: 5 })
      for (const [queryHeads, kvHeads] of HEAD_COUNTS) {
        check({ dtype, headDim: 16, queryHeads, kvHeads, rows: 130, tokens: 7 })
      }
    })

    it(`${dtype}: every number of rows around a chunk, the empty cache included`, () => {
      for (const rows of ROW_COUNTS) {
        for (const tokens of [1, 2]) check({ dtype, headDim: 16, queryHeads: 2, kvHeads: 1, rows, tokens })
      }
    })

    it(`${dtype}: every number of tokens around a block of queries`, () => {
      for (const tokens of [15, 16, 17, 23, 24, 25, 47, 48, 49, 65]) {
        check({ dtype, headDim: 8, queryHeads: 2, kvHeads: 1, rows: 100, tokens })
      }
      check({ dtype, headDim: 8, queryHeads: 1, kvHeads: 1, rows: 0, tokens: 140 })
    })

    it(`${dtype}: sliding windows, from one row to more than there are`, () => {
      for (const window of [1, 2, 5, 31, 32, 33, 128, 129, 1000]) {
        check({ dtype, headDim: 16, queryHeads: 4, kvHeads: 2, rows: 150, tokens: 11, window })
        check({ dtype, headDim: 16, queryHeads: 2, kvHeads: 2, rows: 0, tokens: 40, window })
      }
    })

    it(`${dtype}: flat and sharp softmax`, () => {
      for (const scale of [0, 0.01, 30, 1000]) {
        check({ dtype, headDim: 32, queryHeads: 2, kvHeads: 1, rows: 140, tokens: 3, scale })
      }
    })
  }

  it('heads of 64 and 128, around tiles of 128 queries and keys', () => {
    for (const dtype of ['f16', 'bf16'] as const) {
      for (const headDim of [64, 128]) {
        check({ dtype, headDim, queryHeads: 3, kvHeads: 1, rows: 0, tokens: 129 })
        check({ dtype, headDim, queryHeads: 2, kvHeads: 2, rows: 190, tokens: 130, scale: 3 })
        check({ dtype, headDim, queryHeads: 2, kvHeads: 1, rows: 300, tokens: 70, window: 150 })
      }
    }
  })

  it('more query heads in a group than a block has rows', () => {
    check({ dtype: 'f32', headDim: 8, queryHeads: 100, kvHeads: 2, rows: 40, tokens: 3 })
  })
})

// On the CPU and on a device alike: a device gives rows of a step to another operation, so this is about a prompt's own.
describe('causal_attention, row by row', () => {
  const shapes: AttentionOptions[] = [
    { dtype: 'bf16', headDim: 16, queryHeads: 6, kvHeads: 2, rows: 90, tokens: 65 },
    { dtype: 'f16', headDim: 16, queryHeads: 2, kvHeads: 1, rows: 90, tokens: 65, window: 40 },
    { dtype: 'f32', headDim: 40, queryHeads: 2, kvHeads: 2, rows: 0, tokens: 65 },
    { dtype: 'f32', headDim: 16, queryHeads: 4, kvHeads: 1, rows: 120, tokens: 65, window: 7 },
    { dtype: 'bf16', headDim: 128, queryHeads: 2, kvHeads: 1, rows: 90, tokens: 65 },
    { dtype: 'bf16', headDim: 64, queryHeads: 2, kvHeads: 2, rows: 4070, tokens: 65 },
    // Alone, a row's stretches of keys are spread over a device; among 64 others its heads fill it already.
    ...(isCpu ? [] : [{ dtype: 'bf16', headDim: 64, queryHeads: 72, kvHeads: 9, rows: 4070, tokens: 65 } as const]),
  ]
  for (const o of shapes) {
    const width = o.queryHeads * o.headDim

    it(`a row alone has the bits it has among 64 others: ${nameOf(o)}`, () => {
      const { inputs, place } = setup(o)
      for (const isa of isas) {
        const together = runCausal(isa, 2, inputs)
        for (let t = 0; t < o.tokens; t++) {
          expectSameBits(runCausal(isa, 1, tokensOf(inputs, t, 1)), together.slice(t * width, (t + 1) * width), {
            random: place.random,
            axes: { h: o.queryHeads, d: o.headDim },
            what: `${isa}, token ${t}`,
          })
        }
      }
    })

    it(`any cut of the prompt into calls gives the same bits: ${nameOf(o)}`, () => {
      const { inputs, place } = setup(o)
      const whole = runCausal(fastestIsa, 1, inputs)
      for (const cut of [1, 16, 31, 32, 38, 64]) {
        const parts = new Float32Array(whole.length)
        parts.set(runCausal(fastestIsa, 2, tokensOf(inputs, 0, cut)))
        parts.set(runCausal(fastestIsa, 1, tokensOf(inputs, cut, o.tokens - cut)), cut * width)
        expectSameBits(parts, whole, { ...place, what: `cut at ${cut}` })
      }
    })
  }
})

describe('causal_attention and what it may not see', () => {
  it('rows behind the last one', () => {
    for (const dtype of DTYPES) {
      for (const rows of [0, 5, 31, 32, 100, 127, 128]) {
        const { inputs, place } = setup({ dtype, headDim: 16, queryHeads: 2, kvHeads: 1, rows, tokens: 1 })
        const clean = runCausal(fastestIsa, 1, inputs, 0)
        for (const poison of POISONS) {
          for (const isa of isas) {
            expectSameBits(runCausal(isa, 1, inputs, poison), clean, { ...place, what: `${isa}, poison ${poison}` })
          }
        }
      }
    }
  })

  it('keys of later tokens, and of rows outside the window, whatever they hold', () => {
    const o: AttentionOptions = {
      dtype: 'f32',
      headDim: 16,
      queryHeads: 2,
      kvHeads: 1,
      rows: 40,
      tokens: 6,
      window: 20,
    }
    const { inputs, place } = setup(o)
    const clean = runCausal(fastestIsa, 1, inputs)
    const k = inputs.k.slice()
    for (let d = 0; d < 16; d++) {
      k[d] = Number.NaN // row 0 is far outside
      k[44 * 16 + d] = Number.POSITIVE_INFINITY // row 44 is token 4
    }
    for (const isa of isas) {
      const got = runCausal(isa, 1, { ...inputs, k })
      expectSameBits(got.slice(0, 4 * 32), clean.slice(0, 4 * 32), { ...place, what: isa })
    }
  })
})

describe('causal_attention with values that are not numbers', () => {
  it('a query that is NaN spoils its own row and head only', () => {
    const { inputs, place } = setup({ dtype: 'f32', headDim: 16, queryHeads: 4, kvHeads: 2, rows: 40, tokens: 6 })
    const clean = runCausal(fastestIsa, 1, inputs)
    const q = inputs.q.slice()
    q[(2 * 4 + 1) * 16 + 3] = Number.NaN
    const got = onEveryIsa(place, (isa, threads) => runCausal(isa, threads, { ...inputs, q }))
    const expected = clean.map((value, i) => (Math.floor(i / 16) === 2 * 4 + 1 ? Number.NaN : value))
    expectSameBits(got, expected, place)
  })

  it('a key that is NaN spoils the rows that see it', () => {
    const { inputs, place } = setup({ dtype: 'f32', headDim: 16, queryHeads: 2, kvHeads: 1, rows: 130, tokens: 4 })
    const k = inputs.k.slice()
    k[131 * 16 + 3] = Number.NaN
    const clean = runCausal(fastestIsa, 1, inputs)
    const got = onEveryIsa(place, (isa, threads) => runCausal(isa, threads, { ...inputs, k }))
    expectSameBits(got.slice(0, 32), clean.slice(0, 32), place)
    expect(got.slice(32).every(Number.isNaN)).toBe(true)
  })
})

describe('causal_attention over a bf16 cache', () => {
  it('gives values of bf16 and no others', () => {
    const { inputs } = setup({ dtype: 'bf16', headDim: 16, queryHeads: 2, kvHeads: 1, rows: 40, tokens: 6 })
    const got = runCausal(fastestIsa, 1, inputs)
    expect(Array.from(got)).toEqual(Array.from(got, (value) => round('bf16', value)))
  })

  itOnCpu(
    'rounds weights to bf16 before they meet values, and not before they are summed',
    'exponentials are others',
    () => {
      // Two keys of width 1: the first scores 0 and has value 0, the second scores s and has value 1: out = round(round(e^s) / (1 + e^s)).
      const random = new Random('causal_attention bf16 weights')
      const heads = 400
      const s = Float32Array.from({ length: heads }, () => round('bf16', random.uniform(-6, 0)))
      const inputs: AttentionInputs = {
        dtype: 'bf16',
        queryHeads: heads,
        kvHeads: 1,
        headDim: 1,
        rows: 1,
        tokens: 1,
        position: 1,
        window: 0,
        positions: null,
        q: s,
        k: Float32Array.of(0, 1),
        v: Float32Array.of(0, 1),
      }
      const isClear = (value: number) => round('bf16', value * (1 - 2 ** -20)) === round('bf16', value * (1 + 2 ** -20))
      let compared = 0
      for (const isa of isas) {
        const got = runCausal(isa, 1, inputs)
        s.forEach((score, head) => {
          const weight = Math.exp(score)
          const share = round('bf16', weight) / (1 + weight)
          if (!isClear(weight) || !isClear(share)) return
          compared++
          expect(got[head], `${isa}, a score of ${score}`).toBe(round('bf16', share))
        })
      }
      expect(compared).toBeGreaterThan(isas.length * heads * 0.9)
    },
  )
})
