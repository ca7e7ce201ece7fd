// What a server may be told, and what it says to what it may not.
import { describe, expect, test } from 'vitest'
import type { Engine } from '../../src/index.js'
import { parseServerOptions, type ServerOptionsInput } from '../../src/server/options.js'
import { failure } from '../support/errors.js'

const engine = { generate: () => undefined } as unknown as Engine
const parsed = (options: object) => parseServerOptions({ engine, ...options } as ServerOptionsInput)

test('an engine is all it needs; it then listens on this machine alone', () => {
  expect(parsed({})).toMatchObject({
    host: '127.0.0.1',
    port: 8080,
    keys: [],
    allowPublic: false,
    origins: [],
    proxies: [],
    playground: true,
    logContent: false,
    drainMs: 30_000,
    limits: {
      bodyBytes: 4 * 1024 * 1024,
      connections: 1024,
      connectionsPerAddress: 128,
      perConnection: 8,
      perKey: { concurrent: 64, requestsPerMinute: 0, sessions: 64 },
      sessions: 256,
      choices: 8,
    },
  })
})

test('limits that are given leave the others as they are', () => {
  const { limits } = parsed({ limits: { perKey: { requestsPerMinute: 60 }, choices: 2 } })
  expect(limits).toMatchObject({ choices: 2, perConnection: 8, perKey: { concurrent: 64, requestsPerMinute: 60 } })
})

describe('engines', () => {
  test.each([
    ['one', engine],
    ['one that is coming', Promise.resolve(engine)],
    ['several by name', { a: engine, b: Promise.resolve(engine) }],
  ])('%s', (_, given) => {
    expect(parseServerOptions({ engine: given }).engine).toBe(given)
  })

  test.each([
    ['nothing', undefined],
    ['a name', 'demo'],
    ['no names', {}],
    ['something else under a name', { a: engine, b: 'demo' }],
    ['null', null],
  ])('%s is none', async (_, given) => {
    await failure(() => parseServerOptions({ engine: given as never }), 'ERR_OPTION', /engine/)
  })
})

test.each([
  ['keys: []', { keys: [] }],
  ['keys without names', { keys: ['12345678', { key: '23456789' }, { key: '34567890' }] }],
  ['a key with a name', { keys: [{ key: '12345678', name: 'me', maxPriority: 10 }] }],
  ['an origin with a port', { origins: ['http://localhost:5173'] }],
  ['any origin', { origins: ['*'] }],
  ['proxies', { proxies: ['10.0.0.0/8', '::1', '2001:db8::/32', '192.168.0.1'] }],
  ['any free port', { port: 0 }],
  ['nothing for resuming', { limits: { resumeMs: 0 } }],
])('%s is fine', (_, options) => {
  expect(parsed(options)).toMatchObject({})
})

test.each([
  ['a key that is too short', { keys: ['1234567'] }, /keys/],
  ['a key with a space', { keys: ['1234 5678'] }, /keys/],
  ['keys that are one string', { keys: '12345678' }, /keys/],
  ['a priority out of range', { keys: [{ key: '12345678', maxPriority: 11 }] }, /maxPriority|keys/],
  [
    'a name that two keys have',
    { keys: [{ key: '12345678', name: 'me' }, '23456789', { key: '34567890', name: 'me' }] },
    /^keys\[2\]\.name is that of keys\[0\] too\./,
  ],
  [
    'a key with two names',
    { keys: [{ key: '12345678', name: 'me' }, '23456789', { key: '12345678', name: 'you' }] },
    /^keys\[2\] is the key of keys\[0\] too\./,
  ],
  ['an origin with a path', { origins: ['https://app.example/'] }, /origins/],
  ['an origin without a scheme', { origins: ['app.example'] }, /origins/],
  ['a proxy that is a name', { proxies: ['balancer'] }, /proxies/],
  ['a network of too many bits', { proxies: ['10.0.0.0/33'] }, /proxies/],
  ['a network of two slashes', { proxies: ['10.0.0.0/8/8'] }, /proxies/],
  ['a port out of range', { port: 65_536 }, /port/],
  ['a misspelt option', { orgins: [] }, /Did you mean "origins"/],
  ['a misspelt limit', { limits: { bodybytes: 1 } }, /Did you mean "bodyBytes"/],
  ['a logger that is none', { logger: {} }, /logger/],
  ['a limit of no time', { limits: { headersMs: 0 } }, /headersMs/],
])('%s is refused, and named', async (_, options, says) => {
  await failure(() => parsed(options), 'ERR_OPTION', says)
})

test('a key that is refused is not repeated', async () => {
  const error = await failure(() => parsed({ keys: ['my s3cret'] }), 'ERR_OPTION')
  expect(`${error.message} ${JSON.stringify(error.details)}`).not.toContain('s3cret')
})
