// From the addresses people have to the socket's.
import { expect, it } from 'vitest'
import { socketUrl } from '../../src/client/url.js'

it.each([
  ['ws://127.0.0.1:8080', 'ws://127.0.0.1:8080/v1/stream'],
  ['http://127.0.0.1:8080/', 'ws://127.0.0.1:8080/v1/stream'],
  ['https://example.org', 'wss://example.org/v1/stream'],
  ['https://example.org/v1', 'wss://example.org/v1/stream'],
  ['https://example.org/v1/', 'wss://example.org/v1/stream'],
  ['wss://example.org/v1/stream', 'wss://example.org/v1/stream'],
  ['https://example.org/gorgon/', 'wss://example.org/gorgon/v1/stream'],
  ['https://example.org/gorgon/v1?tenant=a#part', 'wss://example.org/gorgon/v1/stream?tenant=a'],
  ['https://http:example@example.org/', 'wss://http:example@example.org/v1/stream'],
])('%s leads to %s', (given, socket) => {
  expect(socketUrl(given, null)).toBe(socket)
  expect(socketUrl(new URL(given), null)).toBe(socket)
})

it('carries an affinity, unless the URL has one', () => {
  expect(socketUrl('ws://a/?x=1', 'me')).toBe('ws://a/v1/stream?x=1&affinity=me')
  expect(socketUrl('ws://a/?affinity=you', 'me')).toBe('ws://a/v1/stream?affinity=you')
})

it('is found from a page', () => {
  expect(socketUrl('/', null, 'https://example.org/some/page?q')).toBe('wss://example.org/v1/stream')
  expect(socketUrl('api', null, 'http://example.org/some/page')).toBe('ws://example.org/some/api/v1/stream')
})

it.each(['', 'example.org', 'localhost:8080', 'ftp://example.org', '/'])(
  'refuses %j, and shows what to give',
  (given) => {
    expect(() => socketUrl(given, null)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
    expect(() => socketUrl(given, null)).toThrow(/ws:\/\/127\.0\.0\.1:8080/)
  },
)
