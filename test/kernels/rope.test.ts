// rope: heads turned to their positions.
import { it } from 'vitest'
import { round } from '../oracle/dtype.js'
import { rope } from '../oracle/rope.js'
import { describeOnCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSame, expectSameBits, tolerance } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa, ops, roundUp, rowOf, strided } from '../support/ops.js'
import { Output } from '../support/output.js'
import { Random } from '../support/random.js'

interface RopeCase {
  tokens: number
  heads: number
  headDim: number
  asBf16: boolean
}

interface Inputs {
  x: Float32Array
  cos: Float32Array
  sin: Float32Array
}

function inputsOf({ tokens, heads, headDim }: RopeCase, random: Random): Inputs {
  const angles = Array.from({ length: (tokens * headDim) / 2 }, () => random.uniform(-4, 4))
  return {
    x: random.normals(tokens * heads * headDim),
    cos: Float32Array.from(angles, Math.cos),
    sin: Float32Array.from(angles, Math.sin),
  }
}

/** [T, H, D], written as a query: each head padded to whole tiles, the padding left alone. */
function run(isa: string, threads: number, c: RopeCase, { x, cos, sin }: Inputs): Float32Array {
  const outHeadStride = roundUp(c.headDim, 32)
  const xStride = c.heads * c.headDim + 9
  const out = new Output({ rows: c.tokens * c.heads, width: c.headDim, stride: outHeadStride })
  ops.rope(isa, threads, {
    ...c,
    x: strided(x, c.tokens, c.heads * c.headDim, xStride, Number.NaN),
    xStride,
    cos,
    sin,
    out: out.array,
    outStride: c.heads * outHeadStride,
    outHeadStride,
  })
  return out.values()
}

describeOnCpu('rope', 'it is a part of rope_append there', () => {
  for (const asBf16 of [false, true]) {
    it(`matches the oracle for every head width${asBf16 ? ', rounded to bf16' : ''}`, () => {
      for (const headDim of [2, 8, 16, 30, 64, 80, 96, 128, 256]) {
        for (const [tokens, heads] of [
          [1, 1],
          [5, 3],
          [33, 2],
        ] as const) {
          const c: RopeCase = { tokens, heads, headDim, asBf16 }
          const random = new Random(`rope T=${tokens} H=${heads} D=${headDim} bf16=${asBf16}`)
          const inputs = inputsOf(c, random)
          const place = { random, axes: { t: tokens, h: heads, d: headDim } }
          const got = onEveryIsa(place, (isa, threads) => run(isa, threads, c, inputs))
          const expected = rope(inputs.x, inputs.cos, inputs.sin, c)
          const half = headDim / 2
          const length = (i: number) => {
            const pair = i - (i % headDim) + (i % half)
            return Math.hypot(inputs.x[pair]!, inputs.x[pair + half]!)
          }
          expectClose(
            got,
            expected,
            (i) =>
              tolerance({ epsilon: EPSILON.f32, reduction: 2, magnitude: length(i), factor: 1 }) +
              (asBf16 ? (EPSILON.bf16 / 2) * Math.abs(expected[i]!) : 0),
            place,
          )
        }
      }
    })
  }

  it('no angle changes nothing', () => {
    const c: RopeCase = { tokens: 3, heads: 2, headDim: 16, asBf16: false }
    const random = new Random('rope no angle')
    const inputs = { ...inputsOf(c, random), cos: new Float32Array(24).fill(1), sin: new Float32Array(24) }
    const got = run(fastestIsa, 1, c, inputs)
    expectSame(got, inputs.x, { random, axes: { t: 3, h: 2, d: 16 } })
  })

  it('a token alone has the bits it has among 64 others', () => {
    const c: RopeCase = { tokens: 65, heads: 2, headDim: 16, asBf16: true }
    const random = new Random('rope alone')
    const inputs = inputsOf(c, random)
    for (const isa of isas) {
      const together = run(isa, 2, c, inputs)
      for (let t = 0; t < c.tokens; t++) {
        const alone = run(
          isa,
          1,
          { ...c, tokens: 1 },
          {
            x: rowOf(inputs.x, t, 32),
            cos: rowOf(inputs.cos, t, 8),
            sin: rowOf(inputs.sin, t, 8),
          },
        )
        expectSameBits(alone, rowOf(together, t, 32), { random, axes: { h: 2, d: 16 }, what: `${isa}, token ${t}` })
      }
    }
  })

  it('gives the values of bf16 and no others when asked to', () => {
    const c: RopeCase = { tokens: 3, heads: 2, headDim: 16, asBf16: true }
    const random = new Random('rope bf16 values')
    const got = run(fastestIsa, 1, c, inputsOf(c, random))
    expectSame(
      got,
      got.map((value) => round('bf16', value)),
      { random, axes: { t: 3, h: 2, d: 16 } },
    )
  })
})
