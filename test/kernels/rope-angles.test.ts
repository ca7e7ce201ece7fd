// rope_angles: tables of cosines and sines, from any position on.
import { describe, expect, it } from 'vitest'
import { EPSILON, expectClose } from '../support/compare.js'
import { isas, ops } from '../support/ops.js'
import { Random } from '../support/random.js'

describe('rope_angles', () => {
  for (const scale of [1, 1.3]) {
    it(`is the cosine and sine of the f32 product, times ${scale}, of every position, and leaves earlier rows alone`, () => {
      for (const half of [1, 4, 20, 48, 64, 128]) {
        for (const [first, count] of [
          [0, 1],
          [0, 70],
          [63, 3],
          [1000, 129],
        ] as const) {
          const random = new Random(`rope_angles half=${half} first=${first} count=${count} scale=${scale}`)
          const inverseFrequencies = Float32Array.from({ length: half }, (_, i) => 10000 ** (-i / half))
          for (const isa of isas) {
            const [cos, sin] = [7, 8].map((value) => new Float32Array((first + count) * half).fill(value)) as [
              Float32Array,
              Float32Array,
            ]
            ops.ropeAngles(isa, 1, { inverseFrequencies, half, scale, first, count, cos, sin })
            for (const [table, of, before] of [
              [cos, Math.cos, 7],
              [sin, Math.sin, 8],
            ] as const) {
              expect(table.subarray(0, first * half).every((value) => value === before)).toBe(true)
              const expected = Array.from(
                { length: count * half },
                (_, at) =>
                  Math.fround(scale) *
                  of(Math.fround((first + Math.floor(at / half)) * inverseFrequencies[at % half]!)),
              )
              const place = { random, axes: { position: count, i: half }, what: isa }
              expectClose(table.subarray(first * half), expected, EPSILON.f32 * scale, place)
            }
          }
        }
      }
    })
  }

  it('is as good far from the start', () => {
    const half = 8
    const first = 1_000_000
    const inverseFrequencies = Float32Array.from({ length: half }, (_, i) => 500000 ** (-i / half))
    for (const isa of isas) {
      const [cos, sin] = [new Float32Array((first + 5) * half), new Float32Array((first + 5) * half)]
      ops.ropeAngles(isa, 1, { inverseFrequencies, half, scale: 1, first, count: 5, cos, sin })
      for (let at = 0; at < 5 * half; at++) {
        const angle = Math.fround((first + Math.floor(at / half)) * inverseFrequencies[at % half]!)
        expect(Math.abs(cos[first * half + at]! - Math.cos(angle)), `${isa}, cosine ${at}`).toBeLessThan(EPSILON.f32)
        expect(Math.abs(sin[first * half + at]! - Math.sin(angle)), `${isa}, sine ${at}`).toBeLessThan(EPSILON.f32)
      }
    }
  })
})
