import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Message } from '../../../src/index.js'
import { fitting } from '../../../src/server/openai/fitting.js'

/** A token per character, and one more for each message. */
const engineOf = (context: number) => ({
  info: { context },
  renderChat: (messages: readonly Message[]) => messages.map(({ content }) => `${content}|`).join(''),
  tokenize: async (text: string) => new Int32Array(text.length),
})
const messagesOf = (...lengths: number[]): Message[] =>
  lengths.map((length) => ({ role: 'user', content: 'x'.repeat(length) }))
const sizeOf = (messages: readonly Message[]): number =>
  messages.reduce((sum, { content }) => sum + content.length + 1, 0)

describe('a context', () => {
  it('that fits, with one token to spare, is left as it is', async () => {
    const messages = messagesOf(40, 57)
    expect(await fitting(messages, { first: [], maxTokens: 50, engine: engineOf(100) })).toBe(messages)
    expect(await fitting(messages, { first: [], maxTokens: 50, engine: engineOf(99) })).not.toBe(messages)
  })

  it('of more messages than it has tokens is never rendered whole', async () => {
    const engine = engineOf(100)
    const rendered: number[] = []
    const renderChat = (messages: readonly Message[]) => {
      rendered.push(messages.length)
      return engine.renderChat(messages)
    }
    const messages = messagesOf(...Array.from({ length: 10_000 }, () => 0))
    const kept = await fitting(messages, { first: [], maxTokens: 10, engine: { ...engine, renderChat } })
    expect(kept).toHaveLength(90)
    expect(Math.max(...rendered)).toBeLessThanOrEqual(100)
  })

  it('that does not loses its oldest messages, until there is room for the answer', async () => {
    const messages = messagesOf(30, 30, 30, 30)
    expect(await fitting(messages, { first: [], maxTokens: 30, engine: engineOf(100) })).toEqual(messages.slice(2))
    expect(await fitting(messages, { first: [], maxTokens: null, engine: engineOf(100) })).toEqual(messages.slice(2))
    expect(await fitting(messages, { first: [], maxTokens: 7, engine: engineOf(100) })).toEqual(messages.slice(1))
  })

  it('keeps what comes first, and its last message at all events', async () => {
    const first = messagesOf(60)
    const messages = messagesOf(10, 10, 70)
    expect(await fitting(messages, { first, maxTokens: 10, engine: engineOf(100) })).toEqual(messages.slice(2))
  })

  it('begins with what a user says', async () => {
    const roles = ['user', 'assistant', 'user', 'assistant', 'user']
    const messages = messagesOf(30, 30, 30, 10, 10).map(({ content }, i) => ({ role: roles[i]!, content }))
    expect(await fitting(messages, { first: [], maxTokens: 20, engine: engineOf(100) })).toEqual(messages.slice(2))
    expect(await fitting(messages, { first: [], maxTokens: 50, engine: engineOf(100) })).toEqual(messages.slice(4))
  })

  it('of any messages becomes as many of the last ones as fit', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 20 }),
        fc.option(fc.integer({ min: 1, max: 200 })),
        async (lengths, maxTokens) => {
          const messages = messagesOf(...lengths)
          const kept = await fitting(messages, { first: [], maxTokens, engine: engineOf(100) })
          expect(kept).toEqual(messages.slice(-kept.length))
          const room = Math.min(maxTokens ?? 25, 50)
          if (kept.length === messages.length) return
          expect(kept.length === 1 || sizeOf(kept) + room <= 100).toBe(true)
          const isAllButOne = kept.length === messages.length - 1
          expect(isAllButOne || sizeOf(messages.slice(-kept.length - 1)) + room > 100).toBe(true)
        },
      ),
      { numRuns: 300 },
    )
  })
})
