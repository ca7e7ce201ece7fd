// What outlives its connection: resume of responses and sessions, by whom, for how long, and how many.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { CloseCode } from '../../src/server/close-codes.js'
import { Detached, type Resumable } from '../../src/server/detached.js'
import type { ServerFrame } from '../../src/server/protocol.js'
import { expectWellFormed } from '../support/native-peer.js'
import { LIMITS, type ScriptedPeer, scriptedServer, settled } from '../support/scripted-connection.js'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

const resumable = (id: string, more: object = {}) => ({
  type: 'generate' as const,
  id,
  input: 'x',
  resumable: true,
  ...more,
})
const of = <Type extends ServerFrame['type']>({ socket }: ScriptedPeer, type: Type) =>
  socket.frames().filter((frame): frame is Extract<ServerFrame, { type: Type }> => frame.type === type)
const tokenOf = (peer: ScriptedPeer): string => of(peer, 'accepted')[0]!.token!
const seqs = (peer: ScriptedPeer) => of(peer, 'delta').map(({ seq }) => seq)

/** A response of which three deltas were sent, and its token. */
async function started(options: { readonly flow?: 'auto' | 'credit'; readonly credit?: number } = {}) {
  const { flow = 'auto', credit = 100 } = options
  const server = scriptedServer()
  const first = server.connect({ hello: { flow } })
  first.say(resumable('a', { credit }))
  const { work } = server.intake
  for (const piece of ['0', '1', '2']) {
    work.step(piece)
    await settled()
  }
  return { ...server, first, work, token: tokenOf(first) }
}

describe('a response of a broken connection', () => {
  test('goes on, and is gone on with after the last frame received', async () => {
    const { connect, first, work, token } = await started()
    first.connection.left()
    for (const piece of ['3', '4']) work.step(piece)
    await settled()
    const second = connect()
    second.say({ type: 'resume', id: 'a', token, afterSeq: 1 })
    work.step('5')
    work.finish()
    await settled()
    expectWellFormed(second.socket.frames(), 1)
    expect(of(second, 'accepted')).toMatchObject([{ id: 'a', seed: 7, token }])
    expect(
      of(second, 'delta')
        .map(({ text }) => text)
        .join(''),
    ).toBe('12345')
    expect(of(second, 'delta').slice(0, 2)).toMatchObject([
      { seq: 2, text: '1' },
      { seq: 3, text: '2' },
    ])
    expect(of(second, 'done')).toHaveLength(1)
  })

  test('is sent from its beginning when nothing was received', async () => {
    const { connect, first, token } = await started()
    first.connection.left()
    const second = connect()
    second.say({ type: 'resume', id: 'a', token, afterSeq: 0 })
    expect(seqs(second)).toEqual([1, 2, 3])
  })

  test('that ended meanwhile gives its end', async () => {
    const { connect, first, work, token } = await started()
    first.connection.left()
    work.finish('stop')
    await settled()
    const second = connect()
    second.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(of(second, 'done')).toMatchObject([{ seq: 4, finish: 'stop' }])
  })

  test('gives its end again when that was sent, and lost', async () => {
    const { connect, first, work, token } = await started()
    work.finish()
    await settled()
    expect(of(first, 'done')).toHaveLength(1)
    first.connection.left()
    for (let i = 0; i < 3; i++) {
      const next = connect()
      next.say({ type: 'resume', id: 'a', token, afterSeq: 2 })
      expect(of(next, 'delta')).toHaveLength(1)
      expect(of(next, 'done')).toHaveLength(1)
    }
  })

  test('breaks again and again, and no text is lost or doubled', async () => {
    const { connect, first, work, token } = await started()
    let peer = first
    let text = '012'
    let received = 3
    for (let i = 3; i < 40; i++) {
      if (i % 3 === 0) {
        peer.connection.left()
        work.step(`<${i}>`)
        await settled()
        peer = connect()
        peer.say({ type: 'resume', id: 'a', token, afterSeq: received })
      } else {
        work.step(`<${i}>`)
      }
      await settled()
      const fresh = of(peer, 'delta').filter(({ seq }) => seq > received)
      text += fresh.map((frame) => frame.text).join('')
      received = fresh.at(-1)?.seq ?? received
    }
    expect(text).toBe(`012${Array.from({ length: 37 }, (_, i) => `<${i + 3}>`).join('')}`)
  })

  test('pauses in the engine when it has made as much as is kept', async () => {
    const { first, work, connect, token } = await started()
    first.connection.left()
    for (let i = 0; i < 2000; i++) work.step('x'.repeat(500))
    await settled()
    const { taken } = work
    expect(taken).toBeGreaterThan(100)
    expect(taken).toBeLessThan(800)
    await settled()
    expect(work.taken).toBe(taken)
    const second = connect()
    second.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    for (let i = 0; i < 50; i++) await settled()
    work.finish()
    await settled()
    expectWellFormed(second.socket.frames(), 3)
    expect(of(second, 'delta').reduce((n, delta) => n + delta.n, 0)).toBe(2000)
    expect(of(second, 'done')).toHaveLength(1)
  })

  test('is given up after resumeMs, and frees everything', async () => {
    const { first, work, detached, connect, token } = await started()
    first.connection.left()
    expect(detached.counts()).toEqual({ responses: 1, sessions: 0 })
    vi.advanceTimersByTime(LIMITS.resumeMs - 1)
    expect(work.isAborted).toBe(false)
    vi.advanceTimersByTime(1)
    expect(work.isAborted).toBe(true)
    expect(detached.counts()).toEqual({ responses: 0, sessions: 0 })
    const late = connect()
    late.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(of(late, 'error')).toMatchObject([{ id: 'a', code: 'ERR_RESPONSE_NOT_FOUND', retryable: false }])
  })

  test('has a new clock each time', async () => {
    const { first, work, connect, token } = await started()
    first.connection.left()
    for (let i = 0; i < 3; i++) {
      vi.advanceTimersByTime(LIMITS.resumeMs - 1)
      const next = connect()
      next.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
      next.connection.left()
    }
    expect(work.isAborted).toBe(false)
  })

  test('that is not resumable ends with it', () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(resumable('a', { resumable: false }))
    expect(of(peer, 'accepted')[0]).not.toHaveProperty('token')
    peer.connection.left()
    expect(intake.work.isAborted).toBe(true)
  })

  test('is not resumable where nothing is kept', () => {
    const { connect, intake } = scriptedServer({ resumeMs: 0 })
    const peer = connect()
    peer.say(resumable('a'))
    expect(of(peer, 'accepted')[0]).not.toHaveProperty('token')
    peer.connection.left()
    expect(intake.work.isAborted).toBe(true)
  })

  test('is resumable also after the server closed the connection for reading slowly', async () => {
    const { first, work, connect, token } = await started()
    first.socket.isRead = false
    for (let i = 0; i < 1000; i++) work.step('x'.repeat(500))
    await settled()
    vi.advanceTimersByTime(LIMITS.stallMs)
    expect(first.socket.closed).toMatchObject({ code: CloseCode.slowConsumer })
    const second = connect()
    second.say({ type: 'resume', id: 'a', token, afterSeq: seqs(first).at(-1)! })
    for (let i = 0; i < 50; i++) await settled()
    work.finish()
    await settled()
    expect(of(second, 'done')).toHaveLength(1)
  })
})

describe('resume', () => {
  test.each<[string, { id?: string; token?: string; who?: string }]>([
    ['with another token', { token: 'other' }],
    ['under another id', { id: 'b' }],
    ['by another client', { who: 'somebody else' }],
  ])('%s finds nothing, and disturbs nothing', async (_, { id = 'a', who, ...given }) => {
    const { first, work, connect, token } = await started()
    first.connection.left()
    const other = connect(who === undefined ? {} : { who })
    other.say({ type: 'resume', id, token, afterSeq: 3, ...given })
    expect(of(other, 'error')).toMatchObject([{ id, code: 'ERR_RESPONSE_NOT_FOUND' }])
    expect(work.isAborted).toBe(false)
  })

  test('after a frame that was never sent finds nothing', async () => {
    const { first, work, connect, token } = await started()
    first.connection.left()
    const other = connect()
    other.say({ type: 'resume', id: 'a', token, afterSeq: 4 })
    expect(of(other, 'error')).toMatchObject([{ id: 'a', code: 'ERR_RESPONSE_NOT_FOUND' }])
    expect(work.isAborted).toBe(true)
  })

  test('after a frame that is forgotten finds nothing', async () => {
    const { first, work, connect, token } = await started()
    for (let i = 0; i < 1000; i++) {
      work.step('x'.repeat(500))
      if (i % 50 === 0) await settled()
    }
    await settled()
    first.connection.left()
    const other = connect()
    other.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(of(other, 'error')).toMatchObject([{ id: 'a', code: 'ERR_RESPONSE_NOT_FOUND' }])
  })

  test('takes over from a connection that has not broken yet, which is closed', async () => {
    const { first, work, connect, token } = await started()
    first.say(resumable('other'))
    const second = connect()
    second.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(first.socket.closed).toMatchObject({ code: CloseCode.policy })
    work.step('3')
    await settled()
    expect(seqs(first)).toEqual([1, 2, 3])
    expect(seqs(second)).toEqual([4])
    // What else it had waits too.
    second.say({ type: 'resume', id: 'other', token: of(first, 'accepted')[1]!.token!, afterSeq: 0 })
    expect(of(second, 'accepted')).toHaveLength(2)
  })

  test('of what the same connection has closes it: the id is in use', async () => {
    const { first, token } = await started()
    first.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(first.socket.closed).toMatchObject({ code: CloseCode.idInUse })
  })

  test('counts among what a connection may have', async () => {
    const { first, connect, token, intake } = await started()
    first.connection.left()
    const second = connect()
    for (let i = 0; i < LIMITS.perConnection; i++) second.say({ type: 'generate', id: String(i), input: 'x' })
    second.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(of(second, 'error')).toMatchObject([{ id: 'a', code: 'ERR_RATE_LIMIT', retryable: true }])
    intake.work.finish()
    await settled()
    second.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(of(second, 'accepted').at(-1)).toMatchObject({ id: 'a' })
  })

  test('says anew how much credit there is', async () => {
    const { first, work, connect, token } = await started({ flow: 'credit', credit: 3 })
    first.connection.left()
    const second = connect({ hello: { flow: 'credit' } })
    second.say({ type: 'resume', id: 'a', token, afterSeq: 1, credit: 1 })
    work.step('3')
    await settled()
    expect(seqs(second)).toEqual([2])
    second.say({ type: 'credit', id: 'a', chunks: 2 })
    await settled()
    expect(seqs(second)).toEqual([2, 3, 4])
  })

  test('with credit that never comes ends without a gap', async () => {
    const { first, connect, token } = await started()
    first.connection.left()
    const second = connect({ hello: { flow: 'credit' } })
    second.say({ type: 'resume', id: 'a', token, afterSeq: 0, credit: 1 })
    await settled()
    vi.advanceTimersByTime(LIMITS.idleMs)
    await settled()
    expectWellFormed(second.socket.frames())
    expect(of(second, 'error')).toMatchObject([{ seq: 2, code: 'ERR_STALLED' }])
  })

  test('finds nothing once the server stops', async () => {
    const { first, work, detached, connect, token } = await started()
    first.connection.left()
    detached.close()
    expect(work.isAborted).toBe(true)
    const second = connect()
    second.say({ type: 'resume', id: 'a', token, afterSeq: 3 })
    expect(of(second, 'error')).toHaveLength(1)
  })
})

describe('a session of a broken connection', () => {
  const opened = () => {
    const server = scriptedServer()
    const first = server.connect()
    first.say({ type: 'session.open', session: 's', resumable: true })
    return { ...server, first, token: of(first, 'session.opened')[0]!.token! }
  }

  test('is gone on with, under any name', () => {
    const { connect, intake, first, token } = opened()
    first.connection.left()
    const second = connect()
    second.say({ type: 'session.resume', session: 't', token }, { type: 'generate', id: 'a', input: 'x', session: 't' })
    expect(of(second, 'session.opened')).toEqual([{ type: 'session.opened', session: 't', model: 'scripted', token }])
    expect(intake.requests[0]!.session).toBe(intake.sessions[0]!.session)
    expect(intake.sessions[0]!.isClosed).toBe(false)
  })

  test('is closed after resumeMs', () => {
    const { intake, first, detached } = opened()
    first.connection.left()
    expect(detached.counts()).toEqual({ responses: 0, sessions: 1 })
    vi.advanceTimersByTime(LIMITS.resumeMs)
    expect(intake.sessions[0]!.isClosed).toBe(true)
  })

  test('is taken over from a connection that has not broken yet', () => {
    const { connect, first, token } = opened()
    const second = connect()
    second.say({ type: 'session.resume', session: 's', token })
    expect(first.socket.closed).toMatchObject({ code: CloseCode.policy })
    expect(of(second, 'session.opened')).toHaveLength(1)
  })

  test("is not found by who has it, or after it was closed, or with a response's token", async () => {
    const { connect, first, token } = opened()
    first.say({ type: 'session.resume', session: 't', token }, resumable('a'))
    first.say({ type: 'session.resume', session: 'u', token: tokenOf(first) })
    first.say({ type: 'resume', id: 'b', token, afterSeq: 0 })
    first.say({ type: 'session.close', session: 's' })
    await settled()
    connect().say({ type: 'session.resume', session: 's', token })
    expect(of(first, 'error').map(({ code }) => code)).toEqual([
      'ERR_SESSION_NOT_FOUND',
      'ERR_SESSION_NOT_FOUND',
      'ERR_RESPONSE_NOT_FOUND',
    ])
    expect(first.socket.closed).toBeNull()
  })
})

describe('how much is kept', () => {
  class Thing implements Resumable {
    readonly kind = 'response'
    isGivenUp = false
    constructor(
      readonly who: string,
      readonly isSpent: boolean,
      readonly keptBytes = 1000,
    ) {}
    get principal() {
      return { id: this.who, maxPriority: 0 }
    }
    release(): void {}
    giveUp(): void {
      this.isGivenUp = true
    }
  }
  const keeper = () => {
    const detached = new Detached({ resumeMs: 1000 })
    const keep = (thing: Thing): Thing => {
      detached.register(thing)
      detached.keep(thing)
      return thing
    }
    return { detached, keep }
  }

  test('of one client is bounded, and what has ended goes first', () => {
    const { keep } = keeper()
    const running = Array.from({ length: 32 }, () => keep(new Thing('a', false)))
    const ended = Array.from({ length: 32 }, () => keep(new Thing('a', true)))
    const more = Array.from({ length: 40 }, () => keep(new Thing('a', false)))
    expect(running.some(({ isGivenUp }) => isGivenUp)).toBe(false)
    expect(ended.every(({ isGivenUp }) => isGivenUp)).toBe(true)
    expect(more.filter(({ isGivenUp }) => isGivenUp)).toHaveLength(8)
    expect(keep(new Thing('b', false)).isGivenUp).toBe(false)
  })

  test('of all clients is bounded', () => {
    const { keep, detached } = keeper()
    const things = Array.from({ length: 1100 }, (_, i) => keep(new Thing(String(i), false)))
    expect(things.filter(({ isGivenUp }) => isGivenUp)).toHaveLength(76)
    expect(detached.counts().responses).toBe(1024)
  })

  test('of bytes that were sent already is bounded, oldest first', () => {
    const { keep } = keeper()
    const things = Array.from({ length: 80 }, (_, i) => keep(new Thing(String(i), true, 1024 * 1024)))
    expect(things.findIndex(({ isGivenUp }) => !isGivenUp)).toBe(16)
  })

  test('tokens cannot be told from each other, and are of 128 bits', () => {
    const { detached } = keeper()
    const tokens = new Set(Array.from({ length: 100 }, () => detached.register(new Thing('a', false))))
    expect(tokens.size).toBe(100)
    for (const token of tokens) expect(Buffer.from(token, 'base64url')).toHaveLength(16)
  })
})
