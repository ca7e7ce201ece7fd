// The gate against heads and machines of every kind: speculation where it pays, plain steps where it does not, and little lost in finding out.
import { describe, expect, test } from 'vitest'
import { Acceptance } from '../../src/decode/acceptance.js'
import type { RankAccuracy } from '../../src/decode/accuracy.js'
import { type GateDecision, type GateOptions, Pilot, type Surroundings } from '../../src/decode/gate.js'
import { LiveCosts, type StepCosts, stepMs } from '../../src/decode/step-costs.js'
import { PLAIN_TREE, parseTree } from '../../src/decode/tree.js'
import { autoFamily, PLAIN_FAMILY, singleFamily, type TreeFamily } from '../../src/decode/tree-family.js'
import { Random } from '../support/random.js'

const GATE: GateOptions = { margin: 0.03, probeEvery: 32, maxBatch: 1024 }
const ACCURACY: RankAccuracy = [
  [0.63, 0.1, 0.044, 0.026, 0.018],
  [0.6, 0.11, 0.055, 0.036, 0.025],
  [0.55, 0.11, 0.061, 0.041, 0.03],
  [0.5, 0.1, 0.063, 0.047, 0.034],
]
const USELESS: RankAccuracy = ACCURACY.map((row) => row.map(() => 0))
const PERFECT: RankAccuracy = ACCURACY.map(() => [1])
const MEASURED = { accuracy: ACCURACY, grown: null }
const AUTO = autoFamily(MEASURED, 4)

const table = (ms: (rows: number) => number, draft = 0.08): StepCosts => {
  const rows = [1, 2, 4, 8, 16, 32, 64, 128, 256]
  return {
    rows,
    ms: rows.map(ms),
    cacheRows: 32,
    attention: { rows: [1, 64], msPerCacheRow: [0.00005, 0.0002] },
    draftMs: [0, draft, 1.5 * draft, 2 * draft, 2.5 * draft],
    sequenceMs: 0.01,
  }
}
/** Rows are nearly free: weights take longer to read than to multiply. */
const MEMORY_BOUND = table((rows) => 1 + 0.004 * rows)
/** Every row costs as much as the first four. */
const VECTOR = table((rows) => 0.6 + 0.1 * Math.max(4, rows))
/** Nothing is shared: a row is a row. */
const SERIAL = table((rows) => rows)

interface Trial {
  readonly family?: TreeFamily
  readonly costs?: StepCosts
  /** What steps really take, where the table is wrong. */
  readonly truth?: StepCosts
  readonly heads?: (token: number) => RankAccuracy
  readonly gate?: GateOptions | null
  readonly tokens?: number
  readonly sequences?: number
  readonly seed?: number
  readonly noise?: number
}

interface Outcome {
  readonly ms: number
  /** Of plain steps alone. */
  readonly plainMs: number
  readonly sizes: readonly number[]
  readonly decision: GateDecision
  /** Drafts that no tree held. */
  readonly wastedDraftMs: number
}

/** A text whose token at index i is i, on a clock that follows a table. Heads draw the rank of their right draft, as often as they are right. */
function run({
  family = AUTO,
  costs = MEMORY_BOUND,
  truth = costs,
  heads = () => ACCURACY,
  gate = GATE,
  tokens: wanted = 2000,
  sequences = 1,
  seed = 1,
  noise = 0,
}: Trial): Outcome {
  const random = new Random(`gate ${seed}`)
  const pilot = new Pilot({
    family,
    costs: new LiveCosts(costs),
    gate,
    gateless: gate ? '' : 'none',
    acceptance: new Acceptance(family, family.shares, 2, 0.97),
  })
  const sizes: number[] = []
  let [ms, plainMs, wastedDraftMs, at] = [0, 0, 0, 0]
  while (at < wanted) {
    const surroundings: Surroundings = { cacheRows: 400 + at, sequences, maxDepth: 1000 }
    const step = pilot.next(surroundings)
    const ranks = Array.from({ length: step.medusaHeads }, (_, head) => {
      const luck = random.uniform()
      let sum = 0
      return heads(at)[head]!.findIndex((share) => {
        sum += share
        return luck < sum
      })
    })
    const drafts = new Int32Array(step.medusaHeads * step.topK).fill(-1)
    ranks.forEach((rank, head) => {
      if (rank >= 0 && rank < step.topK) drafts[head * step.topK + rank] = at + 1 + head
    })
    pilot.drafted({ root: at, tokens: drafts, logprobs: null })
    let [node, length] = [0, 0]
    for (let next: number | undefined = 0; next !== undefined; ) {
      node = next
      next = step.tree.children[node]!.find((child) => step.tree.ranks[child] === ranks[length])
      if (next !== undefined) length++
    }
    const shape = { nodes: step.tree.nodeCount, medusaHeads: step.medusaHeads, ...surroundings }
    const took = stepMs(truth, shape) * (1 + noise * (random.uniform() - 0.5))
    pilot.stepped(
      step.tree,
      Int32Array.from({ length: length + 1 }, (_, i) => at + i),
      took,
    )
    ms += took
    for (let i = 0; i <= length; i++) {
      plainMs += stepMs(truth, { nodes: 1, medusaHeads: 0, cacheRows: 400 + at + i, sequences })
    }
    if (step.tree.nodeCount === 1) wastedDraftMs += truth.draftMs[step.medusaHeads]!
    sizes.push(step.tree.nodeCount)
    at += length + 1
  }
  return { ms, plainMs, sizes, decision: pilot.decision(), wastedDraftMs }
}

const share = (sizes: readonly number[], holds: (size: number) => boolean): number =>
  sizes.filter(holds).length / sizes.length

describe('useless heads', () => {
  for (const [name, costs] of Object.entries({ MEMORY_BOUND, VECTOR, SERIAL })) {
    test(`are given up within a few steps: ${name}`, () => {
      const { ms, plainMs, sizes, decision } = run({ costs, heads: () => USELESS })
      expect(ms / plainMs).toBeLessThan(1.03)
      expect(share(sizes.slice(30), (size) => size > 1)).toBeLessThan(0.01)
      expect(decision.decision).not.toBe('speculated')
      expect(decision.expectedSpeedup).toBeLessThan(1)
      expect(decision.reason).toMatch(/begins at 1.03/)
    })
  }

  test('cost two per cent to keep an eye on, also where drafts are dear', () => {
    const dear = table((rows) => 1 + 0.004 * rows, 0.8)
    const { plainMs, wastedDraftMs, decision } = run({ costs: dear, heads: () => USELESS, tokens: 6000 })
    expect(decision.probes).toBeGreaterThan(10)
    expect(wastedDraftMs / plainMs).toBeLessThan(0.025)
  })

  test('cost no tree at all where experience knows them', () => {
    const acceptance = new Acceptance(
      AUTO,
      AUTO.shares.map((_, node) => (node === 0 ? 1 : 0)),
      4,
      0.97,
    )
    const pilot = new Pilot({ family: AUTO, costs: new LiveCosts(VECTOR), gate: GATE, gateless: '', acceptance })
    expect(pilot.next({ cacheRows: 100, sequences: 1, maxDepth: 99 }).tree).toBe(PLAIN_TREE)
  })
})

describe('good heads', () => {
  test('are used at every step but a few', () => {
    const { ms, plainMs, decision, sizes } = run({})
    expect(decision.decision).toBe('speculated')
    expect(plainMs / ms).toBeGreaterThan(2)
    expect(share(sizes, (size) => size === 1)).toBeLessThan(0.02)
  })

  test('make as good a use of a machine as the best tree of one size', () => {
    for (const costs of [MEMORY_BOUND, VECTOR]) {
      const fixed = AUTO.sizes.map((size) => {
        const family = singleFamily(AUTO.tree(size), MEASURED)
        return run({ family, costs, gate: null, tokens: 6000 }).ms
      })
      expect(run({ costs, tokens: 6000 }).ms).toBeLessThan(1.05 * Math.min(...fixed))
    }
  })

  test('get small trees where rows are dear, large ones where they are free, none where nothing is shared', () => {
    const usual = (costs: StepCosts) => run({ costs }).sizes.toSorted((a, b) => a - b)[100]!
    const median = (costs: StepCosts): number => {
      const { sizes } = run({ costs })
      return sizes.toSorted((a, b) => a - b)[sizes.length >> 1]!
    }
    expect(median(MEMORY_BOUND)).toBeGreaterThanOrEqual(16)
    expect(median(VECTOR)).toBeGreaterThan(1)
    expect(median(VECTOR)).toBeLessThanOrEqual(8)
    expect(usual(SERIAL)).toBe(1)
  })

  test('that are perfect get the depth of all heads, at four drafts a step', () => {
    const { plainMs, ms } = run({ heads: () => PERFECT, costs: VECTOR })
    expect(plainMs / ms).toBeGreaterThan(3)
  })
})

describe('a text that changes', () => {
  test('is followed both ways', () => {
    const heads = (token: number) => (token >= 1000 && token < 3000 ? ACCURACY : USELESS)
    const { sizes, decision } = run({ heads, costs: VECTOR, tokens: 4000 })
    expect(decision.decision).toBe('mixed')
    // Steps of the first thousand tokens are plain ones, so the good part begins there.
    const early = sizes.slice(50, 900)
    expect(share(early, (size) => size > 1)).toBeLessThan(0.01)
    const good = sizes.slice(1250, 1600)
    expect(share(good, (size) => size > 1)).toBeGreaterThan(0.9)
    expect(share(sizes.slice(-900), (size) => size > 1)).toBeLessThan(0.03)
  })

  test('never loses more than a few per cent to plain decoding, whatever it does', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const period = 40 * seed
      const heads = (token: number) => (Math.floor(token / period) % 2 === 0 ? ACCURACY : USELESS)
      for (const costs of [MEMORY_BOUND, VECTOR, SERIAL]) {
        const { ms, plainMs } = run({ heads, costs, seed, tokens: 3000, noise: 0.3 })
        expect(ms / plainMs, `seed ${seed}`).toBeLessThan(1.03)
      }
    }
  })

  test('is followed to deeper trees and back', () => {
    const shallow = ACCURACY.map((row, head) => (head === 0 ? row : row.map(() => 0)))
    const { sizes } = run({ costs: VECTOR, heads: (token) => (token < 1500 ? shallow : PERFECT), tokens: 3000 })
    const mean = (part: readonly number[]) => part.reduce((a, b) => a + b, 0) / part.length
    expect(mean(sizes.slice(200, 700))).toBeLessThan(4)
    expect(share(sizes.slice(-200), (size) => size > 3)).toBeGreaterThan(0.9)
  })
})

describe('a table that is wrong', () => {
  test('does not keep useless heads going where it says that a tree costs less than a plain step', () => {
    const cheaper = table((rows) => (rows === 1 ? 1 : 0.7 + 0.002 * rows), 0.01)
    for (const really of [1.1, 1.4]) {
      const truth = table((rows) => (rows === 1 ? 1 : really + 0.002 * rows), 0.01)
      const { ms, plainMs, sizes } = run({ costs: cheaper, truth, heads: () => USELESS, tokens: 400, noise: 0.3 })
      expect(share(sizes, (size) => size > 1)).toBeLessThan(0.15)
      expect(ms / plainMs).toBeLessThan(1.07)
    }
  })

  test('is corrected by what steps take, when trees are dearer than it says', () => {
    const { ms, plainMs, sizes } = run({
      costs: VECTOR,
      truth: table((rows) => (rows === 1 ? 1 : 0.8 * rows)),
      tokens: 6000,
    })
    expect(share(sizes.slice(-1000), (size) => size > 1)).toBeLessThan(0.1)
    expect(ms / plainMs).toBeLessThan(1.05)
  })

  test('is corrected when trees are cheaper than it says, if only a little', () => {
    const says = table((rows) => (rows === 1 ? 1 : 1.75 + 0.16 * rows))
    const { sizes } = run({ costs: says, truth: VECTOR, tokens: 12_000 })
    expect(share(sizes.slice(0, 20), (size) => size > 1)).toBe(0)
    expect(share(sizes.slice(-500), (size) => size > 1)).toBeGreaterThan(0.9)
  })
})

describe('many sequences', () => {
  const first = (costs: StepCosts, sequences: number): number => {
    const acceptance = new Acceptance(AUTO, AUTO.shares, 4, 0.97)
    const pilot = new Pilot({ family: AUTO, costs: new LiveCosts(costs), gate: GATE, gateless: '', acceptance })
    return pilot.next({ cacheRows: 400, sequences, maxDepth: 99 }).tree.nodeCount
  }

  test('have smaller trees, once rows are no longer free', () => {
    const rising = table((rows) => (rows <= 32 ? 1 : 1 + (rows - 32) / 20))
    const sizes = [1, 4, 8, 16, 32].map((sequences) => first(rising, sequences))
    expect(sizes).toEqual(sizes.toSorted((a, b) => b - a))
    expect(sizes[0]).toBeGreaterThanOrEqual(24)
    expect(sizes[2]).toBeLessThan(sizes[0]!)
  })

  test('above maxBatch are plain, and the decision says why', () => {
    const { sizes, decision } = run({ sequences: 4, gate: { ...GATE, maxBatch: 3 }, tokens: 100 })
    expect(new Set(sizes)).toEqual(new Set([1]))
    expect(decision).toMatchObject({ decision: 'plain', reason: expect.stringMatching(/4 sequences.*maxBatch \(3\)/) })
  })
})

describe('options', () => {
  test('a margin holds speculation back', () => {
    expect(run({ gate: { ...GATE, margin: 10 }, tokens: 300 }).decision).toMatchObject({
      decision: 'plain',
      plainSteps: 300,
    })
  })

  test('probeEvery sets how often drafts are looked at', () => {
    const probes = (probeEvery: number): number =>
      run({ heads: () => USELESS, gate: { ...GATE, probeEvery }, tokens: 3000 }).decision.probes
    expect(probes(32)).toBeGreaterThan(2 * probes(256))
  })

  test('without a gate every step speculates, useless heads or not', () => {
    const { sizes, decision } = run({ gate: null, heads: () => USELESS, tokens: 200 })
    expect(sizes.every((size) => size > 1)).toBe(true)
    expect(decision).toMatchObject({ decision: 'off', plainSteps: 0, reason: 'none.' })
  })

  test('a named tree is used whole or not at all', () => {
    const family = singleFamily(parseTree(16, 4), MEASURED)
    expect(new Set(run({ family, costs: MEMORY_BOUND }).sizes)).toEqual(new Set([16, 1]))
    expect(new Set(run({ family, costs: SERIAL }).sizes)).toEqual(new Set([1]))
  })
})

describe('where there is nothing to decide', () => {
  const acceptance = new Acceptance(AUTO, AUTO.shares, 4, 0.97)
  const here: Surroundings = { cacheRows: 100, sequences: 1, maxDepth: 99 }

  test('without costs, trees are small', () => {
    const pilot = new Pilot({ family: AUTO, costs: null, gate: null, gateless: 'none', acceptance })
    expect(pilot.next(here).tree.nodeCount).toBe(4)
    expect(pilot.decision()).toMatchObject({ decision: 'off', reason: 'none.', expectedSpeedup: null })
  })

  test('without costs, a gate lets none through', () => {
    const pilot = new Pilot({ family: AUTO, costs: null, gate: GATE, gateless: '', acceptance })
    expect(pilot.next(here)).toEqual({ tree: PLAIN_TREE, medusaHeads: 0, topK: 0 })
    expect(pilot.decision()).toMatchObject({ decision: 'plain', expectedSpeedup: null })
  })

  test('without trees, steps are plain and draft nothing', () => {
    const none = new Acceptance(PLAIN_FAMILY, PLAIN_FAMILY.shares, 1, 1)
    const pilot = new Pilot({
      family: PLAIN_FAMILY,
      costs: new LiveCosts(VECTOR),
      gate: GATE,
      gateless: '',
      acceptance: none,
    })
    expect(pilot.next(here)).toEqual({ tree: PLAIN_TREE, medusaHeads: 0, topK: 0 })
    expect(pilot.decision().decision).toBe('off')
  })

  test('a fixed choice is the first one, whatever comes after', () => {
    const options = { family: AUTO, costs: new LiveCosts(VECTOR), gate: GATE, gateless: '', acceptance, isFixed: true }
    const pilot = new Pilot(options)
    const { tree } = pilot.next(here)
    expect(tree.nodeCount).toBeGreaterThan(1)
    for (const cacheRows of [100_000, 10]) expect(pilot.next({ ...here, cacheRows, sequences: 64 }).tree).toBe(tree)
  })

  test('trees are cut where positions end, and the last token has none', () => {
    const pilot = new Pilot({ family: AUTO, costs: new LiveCosts(MEMORY_BOUND), gate: null, gateless: 'x', acceptance })
    for (const maxDepth of [3, 2, 1, 0, -1]) {
      const { tree, medusaHeads, topK } = pilot.next({ ...here, maxDepth })
      expect(tree.depth).toBeLessThanOrEqual(Math.max(0, maxDepth))
      expect(medusaHeads).toBe(tree.depth)
      expect(topK).toBe(tree.maxRank + 1)
    }
  })
})
