// Many generations on one engine: batched, queued, failing apart, drained, and nothing left behind.
import { describe, expect, it } from 'vitest'
import { nativeError } from '../support/fake-native.js'
import { type ToyEngineOptions, ToyTokenizer, toyEngine, toyEngines } from '../support/toy-engine.js'

const PROMPT = [1, 2, 3]

const open = toyEngines()

async function turn(count = 1): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}

describe('concurrent generations', () => {
  it('share native calls and give what each gives alone', async () => {
    const { engine, native } = open()
    const prompts = Array.from({ length: 16 }, (_, i) => [i, 2 * i, 3])
    const options = (i: number) => ({
      maxTokens: 64,
      ignoreEos: true,
      temperature: i % 3 === 0 ? 0.8 : 0,
      seed: i,
      speculation: { tree: [1, 16, 'chain:4', 64][i % 4]! },
    })
    const results = await Promise.all(prompts.map((prompt, i) => engine.generate(prompt, options(i))))
    const largest = Math.max(
      ...native.calls.filter((call) => call.phase === 'verify').map((call) => call.sessions.length),
    )
    expect(largest).toBe(16)
    for (const [i, prompt] of prompts.entries()) {
      const alone = await engine.generate(prompt, options(i))
      expect([...results[i]!.tokens]).toEqual([...alone.tokens])
      expect(results[i]!.speculation).toEqual(alone.speculation)
    }
  })

  it('are verified in one call per step once their prompts are in', async () => {
    const { engine, native } = open({ toy: { chunk: 512 } })
    const options = { maxTokens: 30, ignoreEos: true, speculation: { mode: 'off' } } as const
    const verified = async (promptTokens: number) => {
      const begin = native.calls.length
      const prompts = Array.from({ length: 8 }, (_, i) => new Array(promptTokens).fill(i))
      await Promise.all(prompts.map((prompt) => engine.generate(prompt, options)))
      const calls = native.calls.slice(begin).filter((call) => call.phase === 'verify')
      return calls.map((call) => call.sessions.length)
    }
    expect(await verified(1)).toEqual(new Array(29).fill(8))
    // Long prompts go in one after the other, and whoever is done decodes meanwhile.
    const sizes = await verified(300)
    expect(sizes.indexOf(8)).toBeGreaterThan(8)
    expect(sizes.slice(0, sizes.indexOf(8))).toEqual(sizes.slice(0, sizes.indexOf(8)).sort())
  })

  it('fail apart', async () => {
    const { engine, native } = open()
    native.onCall = ({ phase, sessions }) => {
      if (phase === 'commit' && sessions.includes(3)) throw nativeError('ERR_OUT_OF_MEMORY', 'full')
    }
    const outcomes = await Promise.allSettled(
      Array.from({ length: 5 }, (_, i) => engine.generate([i], { maxTokens: 40, ignoreEos: true })),
    )
    expect(outcomes.map((outcome) => outcome.status)).toEqual([
      'fulfilled',
      'fulfilled',
      'rejected',
      'fulfilled',
      'fulfilled',
    ])
    expect(engine.stats().totals).toMatchObject({ finished: 4, failed: 1 })
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome.status === 'fulfilled') expect([...outcome.value.tokens]).toEqual(native.continuation([i], 40))
    }
  })

  it('fail when no sequence can be opened', async () => {
    const { engine, native } = open()
    const { openSession } = native
    native.openSession = () => {
      throw nativeError('ERR_OUT_OF_MEMORY', 'full')
    }
    await expect(engine.generate(PROMPT)).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
    native.openSession = openSession
    await engine.generate(PROMPT)
    expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })
})

describe('limits', () => {
  it('run maxSequences at once and the rest in order', async () => {
    const { engine, native } = open({ limits: { maxSequences: 3 } })
    const finished: number[] = []
    const all = Array.from({ length: 10 }, async (_, i) => {
      await engine.generate([i], { maxTokens: 10, ignoreEos: true, speculation: { mode: 'off' } })
      finished.push(i)
    })
    expect(engine.stats()).toMatchObject({ running: 3, queued: 7 })
    await Promise.all(all)
    expect(native.peakSessions).toBe(3)
    expect(finished).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  it('refuse what the queue does not hold', async () => {
    const { engine } = open({ limits: { maxSequences: 1, maxQueue: 2 } })
    const accepted = Array.from({ length: 3 }, () => engine.generate(PROMPT, { maxTokens: 5 }))
    await expect(engine.generate(PROMPT)).rejects.toMatchObject({
      code: 'ERR_QUEUE_FULL',
      details: { maxSequences: 1, maxQueue: 2, queued: 2 },
    })
    await Promise.all(accepted)
    await engine.generate(PROMPT)
  })

  it('bound the context', async () => {
    const { engine } = open({ limits: { maxContext: 10 } })
    const { tokens, finish } = await engine.generate(PROMPT, { ignoreEos: true })
    expect(tokens).toHaveLength(7)
    expect(finish).toBe('length')
  })
})

describe('close', () => {
  it('lets running and waiting generations finish, and takes no more', async () => {
    const { engine, native, tokenizer } = open({ limits: { maxSequences: 2 } })
    const running = Array.from({ length: 5 }, () => engine.generate(PROMPT, { maxTokens: 40, ignoreEos: true }))
    const session = engine.session()
    await session.send(PROMPT, { maxTokens: 3 })
    const closing = engine.close()
    await expect(engine.generate(PROMPT)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(() => engine.session()).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
    await closing
    for (const generation of running) expect((await generation).tokens).toHaveLength(40)
    expect(native.openSessions).toBe(0)
    expect(native.openModels).toBe(0)
    expect((tokenizer as ToyTokenizer).isClosed).toBe(true)
    await expect(session.send(PROMPT)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    await expect(engine.tokenize('x')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(() => engine.detokenize([1])).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
  })

  it('aborts what is not done in time', async () => {
    const { engine, native } = open({ limits: { maxSequences: 2 } })
    native.onCall = () => new Promise((resolve) => setTimeout(resolve, 2))
    const all = Array.from({ length: 4 }, () => engine.generate(PROMPT, { maxTokens: 4000, ignoreEos: true }))
    const partial = engine.generate(PROMPT, { maxTokens: 4000, ignoreEos: true, onAbort: 'return' })
    await engine.close({ drainMs: 40 })
    for (const generation of all) await expect(generation).rejects.toMatchObject({ name: 'AbortError' })
    expect((await partial).finish).toBe('aborted')
    expect(native.openSessions).toBe(0)
  })

  it('aborts at once with drainMs 0', async () => {
    const { engine, native } = open()
    const generation = engine.generate(PROMPT, { maxTokens: 4000, ignoreEos: true })
    await turn(5)
    const calls = native.calls.length
    await engine.close({ drainMs: 0 })
    expect(native.calls.length).toBeLessThanOrEqual(calls + 2)
    await expect(generation).rejects.toMatchObject({ name: 'AbortError' })
  })

  it('can be called again, to hurry', async () => {
    const { engine } = open()
    const generation = engine.generate(PROMPT, { maxTokens: 4000, ignoreEos: true })
    const patient = engine.close()
    await turn(3)
    await engine.close({ drainMs: 0 })
    await patient
    await engine.close()
    await expect(generation).rejects.toMatchObject({ name: 'AbortError' })
  })

  it('happens at the end of a scope', async () => {
    const { engine, native } = toyEngine()
    {
      await using scoped = engine
      await scoped.generate(PROMPT)
    }
    expect(native.openModels).toBe(0)
  })
})

describe('text', () => {
  it('is encoded, decoded and rendered as prompts are', async () => {
    const { engine } = open()
    expect([...(await engine.tokenize('ab'))]).toEqual([95, 65, 66])
    expect([...(await engine.tokenize('ab', { addSpecial: false }))]).toEqual([65, 66])
    expect(engine.detokenize([95, 65, 66])).toBe('ab')
    expect(engine.detokenize([95, 65, 66], { skipSpecial: false })).toBe('<s>ab')
    expect(engine.renderChat([{ role: 'user', content: 'hi' }])).toBe('[user]hi</s>[assistant]')
  })

  it('prompts and ids make the same generation', async () => {
    const { engine, native } = open()
    const byText = await engine.generate('ab', { maxTokens: 20 })
    expect([...byText.tokens]).toEqual([...(await engine.generate([95, 65, 66], { maxTokens: 20 })).tokens])
    const chat = [{ role: 'user', content: 'hi' }]
    await engine.generate(chat, { maxTokens: 1 })
    expect([...native.turns.at(-1)!.tokens]).toEqual([...(await engine.tokenize(engine.renderChat(chat)))])
  })

  it('is encoded while others run', async () => {
    const tokenizer = new ToyTokenizer()
    const { engine } = open({ tokenizer })
    let release = () => {}
    tokenizer.gate = new Promise((resolve) => {
      release = resolve
    })
    const slow = engine.generate('text', { maxTokens: 5 })
    await engine.generate(PROMPT, { maxTokens: 50 })
    release()
    await slow
  })
})

describe('nothing is left behind', () => {
  it('by 1,000 generations that end in every way', async () => {
    const { engine, native } = open({ toy: { stopEvery: 20, chunk: 2 } })
    const outcomes = { resolved: 0, rejected: 0 }
    const one = async (i: number): Promise<void> => {
      const prompt = Array.from({ length: 1 + (i % 9) }, (_, at) => (i + at) % 97)
      const options = { maxTokens: 1 + (i % 50), speculation: { tree: [1, 16, 'chain:4'][i % 3]! } }
      if (i % 7 === 0) {
        const generation = engine.generate(prompt, options)
        await turn(i % 12)
        generation.abort()
        await generation
      } else if (i % 7 === 1) {
        for await (const _ of engine.generate(prompt, options)) break
      } else if (i % 7 === 2) {
        await engine.generate([...prompt, 1000])
      } else if (i % 7 === 3) {
        await using session = engine.session()
        await session.send(prompt, options)
        await session.send(prompt, options)
      } else {
        const { tokens } = await engine.generate(prompt, options)
        expect([...tokens]).toEqual(native.continuation(prompt, tokens.length))
      }
    }
    for (let i = 0; i < 1000; i += 20) {
      const batch = Array.from({ length: 20 }, (_, j) => one(i + j))
      for (const { status } of await Promise.allSettled(batch)) {
        outcomes[status === 'fulfilled' ? 'resolved' : 'rejected']++
      }
      expect(native.openSessions).toBe(0)
      expect(engine.stats()).toMatchObject({ running: 0, queued: 0, sessions: 0 })
    }
    expect(outcomes.resolved).toBeGreaterThan(700)
    expect(outcomes.rejected).toBeGreaterThan(142)
  })

  it('by two engines side by side', async () => {
    const first = open()
    const second = open()
    const [a, b] = await Promise.all([first.engine.generate(PROMPT), second.engine.generate(PROMPT)])
    expect([...a.tokens]).toEqual([...b.tokens])
  })
})

it('counts what it did', async () => {
  const { engine } = open()
  const results = await Promise.all(
    [1, 2, 3].map((id) => engine.generate([id, id], { maxTokens: 10, ignoreEos: true })),
  )
  await expect(engine.generate([])).rejects.toMatchObject({ code: 'ERR_EMPTY_PROMPT' })
  const sum = (pick: (result: (typeof results)[number]) => number) =>
    results.reduce((total, result) => total + pick(result), 0)
  expect(engine.stats()).toEqual({
    running: 0,
    prefilling: 0,
    decoding: 0,
    queued: 0,
    sessions: 0,
    memory: { weights: 2, kv: 0, device: null },
    totals: {
      finished: 3,
      failed: 1,
      promptTokens: 6,
      completionTokens: 30,
      steps: sum((result) => result.speculation.steps),
      drafted: sum((result) => result.speculation.drafted),
      accepted: sum((result) => result.speculation.accepted),
    },
  })
})

it('says what is going on and what it takes', async () => {
  const { engine, native } = open({ limits: { maxSequences: 2 }, toy: { chunk: 1 } })
  const session = engine.session({ kv: { policy: 'full' } })
  const { tokens } = await session.send([1, 2, 3], { maxTokens: 4, ignoreEos: true })
  const { kvBytesPerToken, limits } = engine.info
  expect(limits).toEqual({ maxSequences: 2, maxQueue: 1024 })
  // All but the last token are in the cache.
  expect(engine.stats()).toMatchObject({ sessions: 1, memory: { kv: (2 + tokens.length) * kvBytesPerToken } })

  const seen: ReturnType<typeof engine.stats>[] = []
  native.onCall = ({ phase }) => void (phase !== 'commit' && seen.push(engine.stats()))
  const running = [7, 8, 9].map((id) => engine.generate([id], { maxTokens: 20, ignoreEos: true }))
  await Promise.all([...running, session.close()])
  expect(seen[0]).toMatchObject({ running: 2, prefilling: 2, decoding: 0, queued: 1 })
  const busiest = seen.find((stats) => stats.decoding === 2)!
  expect(busiest).toMatchObject({ running: 2, prefilling: 0, queued: 1 })
  expect(busiest.memory.kv).toBeGreaterThanOrEqual(2 * kvBytesPerToken)
  expect(engine.stats()).toMatchObject({ running: 0, prefilling: 0, decoding: 0, queued: 0, memory: { kv: 0 } })
  await engine.close()
  expect(engine.stats().memory).toEqual({ weights: 0, kv: 0, device: null })
})

describe('a turn in the queue', () => {
  const one = { maxTokens: 1, ignoreEos: true } as const

  it('comes first to the more urgent, and goes round among clients', async () => {
    const { engine } = open({ limits: { maxSequences: 1 } })
    const order: string[] = []
    const ask = async (name: string, client: string, priority = 0) => {
      await engine.generate([5], { ...one, client, priority })
      order.push(name)
    }
    await Promise.all([
      ask('first', 'a'),
      ask('a1', 'a'),
      ask('a2', 'a'),
      ask('b1', 'b'),
      ask('urgent', 'a', 1),
      ask('idle', 'c', -1),
    ])
    expect(order).toEqual(['first', 'urgent', 'b1', 'a1', 'a2', 'idle'])
  })

  it("is a session's too", async () => {
    const { engine } = open({ limits: { maxSequences: 1 } })
    const session = engine.session()
    const positions: number[] = []
    const first = engine.generate([5], one)
    const turn = session.send([1], { ...one, onQueue: ({ position }) => void positions.push(position) })
    await Promise.all([first, turn])
    expect(positions).toEqual([0])
  })

  it('is not waited for by a prompt that cannot be served', async () => {
    const { engine } = open({ limits: { maxSequences: 1, maxContext: 20 } })
    const ended: string[] = []
    const long = engine.generate([5], { maxTokens: 19, ignoreEos: true }).result()
    const all = [
      long.then(() => ended.push('long')),
      engine
        .generate(new Array(20).fill(1))
        .result()
        .catch((error) => ended.push(error.code)),
      engine
        .session()
        .send(new Array(20).fill(1))
        .result()
        .catch((error) => ended.push(error.code)),
    ]
    await Promise.all(all)
    expect(ended).toEqual(['ERR_CONTEXT_OVERFLOW', 'ERR_CONTEXT_OVERFLOW', 'long'])
  })

  it('may be told to one that fails at it, alone', async () => {
    const { engine } = open({ limits: { maxSequences: 1 } })
    const deaf = () => {
      throw new Error('mine')
    }
    const first = engine.generate([5], one)
    const second = engine.generate([5], { ...one, onQueue: deaf })
    const third = engine.generate([5], one)
    await expect(second).rejects.toThrow('mine')
    expect((await first).tokens).toHaveLength(1)
    expect((await third).tokens).toHaveLength(1)
  })
})

it('refuses more messages than the context has tokens before it renders them', async () => {
  const template = "{{ raise_exception('rendered') }}"
  const { engine } = open({ limits: { maxContext: 20 }, template })
  const chatOf = (length: number) => Array.from({ length }, () => ({ role: 'user', content: '' }))
  const code = (length: number) => ({ code: length > 20 ? 'ERR_CONTEXT_OVERFLOW' : 'ERR_CHAT_TEMPLATE' })
  for (const length of [20, 21]) {
    await expect(engine.generate(chatOf(length))).rejects.toMatchObject(code(length))
    await expect(engine.session().send(chatOf(length))).rejects.toMatchObject(code(length))
  }
})

it('says at loading what no request could be served with', () => {
  const code = (options: ToyEngineOptions) => {
    try {
      toyEngine(options)
    } catch (error) {
      return (error as { code: string }).code
    }
    return null
  }
  expect(code({ toy: { medusaHeads: 0 }, speculation: { mode: 'medusa' } })).toBe('ERR_OPTION')
  expect(code({ toy: { medusaHeads: 2 }, speculation: { tree: 'chain:3' } })).toBe('ERR_TREE')
  expect(code({ toy: { medusaHeads: 0 } })).toBeNull()
})
