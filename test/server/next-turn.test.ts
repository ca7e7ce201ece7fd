// Work that waits until the engine has been asked again.
import { expect, test } from 'vitest'
import { nextTurn } from '../../src/server/next-turn.js'

test('all who wait in one turn go on together, after every microtask', async () => {
  const order: string[] = []
  const first = nextTurn().then(() => order.push('first'))
  const second = nextTurn().then(() => order.push('second'))
  for (let i = 0; i < 100; i++) await undefined
  order.push('microtasks')
  await Promise.all([first, second])
  expect(order).toEqual(['microtasks', 'first', 'second'])
})

test('whoever waits in the next turn does not wait for the one before', async () => {
  const first = nextTurn()
  await first
  const second = nextTurn()
  expect(second).not.toBe(first)
  await second
})
