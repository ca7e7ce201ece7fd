// Windows and batches: everything is read once an epoch, in an order that the seed and the epoch make.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { BatchPlan, cutWindows, grouped, shuffled } from '../../../heads/train/batches.js'

const BOS = 1
const document = (tokens: readonly number[], from = 0) => ({ tokens: Int32Array.from(tokens), from })
const plain = (windows: ReturnType<typeof cutWindows>) =>
  windows.map(({ tokens, from }) => ({ tokens: [...tokens], from }))

describe('windows', () => {
  test('begin as their document does', () => {
    expect(plain(cutWindows([document([BOS, 10, 11, 12, 13, 14, 15, 16])], 4, BOS))).toEqual([
      { tokens: [BOS, 10, 11, 12], from: 0 },
      { tokens: [BOS, 13, 14, 15], from: 0 },
    ])
    expect(plain(cutWindows([document([10, 11, 12, 13, 14, 15, 16])], 4, BOS))).toEqual([
      { tokens: [10, 11, 12, 13], from: 0 },
      { tokens: [14, 15, 16], from: 0 },
    ])
  })

  test('know where their context ends', () => {
    expect(plain(cutWindows([document([BOS, 10, 11, 12, 13, 14, 15, 16, 17, 18], 5)], 4, BOS))).toEqual([
      { tokens: [BOS, 13, 14, 15], from: 2 },
      { tokens: [BOS, 16, 17, 18], from: 0 },
    ])
  })

  test('without a token to learn are left out', () => {
    expect(cutWindows([document([BOS, 10]), document([BOS, 10, 11], 3), document([])], 8, BOS)).toEqual([])
  })

  test('have every token of a text once', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 3, max: 60 }),
        fc.integer({ min: 3, max: 9 }),
        fc.boolean(),
        (length, context, bos) => {
          const tokens = Array.from({ length }, (_, i) => 100 + i)
          const windows = plain(cutWindows([document(bos ? [BOS, ...tokens] : tokens)], context, BOS))
          const read = windows.flatMap((window) => (bos ? window.tokens.slice(1) : window.tokens))
          // A rest of less than three tokens teaches nothing.
          expect(tokens.slice(0, read.length)).toEqual(read)
          expect(tokens.length - read.length).toBeLessThan(3)
          for (const window of windows) expect(window.tokens.length).toBeLessThanOrEqual(context)
        },
      ),
    )
  })
})

describe('batches', () => {
  const lengths = [5, 3, 9, 2, 7, 7, 1, 4]

  test('have every window once an epoch, and no more tokens than asked for', () => {
    const plan = new BatchPlan(lengths, 10, 1)
    for (let epoch = 0; epoch < 3; epoch++) {
      const steps = range(plan.stepsOf(epoch) + 1, plan.stepsOf(epoch + 1))
      const batches = steps.map((step) => plan.at(step))
      expect(batches.every((batch) => batch.epoch === epoch)).toBe(true)
      expect(batches.flatMap(({ windows }) => windows).sort()).toEqual(lengths.map((_, i) => i))
      for (const { windows } of batches) {
        expect(windows.reduce((sum, window) => sum + lengths[window]!, 0)).toBeLessThanOrEqual(10)
      }
    }
  })

  test('take a window that is larger by itself', () => {
    const plan = new BatchPlan([30, 20], 10, 1)
    expect(plan.stepsOf(1)).toBe(2)
    expect(plan.at(1).windows).toHaveLength(1)
  })

  test('depend on the seed and the step alone', () => {
    const through = new BatchPlan(lengths, 10, 7)
    const all = range(1, through.stepsOf(4)).map((step) => through.at(step))
    for (const step of [all.length, 1, Math.floor(all.length / 2)]) {
      expect(new BatchPlan(lengths, 10, 7).at(step)).toEqual(all[step - 1])
    }
    const other = new BatchPlan(lengths, 10, 8)
    expect(range(1, other.stepsOf(4)).map((step) => other.at(step))).not.toEqual(all)
    expect(all.slice(0, through.stepsOf(1))).not.toEqual(all.slice(through.stepsOf(1), through.stepsOf(2)))
  })
})

test('an order holds every number once, and every place is as likely', () => {
  const first = new Array<number>(5).fill(0)
  for (let seed = 0; seed < 5000; seed++) {
    const order = shuffled(5, `${seed}`)
    expect([...order].sort()).toEqual([0, 1, 2, 3, 4])
    first[order[0]!]!++
  }
  // Five standard deviations of a count of 1000.
  for (const count of first) expect(Math.abs(count - 1000)).toBeLessThan(5 * Math.sqrt(800))
})

test('groups keep the order, and their size unless one item is larger', () => {
  expect(grouped([3, 3, 3, 9, 1, 1], (size) => size, 6)).toEqual([[3, 3], [3], [9], [1, 1]])
  expect(grouped([], () => 1, 6)).toEqual([])
})

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i)
}
