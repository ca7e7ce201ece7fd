// Scores per head, and gradients that are those of the heads' mean losses.
import { describe, expect, test } from 'vitest'
import { depthWeights, gradientScales, lossPositions, ScoreTotals } from '../../../heads/train/loss.js'
import { RANK_COUNT } from '../../../src/decode/choices.js'

const text = (length: number, from = 0) => ({ tokens: new Int32Array(length), from })

/** Positions by the definition: head h at t stands for t + 2 + h. */
function countPositions(length: number, from: number, head: number): number {
  let count = 0
  for (let t = 0; t < length; t++) if (t + 2 + head < length && t + 2 + head >= from) count++
  return count
}

test('a head has the positions whose token exists and is not context', () => {
  for (const length of [0, 1, 2, 3, 4, 9]) {
    for (const from of [0, 1, 2, 3, length]) {
      for (const head of [0, 1, 5]) {
        expect(lossPositions(text(length, from), head), `${length} ${from} ${head}`).toBe(
          countPositions(length, from, head),
        )
      }
    }
  }
})

describe('gradient scales', () => {
  test('make every head count its weight, however many positions it has', () => {
    const batch = [text(10), text(4), text(6, 5)]
    const weights = depthWeights(3, 0.5)
    const { scales, scale } = gradientScales(batch, weights)
    for (let head = 0; head < 3; head++) {
      const positions = batch.reduce((sum, one) => sum + lossPositions(one, head), 0)
      expect(scales[head]! * scale * positions).toBeCloseTo(weights[head]!, 6)
    }
  })

  test('leave a head alone that has no positions', () => {
    const { scales } = gradientScales([text(3)], depthWeights(2, 1))
    expect([...scales]).toEqual([1, 0])
  })
})

describe('totals', () => {
  /** Two heads over four positions, of which the second has three. */
  const scores = {
    losses: Float32Array.of(1, 2, 3, 2, 4, 0, 0, 5),
    ranks: Int32Array.of(0, 4, 9, 10, 0, -1, 0, 5),
  }

  test('are means and shares over the positions that count', () => {
    const totals = new ScoreTotals(2)
    totals.add(scores)
    expect(totals.heads()).toEqual([
      { positions: 4, loss: 2, top1: 0.25, top5: 0.5, top10: 0.75 },
      { positions: 3, loss: 3, top1: 2 / 3, top5: 2 / 3, top10: 1 },
    ])
    expect(totals.weightedLoss([1, 0.5])).toBeCloseTo((2 + 0.5 * 3) / 1.5, 12)
  })

  test('add up over texts', () => {
    const totals = new ScoreTotals(2)
    totals.add(scores)
    totals.add(scores)
    expect(totals.rankCounts()).toEqual([
      { positions: 8, hits: [2, 0, 0, 0, 2, 0, 0, 0, 0, 2] },
      { positions: 6, hits: [4, 0, 0, 0, 0, 2, 0, 0, 0, 0] },
    ])
    expect(totals.rankCounts()[0]!.hits).toHaveLength(RANK_COUNT)
  })

  test('say which head has a loss that is no number', () => {
    const totals = new ScoreTotals(2)
    totals.add(scores)
    expect(totals.divergedHead).toBeNull()
    totals.add({ losses: Float32Array.of(1, Number.NaN), ranks: Int32Array.of(0, 0) })
    expect(totals.divergedHead).toBe(1)
  })

  test('without positions are nothing, and count for nothing', () => {
    const totals = new ScoreTotals(2)
    totals.add({ losses: Float32Array.of(2, 0), ranks: Int32Array.of(1, -1) })
    expect(totals.heads()[1]).toEqual({ positions: 0, loss: null, top1: 0, top5: 0, top10: 0 })
    expect(totals.weightedLoss([1, 0.8])).toBe(2)
    expect(new ScoreTotals(2).weightedLoss([1, 0.8])).toBe(0)
  })
})
