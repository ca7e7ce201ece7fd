// Schemas' building blocks: what a misspelt word may have meant.
import { describe, expect, test } from 'vitest'
import { didYouMean } from '../src/schema.js'

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
