// Bodies from anybody: taken, or refused by a sentence that names the field; never anything else, and never slowly.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { z } from 'zod'
import { isGorgonError } from '../../../src/index.js'
import { parse } from '../../../src/schema.js'
import { ChatBody } from '../../../src/server/openai/chat.js'
import { CompletionsBody } from '../../../src/server/openai/completions.js'
import { chatOf } from '../../../src/server/openai/messages.js'
import {
  messagesOf,
  ResponseBody,
  ResponseCreate,
  refuseTextConfig,
} from '../../../src/server/openai/responses-input.js'

/** By which each endpoint reads a body. */
const READERS: Readonly<Record<string, { readonly schema: z.ZodType; read(value: unknown): void }>> = {
  chat: { schema: ChatBody, read: (value) => void chatOf(parse(ChatBody, value).messages) },
  completions: { schema: CompletionsBody, read: (value) => void parse(CompletionsBody, value) },
  responses: {
    schema: ResponseBody,
    read(value) {
      const body = parse(ResponseBody, value)
      refuseTextConfig(body)
      messagesOf(body.input)
    },
  },
  socket: { schema: ResponseCreate, read: (value) => void parse(ResponseCreate, value) },
}

const VALID: Readonly<Record<string, object>> = {
  chat: { messages: [{ role: 'user', content: 'x' }] },
  completions: { prompt: 'x' },
  responses: { input: 'x' },
  socket: { type: 'response.create', input: 'x' },
}

/** What reading gives: null, or the code it was refused with. */
function refusal(read: () => void): string | null {
  try {
    read()
    return null
  } catch (error) {
    if (!isGorgonError(error)) throw error
    expect(error.message).toMatch(/[.?!]$/)
    expect(typeof error.details['path']).toBe('string')
    return error.code
  }
}

const FIELDS = [
  'model', 'messages', 'prompt', 'input', 'instructions', 'max_tokens', 'max_completion_tokens', 'max_output_tokens', 'n', 'seed',
  'stop', 'stream', 'stream_options', 'logprobs', 'top_logprobs', 'logit_bias', 'temperature', 'top_p', 'top_k', 'min_p', 'gorgon',
  'tools', 'response_format', 'text', 'metadata', 'include', 'previous_response_id', 'user', 'stop_token_ids', '__proto__',
] // biome-ignore format: a list of names

describe.each(Object.keys(READERS))('a body for %s', (name) => {
  const { read } = READERS[name]!

  it('that is any JSON is taken or refused', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), (value) => {
        expect([null, 'ERR_OPTION', 'ERR_UNSUPPORTED']).toContain(refusal(() => read(value)))
      }),
      { numRuns: 300 },
    )
  })

  it('with any value in any field is taken or refused', () => {
    fc.assert(
      fc.property(fc.constantFrom(...FIELDS), fc.jsonValue({ maxDepth: 3 }), (field, value) => {
        const body = JSON.parse(JSON.stringify({ ...VALID[name], [field]: value }))
        expect([null, 'ERR_OPTION', 'ERR_UNSUPPORTED']).toContain(refusal(() => read(body)))
      }),
      { numRuns: 500 },
    )
  })

  it('with a field that nobody knows is refused, with the one that was meant', () => {
    expect(() => read({ ...VALID[name], temprature: 1 })).toThrow(/Did you mean "temperature"/)
  })

  it('takes null for what has a default', () => {
    for (const field of ['temperature', 'top_p', 'stream', 'user', 'metadata', 'store', 'model', 'gorgon', 'tools']) {
      if (name === 'completions' && field === 'tools') continue
      expect(
        refusal(() => read({ ...VALID[name], [field]: null })),
        field,
      ).toBeNull()
    }
  })
})

/** Of three, in milliseconds: the machine may be busy. */
function shortest(run: () => unknown): number {
  const times = Array.from({ length: 3 }, () => {
    const began = performance.now()
    run()
    return performance.now() - began
  })
  return Math.min(...times)
}

describe('a body as large as it may be', () => {
  const million = Array.from({ length: 1_000_000 }, () => 1)
  const hostile: readonly (readonly [string, string, object])[] = [
    ['token ids', 'completions', { prompt: million }],
    ['wrong token ids', 'completions', { prompt: million.map(() => -1) }],
    ['prompts', 'completions', { prompt: million.map(() => [1]) }],
    ['nulls', 'completions', { prompt: million.map(() => null) }],
    ['messages', 'chat', { messages: million.map(() => ({})) }],
    ['stops', 'chat', { ...VALID['chat'], stop: million }],
    ['items', 'responses', { input: million.map(() => ({})) }],
    ['metadata', 'responses', { ...VALID['responses'], metadata: million }],
  ]
  it.each(hostile)('of a million %s is read in no time to speak of', (_, name, body) => {
    const json = JSON.stringify(body)
    const read = () => refusal(() => READERS[name]!.read(body))
    // At most about as long as JSON.parse; a schema that goes through them one by one takes ten times that, or a thousand.
    expect(shortest(read)).toBeLessThan(4 * shortest(() => JSON.parse(json)))
  })
})
