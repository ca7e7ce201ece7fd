// The native protocol's schemas: what clients may write, with which defaults, and the same as JSON Schema.
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { isGorgonError } from '../../src/errors.js'
import { parse } from '../../src/schema.js'
import { ClientFrame, protocolJsonSchema, ServerFrame } from '../../src/server/protocol.js'

const read = (frame: unknown) => parse(ClientFrame, frame)

describe('a frame of a client', () => {
  test('gets its defaults', () => {
    expect(read({ type: 'hello' })).toEqual({ type: 'hello', flow: 'auto' })
    expect(read({ type: 'generate', id: 'a', input: 'x' })).toMatchObject({
      credit: 16,
      minIntervalMs: 0,
      provenance: true,
      ids: false,
      resumable: false,
      options: { maxTokens: 256, temperature: 0 },
    })
    expect(read({ type: 'resume', id: 'a', token: 't', afterSeq: 0 })).toMatchObject({ credit: 16 })
    expect(read({ type: 'session.open', session: 's' })).toMatchObject({ options: {}, resumable: false })
  })

  test.each([['x'], [[0, 1]], [[{ role: 'user', content: '' }]]])('takes the input %j', (input) => {
    expect(read({ type: 'generate', id: 'a', input })).toMatchObject({ input })
  })

  test.each([
    [0, 0n],
    [2 ** 53 - 1, 2n ** 53n - 1n],
    ['18446744073709551615', 2n ** 64n - 1n],
  ])('takes the seed %j', (seed, exact) => {
    expect(read({ type: 'generate', id: 'a', input: 'x', options: { seed } })).toMatchObject({
      options: { seed: exact },
    })
  })

  test.each<[object, RegExp]>([
    [{ type: 'generte' }, /type/],
    [{}, /type/],
    [{ type: 'generate', input: 'x' }, /id is missing/],
    [{ type: 'generate', id: '', input: 'x' }, /id is "": use a string of 1 to 128 characters/],
    [{ type: 'generate', id: 'i'.repeat(129), input: 'x' }, /1 to 128 characters/],
    [{ type: 'generate', id: 'a' }, /input is missing/],
    [{ type: 'generate', id: 'a', input: [] }, /input is an array of 0: use text, an array of token ids/],
    [{ type: 'generate', id: 'a', input: [-1] }, /input/],
    [{ type: 'generate', id: 'a', input: [{ role: 'user' }] }, /input/],
    [{ type: 'generate', id: 'a', input: 'x', options: { maxToken: 5 } }, /Did you mean "maxTokens"/],
    [{ type: 'generate', id: 'a', input: 'x', options: { seed: 2 ** 53 } }, /seed/],
    [{ type: 'generate', id: 'a', input: 'x', options: { seed: '18446744073709551616' } }, /below 2\^64/],
    [{ type: 'generate', id: 'a', input: 'x', options: { seed: '0x5' } }, /seed/],
    [{ type: 'generate', id: 'a', input: 'x', options: { highWaterMark: 1 } }, /"highWaterMark" is not an option/],
    [{ type: 'generate', id: 'a', input: 'x', options: { client: 'me' } }, /"client" is not an option/],
    [{ type: 'credit', id: 'a', chunks: 0 }, /chunks/],
    [{ type: 'resume', id: 'a', token: 't', afterSeq: -1 }, /afterSeq/],
    [{ type: 'hello', flow: 'fast' }, /one of "auto", "credit"/],
  ])('%j is refused', (frame, message) => {
    try {
      read(frame)
      expect.unreachable()
    } catch (error) {
      expect(isGorgonError(error) && error.code).toBe('ERR_OPTION')
      expect((error as Error).message).toMatch(message)
    }
  })

  test('has no room for prototypes', () => {
    const frame = JSON.parse('{"type":"generate","id":"a","input":"x","__proto__":{"polluted":1}}')
    expect(() => read(frame)).toThrow()
    expect(({} as { polluted?: number }).polluted).toBeUndefined()
  })
})

describe('JSON Schema', () => {
  const schemas = protocolJsonSchema()

  test('is plain JSON of draft 2020-12', () => {
    expect(JSON.parse(JSON.stringify(schemas))).toEqual(schemas)
    for (const schema of [schemas.client, schemas.server]) {
      expect(JSON.stringify(schema).match(/"\$schema":"[^"]*"/g)).toEqual([
        '"$schema":"https://json-schema.org/draft/2020-12/schema"',
      ])
    }
  })

  test.each([
    ['client', ClientFrame],
    ['server', ServerFrame],
  ] as const)('of the %s names every frame and field', (side, schema) => {
    const variants = (schemas[side] as { oneOf: { properties: Record<string, { const?: string }> }[] }).oneOf
    const named = variants.map(({ properties }) => [properties['type']?.const, Object.keys(properties)])
    const written = schema.options.map((frame: z.ZodObject) => {
      const { type } = frame.shape as { type: z.ZodLiteral<string> }
      return [type.value, Object.keys(frame.shape)]
    })
    expect(named).toEqual(written)
  })

  test.each<[boolean, object]>([
    [true, { type: 'hello' }],
    [true, { type: 'generate', id: 'a', input: 'x' }],
    [
      true,
      { type: 'generate', id: 'a', input: [1, 2], options: { seed: '18446744073709551615', logitBias: { 5: -1 } } },
    ],
    [true, { type: 'generate', id: 'a', input: [{ role: 'user', content: 'x' }], options: { stop: ['a'] } }],
    [true, { type: 'session.open', session: 's', options: { kv: { policy: 'full' } } }],
    [false, { type: 'generate', id: 'a' }],
    [false, { type: 'generate', id: 'a', input: [1.5] }],
    [false, { type: 'generate', id: 'a', input: [{ role: 'user' }] }],
    [false, { type: 'generate', id: 'a', input: 'x', options: { maxToken: 1 } }],
    [false, { type: 'generate', id: 'a', input: 'x', options: { logitBias: { five: 1 } } }],
    [false, { type: 'generate', id: 'a', input: 'x', options: { logitBias: { 5: 101 } } }],
    [false, { type: 'generate', id: 'a', input: 'x', options: { stopTokenIds: ['1'] } }],
    [false, { type: 'credit', id: 'a', chunks: 0 }],
  ])('judges as the server does: %j %j', (isValid, frame) => {
    expect(ClientFrame.safeParse(frame).success).toBe(isValid)
    expect(z.fromJSONSchema(schemas.client as never).safeParse(frame).success).toBe(isValid)
  })

  test('tells what may be in an input, a seed and a list', () => {
    const said = JSON.stringify(schemas.client)
    expect(said).toContain('"content"')
    expect(said).toContain('[1-9]')
    expect(said).toContain('additionalProperties')
  })
})
