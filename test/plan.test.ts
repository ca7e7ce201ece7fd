// What a request's plan shares with those before it.
import { expect, test } from 'vitest'
import type { RankAccuracy } from '../src/decode/accuracy.js'
import { parseGenerateOptions, parseLoadOptions } from '../src/options.js'
import { type PlanContext, resolvePlan } from '../src/plan.js'

const ROWS: RankAccuracy = [
  [0.6, 0.1, 0.04],
  [0.5, 0.1, 0.04],
]

/** @param onRead called whenever an accuracy is looked at. */
function context(onRead: () => void = () => undefined): PlanContext {
  const accuracy = new Proxy(ROWS, {
    get(rows, key, receiver) {
      onRead()
      return Reflect.get(rows, key, receiver)
    },
  })
  const { speculation, kv } = parseLoadOptions({ model: 'm' })
  return {
    speculation,
    kv,
    medusaHeads: 2,
    measured: { accuracy, grown: null },
    eosIds: [],
    vocab: 97,
    tokenizer: null,
  }
}

test('a family of trees is grown once', () => {
  let reads = 0
  const of = context(() => reads++)
  for (const tree of ['auto', 4, 'chain:2'] as const) {
    const options = parseGenerateOptions({ speculation: { tree } })
    const { family } = resolvePlan(options, of)
    reads = 0
    expect(resolvePlan(options, of).family).toBe(family)
    expect(reads).toBe(0)
  }
})

test('one tree is one family, however it is spelt', () => {
  const of = context()
  const family = (tree: string | number) =>
    resolvePlan(parseGenerateOptions({ speculation: { tree } } as object), of).family
  expect(family('004')).toBe(family(4))
  expect(family('chain:02')).toBe(family('chain:2'))
})
