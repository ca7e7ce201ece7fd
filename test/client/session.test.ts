// A session over whatever becomes of its connections, frame by frame.
import { describe, expect, it, vi } from 'vitest'
import { LONG_MS, rejection, useFakeNetwork } from '../support/client.js'
import type { FakeSocket } from '../support/fake-socket.js'

const { network, open } = useFakeNetwork()

const say = (content: string) => ({ role: 'user', content })

/** Opens the session that the client asks for. */
function opened(socket: FakeSocket, token?: string) {
  const frame = socket.next('session.open')
  socket.say({ type: 'session.opened', session: frame.session, model: 'demo', ...(token !== undefined && { token }) })
  return frame
}

async function reconnect() {
  network.latest.end(1006)
  await vi.advanceTimersByTimeAsync(LONG_MS)
  return network.latest.welcome()
}

function unknown(socket: FakeSocket, session: string): void {
  const code = 'ERR_SESSION_NOT_FOUND'
  socket.say({ type: 'error', session, code, message: 'No such session.', retryable: false })
}

describe('turns', () => {
  it('are asked in a session that is opened with the first, and keep the chat', async () => {
    const client = open()
    const session = client.session({ model: 'demo', kv: { budget: 64 } })
    const socket = network.latest.welcome()
    expect(socket.sent).toEqual([])
    const first = session.send(say('hi'))
    const frame = opened(socket)
    expect(frame).toMatchObject({ model: 'demo', options: { kv: { budget: 64 } }, resumable: true })
    expect(socket.answer('hello')).toMatchObject({ session: frame.session, input: [say('hi')] })
    expect((await first).text).toBe('hello')
    const second = session.send([say('and'), say('more')])
    expect(socket.answer('yes')).toMatchObject({ session: frame.session, input: [say('and'), say('more')] })
    await second
    expect(session.messages).toEqual([
      say('hi'),
      { role: 'assistant', content: 'hello' },
      say('and'),
      say('more'),
      { role: 'assistant', content: 'yes' },
    ])
  })

  it('come one at a time', async () => {
    const session = open().session()
    const socket = network.latest.welcome()
    const first = session.send('a')
    expect((await rejection(session.send('b'))).code).toBe('ERR_BUSY')
    opened(socket)
    socket.answer('1')
    await first
    session.send('b')
    expect(socket.next('generate').input).toBe('b')
  })

  it('wait for an aborted one that the server is still at', async () => {
    const session = open().session()
    const socket = network.latest.welcome()
    const first = session.send('a')
    opened(socket)
    const { id } = socket.accept()
    first.abort()
    await expect(first).rejects.toMatchObject({ name: 'AbortError' })
    const second = session.send('b')
    socket.next('cancel')
    expect(socket.sent).toEqual([])
    socket.done(id, 1, { finish: 'aborted' })
    socket.answer('2')
    expect((await second).text).toBe('2')
  })

  it('reject when the session cannot be opened', async () => {
    const session = open().session()
    const socket = network.latest.welcome()
    const turn = session.send('a')
    const name = socket.next('session.open').session
    socket.say({ type: 'error', session: name, code: 'ERR_MODEL_UNKNOWN', message: 'No such model.', retryable: false })
    expect((await rejection(turn)).code).toBe('ERR_MODEL_UNKNOWN')
  })

  it('are tried again when the server has no room, in the same session', async () => {
    const session = open().session()
    const socket = network.latest.welcome()
    const turn = session.send('a')
    opened(socket)
    const { id } = socket.next('generate')
    socket.say({ type: 'error', id, code: 'ERR_QUEUE_FULL', message: 'Full.', retryable: true, retryAfterMs: 100 })
    await vi.advanceTimersByTimeAsync(LONG_MS)
    socket.answer('ok')
    expect((await turn).text).toBe('ok')
  })
})

describe('a broken connection', () => {
  it('is made again, and session and turn go on', async () => {
    const session = open().session()
    const turn = session.send('a')
    const socket = network.latest.welcome()
    const { session: name } = opened(socket, 'key of session')
    const { id } = socket.accept({ token: 'key of turn' })
    socket.deltas(id, ['x'])
    const again = await reconnect()
    expect(again.next('session.resume')).toEqual({ type: 'session.resume', session: name, token: 'key of session' })
    expect(again.sent).toEqual([])
    again.say({ type: 'session.opened', session: name, model: 'demo', token: 'key of session' })
    expect(again.next('resume')).toMatchObject({ id, token: 'key of turn', afterSeq: 1 })
    again.say({ type: 'accepted', id, model: 'demo', seed: 7, token: 'key of turn' })
    again.deltas(id, ['y'], 2)
    again.done(id, 3)
    expect((await turn).text).toBe('xy')
  })

  it('between turns is noticed with the next one', async () => {
    const session = open().session()
    const turn = session.send('a')
    const socket = network.latest.welcome()
    const { session: name } = opened(socket, 'secret')
    socket.answer('1')
    await turn
    const again = await reconnect()
    const next = session.send('b')
    expect(again.next('session.resume').session).toBe(name)
    again.say({ type: 'session.opened', session: name, model: 'demo', token: 'secret' })
    expect(again.answer('2').input).toBe('b')
    expect((await next).text).toBe('2')
  })

  it('never has a turn run twice: one that may have begun is asked in a session begun anew', async () => {
    const session = open().session()
    const first = session.send(say('hi'))
    const socket = network.latest.welcome()
    const { session: name } = opened(socket, 'secret')
    socket.answer('hello')
    await first
    const second = session.send(say('again'))
    socket.next('generate')
    const again = await reconnect()
    // The other is not left to wait for its end.
    expect(again.next('session.resume')).toMatchObject({ session: name, token: 'secret' })
    expect(again.next('session.close').session).toBe(name)
    const anew = opened(again)
    expect(anew.session).not.toBe(name)
    expect(again.answer('yes').input).toEqual([say('hi'), { role: 'assistant', content: 'hello' }, say('again')])
    expect((await second).text).toBe('yes')
  })
})

describe('a session that no server has any more', () => {
  it('fails the turn that ran, and goes on from the turns before', async () => {
    const session = open().session()
    const first = session.send(say('hi'))
    const socket = network.latest.welcome()
    opened(socket, 'secret')
    socket.answer('hello')
    await first
    const second = session.send(say('more'))
    socket.deltas(socket.accept({ token: 'turn' }).id, ['x'])
    const again = await reconnect()
    unknown(again, again.next('session.resume').session)
    // The client opens another at once, for the turn that may come.
    opened(again)
    expect(await rejection(second)).toMatchObject({ code: 'ERR_SESSION_LOST', retryable: true })
    expect(session.messages).toHaveLength(2)

    const third = session.send(say('more'))
    const { input } = again.answer('y')
    expect(input).toEqual([say('hi'), { role: 'assistant', content: 'hello' }, say('more')])
    expect((await third).text).toBe('y')
    expect(session.messages).toHaveLength(4)
  })

  it('is not gone on with when a turn of it was cut short by the server', async () => {
    const session = open().session()
    const turn = session.send('a')
    const socket = network.latest.welcome()
    const { session: name } = opened(socket, 'secret')
    const { id } = socket.accept()
    socket.deltas(id, ['x'])
    socket.done(id, 2, { finish: 'aborted' })
    expect((await rejection(turn)).code).toBe('ERR_SESSION_LOST')
    // It holds a part of the turn.
    expect(socket.next('session.close').session).toBe(name)
    session.send('a')
    opened(socket)
    expect(socket.next('generate').input).toBe('a')
  })

  it('fails a turn that is forgotten alone, and begins anew', async () => {
    const session = open().session()
    const turn = session.send('a')
    const socket = network.latest.welcome()
    opened(socket, 'secret')
    socket.deltas(socket.accept({ token: 'turn' }).id, ['x'])
    const again = await reconnect()
    const { session: name } = again.next('session.resume')
    again.say({ type: 'session.opened', session: name, model: 'demo', token: 'secret' })
    const { id } = again.next('resume')
    again.say({ type: 'error', id, code: 'ERR_RESPONSE_NOT_FOUND', message: 'Gone.', retryable: false })
    expect((await rejection(turn)).code).toBe('ERR_SESSION_LOST')
    expect(again.next('session.close').session).toBe(name)
    session.send('a')
    expect(opened(again).session).not.toBe(name)
    expect(again.next('generate').input).toBe('a')
  })

  it.each([
    ['text', 'a', 'b', 'a12b'],
    ['ids', [1], [2], [1, 49, 50, 2]],
  ] as const)('of %s begins anew with what was said', async (_, before, next, whole) => {
    const session = open().session()
    const first = session.send(before)
    const socket = network.latest.welcome()
    opened(socket, 'secret')
    socket.answer('12')
    await first
    const again = await reconnect()
    session.send(next)
    unknown(again, again.next('session.resume').session)
    opened(again)
    expect(again.next('generate').input).toEqual(whole)
  })

  it('of text and ids together cannot be begun anew, and says so', async () => {
    const session = open().session()
    const first = session.send('a')
    const socket = network.latest.welcome()
    opened(socket, 'secret')
    socket.answer('1')
    await first
    const second = session.send([5])
    socket.answer('2')
    await second
    const again = await reconnect()
    const third = session.send('b')
    unknown(again, again.next('session.resume').session)
    opened(again)
    expect(await rejection(third)).toMatchObject({ code: 'ERR_SESSION_LOST', retryable: false })
  })

  it('is told what was said until it has taken it', async () => {
    const session = open().session()
    const first = session.send('a')
    opened(network.latest.welcome(), 'secret')
    network.latest.answer('1')
    await first
    const again = await reconnect()
    const second = session.send('b')
    unknown(again, again.next('session.resume').session)
    opened(again)
    const { id } = again.next('generate')
    again.say({ type: 'error', id, code: 'ERR_QUEUE_FULL', message: 'Full.', retryable: true, retryAfterMs: 100 })
    await vi.advanceTimersByTimeAsync(LONG_MS)
    expect(again.answer('2').input).toBe('a1b')
    await second
    session.send('c')
    expect(again.next('generate').input).toBe('c')
  })

  it('does not remember a turn that was cut short before its prompt was read', async () => {
    const session = open().session()
    const first = session.send('a', { onAbort: 'return' })
    const socket = network.latest.welcome()
    opened(socket)
    const { id } = socket.accept()
    first.abort()
    socket.next('cancel')
    socket.done(id, 1, { finish: 'aborted', usage: { prompt: 0, cached: 0, completion: 0 } })
    await first
    const again = await reconnect()
    session.send('b')
    opened(again)
    expect(again.next('generate').input).toBe('b')
  })
})

describe('a draining server', () => {
  it('ends the turn it runs; the next is asked elsewhere, with what was said before', async () => {
    const session = open().session()
    const first = session.send('a')
    const old = network.latest.welcome()
    opened(old, 'secret')
    const { id } = old.accept()
    old.say({ type: 'draining', deadlineMs: 1000 })
    old.deltas(id, ['1'])
    old.done(id, 2)
    await first
    const second = session.send('b')
    const socket = network.latest.welcome()
    opened(socket)
    expect(socket.answer('2').input).toBe('a1b')
    expect((await second).text).toBe('2')
  })
})

describe('closing', () => {
  it('aborts the turn, tells the server, and waits for it', async () => {
    const session = open().session()
    const turn = session.send('a')
    const socket = network.latest.welcome()
    const { session: name } = opened(socket)
    socket.accept()
    const rejected = expect(turn).rejects.toMatchObject({ name: 'AbortError', message: 'The session was closed' })
    const closed = session.close()
    expect(session.close()).toBe(closed)
    await rejected
    socket.next('cancel')
    expect(socket.next('session.close').session).toBe(name)
    socket.say({ type: 'session.closed', session: name })
    await closed
    expect((await rejection(session.send('b'))).code).toBe('ERR_CLOSED')
  })

  it('needs no server where there is none', async () => {
    const client = open()
    await client.session().close()
    const session = client.session()
    const turn = session.send('a')
    const rejected = expect(turn).rejects.toMatchObject({ name: 'AbortError' })
    const socket = network.latest.welcome()
    opened(socket)
    const closed = session.close()
    socket.end(1006)
    await closed
    await rejected
  })

  it('comes with the client’s', async () => {
    const client = open()
    const session = client.session()
    const turn = session.send('a')
    const socket = network.latest.welcome()
    const { session: name } = opened(socket)
    socket.answer('1')
    await turn
    const closed = client.close()
    await vi.advanceTimersByTimeAsync(0)
    expect(socket.next('session.close').session).toBe(name)
    socket.say({ type: 'session.closed', session: name })
    await vi.advanceTimersByTimeAsync(0)
    socket.next('finish')
    socket.end(1000)
    await closed
  })
})
