// The gate in an engine: what it saves, what it reports, who may turn it off; and never another token.
import { afterEach, describe, expect, it, vi } from 'vitest'
import { LiveCosts, type StepCosts } from '../../src/decode/step-costs.js'
import type { GenerateOptionsInput } from '../../src/options.js'
import { type ToyEngineOptions, toyEngines } from '../support/toy-engine.js'

const rows = [1, 2, 4, 8, 16, 32, 64, 128, 256]
const table = (ms: (nodes: number) => number): StepCosts => ({
  rows,
  ms: rows.map(ms),
  cacheRows: 0,
  attention: { rows: [1], msPerCacheRow: [0] },
  draftMs: [0, 0.02, 0.04, 0.06, 0.08],
  sequenceMs: 0,
})
/** Verifying costs next to nothing. */
const FREE = table((nodes) => 1 + 0.001 * nodes)
const DEAR = table((nodes) => nodes)
/** The toy's heads hold the right token at rank 0, 1 or 2 alike. */
const ACCURACY = new Array<number[]>(4).fill([0.3, 0.3, 0.3, 0.02])

const openToy = toyEngines()
function open(options: ToyEngineOptions = {}) {
  // On a toy all steps take the same time, whatever the table says.
  vi.spyOn(LiveCosts.prototype, 'compare').mockImplementation(() => undefined)
  return openToy({ accuracy: ACCURACY, ...options })
}

afterEach(() => {
  vi.restoreAllMocks()
})

const PROMPT = [1, 2, 3, 4]
const options: GenerateOptionsInput = { maxTokens: 400, ignoreEos: true }

describe('mode auto', () => {
  it('speculates where it pays, with trees to match', async () => {
    const { engine, native } = open({ stepCosts: FREE, toy: { headAccuracy: 0.95 } })
    const { tokens, speculation } = await engine.generate(PROMPT, options)
    expect([...tokens]).toEqual(native.continuation(PROMPT, 400))
    expect(speculation).toMatchObject({ used: true, tree: 'auto', gate: { decision: 'speculated' } })
    expect(speculation.tokensPerStep).toBeGreaterThan(2)
    expect(speculation.nodes).toBeGreaterThan(16)
    expect(speculation.gate.expectedSpeedup).toBeGreaterThan(2)
    expect(speculation.sizes.reduce((sum, { steps }) => sum + steps, 0)).toBe(speculation.steps)
  })

  it('is plain where a row costs a step', async () => {
    const { engine, native } = open({ stepCosts: DEAR, toy: { headAccuracy: 0.95 } })
    const { tokens, speculation } = await engine.generate(PROMPT, options)
    expect([...tokens]).toEqual(native.continuation(PROMPT, 400))
    expect(speculation).toMatchObject({ used: false, nodes: 1, gate: { decision: 'plain', plainSteps: 399 } })
  })

  it('gives up useless heads, and gives the next generation the benefit', async () => {
    const { engine } = open({ stepCosts: table((nodes) => 1 + 0.1 * nodes), toy: { headAccuracy: 0 } })
    const first = await engine.generate(PROMPT, options)
    expect(first.speculation.gate.decision).toBe('mixed')
    const rowsSpent = first.speculation.drafted
    expect(rowsSpent).toBeLessThan(0.4 * 400)
    for (let i = 0; i < 3; i++) await engine.generate([...PROMPT, i], options)
    const later = await engine.generate([9, 9], options)
    expect(later.speculation.drafted).toBeLessThan(rowsSpent / 2)
    expect(later.speculation.gate.decision).toBe('plain')
  })

  it('follows heads that become good in the middle of a text', async () => {
    const { engine, native } = open({ stepCosts: FREE, toy: { headAccuracy: 0, maxPositions: 4096 } })
    const generation = engine.generate(PROMPT, { ...options, maxTokens: 1600 })
    let made = 0
    let tokensLate = 0
    let stepsLate = 0
    for await (const { tokens } of generation) {
      made += tokens.length
      if (made > 600) native.headAccuracy = 1
      if (made > 1200) {
        tokensLate += tokens.length
        stepsLate++
      }
    }
    expect(tokensLate / stepsLate).toBeGreaterThan(2)
    const { tokens, speculation } = await generation
    expect([...tokens]).toEqual(native.continuation(PROMPT, 1600))
    expect(speculation.gate).toMatchObject({ decision: 'mixed', probes: expect.any(Number) })
  })

  it('uses a named tree whole, or not at all', async () => {
    for (const [stepCosts, sizes] of [
      [FREE, [1, 16]],
      [DEAR, [1]],
    ] as const) {
      const { engine } = open({ stepCosts, toy: { headAccuracy: 1 } })
      const { speculation } = await engine.generate(PROMPT, { ...options, speculation: { tree: 16 } })
      expect(speculation.tree).toBe('16')
      for (const { nodes } of speculation.sizes) expect(sizes).toContain(nodes)
      expect(speculation.used).toBe(stepCosts === FREE)
    }
  })
})

describe('who wins', () => {
  const cases: readonly [GenerateOptionsInput['speculation'], RegExp, boolean][] = [
    [{ mode: 'medusa' }, /^Mode "medusa" speculates at every step\.$/, true],
    [{ gate: false }, /^The gate is off\.$/, true],
    [{ mode: 'off' }, /^Speculation is off\.$/, false],
  ]
  for (const [speculation, reason, used] of cases) {
    it(`${JSON.stringify(speculation)} over the costs`, async () => {
      const { engine } = open({ stepCosts: DEAR, toy: { headAccuracy: 0.5 } })
      const result = await engine.generate(PROMPT, { ...options, speculation })
      expect(result.speculation.used).toBe(used)
      expect(result.speculation.gate).toMatchObject({ decision: 'off', reason: expect.stringMatching(reason) })
      expect(result.speculation.gate.plainSteps).toBe(used ? 0 : 399)
    })
  }

  it('a tree that is named over the gate, where acceptance is typical', async () => {
    const { engine } = open({ stepCosts: DEAR })
    const typical = { ...options, temperature: 1, seed: 3 }
    const accept = { rule: 'typical', epsilon: 0.3, delta: 1 } as const
    const named = await engine.generate(PROMPT, { ...typical, speculation: { accept, tree: 16 } })
    expect(named.speculation).toMatchObject({ used: true, nodes: 16, gate: { decision: 'off' } })
    const auto = await engine.generate(PROMPT, { ...typical, speculation: { accept } })
    expect(auto.speculation.gate).toMatchObject({ decision: 'plain' })
  })

  it('one tree for all of a text, where acceptance is typical, whatever ran before and runs beside it', async () => {
    const { engine, native } = open({ stepCosts: table((nodes) => 1 + 0.05 * nodes) })
    const accept = { rule: 'typical', epsilon: 0.3, delta: 1 } as const
    const request = { ...options, maxTokens: 120, temperature: 1, seed: 3, speculation: { accept } }
    const alone = await engine.generate(PROMPT, request)
    expect(alone.speculation.sizes).toHaveLength(1)
    expect(alone.speculation.used).toBe(true)
    native.headAccuracy = 0
    for (let i = 0; i < 4; i++) await engine.generate([i], options)
    native.headAccuracy = 0.7
    for (const gate of [{ maxBatch: 2 }, false] as const) {
      for (const peers of [1, 4, 8]) {
        const controller = new AbortController()
        const others = Array.from({ length: peers }, (_, id) => {
          return engine.generate([id + 5], { ...options, maxTokens: 3000, signal: controller.signal })
        })
        const ended = Promise.allSettled(others)
        // They share passes before the choice is made.
        await engine.generate([1], { maxTokens: 5, ignoreEos: true })
        const among = await engine.generate(PROMPT, { ...request, speculation: { accept, gate } })
        expect([...among.tokens]).toEqual([...alone.tokens])
        expect(among.speculation.sizes).toEqual(alone.speculation.sizes)
        controller.abort()
        await ended
      }
    }
  })

  it('a step that a stop token kept from running is none', async () => {
    const { engine } = open({ stepCosts: FREE, toy: { headAccuracy: 0.95, stopEvery: 37 } })
    for (let i = 0; i < 12; i++) {
      const { finish, tokens, speculation } = await engine.generate([...PROMPT, i], { maxTokens: 400 })
      expect(finish).toBe('stop')
      const decision = tokens.length === 1 ? 'plain' : 'speculated'
      expect(speculation.gate).toMatchObject({
        decision,
        plainSteps: expect.toSatisfy((n) => n <= speculation.gate.probes),
      })
    }
  })

  it('the gate has nothing to say without costs or heads', async () => {
    const without = open({ stepCosts: FREE, toy: { medusaHeads: 0 } })
    const none = await without.engine.generate(PROMPT, options)
    expect(none.speculation.gate).toMatchObject({ decision: 'off', reason: 'There is no tree to speculate with.' })
  })

  it('never slower, also where nothing was measured: steps are plain then, and the reason says what to do', async () => {
    const { engine } = open({ stepCosts: null, toy: { headAccuracy: 1 } })
    for (const tree of ['auto', 16] as const) {
      const { speculation } = await engine.generate(PROMPT, { ...options, speculation: { mode: 'auto', tree } })
      expect(speculation).toMatchObject({ used: false, gate: { decision: 'plain', expectedSpeedup: null } })
      expect(speculation.gate.reason).toMatch(/^Step costs were not measured.*Load.*speculation\.mode "auto".*"medusa"/)
    }
    const forced = await engine.generate(PROMPT, { ...options, speculation: { mode: 'medusa' } })
    expect(forced.speculation).toMatchObject({ used: true, gate: { decision: 'off' } })
  })
})

describe('sessions', () => {
  it('keep what they learnt from turn to turn', async () => {
    const { engine } = open({ stepCosts: table((nodes) => 1 + 0.1 * nodes), toy: { headAccuracy: 0 } })
    const session = engine.session()
    const spent: number[] = []
    for (let turn = 0; turn < 3; turn++) {
      spent.push((await session.send([turn + 1, 2], { ...options, maxTokens: 100 })).speculation.drafted)
    }
    expect(spent[0]).toBeGreaterThan(10)
    expect(Math.max(...spent.slice(1))).toBeLessThan(5)
    await session.close()
  })
})

describe('tokens', () => {
  /** Costs drawn anew each time they are asked for: every step another tree, or none. */
  const flip = (): void => {
    let state = 12345
    vi.spyOn(LiveCosts.prototype, 'stepMs').mockImplementation(({ nodes }) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return (nodes === 1 ? 0.1 : 1) + state / 2 ** 32
    })
  }

  it('do not depend on a gate that flips at every step', async () => {
    for (const headAccuracy of [0, 0.6, 1]) {
      const { engine, native } = open({ stepCosts: FREE, toy: { headAccuracy } })
      flip()
      for (let seed = 0; seed < 8; seed++) {
        const request = { ...options, maxTokens: 60 + seed, ...(seed % 2 && { temperature: 0.9, seed }) }
        const { tokens, speculation } = await engine.generate([...PROMPT, seed], request)
        const expected = native.continuation([...PROMPT, seed], 60 + seed, BigInt(seed % 2 ? seed : 0))
        expect([...tokens]).toEqual(expected)
        expect(speculation.gate.decision).toBe('mixed')
        expect(speculation.sizes.length).toBeGreaterThan(2)
      }
    }
  })

  it('nor do those of sessions, and of many at once', async () => {
    const { engine } = open({ stepCosts: FREE, toy: { headAccuracy: 0.8 } })
    const talk = async (mode: 'auto' | 'off'): Promise<number[][]> => {
      const session = engine.session()
      const turns: number[][] = []
      for (let turn = 0; turn < 5; turn++) {
        const { tokens } = await session.send([turn, 7, 8], { ...options, maxTokens: 17 + turn, speculation: { mode } })
        turns.push([...tokens])
      }
      await session.close()
      return turns
    }
    const plain = await talk('off')
    flip()
    for (const turns of await Promise.all(Array.from({ length: 6 }, () => talk('auto')))) expect(turns).toEqual(plain)
  })
})
