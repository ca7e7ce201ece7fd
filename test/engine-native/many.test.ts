// Sixty-four requests at once on the real addon: each gets what it gets alone, and nothing of them stays.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Engine, type GenerateOptions, loadEngine } from '../../src/index.js'

const COUNT = 64

let engine: Engine

beforeAll(async () => {
  engine = await loadEngine({
    model: 'demo',
    limits: { maxSequences: COUNT },
    speculation: { mode: 'medusa' },
    kv: { budget: 128 },
  })
})
afterAll(() => engine.close())

/** Of 3 to 318 tokens, some longer than the budget. */
const promptOf = (i: number) =>
  Int32Array.from({ length: 3 + 5 * i }, (_, j) => 300 + ((j * 7919 + i * 104_729) % 3500))

const optionsOf = (i: number): GenerateOptions => ({
  maxTokens: 24,
  ignoreEos: true,
  temperature: i % 2 === 0 ? 0 : 0.8,
  seed: i,
  client: `client ${i % 5}`,
  ...(i % 7 === 0 && { speculation: { mode: 'off' } }),
})

it('gives each of sixty-four what it gets alone', async () => {
  const alone: number[][] = []
  for (let i = 0; i < COUNT; i++) alone.push([...(await engine.generate(promptOf(i), optionsOf(i))).tokens])
  let most = 0
  const together = Array.from({ length: COUNT }, async (_, i) => {
    const tokens: number[] = []
    for await (const chunk of engine.generate(promptOf(i), optionsOf(i))) {
      tokens.push(...chunk.tokens)
      most = Math.max(most, engine.stats().running)
    }
    return tokens
  })
  expect(await Promise.all(together)).toEqual(alone)
  expect(most).toBe(COUNT)
  expect(engine.stats()).toMatchObject({ running: 0, prefilling: 0, decoding: 0, queued: 0, memory: { kv: 0 } })
})

it('accounts for the rows of the cache as the native side does', async () => {
  const session = engine.session({ kv: { policy: 'full' } })
  const { tokens } = await session.send(promptOf(20), { maxTokens: 30, ignoreEos: true })
  const rows = promptOf(20).length + tokens.length - 1
  const { kvBytesPerToken } = engine.info
  expect(session.stats()).toEqual({ tokens: rows + 1, rows, kvBytes: rows * kvBytesPerToken })
  expect(engine.stats().memory.kv).toBe(rows * kvBytesPerToken)
  // The next turn is told by the native side how many rows there are.
  const { usage } = await session.send([5], { maxTokens: 1 })
  expect(usage).toMatchObject({ cached: rows, prompt: 2 })
  expect(session.stats().kvBytes).toBe((rows + 2) * kvBytesPerToken)
  await session.close()
})
