// A delta's text falls to the tokens that brought it.
import { expect, test } from 'vitest'
import { piecesOf } from '../../../src/server/playground/provenance.js'

test('each token gets its stretch of the text, with its step and its depth', () => {
  const delta = {
    text: 'const x = 1',
    n: 4,
    spans: [
      { step: 3, chars: [5, 2, 3] },
      { step: 4, chars: [1] },
    ],
  }
  expect(piecesOf(delta)).toEqual([
    { text: 'const', step: 3, depth: 0 },
    { text: ' x', step: 3, depth: 1 },
    { text: ' = ', step: 3, depth: 2 },
    { text: '1', step: 4, depth: 0 },
  ])
})

test('a token that completes no character brings no text, and the one that does brings all of it', () => {
  expect(piecesOf({ text: '🦜', n: 3, spans: [{ step: 0, chars: [0, 0, 2] }] })).toEqual([
    { text: '🦜', step: 0, depth: 2 },
  ])
})

test('pieces joined are the text, also where spans do not reach its end or are not there', () => {
  const spans = [{ step: 7, chars: [2] }]
  expect(piecesOf({ text: 'abcd', n: 1, spans })).toEqual([
    { text: 'ab', step: 7, depth: 0 },
    { text: 'cd', step: 7, depth: 0 },
  ])
  expect(piecesOf({ text: 'abcd', n: 2 })).toEqual([{ text: 'abcd', step: 0, depth: 0 }])
  expect(piecesOf({ text: '', n: 1, spans: [{ step: 1, chars: [0] }] })).toEqual([])
})
