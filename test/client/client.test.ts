// The client's connections, frame by frame: places, states, coming back, draining, closing.
import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import type { ConnectOptions } from '../../src/client/browser.js'
import { LONG_MS, rejection, useFakeNetwork } from '../support/client.js'

const { network, changes, open } = useFakeNetwork()

const states = async () => {
  await Promise.resolve()
  return changes.map(({ state }) => state)
}

describe('connecting', () => {
  it('asks for the protocol at its path, with an affinity of its own', () => {
    open()
    open()
    const urls = network.sockets.map(({ url }) => new URL(url))
    expect(urls.map(({ pathname }) => pathname)).toEqual(['/v1/stream', '/v1/stream'])
    expect(urls[0]?.searchParams.get('affinity')).toMatch(/^[0-9a-f]{16}$/)
    expect(urls[0]?.search).not.toBe(urls[1]?.search)
    expect(network.latest.protocols).toEqual(['gorgon.v1'])
  })

  it('says hello with the key, and is ready when welcomed', async () => {
    const client = open({ key: 'secret', client: 'me/1' })
    const ready = client.ready()
    const socket = network.latest
    socket.open()
    expect(socket.sent).toEqual([{ type: 'hello', client: 'me/1', flow: 'credit', token: 'secret' }])
    expect(client.state).toBe('connecting')
    socket.welcome()
    await ready
    expect(client.state).toBe('open')
    expect(client.models).toEqual([{ id: 'demo', context: 100, chat: true }])
    await client.ready()
    expect(await states()).toEqual(['open'])
  })

  it('gives up after three attempts at a server that was never there, and tries anew with the next request', async () => {
    const client = open()
    const first = client.generate('x')
    for (let attempt = 1; attempt <= 4; attempt++) {
      expect(network.sockets).toHaveLength(attempt)
      network.latest.end(1006)
      await vi.advanceTimersByTimeAsync(LONG_MS)
    }
    expect(await rejection(first)).toMatchObject({ code: 'ERR_DISCONNECTED', retryable: true })
    expect(client.state).toBe('idle')
    expect(changes.at(-1)?.error?.code).toBe('ERR_DISCONNECTED')
    expect(network.sockets).toHaveLength(4)

    const second = client.generate('x')
    expect(network.sockets).toHaveLength(5)
    network.latest.welcome().answer('ok')
    expect((await second).text).toBe('ok')
  })

  it('waits longer from attempt to attempt, and as long as the server says', async () => {
    open({ reconnect: { retries: 20, minDelayMs: 100, maxDelayMs: 1000 } })
    const delays: number[] = []
    for (let attempt = 1; attempt <= 8; attempt++) {
      const begun = Date.now()
      network.latest.end(1006)
      while (network.sockets.length === attempt) await vi.advanceTimersByTimeAsync(1)
      delays.push(Date.now() - begun)
    }
    for (const [i, delay] of delays.entries()) {
      const full = Math.min(1000, 100 * 2 ** i)
      expect(delay).toBeGreaterThanOrEqual(full / 2)
      expect(delay).toBeLessThanOrEqual(full + 1)
    }
  })

  it('takes a server that does not welcome it for one that is not there', async () => {
    const client = open({ openTimeoutMs: 300, reconnect: false })
    const ready = rejection(client.ready())
    network.latest.open()
    await vi.advanceTimersByTimeAsync(300)
    expect((await ready).message).toContain('300 ms')
    expect(network.latest.closedWith).not.toBeNull()
  })

  it.each(['hello there', '{"type":"welcome"}', '{"type":"accepted","id":"r1"}', '[]', 7])(
    'knows that %j is not from a gorgon server, and does not insist',
    async (said) => {
      const client = open()
      const ready = rejection(client.ready())
      network.latest.open()
      network.latest.sayRaw(said)
      expect((await ready).code).toBe('ERR_PROTOCOL')
      await vi.advanceTimersByTimeAsync(LONG_MS)
      expect(network.sockets).toHaveLength(1)
      expect(client.state).toBe('idle')
    },
  )

  it('rejects at once with a key the server does not know, and asks again with the next request', async () => {
    const client = open({ key: 'wrong' })
    const [ready, generation] = [rejection(client.ready()), rejection(client.generate('x'))]
    network.latest.open()
    network.latest.end(4401, 'No such key')
    for (const error of [await ready, await generation]) {
      expect(error).toMatchObject({ code: 'ERR_UNAUTHORIZED', retryable: false, details: { closeCode: 4401 } })
      expect(error.message).toContain('No such key')
    }
    await vi.advanceTimersByTimeAsync(LONG_MS)
    expect(network.sockets).toHaveLength(1)
    client.generate('y')
    expect(network.sockets).toHaveLength(2)
  })

  it('says why a socket cannot be made', async () => {
    class Blocked {
      constructor() {
        throw new Error('An insecure socket from a secure page')
      }
    }
    const client = open({ WebSocket: Blocked as unknown as typeof network.WebSocket })
    expect((await rejection(client.ready())).message).toContain('insecure socket')
  })

  it('refuses options it does not know, and values that cannot be', () => {
    for (const [options, path] of [
      [{ retrys: 3 }, 'retrys'],
      [{ retries: -1 }, 'retries'],
      [{ reconnect: { minDelayMs: Number.NaN } }, 'reconnect.minDelayMs'],
      [{ openTimeoutMs: 0 }, 'openTimeoutMs'],
      [{ heartbeatMs: Number.POSITIVE_INFINITY }, 'heartbeatMs'],
    ] as const) {
      expect(() => open(options as ConnectOptions)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
      expect(() => open(options as ConnectOptions)).toThrow(
        expect.objectContaining({ details: expect.objectContaining({ path }) }),
      )
    }
    expect(network.sockets).toHaveLength(0)
  })
})

describe('a server that talks nonsense', () => {
  const TYPES =
    'accepted queued prefill delta done error session.opened session.closed draining pong welcome other'.split(' ')
  const nonsense = fc
    .record(
      {
        type: fc.constantFrom(...TYPES),
        id: fc.constantFrom('r2', 'r3', 's4', 7),
        session: fc.constantFrom('s1', 's5', null),
        seq: fc.oneof(fc.integer(), fc.string()),
        text: fc.oneof(fc.string(), fc.integer()),
        n: fc.anything(),
        spans: fc.oneof(fc.array(fc.record({ step: fc.nat(), chars: fc.array(fc.nat()) })), fc.integer()),
        ids: fc.anything(),
        limits: fc.oneof(fc.record({ perConnection: fc.nat(), messageBytes: fc.nat() }), fc.anything()),
        models: fc.anything(),
        token: fc.anything(),
        model: fc.anything(),
        finish: fc.oneof(fc.constantFrom('stop', 'aborted'), fc.anything()),
        usage: fc.anything(),
        code: fc.anything(),
        message: fc.anything(),
        retryable: fc.anything(),
        retryAfterMs: fc.anything(),
      },
      { requiredKeys: ['type'] },
    )
    .map((frame) => JSON.stringify(frame))

  it('throws nothing at whoever holds the socket, and leaves nothing that does not end', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(nonsense, { maxLength: 20 }), async (frames) => {
        const controller = new AbortController()
        const client = open({ signal: controller.signal })
        const session = client.session()
        const generations = [client.generate('x'), client.generate('y', { onAbort: 'return' }), session.send('z')]
        const ended = Promise.allSettled(generations)
        const socket = network.latest.welcome()
        for (const frame of frames) socket.sayRaw(frame)
        await vi.advanceTimersByTimeAsync(LONG_MS)
        controller.abort()
        await ended
        await client.close()
      }),
      { numRuns: 300 },
    )
  })
})

describe('places', () => {
  it('sends as many requests as the server allows, and the next when one has ended', async () => {
    const client = open()
    const generations = ['a', 'b', 'c'].map((prompt) => client.generate(prompt))
    const socket = network.latest.welcome({ perConnection: 2 })
    const first = socket.accept()
    const second = socket.accept()
    expect([first.input, second.input]).toEqual(['a', 'b'])
    expect(socket.sent).toEqual([])
    socket.done(second.id, 1)
    expect(socket.answer('3').input).toBe('c')
    socket.done(first.id, 1)
    expect((await Promise.all(generations)).map(({ text }) => text)).toEqual(['', '', '3'])
  })

  it('forgets a request that is aborted before its turn', async () => {
    const client = open()
    const [first, second, third] = [client.generate('a'), client.generate('b'), client.generate('c')]
    const reason = new Error('changed my mind')
    const rejected = expect(second).rejects.toBe(reason)
    const socket = network.latest.welcome({ perConnection: 1 })
    second.abort(reason)
    await rejected
    socket.answer('1')
    expect(socket.answer('3').input).toBe('c')
    expect([(await first).text, (await third).text]).toEqual(['1', '3'])
  })

  it('waits with new prompts while large ones are on their way out, but not with a cancel', async () => {
    const client = open()
    const socket = network.latest.welcome()
    const running = client.generate('first')
    socket.accept()
    socket.bufferedAmount = 2 * 1024 * 1024
    client.generate('second')
    await vi.advanceTimersByTimeAsync(100)
    expect(socket.sent).toEqual([])
    running.abort()
    await expect(running).rejects.toThrow()
    socket.next('cancel')
    socket.bufferedAmount = 0
    await vi.advanceTimersByTimeAsync(100)
    expect(socket.next('generate').input).toBe('second')
  })

  it('keeps a request that is too large from costing the connection', async () => {
    const client = open()
    const small = client.generate('x')
    const large = client.generate('é'.repeat(600))
    const socket = network.latest.welcome({ messageBytes: 1000 })
    expect(await rejection(large)).toMatchObject({ code: 'ERR_TOO_LARGE', details: { limit: 1000 } })
    socket.answer('ok')
    expect((await small).text).toBe('ok')
    expect(socket.sent).toEqual([])
  })
})

describe('signs of life', () => {
  it('asks a silent server, and leaves one that does not answer for another connection', async () => {
    const client = open()
    const socket = network.latest.welcome({}, 1000)
    await vi.advanceTimersByTimeAsync(2000)
    const { t } = socket.next('ping')
    socket.say({ type: 'pong', t })
    await vi.advanceTimersByTimeAsync(1000)
    expect(socket.sent).toEqual([])
    await vi.advanceTimersByTimeAsync(2000)
    expect(client.state).toBe('reconnecting')
    expect(socket.closedWith).not.toBeNull()
    await vi.advanceTimersByTimeAsync(LONG_MS)
    network.latest.welcome()
    expect(client.state).toBe('open')
    expect(network.sockets).toHaveLength(2)
  })

  it('comes back when a connection breaks, also with nothing to do', async () => {
    const client = open()
    network.latest.welcome()
    await vi.advanceTimersByTimeAsync(LONG_MS)
    network.latest.end(1006)
    await vi.advanceTimersByTimeAsync(LONG_MS)
    network.latest.welcome()
    expect(await states()).toEqual(['open', 'reconnecting', 'open'])
    expect(client.state).toBe('open')
  })

  it.each([1000, 4408])(
    'rests when the server closes an idle connection with %i, until there is something to do',
    async (code) => {
      const client = open()
      network.latest.welcome().end(code)
      await vi.advanceTimersByTimeAsync(LONG_MS)
      expect(client.state).toBe('idle')
      expect(network.sockets).toHaveLength(1)
      const generation = client.generate('x')
      network.latest.welcome().answer('ok')
      expect((await generation).text).toBe('ok')
      expect(await states()).toEqual(['open', 'idle', 'reconnecting', 'open'])
    },
  )

  it('does not hammer a server that welcomes everybody and then fails', async () => {
    const client = open()
    const generation = rejection(client.generate('x'))
    let attempts = 0
    for (; client.state !== 'idle' && attempts < 100; attempts++) {
      network.latest.welcome().end(1011)
      await vi.advanceTimersByTimeAsync(LONG_MS)
    }
    expect((await generation).code).toBe('ERR_INTERNAL')
    expect(attempts).toBeLessThan(10)
  })
})

describe('a draining server', () => {
  it('ends what it runs, while new requests go over another connection', async () => {
    const client = open()
    const first = client.generate('first')
    const old = network.latest.welcome()
    const { id } = old.accept()
    old.deltas(id, ['a'])
    old.say({ type: 'draining', deadlineMs: 1000 })
    expect(client.state).toBe('draining')
    expect(network.sockets).toHaveLength(1)

    const second = client.generate('second')
    expect(old.sent).toEqual([])
    network.latest.welcome().answer('2')
    expect((await second).text).toBe('2')
    old.deltas(id, ['b'], 2)
    old.done(id, 3)
    expect((await first).text).toBe('ab')
    old.next('finish')
    old.end(1000)
    expect(client.state).toBe('open')
    expect(network.sockets).toHaveLength(2)
  })

  it('that welcomes and drains whoever comes is not asked again at once', async () => {
    const client = open()
    const generation = client.generate('x')
    for (let attempt = 1; attempt <= 3; attempt++) {
      const socket = network.latest.welcome({ perConnection: 0 })
      socket.say({ type: 'draining', deadlineMs: 0 })
      await vi.advanceTimersByTimeAsync(1)
      expect(network.sockets).toHaveLength(attempt)
      socket.end(1000)
      await vi.advanceTimersByTimeAsync(LONG_MS)
    }
    network.latest.welcome().answer('ok')
    expect((await generation).text).toBe('ok')
  })

  it('is come back to when it has gone, after a while and not in a storm', async () => {
    const client = open({ reconnect: { retries: 5 } })
    network.latest.welcome()
    await vi.advanceTimersByTimeAsync(LONG_MS)
    network.latest.say({ type: 'draining', deadlineMs: 1000 })
    network.latest.next('finish')
    network.latest.end(1001)
    for (let restarts = 0; restarts < 3; restarts++) {
      await vi.advanceTimersByTimeAsync(LONG_MS)
      expect(network.sockets).toHaveLength(2 + restarts)
      const socket = network.latest.welcome()
      socket.say({ type: 'draining', deadlineMs: 0 })
      socket.end(1001)
    }
    await vi.advanceTimersByTimeAsync(LONG_MS)
    network.latest.welcome()
    expect(client.state).toBe('open')
  })
})

describe('closing', () => {
  it('waits for what runs, says so, and leaves when the server has closed', async () => {
    const client = open()
    const generation = client.generate('x')
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    const closed = client.close()
    expect(client.close()).toBe(closed)
    expect((await rejection(client.generate('y'))).code).toBe('ERR_CLOSED')
    socket.next('credit')
    socket.deltas(id, ['a'])
    socket.done(id, 2)
    expect((await generation).text).toBe('a')
    await vi.advanceTimersByTimeAsync(0)
    socket.next('finish')
    expect(client.state).toBe('open')
    socket.end(1000)
    await closed
    expect(client.state).toBe('closed')
    expect((await rejection(client.ready())).code).toBe('ERR_CLOSED')
    expect((await rejection(client.generate('z'))).code).toBe('ERR_CLOSED')
  })

  it('does not wait for readers, who find the rest afterwards', async () => {
    const client = open()
    const generation = client.generate('x', { highWaterMark: 2 })
    const chunks = generation[Symbol.asyncIterator]()
    const socket = network.latest.welcome()
    const { id, credit } = socket.accept()
    expect(credit).toBe(2)
    const closed = client.close()
    expect(socket.next('credit').chunks).toBeGreaterThan(100_000)
    socket.deltas(id, ['a', 'b', 'c', 'd'])
    socket.done(id, 5)
    await vi.advanceTimersByTimeAsync(0)
    socket.end(1000)
    await closed
    const texts: string[] = []
    for await (const { text } of { [Symbol.asyncIterator]: () => chunks }) texts.push(text)
    expect(texts).toEqual(['a', 'b', 'c', 'd'])
  })

  it('aborts what has not ended in time', async () => {
    const client = open()
    const generation = client.generate('x')
    const rejected = expect(generation).rejects.toMatchObject({ name: 'AbortError' })
    const socket = network.latest.welcome()
    const { id } = socket.accept()
    const closed = client.close({ drainMs: 500 })
    await vi.advanceTimersByTimeAsync(499)
    socket.next('credit')
    expect(socket.sent).toEqual([])
    await vi.advanceTimersByTimeAsync(1)
    socket.next('cancel')
    await rejected
    socket.done(id, 1, { finish: 'aborted' })
    await vi.advanceTimersByTimeAsync(0)
    socket.next('finish')
    socket.end(1000)
    await closed
  })

  it('leaves a server that does not close', async () => {
    const client = open()
    const socket = network.latest.welcome()
    const closed = client.close()
    await vi.advanceTimersByTimeAsync(0)
    socket.next('finish')
    await vi.advanceTimersByTimeAsync(LONG_MS)
    await closed
    expect(socket.closedWith).toBe(1000)
  })

  it('is done at once where nothing was ever connected', async () => {
    const client = open()
    const ready = rejection(client.ready())
    await client.close()
    expect((await ready).code).toBe('ERR_CLOSED')
    expect(network.latest.closedWith).not.toBeNull()
    await vi.advanceTimersByTimeAsync(LONG_MS)
    expect(network.sockets).toHaveLength(1)
  })

  it('by its signal ends everything with its reason, and tells the server', async () => {
    const controller = new AbortController()
    const client = open({ signal: controller.signal })
    const generations = [client.generate('x'), client.generate('y', { onAbort: 'return' }), client.generate('z')]
    const socket = network.latest.welcome({ perConnection: 2 })
    socket.accept()
    socket.accept()
    const reason = new Error('enough')
    const rejected = Promise.all(generations.map((generation) => expect(generation).rejects.toBe(reason)))
    controller.abort(reason)
    await rejected
    expect(socket.sent.map(({ type }) => type)).toEqual(['cancel', 'cancel'])
    expect(socket.closedWith).toBe(1000)
    expect(client.state).toBe('closed')
    await vi.advanceTimersByTimeAsync(LONG_MS)
    expect(network.sockets).toHaveLength(1)
  })

  it('is closed from the beginning with a signal that was aborted', async () => {
    const client = open({ signal: AbortSignal.abort(new Error('never')) })
    expect(client.state).toBe('closed')
    expect(network.sockets).toHaveLength(0)
    await client.close()
  })
})
