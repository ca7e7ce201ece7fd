// Acceptance keeps a path of the tree, equals its oracle, and in exact mode equals plain decoding.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type AcceptRule, accept } from '../../src/decode/accept.js'
import { type Choices, chain } from '../../src/decode/choices.js'
import { draft } from '../../src/decode/draft.js'
import { buildTree, limitDepth, PLAIN_TREE, type Tree } from '../../src/decode/tree.js'
import type { Posterior } from '../../src/native.js'
import { acceptExact, acceptTypical } from '../oracle/accept.js'
import { choicesArbitrary } from './arbitrary.js'

const EXACT: AcceptRule = { rule: 'exact' }

const posterior = (parts: Partial<Record<'chosen' | 'tokenProb' | 'entropy', readonly number[]>>): Posterior => ({
  chosen: Int32Array.from(parts.chosen ?? []),
  tokenProb: Float32Array.from(parts.tokenProb ?? []),
  entropy: Float32Array.from(parts.entropy ?? []),
  logprobs: null,
})

/** A tree with a token, a choice, a probability and an entropy per node; few distinct tokens, so that many match, and id 0 is one. */
const caseArbitrary = fc
  .tuple(choicesArbitrary({ maxNodes: 40, maxDepth: 5 }), fc.integer({ min: 1, max: 4 }))
  .chain(([choices, vocab]) => {
    const tree = buildTree(choices)
    const rows = <Value>(value: fc.Arbitrary<Value>) =>
      fc.array(value, { minLength: tree.nodeCount, maxLength: tree.nodeCount })
    // Coarse probabilities, exact in f32, so that ties of the sums occur.
    return fc.record({
      tree: fc.constant(tree),
      tokens: rows(fc.nat(vocab - 1)),
      chosen: rows(fc.nat(vocab - 1)),
      tokenProb: rows(fc.constantFrom(0, 0.0625, 0.125, 0.25, 0.5, 1)),
      entropy: rows(fc.constantFrom(0, 0.5, 1, 2, 4)),
    })
  })

const ruleArbitrary = fc.record({
  epsilon: fc.constantFrom(0.01, 0.09, 0.125, 0.3, 1),
  delta: fc.constantFrom(0.05, 0.3, 0.5, 1),
})

const oracleChoices = (tree: Tree): number[][] => tree.choices.map((path) => [...path])

describe('any tree, any posterior', () => {
  test('exact acceptance equals its oracle', () => {
    fc.assert(
      fc.property(caseArbitrary, ({ tree, ...rows }) => {
        const accepted = accept(tree, Int32Array.from(rows.tokens), posterior({ chosen: rows.chosen }), EXACT)
        expect([...accepted.path]).toEqual(acceptExact({ choices: oracleChoices(tree), ...rows }))
      }),
      { numRuns: 500 },
    )
  })

  test('typical acceptance equals its oracle', () => {
    fc.assert(
      fc.property(caseArbitrary, ruleArbitrary, ({ tree, ...rows }, rule) => {
        const accepted = accept(tree, Int32Array.from(rows.tokens), posterior(rows), { rule: 'typical', ...rule })
        expect([...accepted.path]).toEqual(acceptTypical({ choices: oracleChoices(tree), ...rows }, rule))
      }),
      { numRuns: 500 },
    )
  })

  test('the result is a path from the root, with its tokens, no longer than the tree is deep', () => {
    fc.assert(
      fc.property(caseArbitrary, fc.option(ruleArbitrary), ({ tree, ...rows }, typical) => {
        const rule: AcceptRule = typical ? { rule: 'typical', ...typical } : EXACT
        const { path, tokens, length } = accept(tree, Int32Array.from(rows.tokens), posterior(rows), rule)
        expect(path[0]).toBe(0)
        expect(path).toHaveLength(length + 1)
        expect(length).toBeLessThanOrEqual(tree.depth)
        for (let depth = 1; depth <= length; depth++) expect(tree.parents[path[depth]!]).toBe(path[depth - 1])
        expect([...tokens]).toEqual([...path].map((node) => rows.tokens[node]))
      }),
    )
  })

  test('a stricter typical rule never accepts more', () => {
    const step = fc.double({ min: 0, max: 0.5, noNaN: true })
    fc.assert(
      fc.property(caseArbitrary, ruleArbitrary, step, step, ({ tree, ...rows }, { epsilon, delta }, up, across) => {
        const lengthOf = (rule: { epsilon: number; delta: number }): number =>
          accept(tree, Int32Array.from(rows.tokens), posterior(rows), { rule: 'typical', ...rule }).length
        expect(lengthOf({ epsilon: epsilon + up, delta: delta + across })).toBeLessThanOrEqual(
          lengthOf({ epsilon, delta }),
        )
      }),
    )
  })
})

describe('exact decoding against a model that is any function of the text so far', () => {
  /** The token after a text: a hash of its last three tokens and a seed. */
  const nextToken = (text: readonly number[], seed: number, vocab: number): number => {
    let hash = seed
    for (const token of text.slice(-3)) hash = Math.imul(hash ^ (token + 1), 0x9e3779b1) >>> 7
    return hash % vocab
  }

  const plainDecode = (count: number, seed: number, vocab: number): number[] => {
    const text: number[] = []
    while (text.length < count) text.push(nextToken(text, seed, vocab))
    return text
  }

  const decodeWithTree = (
    tree: Tree,
    count: number,
    seed: number,
    vocab: number,
    draftRow: (at: number) => number[],
  ) => {
    const text: number[] = []
    const lengths: number[] = []
    const topK = tree.maxRank + 1
    let root = nextToken([], seed, vocab)
    while (text.length < count) {
      const now = limitDepth(tree, count - text.length - 1)
      const rows = Array.from({ length: tree.depth }, (_, head) => draftRow(text.length + 1 + head).slice(0, topK))
      const tokens = draft(now, { root, tokens: Int32Array.from(rows.flat()), logprobs: null }, topK)
      const textAt = (node: number): number[] => (node < 0 ? text : [...textAt(now.parents[node]!), tokens[node]!])
      const chosen = Array.from(tokens.keys(), (node) => nextToken(textAt(node), seed, vocab))
      const accepted = accept(now, tokens, posterior({ chosen }), EXACT)
      text.push(...accepted.tokens)
      lengths.push(accepted.length)
      root = chosen[accepted.path.at(-1)!]!
    }
    return { text, lengths }
  }

  test('any tree and any drafts, duplicates included, give the same text', () => {
    fc.assert(
      fc.property(
        choicesArbitrary({ maxDepth: 5 }),
        fc.nat(),
        fc.integer({ min: 1, max: 5 }),
        (choices, seed, vocab) => {
          const draftRow = (at: number): number[] =>
            Array.from({ length: 10 }, (_, rank) => (seed + at * 7 + rank * 3) % vocab)
          const { text } = decodeWithTree(buildTree(choices), 40, seed, vocab, draftRow)
          expect(text).toEqual(plainDecode(40, seed, vocab))
        },
      ),
    )
  })

  test('heads that are always right make every step as long as the tree is deep', () => {
    const plain = plainDecode(42, 5, 1000)
    const { text, lengths } = decodeWithTree(buildTree([...chain(4), [1], [0, 1]]), 40, 5, 1000, (at) => [
      plain[at]!,
      -1,
    ])
    expect(text).toEqual(plain.slice(0, 40))
    expect(lengths).toEqual(new Array(8).fill(4))
  })
})

describe('cases that have gone wrong elsewhere', () => {
  // A short path [1] beside a deep one: the model chooses token 0 after the short path's leaf, and a padded row would take its padding
  // for an accepted token.
  const choices: Choices = [[0], [1], [0, 0], [0, 0, 0]]

  test('token 0 after a short path accepts nothing more', () => {
    const accepted = accept(
      buildTree(choices),
      Int32Array.of(9, 5, 6, 5, 5),
      posterior({ chosen: [6, 1, 0, 0, 0] }),
      EXACT,
    )
    expect([...accepted.path]).toEqual([0, 2])
    expect(accepted.length).toBe(1)
  })

  test('token 0 is accepted like any other where it is drafted', () => {
    const accepted = accept(
      buildTree(choices),
      Int32Array.of(0, 0, 3, 0, 0),
      posterior({ chosen: [0, 0, 0, 0, 0] }),
      EXACT,
    )
    expect([...accepted.path]).toEqual([0, 1, 3, 4])
  })

  test('of siblings with one token the first wins, though the other has the longer path', () => {
    const tree = buildTree([[0], [1], [1, 0]])
    const accepted = accept(tree, Int32Array.of(1, 4, 4, 8), posterior({ chosen: [4, 8, 8, 0] }), EXACT)
    expect([...accepted.path]).toEqual([0, 1])
  })

  test('the one-node tree accepts its root', () => {
    for (const rule of [EXACT, { rule: 'typical', epsilon: 0.09, delta: 0.3 }] as const) {
      const accepted = accept(
        PLAIN_TREE,
        Int32Array.of(3),
        posterior({ chosen: [3], tokenProb: [1], entropy: [0] }),
        rule,
      )
      expect(accepted).toEqual({ path: Int32Array.of(0), tokens: Int32Array.of(3), length: 0 })
    }
  })
})

describe('the typical threshold', () => {
  const tree = buildTree([[0]])
  const accepts = (p: number, entropy: number): boolean =>
    accept(tree, Int32Array.of(0, 1), posterior({ tokenProb: [1, p], entropy: [entropy, 0] }), {
      rule: 'typical',
      epsilon: 0.09,
      delta: 0.3,
    }).length === 1

  test('is epsilon where the model is certain', () => {
    expect(accepts(0.0901, 0)).toBe(true)
    expect(accepts(0.0899, 0)).toBe(false)
  })

  test('falls with exp(-H) where it is not', () => {
    expect(accepts(0.015, 3)).toBe(true)
    expect(accepts(0.0149, 3)).toBe(false)
  })

  test('turns from one to the other at H = ln(delta / epsilon)', () => {
    expect(accepts(0.0899, 1.2)).toBe(false)
    expect(accepts(0.0899, 1.21)).toBe(true)
  })

  test('must be exceeded, not met', () => {
    const met = posterior({ tokenProb: [1, 0.25], entropy: [0, 0] })
    expect(accept(tree, Int32Array.of(0, 1), met, { rule: 'typical', epsilon: 0.25, delta: 1 }).length).toBe(0)
  })

  test('refuses NaN, in probability and in entropy, and what is below', () => {
    expect(accepts(Number.NaN, 0)).toBe(false)
    expect(accepts(0.5, Number.NaN)).toBe(false)
    const below = posterior({ tokenProb: [1, Number.NaN, 1], entropy: [0, 0, 0] })
    const accepted = accept(buildTree(chain(2)), Int32Array.of(0, 1, 2), below, {
      rule: 'typical',
      epsilon: 0.09,
      delta: 0.3,
    })
    expect(accepted.length).toBe(0)
  })

  test('prefers length, then likelihood, then the lower node', () => {
    const rule: AcceptRule = { rule: 'typical', epsilon: 0.09, delta: 0.3 }
    const branches = buildTree([[0], [1], [2], [1, 0], [2, 0]])
    const pathWith = (tokenProb: number[]): number[] => [
      ...accept(branches, new Int32Array(6), posterior({ tokenProb, entropy: new Array<number>(6).fill(0) }), rule)
        .path,
    ]
    expect(pathWith([1, 0.9, 0.1, 0.1, 0.1, 0])).toEqual([0, 2, 4])
    expect(pathWith([1, 0.9, 0.25, 0.5, 0.5, 0.5])).toEqual([0, 3, 5])
    expect(pathWith([1, 0.9, 0.25, 0.5, 0.5, 0.25])).toEqual([0, 2, 4])
    expect(pathWith([1, 0.2, 0.5, 0.5, 0, 0])).toEqual([0, 2])
  })
})

test('rows of another length are a bug of ours', () => {
  const tree = buildTree(chain(2))
  const internal = expect.objectContaining({ code: 'ERR_INTERNAL' })
  expect(() => accept(tree, new Int32Array(2), posterior({ chosen: [0, 0, 0] }), EXACT)).toThrow(internal)
  expect(() => accept(tree, new Int32Array(3), posterior({ chosen: [0, 0] }), EXACT)).toThrow(internal)
  expect(() =>
    accept(tree, new Int32Array(3), posterior({ chosen: [0, 0, 0] }), { rule: 'typical', epsilon: 0.1, delta: 0.3 }),
  ).toThrow(internal)
})
