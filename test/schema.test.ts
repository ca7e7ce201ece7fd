// Schemas' building blocks: what a misspelt word may have meant, and how much is said about a value that is all wrong.
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { isGorgonError } from '../src/errors.js'
import { parseGenerateOptions } from '../src/options.js'
import { didYouMean, integer, list, parse, secret, strict } from '../src/schema.js'
import { failure } from './support/errors.js'

describe('didYouMean', () => {
  const known = ['maxTokens', 'minTokens', 'temperature', 'topK', 'topP', 'minP', 'stop']

  test.each([
    ['maxToken', 'maxTokens'],
    ['max-tokens', 'maxTokens'],
    ['MAXTOKENS', 'maxTokens'],
    ['maxTokesn', 'maxTokens'],
    ['min_tokens', 'minTokens'],
    ['top_p', 'topP'],
    ['temp', undefined],
    ['stpo', 'stop'],
    ['completelyDifferent', undefined],
    ['', undefined],
  ])('%s', (word, meant) => {
    expect(didYouMean(word, known)).toBe(meant)
  })

  test('does not take long over a long word', () => {
    expect(didYouMean('x'.repeat(10_000_000), known)).toBeUndefined()
  })

  test('knows nothing without known words', () => {
    expect(didYouMean('a', [])).toBeUndefined()
  })
})

describe('a list', () => {
  const Numbers = list(integer(0, 9), 'an array of digits', 1)

  test('gives its items', () => {
    expect(parse(Numbers, [0, 9])).toEqual([0, 9])
  })

  test.each([
    [[], 'digits is an array of 0: use an array of digits.'],
    ['12', 'digits is "12": use an array of digits.'],
    [[1, 10, 11], 'digits[1] is 10: use a whole number from 0 to 9.'],
  ])('of %j is refused', (value, message) => {
    expect(() => parse(Numbers, value, 'digits')).toThrow(message)
  })

  test('says what its items are, in JSON Schema', () => {
    expect(z.toJSONSchema(Numbers)).toMatchObject({ items: { type: 'integer', minimum: 0, maximum: 9 }, minItems: 1 })
  })
})

describe('a hostile value is answered with a short message, soon', () => {
  const many = 200_000
  const keys = Object.fromEntries(Array.from({ length: many }, (_, i) => [`key${i}`, 1]))

  test.each<[string, () => unknown]>([
    ['unknown keys', () => parse(strict({ maxTokens: integer(1) }), { maxTokens: 1, ...keys })],
    ['wrong keys of a record', () => parseGenerateOptions({ logitBias: keys as never })],
    ['wrong items', () => parseGenerateOptions({ stopTokenIds: new Array(many).fill('') as never })],
    ['wrong strings', () => parseGenerateOptions({ stop: new Array(many).fill(0) as never })],
    [
      'wrong paths',
      () => parseGenerateOptions({ speculation: { tree: { paths: [new Array(many).fill('')] } } as never }),
    ],
    ['one long key', () => parseGenerateOptions({ ['k'.repeat(many)]: 1 } as never)],
  ])('%s', (_, refused) => {
    const start = performance.now()
    try {
      refused()
      expect.unreachable()
    } catch (error) {
      expect(isGorgonError(error) && error.code).toBe('ERR_OPTION')
      expect((error as Error).message.length).toBeLessThan(2000)
    }
    expect(performance.now() - start).toBeLessThan(2000)
  })
})

describe('a secret', () => {
  const schema = strict({ key: secret(z.string().min(8), 'at least 8 characters') })

  test('that is as it should be is given through', () => {
    expect(parse(schema, { key: '12345678' })).toEqual({ key: '12345678' })
  })

  test('that is not is named, with what is allowed, and never shown', async () => {
    const error = await failure(() => parse(schema, { key: '1234' }), 'ERR_OPTION', /^key is .* at least 8 characters/)
    expect(`${error.message} ${JSON.stringify(error.details)}`).not.toContain('1234')
    await failure(() => parse(schema, {}), 'ERR_OPTION', /^key .*at least 8 characters/)
  })
})
