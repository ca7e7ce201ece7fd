// Keys, principals, origins and host names, as a guard judges requests.
import type { IncomingMessage } from 'node:http'
import { describe, expect, test } from 'vitest'
import type { Engine } from '../../src/index.js'
import { bearerOf, Guard, isLoopback } from '../../src/server/auth.js'
import { parseServerOptions, type ServerOptionsInput } from '../../src/server/options.js'
import { failure } from '../support/errors.js'

const engine = { generate: () => undefined } as unknown as Engine
const guardOf = (options: Partial<ServerOptionsInput> = {}) => new Guard(parseServerOptions({ engine, ...options }))
const requestOf = (headers: IncomingMessage['headers'], remoteAddress = '127.0.0.1') =>
  ({ headers, socket: { remoteAddress } }) as IncomingMessage
const withKey = (key: string) => requestOf({ authorization: `Bearer ${key}` })

describe('keys', () => {
  const keys = ['first-key-0', { key: 'second-key', name: 'team', maxPriority: 5 }]

  test('each is somebody, by name or by hash, never by itself', async () => {
    const guard = guardOf({ keys })
    const first = await guard.authenticate(withKey('first-key-0'))
    expect(first.id).toMatch(/^key:[0-9a-f]{8}$/)
    expect(first.maxPriority).toBe(0)
    expect(await guard.authenticate(withKey('second-key'))).toEqual({ id: 'team', maxPriority: 5 })
  })

  test.each([
    ['none', {}],
    ['a wrong one', { authorization: 'Bearer first-key-1' }],
    ['the beginning of one', { authorization: 'Bearer first-key' }],
    ['one and more', { authorization: 'Bearer first-key-00' }],
    ['another scheme', { authorization: 'Basic first-key-0' }],
    ['an empty one', { authorization: 'Bearer ' }],
  ])('%s is refused', async (_, headers) => {
    await failure(() => guardOf({ keys }).authenticate(requestOf(headers)), 'ERR_UNAUTHORIZED')
  })

  test('the refusal does not repeat what was sent', async () => {
    const error = await failure(() => guardOf({ keys }).authenticate(withKey('my-own-secret')), 'ERR_UNAUTHORIZED')
    expect(JSON.stringify([error.message, error.details])).not.toContain('my-own-secret')
  })

  test('the scheme is read whatever its case', () => {
    expect(bearerOf(requestOf({ authorization: 'bearer  abc ' }))).toBe('abc')
  })

  test('without keys everybody is their address', async () => {
    const guard = guardOf()
    expect(await guard.authenticate(requestOf({}, '::ffff:127.0.0.1'))).toEqual({
      id: 'address:127.0.0.1',
      maxPriority: 10,
    })
    expect(guard.asksForKeys).toBe(false)
  })
})

describe('authenticate', () => {
  test('decides by the key, the address and the request', async () => {
    const guard = guardOf({
      authenticate: async ({ token, address }) => (token === 'right' ? { id: `user at ${address}` } : null),
    })
    expect(await guard.authenticate(withKey('right'))).toEqual({ id: 'user at 127.0.0.1', maxPriority: 0 })
    await failure(() => guard.authenticate(withKey('wrong')), 'ERR_UNAUTHORIZED')
    await failure(() => guard.authenticate(requestOf({})), 'ERR_UNAUTHORIZED')
  })

  test('is not to be given beside keys', async () => {
    await failure(() => guardOf({ keys: ['12345678'], authenticate: () => null }), 'ERR_OPTION', /authenticate/)
  })
})

describe('listening beyond this machine', () => {
  test.each(['0.0.0.0', '::', '192.168.1.5', 'example.com'])('%s needs keys', async (host) => {
    await failure(() => guardOf({ host }), 'ERR_OPTION', /Give keys, listen on 127\.0\.0\.1, or say allowPublic/)
    guardOf({ host, keys: ['12345678'] })
    guardOf({ host, authenticate: () => null })
    guardOf({ host, allowPublic: true })
  })

  test.each(['127.0.0.1', '127.9.9.9', '::1', '[::1]', 'localhost', 'app.localhost', 'LOCALHOST'])(
    '%s is this machine',
    (host) => {
      expect(isLoopback(host)).toBe(true)
      guardOf({ host })
    },
  )

  test('names that only begin like this machine are not', () => {
    expect(['127.0.0.1.example.com', 'localhost.example.com', '128.0.0.1', '::2'].some(isLoopback)).toBe(false)
  })
})

describe('addresses behind proxies', () => {
  const proxies = ['10.0.0.0/8']
  const addressOf = (forwarded: string, peer = '10.0.0.1') =>
    guardOf({ proxies }).addressOf(requestOf({ 'x-forwarded-for': forwarded }, peer))

  test('are what the last proxy of ours heard it from', () => {
    expect(addressOf('203.0.113.7')).toBe('203.0.113.7')
    expect(addressOf('203.0.113.7, 10.2.3.4')).toBe('203.0.113.7')
  })

  test('cannot be made up by the client', () => {
    expect(addressOf('1.1.1.1, 203.0.113.7')).toBe('203.0.113.7')
    expect(addressOf('1.1.1.1', '203.0.113.7')).toBe('203.0.113.7')
    expect(addressOf('nonsense')).toBe('10.0.0.1')
    expect(addressOf('')).toBe('10.0.0.1')
  })
})

describe('origins', () => {
  const from = (origin: string, host = '127.0.0.1:8080') => requestOf({ origin, host })

  test('a request of no page is none of them', () => {
    guardOf().checkOrigin(requestOf({ host: '127.0.0.1:8080' }))
  })

  test.each([
    ['http://127.0.0.1:8080', '127.0.0.1:8080'],
    ['http://localhost', 'localhost:80'],
    ['https://localhost', 'localhost'],
  ])('%s at %s is its own page', (origin, host) => {
    guardOf().checkOrigin(from(origin, host))
  })

  test.each(['https://evil.example', 'null', 'http://127.0.0.1:9999', 'garbage', 'file://'])(
    '%s is foreign, unless it is harmless',
    async (origin) => {
      await failure(() => guardOf().checkOrigin(from(origin)), 'ERR_FORBIDDEN', /may not use this server/)
      guardOf().checkOrigin(from(origin), { isHarmless: true })
      expect(guardOf().allowedOrigin(from(origin))).toBeNull()
    },
  )

  test('those listed are welcome, those like them are not', async () => {
    const guard = guardOf({ origins: ['https://app.example'] })
    guard.checkOrigin(from('https://app.example'))
    expect(guard.allowedOrigin(from('https://app.example'))).toBe('https://app.example')
    for (const other of ['http://app.example', 'https://app.example:444', 'https://app.example.evil.example']) {
      await failure(() => guard.checkOrigin(from(other)), 'ERR_FORBIDDEN')
    }
  })

  test('a star is any', () => {
    guardOf({ origins: ['*'] }).checkOrigin(from('https://any.example'))
  })
})

describe('host names of a server on this machine', () => {
  const at = (host: string) => requestOf({ host })

  test.each(['localhost:8080', '127.0.0.1', '[::1]:8080', 'app.localhost', '10.0.0.7:80'])('%s is fine', (host) => {
    guardOf().checkOrigin(at(host))
  })

  test('a name that was made to lead here is not, even for a harmless request', async () => {
    const rebound = requestOf({ host: 'evil.example:8080', origin: 'http://evil.example:8080' })
    await failure(() => guardOf().checkOrigin(rebound, { isHarmless: true }), 'ERR_FORBIDDEN', /no name of this server/)
  })

  test('a listed origin’s is, and any where keys are asked for', () => {
    guardOf({ origins: ['https://app.example'] }).checkOrigin(at('app.example'))
    guardOf({ keys: ['12345678'] }).checkOrigin(at('any.example'))
  })
})
