// Drafts fill the tree by depth and rank.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { draft } from '../../src/decode/draft.js'
import { buildTree, limitDepth, PLAIN_TREE } from '../../src/decode/tree.js'
import { choicesArbitrary } from './arbitrary.js'

/** Drafts whose token tells where it stands: 1000 + 100 * head + rank. */
const draftsOf = (medusaHeads: number, topK: number) => ({
  root: 7,
  tokens: Int32Array.from({ length: medusaHeads * topK }, (_, i) => 1000 + 100 * Math.floor(i / topK) + (i % topK)),
  logprobs: null,
})

test('a node holds its head’s draft of its rank, whatever its parent', () => {
  fc.assert(
    fc.property(choicesArbitrary(), fc.nat(3), fc.nat(2), (choices, moreDrafts, moreHeads) => {
      const tree = buildTree(choices)
      const topK = tree.maxRank + 1 + moreDrafts
      const tokens = draft(tree, draftsOf(tree.depth + moreHeads, topK), topK)
      expect([...tokens]).toEqual([7, ...tree.choices.map((path) => 1000 + 100 * (path.length - 1) + path.at(-1)!)])
    }),
  )
})

test('a plain tree drafts nothing', () => {
  expect([...draft(PLAIN_TREE, { root: 3, tokens: new Int32Array(0), logprobs: null }, 0)]).toEqual([3])
})

test('a limited tree reads the rows of the whole one', () => {
  const tree = buildTree([[0], [1], [0, 0], [0, 5]])
  const limited = limitDepth(tree, 1)
  expect([...draft(limited, draftsOf(2, tree.maxRank + 1), tree.maxRank + 1)]).toEqual([7, 1000, 1001])
})

test('too few drafts are a bug of ours', () => {
  const tree = buildTree([[0], [0, 0], [0, 1]])
  const internal = expect.objectContaining({ code: 'ERR_INTERNAL' })
  expect(() => draft(tree, draftsOf(1, 2), 2)).toThrow(internal)
  expect(() => draft(tree, draftsOf(2, 1), 1)).toThrow(internal)
})
