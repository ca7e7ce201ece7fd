// Several turns over one cache: what the next turn sees, after every way a turn can end.
import { describe, expect, it } from 'vitest'
import type { GenerateOptionsInput } from '../../src/options.js'
import { nativeError } from '../support/fake-native.js'
import { TOY_BOS, TOY_EOS, type ToyEngineOptions, toyEngines } from '../support/toy-engine.js'

const openToy = toyEngines()
function open(options: ToyEngineOptions = {}) {
  const toy = openToy(options)
  return { ...toy, session: toy.engine.session() }
}

const SPECULATION = [{ mode: 'off' }, { tree: 'chain:1' }, { tree: 'chain:4' }, { tree: 'mc_sim_7b_63' }] as const
const ENDINGS: [string, GenerateOptionsInput][] = [
  ['maxTokens 1', { maxTokens: 1 }],
  ['maxTokens 2', { maxTokens: 2 }],
  ['maxTokens 7', { maxTokens: 7 }],
  ['the end of sequence', { maxTokens: 500 }],
  ['a stop id', { stopTokenIds: [3, 5, 7, 11, 13, 17, 19, 23] }],
  ['a stop string', { stop: ['a', 'e', 'i', 'o', 'u'] }],
]

describe('every token of a turn is in the context of the next', () => {
  for (const [ending, options] of ENDINGS) {
    it(`when it ended by ${ending}`, async () => {
      for (const speculation of SPECULATION) {
        const { session, native } = open({ toy: { headAccuracy: 0.8, stopEvery: 30 } })
        const said: number[] = []
        for (let turn = 0; turn < 6; turn++) {
          const prompt = [turn, 40 + turn, 80]
          const result = await session.send(prompt, { ...options, speculation })
          said.push(...prompt, ...result.tokens)
          // All but the last token is in the cache; that one begins the next prefill.
          expect(native.committed(1)).toEqual(said.slice(0, -1))
          expect(session.stats()).toEqual({
            tokens: said.length,
            rows: said.length - 1,
            kvBytes: (said.length - 1) * 32,
          })
          expect(result.usage).toMatchObject({
            prompt: turn === 0 ? 3 : 4,
            cached: said.length - result.tokens.length - 3 - (turn === 0 ? 0 : 1),
          })
        }
        expect(native.turns).toHaveLength(6)
        expect(native.peakSessions).toBe(1)
      }
    })

    it(`with the same tokens with and without speculation, when turns end by ${ending}`, async () => {
      const texts = []
      for (const speculation of SPECULATION) {
        const { session } = open({ toy: { headAccuracy: 0.8, stopEvery: 30 } })
        const tokens: number[][] = []
        for (let turn = 0; turn < 6; turn++) {
          const sampling = turn % 2 === 0 ? {} : { temperature: 1, seed: turn }
          tokens.push([...(await session.send([turn, 50], { ...options, ...sampling, speculation })).tokens])
        }
        texts.push(tokens)
      }
      for (const text of texts) expect(text).toEqual(texts[0])
    })
  }
})

describe('compression over turns', () => {
  const kv = { policy: 'snapkv', budget: 20, window: 8 } as const
  const prompt = Array.from({ length: 30 }, (_, i) => i)

  it('recompresses by default: the rows held before and those of the turn compete', async () => {
    const { session, native } = open({ kv })
    await session.send(prompt, { maxTokens: 10 })
    await session.send([1, 2, 3], { maxTokens: 10 })
    expect(native.turns.map((turn) => turn.compression)).toMatchObject([
      { budget: 20, window: 8 },
      { budget: 20, window: 4 },
    ])
    expect(session.stats()).toMatchObject({ tokens: 53, rows: 29 })
  })

  it('leaves later turns whole when frozen', async () => {
    const { session, native } = open({ kv: { ...kv, turns: 'frozen' } })
    await session.send(prompt, { maxTokens: 10 })
    const progress: unknown[] = []
    const { kv: report, usage } = await session.send([1, 2, 3], { maxTokens: 10, onPrefill: (at) => progress.push(at) })
    expect(native.turns.map((turn) => turn.compression)).toMatchObject([{ budget: 20 }, null])
    expect(usage).toEqual({ prompt: 4, cached: 29, completion: 10 })
    expect(progress.at(-1)).toEqual({ done: 8, total: 8, tokens: 4, cached: 29 })
    expect(report).toMatchObject({ promptTokens: 43, keptTokens: 33, bytes: 33 * 32, fullBytes: 43 * 32 })
  })

  it('follows the session, and a turn that says otherwise', async () => {
    const { engine, native } = open()
    const session = engine.session({ kv, speculation: { mode: 'off' } })
    await session.send(prompt, { maxTokens: 10 })
    await session.send(prompt, { maxTokens: 10, kv: { policy: 'full' } })
    expect(native.turns[0]).toMatchObject({ compression: { budget: 20 }, medusaHeads: 0 })
    expect(native.turns[1]).toMatchObject({ compression: null, medusaHeads: 0 })
    await session.close()
  })
})

describe('turns cut short', () => {
  it('while decoding leave their prompt and what was made', async () => {
    for (const speculation of SPECULATION) {
      for (const phase of ['verify', 'commit']) {
        const { session, native } = open({ toy: { headAccuracy: 0.9 } })
        const said: number[] = []
        for (let turn = 0; turn < 4; turn++) {
          const controller = new AbortController()
          let calls = 0
          native.onCall = (call) => {
            if (call.phase === phase && ++calls === 3 + turn) controller.abort()
          }
          const cut = { signal: controller.signal, onAbort: 'return' } as const
          const options = { maxTokens: 1000, ignoreEos: true, speculation, ...cut }
          const result = await session.send([turn, 60], options)
          expect(result.finish).toBe('aborted')
          said.push(turn, 60, ...result.tokens)
          expect(session.stats().tokens).toBe(said.length)
          const held = native.committed(1)
          expect(held).toEqual(said.slice(0, held.length))
        }
        native.onCall = () => undefined
        const last = await session.send([1, 2], { maxTokens: 5, speculation })
        said.push(1, 2, ...last.tokens)
        expect(native.committed(1)).toEqual(said.slice(0, -1))
        expect(native.peakSessions).toBe(1)
      }
    }
  })

  it('during prefill leave the session as it was, and the next turn begins anew', async () => {
    const { session, native } = open({ toy: { chunk: 2 } })
    const first = await session.send([1, 2, 3], { maxTokens: 5 })
    const controller = new AbortController()
    native.onCall = () => controller.abort('not that')
    const cut = session.send([9, 9, 9, 9, 9], { maxTokens: 5, signal: controller.signal })
    await expect(cut).rejects.toBe('not that')
    native.onCall = () => undefined
    const next = await session.send([4, 5], { maxTokens: 5 })
    expect(native.committed(2)).toEqual([1, 2, 3, ...first.tokens, 4, 5, ...next.tokens].slice(0, -1))
    expect(next.usage).toMatchObject({ cached: 0, prompt: 10 })
    expect(native.openSessions).toBe(1)
  })

  it('before prefill cost nothing', async () => {
    const { session, native } = open()
    await session.send([1, 2, 3], { maxTokens: 5 })
    await expect(session.send([4], { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
    await expect(session.send([])).rejects.toMatchObject({ code: 'ERR_EMPTY_PROMPT' })
    const { usage } = await session.send([4, 5], { maxTokens: 5 })
    expect(usage).toMatchObject({ cached: 7, prompt: 3 })
    expect(native.peakSessions).toBe(1)
  })

  for (const phase of ['prefill', 'verify', 'commit']) {
    it(`by a failure in ${phase} are as if never sent`, async () => {
      const { session, native } = open()
      const first = await session.send([1, 2, 3], { maxTokens: 5 })
      native.onCall = (call) => {
        if (call.phase === phase) throw nativeError('ERR_OUT_OF_MEMORY', 'full')
      }
      await expect(session.send([9], { maxTokens: 50 })).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
      native.onCall = () => undefined
      expect(native.openSessions).toBe(0)
      const next = await session.send([4, 5], { maxTokens: 5 })
      expect(native.committed(2)).toEqual([1, 2, 3, ...first.tokens, 4, 5, ...next.tokens].slice(0, -1))
    })
  }

  it('at the very last commit keep the result', async () => {
    const { session, native } = open({ toy: { headAccuracy: 1 } })
    native.onCall = (call) => {
      if (call.phase === 'commit') throw nativeError('ERR_DEVICE', 'gone')
    }
    const first = await session.send([1, 2, 3], { maxTokens: 3, speculation: { tree: 'chain:4' } })
    expect(first.tokens).toHaveLength(3)
    native.onCall = () => undefined
    const next = await session.send([4], { maxTokens: 4 })
    expect(native.committed(2)).toEqual([1, 2, 3, ...first.tokens, 4, ...next.tokens].slice(0, -1))
  })
})

describe('a chat', () => {
  const encode = (text: string): number[] =>
    Array.from(text.matchAll(/<s>|<\/s>|./gs), ([one]) =>
      one === '<s>' ? TOY_BOS : one === '</s>' ? TOY_EOS : one.charCodeAt(0) - 32,
    )

  it('appends each message as the template writes it, the end of the answer once', async () => {
    const { session, native, tokenizer } = open({ toy: { stopEvery: 10 } })
    const system = { role: 'system', content: 'Be brief.' }
    const first = await session.send([system, { role: 'user', content: 'one' }], { maxTokens: 500 })
    const second = await session.send({ role: 'user', content: 'two' }, { maxTokens: 4, ignoreEos: true })
    const third = await session.send({ role: 'user', content: 'three' }, { maxTokens: 4 })
    expect(first.tokens.at(-1)).toBe(TOY_EOS)
    expect(second.finish).toBe('length')
    const context = [
      TOY_BOS,
      ...encode('[system]Be brief.</s>[user]one</s>[assistant]'),
      ...first.tokens,
      ...encode('[user]two</s>[assistant]'),
      ...second.tokens,
      ...encode('</s>[user]three</s>[assistant]'),
      ...third.tokens,
    ]
    expect(native.committed(1)).toEqual(context.slice(0, -1))
    expect(native.peakSessions).toBe(1)
    expect(session.messages).toEqual([
      system,
      { role: 'user', content: 'one' },
      { role: 'assistant', content: tokenizer!.decode(first.tokens) },
      { role: 'user', content: 'two' },
      { role: 'assistant', content: tokenizer!.decode(second.tokens) },
      { role: 'user', content: 'three' },
      { role: 'assistant', content: tokenizer!.decode(third.tokens) },
    ])
  })

  it('begins anew when the template writes the past differently', async () => {
    const template = '{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}</s>{% endfor %}[assistant]'
    const { session, native } = open({ template })
    const first = await session.send({ role: 'user', content: 'one' }, { maxTokens: 20, ignoreEos: true })
    expect(first.text).not.toBe(first.text.toUpperCase())
    const second = await session.send({ role: 'user', content: 'two' }, { maxTokens: 4 })
    const text = `[user]ONE</s>[assistant]${first.text.toUpperCase()}</s>[user]TWO</s>[assistant]`
    expect(native.committed(2)).toEqual([TOY_BOS, ...encode(text), ...second.tokens].slice(0, -1))
    expect(second.usage.cached).toBe(0)
    expect(native.openSessions).toBe(1)
  })

  it('forgets a message whose turn failed, and keeps one that was cut short', async () => {
    const { session, native } = open()
    native.onCall = () => {
      throw nativeError('ERR_DEVICE', 'gone')
    }
    await expect(session.send({ role: 'user', content: 'lost' })).rejects.toMatchObject({ code: 'ERR_DEVICE' })
    expect(session.messages).toEqual([])
    native.onCall = () => undefined
    const generation = session.send({ role: 'user', content: 'kept' }, { maxTokens: 3000, onAbort: 'return' })
    for await (const chunk of generation) if (chunk.index === 3) generation.abort()
    const { text } = await generation
    expect(session.messages).toEqual([
      { role: 'user', content: 'kept' },
      { role: 'assistant', content: text },
    ])
  })

  it('is not mixed with plain text', async () => {
    const { engine, session } = open()
    await session.send('plain', { maxTokens: 2 })
    await expect(session.send({ role: 'user', content: 'x' })).rejects.toMatchObject({ code: 'ERR_OPTION' })
    const chat = engine.session()
    await chat.send({ role: 'user', content: 'x' }, { maxTokens: 2 })
    await expect(chat.send('plain')).rejects.toMatchObject({ code: 'ERR_OPTION' })
    await chat.close()
  })
})

describe('lifecycle', () => {
  it('adds special tokens to the first text only', async () => {
    const { session, native } = open()
    const first = await session.send('ab', { maxTokens: 2 })
    const second = await session.send('cd', { maxTokens: 2 })
    expect(native.committed(1)).toEqual([TOY_BOS, 65, 66, ...first.tokens, 67, 68, ...second.tokens].slice(0, -1))
  })

  it('takes one turn at a time', async () => {
    const { session } = open()
    const first = session.send([1], { maxTokens: 20 })
    await expect(session.send([2])).rejects.toMatchObject({ code: 'ERR_BUSY' })
    expect((await first).tokens.length).toBeGreaterThan(0)
    await session.send([2], { maxTokens: 2 })
  })

  it('tells what the last turn left while the next one runs', async () => {
    const { session, native } = open()
    await session.send([1, 2], { maxTokens: 5 })
    const seen: unknown[] = []
    native.onCall = () => {
      seen.push(session.stats())
    }
    await session.send([2], { maxTokens: 20, ignoreEos: true })
    for (const stats of seen) expect(stats).toEqual({ tokens: 7, rows: 6, kvBytes: 192 })
  })

  it('is not kept busy by a turn that could not begin', async () => {
    const { session } = open()
    await expect(session.send([1], { maxTokens: -1 })).rejects.toMatchObject({ code: 'ERR_OPTION' })
    await session.send([1], { maxTokens: 2 })
  })

  it('holds no place between turns', async () => {
    const { engine, session } = open({ limits: { maxSequences: 1 } })
    await session.send([1], { maxTokens: 2 })
    expect(engine.stats()).toMatchObject({ running: 0, sessions: 1 })
    await engine.generate([1], { maxTokens: 2 })
    await session.send([1], { maxTokens: 2 })
  })

  it('ends a running turn on close, and takes no other', async () => {
    const { engine, session, native } = open()
    const running = session.send([1], { maxTokens: 4000, ignoreEos: true })
    await new Promise((resolve) => setImmediate(resolve))
    await Promise.all([session.close(), session.close()])
    await expect(running).rejects.toMatchObject({ name: 'AbortError' })
    await expect(session.send([1])).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(native.openSessions).toBe(0)
    expect(engine.stats().sessions).toBe(0)
    expect(session.stats()).toMatchObject({ rows: 0, kvBytes: 0 })
  })

  it('closes itself at the end of its scope', async () => {
    const { engine, native } = open()
    {
      await using session = engine.session()
      await session.send([1], { maxTokens: 3 })
      expect(native.openSessions).toBe(1)
    }
    expect(native.openSessions).toBe(0)
  })

  it('counts all turns against the context', async () => {
    const { session } = open({ toy: { maxPositions: 32 } })
    await session.send(
      Array.from({ length: 20 }, () => 1),
      { maxTokens: 6, ignoreEos: true },
    )
    const second = await session.send([1, 2, 3], { maxTokens: 100, ignoreEos: true })
    expect(second).toMatchObject({ finish: 'length', usage: { completion: 3 } })
    await expect(session.send([1])).rejects.toMatchObject({
      code: 'ERR_CONTEXT_OVERFLOW',
      details: { promptTokens: 1, cached: 32, context: 32 },
    })
  })

  it('refuses options it does not know', () => {
    const { engine } = open()
    expect(() => engine.session({ budget: 3 } as never)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  })
})
