// The attention study's sums: favourites, hits, mass.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { favourites, hitsOf, type LayerVotes, massOf, topMask } from '../../../bench/quality/hit-rates.js'
import { LayerSums, shareOfAll, sharesByLayer } from '../../../bench/quality/study.js'

describe('topMask', () => {
  it('marks the largest, ties to the lower index', () => {
    expect([...topMask(Float32Array.of(1, 3, 2, 3, 2, 2), 4)]).toEqual([0, 1, 1, 1, 1, 0])
    expect([...topMask(Float32Array.of(1, 1, 1), 2)]).toEqual([1, 1, 0])
  })

  it('marks nothing, or everything', () => {
    expect([...topMask(Float32Array.of(1, 2), 0)]).toEqual([0, 0])
    expect([...topMask(Float32Array.of(1, 2), 2)]).toEqual([1, 1])
    expect([...topMask(Float32Array.of(1, 2), 5)]).toEqual([1, 1])
  })

  it('is what sorting by value, then by index, marks', () => {
    const values = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 30 })
    fc.assert(
      fc.property(values, fc.nat({ max: 30 }), (list, count) => {
        const best = list.map((_, i) => i).sort((a, b) => list[b]! - list[a]! || a - b)
        const expected = list.map((_, i) => (best.indexOf(i) < count ? 1 : 0))
        expect([...topMask(Float32Array.from(list), count)]).toEqual(expected)
      }),
    )
  })
})

// Two query heads of one KV head, or of two; four rows of a prompt, one generated. Range 0 is the window's votes, range 1 a query.
const layer: LayerVotes = {
  queryHeads: 2,
  tokens: 5,
  votes: Float32Array.of(
    ...[0.5, 0.1, 0.3, 0.1, 0],
    ...[0.1, 0.2, 0.3, 0.4, 0],
    ...[0.4, 0.25, 0.02, 0.08, 0.25],
    ...[0.06, 0.0, 0.25, 0.04, 0.65],
  ),
}

describe('hit rate', () => {
  it('counts important rows of every head, and those among its own favourites', () => {
    const chosen = favourites(layer, 0, 4, 0.5)
    expect(chosen.map((mask) => [...mask])).toEqual([
      [1, 0, 1, 0],
      [0, 0, 1, 1],
    ])
    // Head 0 attends to rows 0, 1 and 3, of which 0 is a favourite; head 1 to 0 and 2, of which 2 is.
    expect(hitsOf(layer, chosen, 1, 0.05)).toEqual({ hits: 2, important: 5 })
    // Rows at the threshold are not above it; the generated row, behind the prompt, never counts.
    expect(hitsOf(layer, chosen, 1, 0.25)).toEqual({ hits: 1, important: 1 })
  })

  it('takes the whole share, rounded down, of the rows before the window only', () => {
    expect(favourites(layer, 0, 3, 0.5).map((mask) => [...mask])).toEqual([
      [1, 0, 0],
      [0, 0, 1],
    ])
  })
})

describe('recall', () => {
  it('adds up what falls on kept rows, by the KV head of each query head', () => {
    const shared = massOf(layer, [[0, 3]], 1, 4)
    expect(shared.kept).toBeCloseTo(0.4 + 0.08 + 0.06 + 0.04)
    expect(shared.whole).toBeCloseTo(0.75 + 0.35)
    expect(massOf(layer, [[0], [2]], 1, 4).kept).toBeCloseTo(0.4 + 0.25)
  })

  it('of everything is everything, exactly', () => {
    const { kept, whole } = massOf(layer, [[0, 1, 2, 3]], 1, 4)
    expect(kept).toBe(whole)
  })
})

describe('LayerSums', () => {
  it('adds per layer and place, and gives shares', () => {
    const sums = new LayerSums(2)
    const near = { measure: 'hit rate', length: 8, depth: 0, window: 4, threshold: 0.05 } as const
    sums.add(near, 0, 1, 2)
    sums.add({ ...near }, 0, 1, 2)
    sums.add(near, 1, 0, 0)
    sums.add({ ...near, depth: 9 }, 1, 3, 4)
    const all = sums.measurements()
    expect(all).toEqual([
      { ...near, parts: '2 0', wholes: '4 0' },
      { ...near, depth: 9, parts: '0 3', wholes: '0 4' },
    ])
    expect(sharesByLayer(all)).toEqual([0.5, 0.75])
    expect(sharesByLayer(all.slice(0, 1))).toEqual([0.5, Number.NaN])
    expect(shareOfAll(all)).toBe(5 / 8)
    expect(sharesByLayer([])).toEqual([])
  })
})
