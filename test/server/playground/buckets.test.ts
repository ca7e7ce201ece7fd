// A long series keeps its averages in few points.
import { expect, test } from 'vitest'
import { Buckets } from '../../../src/server/playground/buckets.js'

test('amounts are averaged over what they weigh, at the middle of their stretch', () => {
  const buckets = new Buckets(1, 8)
  buckets.add(0, 3, 1)
  buckets.add(0.5, 1, 1)
  buckets.add(2, 8, 2)
  expect(buckets.points()).toEqual({ x: [0.5, 2.5], y: [2, 4] })
})

test('more stretches than allowed become fewer and wider ones, and nothing is lost', () => {
  const buckets = new Buckets(1, 8)
  for (let step = 0; step < 1000; step++) buckets.add(step, step % 4, 1)
  const { x, y } = buckets.points()
  expect(x.length).toBeLessThanOrEqual(8)
  expect(x).toEqual([64, 192, 320, 448, 576, 704, 832, 960])
  // 0, 1, 2, 3 and again: 1.5 on average, wherever the stretch is whole.
  expect(y).toEqual([1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5])
})

test('one far point makes room for itself', () => {
  const buckets = new Buckets(1, 4)
  buckets.add(0, 1, 1)
  buckets.add(1_000_000, 5, 1)
  expect(buckets.points().y).toEqual([1, 5])
})
