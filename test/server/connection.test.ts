// One peer of the native protocol over a scripted engine: every frame, also at the wrong time.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { GorgonError } from '../../src/errors.js'
import { CloseCode } from '../../src/server/close-codes.js'
import type { ServerFrame } from '../../src/server/protocol.js'
import { expectWellFormed } from '../support/native-peer.js'
import { LIMITS, type ScriptedPeer, scriptedServer, settled } from '../support/scripted-connection.js'
import { queueFull } from '../support/scripted-intake.js'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

const generate = (id: string, more: object = {}) => ({ type: 'generate' as const, id, input: 'x', ...more })

/** Frames after the welcome, without those of other types. */
const sent = <Type extends ServerFrame['type']>({ socket }: ScriptedPeer, ...types: readonly Type[]) =>
  socket
    .frames()
    .filter((frame): frame is Extract<ServerFrame, { type: Type }> => (types as readonly string[]).includes(frame.type))

const typesOf = ({ socket }: ScriptedPeer): string[] => socket.frames().map(({ type }) => type)

describe('hello', () => {
  test('is welcomed with what the server has, and models that are there', () => {
    const peer = scriptedServer().connect()
    const { messageBytes, perConnection, idleMs, resumeMs, heartbeatMs } = LIMITS
    expect(peer.socket.frames()).toEqual([
      {
        type: 'welcome',
        connection: 'c',
        server: 'scripted/1',
        models: [{ id: 'scripted', context: 4096, chat: true }],
        limits: { messageBytes, perConnection, idleMs, resumeMs },
        heartbeatMs,
      },
    ])
  })

  test.each([
    ['anything else first', [generate('a')]],
    ['a second one', [{ type: 'hello' as const }, { type: 'hello' as const }]],
  ])('%s closes', (_, frames) => {
    const peer = scriptedServer().connect({ hello: null })
    peer.say(...frames)
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.badFrame })
  })

  test('that does not come in time closes', () => {
    const peer = scriptedServer().connect({ hello: null })
    vi.advanceTimersByTime(LIMITS.helloMs - 1)
    expect(peer.socket.closed).toBeNull()
    vi.advanceTimersByTime(1)
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.timeout })
  })

  test('in time has no clock any more', () => {
    const peer = scriptedServer().connect()
    vi.advanceTimersByTime(LIMITS.helloMs * 10)
    expect(peer.socket.closed).toBeNull()
  })

  test('with a key is waited for: what is said meanwhile is read afterwards, in order', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect({ key: 'k', hello: { token: 'k' } })
    peer.say(generate('a'), { type: 'ping', t: 1 }, generate('b'))
    expect(peer.socket.messages).toEqual([])
    await settled()
    expect(typesOf(peer)).toEqual(['welcome', 'accepted', 'pong', 'accepted'])
    expect(intake.works).toHaveLength(2)
  })

  test('with a wrong key closes, and nothing said after it is read', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect({ key: 'k', hello: { token: 'other' } })
    peer.say(generate('a'))
    await settled()
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.unauthorized })
    expect(intake.works).toEqual([])
  })

  test('from a client that leaves before its key is known starts nothing', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect({ key: 'k', hello: { token: 'k' } })
    peer.say(generate('a'))
    peer.connection.left()
    await settled()
    expect(peer.socket.messages).toEqual([])
    expect(intake.works).toEqual([])
  })
})

describe('a frame that is none', () => {
  test.each([
    ['not JSON', '{"type"'],
    ['not an object', '[1]'],
    ['null', 'null'],
    ['of no type', '{}'],
    ['of an unknown type', '{"type":"generte","id":"a"}'],
    ['of a prototype', '{"type":"__proto__"}'],
    ['with a wrong field', '{"type":"cancel","id":5}'],
    ['with one field too many', '{"type":"ping","t":1,"u":2}'],
    ['that names no response', '{"type":"generate","input":"x"}'],
    ['with a name that is none', '{"type":"generate","id":"","input":"x"}'],
    ['deep', `${'['.repeat(20_000)}${']'.repeat(20_000)}`],
  ])('%s closes', (_, message) => {
    const peer = scriptedServer().connect()
    peer.connection.received(message)
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.badFrame })
    expect(peer.socket.closed!.reason).not.toBe('')
  })

  test('but names its response is answered, and the connection lives', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.connection.received(JSON.stringify(generate('a', { options: { temprature: 1 } })))
    peer.connection.received(JSON.stringify({ type: 'session.open', session: 's', options: { kv: 5 } }))
    expect(sent(peer, 'error')).toMatchObject([
      { id: 'a', code: 'ERR_OPTION', message: expect.stringContaining('Did you mean "temperature"'), retryable: false },
      { session: 's', code: 'ERR_OPTION' },
    ])
    peer.say(generate('a'))
    intake.work.finish()
    await settled()
    expect(sent(peer, 'done')).toMatchObject([{ id: 'a', seq: 1 }])
  })

  test('and names a response that runs closes: its end could not be told from the other', () => {
    const peer = scriptedServer().connect()
    peer.say(generate('a'))
    peer.connection.received(JSON.stringify({ type: 'generate', id: 'a' }))
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.idInUse })
  })
})

describe('generate', () => {
  test('is accepted, and gives deltas and an end in order', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a', { ids: true, options: { maxTokens: 5 } }))
    intake.work.step('one ', 'two ')
    intake.work.step('three')
    await settled()
    intake.work.finish('stop')
    await settled()
    expect(peer.socket.frames().slice(1)).toMatchObject([
      { type: 'accepted', id: 'a', model: 'scripted', seed: 7 },
      { type: 'delta', seq: 1, text: 'one two ', n: 2, drafted: 1, ids: [0, 1], spans: [{ step: 0, chars: [4, 4] }] },
      { type: 'delta', seq: 2, text: 'three', n: 1, drafted: 0, ids: [100], spans: [{ step: 1, chars: [5] }] },
      { type: 'done', seq: 3, finish: 'stop' },
    ])
    expect(intake.requests).toMatchObject([
      { endpoint: 'stream', input: 'x', options: { maxTokens: 5, onAbort: 'return' } },
    ])
  })

  test('leaves out what is not asked for', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a', { provenance: false }))
    intake.work.step('one')
    await settled()
    const [delta] = sent(peer, 'delta')
    expect(Object.keys(delta!)).toEqual(['type', 'id', 'seq', 'text', 'n', 'drafted', 'at'])
  })

  test('runs side by side with others', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'), generate('b'))
    const [a, b] = intake.works
    b!.step('b')
    a!.step('a')
    b!.finish()
    await settled()
    a!.finish()
    await settled()
    expectWellFormed(peer.socket.frames())
    expect(sent(peer, 'done').map(({ id }) => id)).toEqual(['b', 'a'])
  })

  test('that is refused is an error with its id, which is free again', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    intake.refusal = queueFull()
    peer.say(generate('a'))
    peer.say(generate('a'))
    intake.work.finish()
    await settled()
    expect(peer.socket.frames().slice(1)).toMatchObject([
      { type: 'error', id: 'a', code: 'ERR_QUEUE_FULL', retryable: true, retryAfterMs: 1000 },
      { type: 'accepted', id: 'a' },
      { type: 'done', id: 'a' },
    ])
  })

  test('that fails later ends with an error that has a number', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'))
    intake.work.step('one')
    intake.work.fail(new GorgonError('ERR_CONTEXT_OVERFLOW', 'The prompt is too long.', { path: 'input' }))
    await settled()
    expect(sent(peer, 'error')).toEqual([
      {
        type: 'error',
        id: 'a',
        seq: 2,
        code: 'ERR_CONTEXT_OVERFLOW',
        message: 'The prompt is too long.',
        retryable: false,
        param: 'input',
      },
    ])
  })

  test('that fails by a fault of the server tells nothing of it', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'))
    intake.work.fail(new TypeError('secret of the inside'))
    await settled()
    expect(sent(peer, 'error')).toMatchObject([{ code: 'ERR_INTERNAL' }])
    expect(peer.socket.messages.join('')).not.toContain('secret')
  })

  test('with an id in use closes, and ends what ran', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'), generate('a'))
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.idInUse })
    expect(intake.work.isAborted).toBe(true)
  })

  test('may be said again with an id that has ended', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    for (let i = 0; i < 3; i++) {
      peer.say(generate('a'))
      intake.work.finish()
      await settled()
    }
    expect(sent(peer, 'done').map(({ seq }) => seq)).toEqual([1, 1, 1])
  })

  test('beyond what a connection may have is refused, and may be said again', async () => {
    const { connect, intake } = scriptedServer({ perConnection: 2 })
    const peer = connect()
    peer.say(generate('a'), generate('b'), generate('c'))
    expect(sent(peer, 'error')).toMatchObject([{ id: 'c', code: 'ERR_RATE_LIMIT', retryable: true }])
    intake.works[0]!.finish()
    await settled()
    peer.say(generate('c'))
    expect(sent(peer, 'accepted').map(({ id }) => id)).toEqual(['a', 'b', 'c'])
  })

  test('tells where it waits, and how far the prompt is: often at first, in any case at the end', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'))
    const { onQueue, onPrefill } = intake.work.options
    onQueue!({ position: 2 })
    onQueue!({ position: 1 })
    for (let done = 10; done <= 1000; done += 10) {
      vi.advanceTimersByTime(1)
      onPrefill!({ done, total: 1000, tokens: 500, cached: 3 })
    }
    expect(sent(peer, 'queued').map(({ position }) => position)).toEqual([2, 1])
    const told = sent(peer, 'prefill')
    expect(told.map(({ done }) => done)).toEqual([10, 510, 1000])
    expect(told[0]).toEqual({ type: 'prefill', id: 'a', done: 10, total: 1000, tokens: 500, cached: 3 })
  })

  test('is accepted before it is told that it waits', () => {
    const { connect, intake } = scriptedServer()
    const { start } = intake
    Object.assign(intake, {
      start: (request: Parameters<typeof start>[0]) => {
        request.options.onQueue?.({ position: 5 })
        return start(request)
      },
    })
    const peer = connect()
    peer.say(generate('a'))
    expect(typesOf(peer)).toEqual(['welcome', 'accepted', 'queued'])
  })
})

describe('cancel', () => {
  test('ends with done, and what was made before it', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'))
    intake.work.step('one')
    peer.say({ type: 'cancel', id: 'a' })
    await settled()
    expect(sent(peer, 'delta', 'done')).toMatchObject([{ text: 'one' }, { finish: 'aborted' }])
    expect(intake.work.isAborted).toBe(true)
  })

  test('of a response that ended, or never was, changes nothing', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'))
    intake.work.finish()
    await settled()
    peer.say({ type: 'cancel', id: 'a' }, { type: 'cancel', id: 'b' }, { type: 'credit', id: 'b', chunks: 1 })
    peer.say({ type: 'ping', t: 0 })
    expect(peer.socket.closed).toBeNull()
    expect(typesOf(peer)).toEqual(['welcome', 'accepted', 'done', 'pong'])
  })

  test('sends at once what waited for credit, or for its interval', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect({ hello: { flow: 'credit' } })
    peer.say(generate('a', { credit: 0 }), generate('b', { credit: 5, minIntervalMs: 10_000 }))
    const [a, b] = intake.works
    a!.step('a')
    for (const piece of ['b', 'c', 'd']) b!.step(piece)
    await settled()
    peer.say({ type: 'cancel', id: 'a' }, { type: 'cancel', id: 'b' })
    await settled()
    expectWellFormed(peer.socket.frames())
    expect(sent(peer, 'delta').map(({ text }) => text)).toEqual(['b', 'a', 'cd'])
    expect(sent(peer, 'done')).toHaveLength(2)
  })
})

describe('credit', () => {
  const start = (credit: number) => {
    const { connect, intake } = scriptedServer()
    const peer = connect({ hello: { flow: 'credit' } })
    peer.say(generate('a', { credit }))
    return { peer, work: intake.work }
  }

  test('is how many deltas come; without it nobody reads on, so the engine pauses', async () => {
    const { peer, work } = start(2)
    for (let i = 0; i < 10; i++) work.step(String(i))
    await settled()
    expect(sent(peer, 'delta').map(({ text }) => text)).toEqual(['0', '1'])
    expect(work.taken).toBe(3)
    peer.say({ type: 'credit', id: 'a', chunks: 3 })
    await settled()
    expect(sent(peer, 'delta').map(({ text }) => text)).toEqual(['0', '1', '2', '3', '4'])
    expect(work.taken).toBe(6)
  })

  test('is not needed for the end', async () => {
    const { peer, work } = start(1)
    work.step('one')
    work.finish()
    await settled()
    expect(sent(peer, 'delta', 'done')).toHaveLength(2)
  })

  test('is needed for a delta before the end', async () => {
    const { peer, work } = start(0)
    work.step('one')
    work.finish()
    await settled()
    expect(typesOf(peer)).toEqual(['welcome', 'accepted'])
    peer.say({ type: 'credit', id: 'a', chunks: 1 })
    await settled()
    expect(typesOf(peer)).toEqual(['welcome', 'accepted', 'delta', 'done'])
  })

  test.each([false, true])(
    'that does not come for idleMs ends the response, finished or not: %s',
    async (isFinished) => {
      const { peer, work } = start(1)
      work.step('one')
      work.step('two')
      if (isFinished) work.finish()
      await settled()
      vi.advanceTimersByTime(LIMITS.idleMs - 1)
      expect(sent(peer, 'error')).toEqual([])
      vi.advanceTimersByTime(1)
      await settled()
      expect(sent(peer, 'delta', 'error', 'done')).toMatchObject([
        { type: 'delta', seq: 1, text: 'one' },
        { type: 'error', seq: 2, code: 'ERR_STALLED' },
      ])
      expect(work.hasEnded).toBe(true)
      peer.say(generate('a'))
      expect(peer.socket.closed).toBeNull()
    },
  )

  test('that comes in time sets the clock anew', async () => {
    const { peer, work } = start(0)
    for (let i = 0; i < 5; i++) work.step(String(i))
    await settled()
    for (let i = 0; i < 4; i++) {
      vi.advanceTimersByTime(LIMITS.idleMs - 1)
      peer.say({ type: 'credit', id: 'a', chunks: 1 })
      await settled()
    }
    expect(sent(peer, 'error')).toEqual([])
    expect(sent(peer, 'delta')).toHaveLength(4)
  })

  test('counts nothing where the flow is auto', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a', { credit: 0 }))
    for (let i = 0; i < 50; i++) intake.work.step(String(i))
    await settled()
    expect(sent(peer, 'delta')).toHaveLength(50)
  })
})

describe('minIntervalMs', () => {
  test('puts together what comes sooner', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a', { minIntervalMs: 100, ids: true }))
    for (const piece of ['a', 'b', 'c']) intake.work.step(piece, piece)
    await settled()
    expect(sent(peer, 'delta').map(({ text }) => text)).toEqual(['aa'])
    vi.advanceTimersByTime(100)
    await settled()
    expect(sent(peer, 'delta')[1]).toMatchObject({
      seq: 2,
      text: 'bbcc',
      n: 4,
      drafted: 2,
      at: 2,
      ids: [100, 101, 200, 201],
      spans: [
        { step: 1, chars: [1, 1] },
        { step: 2, chars: [1, 1] },
      ],
    })
    intake.work.step('d')
    await settled()
    expect(sent(peer, 'delta')).toHaveLength(2)
    intake.work.finish()
    await settled()
    expect(sent(peer, 'delta', 'done').slice(2)).toMatchObject([{ seq: 3, text: 'd' }, { seq: 4 }])
  })

  test('does not make a reader look slow, however much it holds back', async () => {
    const { connect, intake, counts } = scriptedServer({ perConnection: 64 })
    const peer = connect()
    for (let i = 0; i < 64; i++) peer.say(generate(String(i), { minIntervalMs: 60_000 }))
    for (const work of intake.works) for (let i = 0; i < 40; i++) work.step('x'.repeat(1000))
    await settled()
    vi.advanceTimersByTime(LIMITS.stallMs * 3)
    await settled()
    expect(counts).toEqual({ coalesced: 0, parked: 0, slowClosed: 0 })
    expect(peer.socket.closed).toBeNull()
    // What is held is bounded: the rest stays in the engine.
    for (const work of intake.works) expect(work.taken).toBeLessThan(25)
  })
})

describe('a client that reads slowly', () => {
  test('gets fewer, larger frames, and all of the text', async () => {
    const { connect, intake, counts } = scriptedServer()
    const peer = connect()
    peer.socket.isRead = false
    peer.say(generate('a', { provenance: false }))
    const expected: string[] = []
    for (let i = 0; i < 400; i++) {
      expected.push(`${i} `.padEnd(400))
      intake.work.step(expected.at(-1)!)
      await settled()
    }
    expect(counts.coalesced).toBeGreaterThan(100)
    expect(sent(peer, 'delta').length).toBeLessThan(200)
    intake.work.finish()
    peer.socket.isRead = true
    for (let i = 0; i < 50; i++) {
      peer.socket.take(10)
      await settled()
    }
    expectWellFormed(peer.socket.frames())
    expect(sent(peer, 'done')).toHaveLength(1)
    expect(
      sent(peer, 'delta')
        .map(({ text }) => text)
        .join(''),
    ).toBe(expected.join(''))
    expect(peer.socket.messages.every((message) => message.length < 20_000)).toBe(true)
  })

  test('parks its responses, which go on when it reads', async () => {
    const { connect, intake, counts } = scriptedServer()
    const peer = connect()
    peer.socket.isRead = false
    peer.say(generate('a', { provenance: false }), generate('b', { provenance: false }))
    const [a, b] = intake.works
    for (let i = 0; i < 1000; i++) {
      a!.step('a'.repeat(500))
      b!.step('b'.repeat(500))
    }
    await settled()
    const taken = a!.taken + b!.taken
    expect(taken).toBeLessThan(800)
    expect(counts.parked).toBe(2)
    await settled()
    expect(a!.taken + b!.taken).toBe(taken)
    peer.socket.isRead = true
    peer.socket.take(1000)
    await settled()
    expect(a!.taken + b!.taken).toBe(2000)
  })

  test('and takes nothing is closed with 4499: what it asked for ends', async () => {
    const { connect, intake, counts } = scriptedServer()
    const peer = connect()
    peer.socket.isRead = false
    peer.say(generate('a'))
    for (let i = 0; i < 1000; i++) intake.work.step('a'.repeat(500))
    await settled()
    vi.advanceTimersByTime(LIMITS.stallMs)
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.slowConsumer })
    expect(counts.slowClosed).toBe(1)
    expect(intake.work.isAborted).toBe(true)
  })

  test('is told the latest of where it waits, not all of it', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('big'))
    peer.socket.isRead = false
    for (let i = 0; i < 140; i++) intake.work.step('a'.repeat(500))
    await settled()
    peer.say(generate('a'))
    for (let position = 100; position > 0; position--) intake.work.options.onQueue!({ position })
    expect(sent(peer, 'queued')).toEqual([])
    peer.socket.isRead = true
    peer.socket.take(1000)
    await settled()
    expect(sent(peer, 'queued').map(({ position }) => position)).toEqual([1])
  })
})

describe('a client that says too much', () => {
  test('has its frames read in turns', async () => {
    const { connect } = scriptedServer()
    const peer = connect()
    for (let t = 0; t < 100; t++) peer.say({ type: 'ping', t })
    expect(sent(peer, 'pong').length).toBeLessThan(40)
    await settled()
    expect(sent(peer, 'pong').map(({ t }) => t)).toEqual(Array.from({ length: 100 }, (_, t) => t))
  })

  test('at once is closed, and nothing more is read', async () => {
    const { connect } = scriptedServer()
    const peer = connect()
    for (let t = 0; t < 5000; t++) peer.say({ type: 'ping', t })
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.inboundOverflow })
    await settled()
    expect(sent(peer, 'pong').length).toBeLessThan(40)
  })

  test('in large frames at once is closed', () => {
    const { connect } = scriptedServer()
    const peer = connect({ key: 'k', hello: { token: 'k' } })
    const large = generate('a', { input: 'x'.repeat(LIMITS.messageBytes - 100) })
    peer.say(large, large)
    expect(peer.socket.closed).toBeNull()
    peer.say(large)
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.inboundOverflow })
  })

  test('and does not read the answers is closed', async () => {
    const { connect } = scriptedServer()
    const peer = connect()
    peer.socket.isRead = false
    for (let t = 0; t < 100_000 && !peer.socket.closed; t++) {
      peer.say({ type: 'ping', t })
      if (t % 500 === 0) for (let i = 0; i < 20; i++) await settled()
    }
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.slowConsumer })
  })
})

describe('a session', () => {
  test('is opened, takes turns, and is closed', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say({ type: 'session.open', session: 's' }, generate('a', { session: 's' }))
    intake.work.finish()
    await settled()
    peer.say({ type: 'session.close', session: 's' })
    await settled()
    expect(typesOf(peer)).toEqual(['welcome', 'session.opened', 'accepted', 'done', 'session.closed'])
    expect(intake.requests[0]!.session).toBe(intake.sessions[0]!.session)
    expect(intake.sessions[0]!.isClosed).toBe(true)
  })

  test.each([
    ['a turn', generate('a', { session: 's' })],
    ['a close', { type: 'session.close' as const, session: 's' }],
  ])('that is not open: %s is an error', (_, frame) => {
    const peer = scriptedServer().connect()
    peer.say(frame)
    expect(sent(peer, 'error')).toMatchObject([{ code: 'ERR_SESSION_NOT_FOUND' }])
  })

  test('has a name of its own, until it is closed', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    let close!: () => void
    intake.closing = new Promise((resolve) => {
      close = resolve
    })
    peer.say({ type: 'session.open', session: 's' }, { type: 'session.open', session: 's' })
    peer.say({ type: 'session.close', session: 's' }, { type: 'session.open', session: 's' })
    expect(sent(peer, 'error')).toMatchObject([
      { session: 's', code: 'ERR_OPTION' },
      { session: 's', code: 'ERR_OPTION' },
    ])
    peer.say(generate('a', { session: 's' }))
    expect(sent(peer, 'error')[2]).toMatchObject({ id: 'a', code: 'ERR_SESSION_NOT_FOUND' })
    close()
    await settled()
    peer.say({ type: 'session.open', session: 's' })
    expect(sent(peer, 'session.opened')).toHaveLength(2)
  })

  test('beyond what a connection may have is refused', () => {
    const peer = scriptedServer({ perConnection: 2 }).connect()
    for (const session of ['s', 't', 'u']) peer.say({ type: 'session.open', session })
    expect(sent(peer, 'error')).toMatchObject([{ session: 'u', code: 'ERR_RATE_LIMIT', retryable: true }])
  })

  test('is closed with its connection', () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say({ type: 'session.open', session: 's' })
    peer.connection.left()
    expect(intake.sessions[0]!.isClosed).toBe(true)
  })
})

describe('finish', () => {
  test('closes when all has ended', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'), { type: 'finish' }, { type: 'finish' })
    expect(peer.socket.closed).toBeNull()
    intake.work.step('one')
    intake.work.finish()
    await settled()
    expect(sent(peer, 'delta', 'done')).toHaveLength(2)
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.normal })
  })

  test('takes no more requests, but pings, cancels and credit', async () => {
    const { connect } = scriptedServer()
    const peer = connect({ hello: { flow: 'credit' } })
    peer.say(generate('a'), { type: 'finish' }, generate('b'), { type: 'session.open', session: 's' })
    expect(sent(peer, 'error')).toMatchObject([
      { id: 'b', code: 'ERR_OPTION' },
      { session: 's', code: 'ERR_OPTION' },
    ])
    peer.say({ type: 'ping', t: 1 }, { type: 'cancel', id: 'a' })
    await settled()
    expect(sent(peer, 'pong')).toHaveLength(1)
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.normal })
  })
})

describe('draining', () => {
  test('tells, lets what runs end, and closes', async () => {
    const { connect, intake } = scriptedServer()
    const peer = connect()
    peer.say(generate('a'))
    peer.connection.drain(5000)
    intake.refusal = new GorgonError('ERR_DRAINING', 'The server stops.')
    peer.say(generate('b'))
    intake.works[0]!.finish()
    await settled()
    expect(sent(peer, 'draining', 'error', 'done')).toMatchObject([
      { type: 'draining', deadlineMs: 5000 },
      { type: 'error', id: 'b', code: 'ERR_DRAINING', retryable: true },
      { type: 'done', id: 'a' },
    ])
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.goingAway })
  })

  test('closes at once who has nothing running, and who has not been welcomed', () => {
    const { connect } = scriptedServer()
    const idle = connect()
    const silent = connect({ hello: null })
    for (const { connection } of [idle, silent]) connection.drain(5000)
    expect(typesOf(idle)).toEqual(['welcome', 'draining'])
    expect(typesOf(silent)).toEqual([])
    expect([idle, silent].map(({ socket }) => socket.closed?.code)).toEqual([1001, 1001])
  })

  test('is told to who is welcomed meanwhile', async () => {
    const { connect } = scriptedServer()
    const peer = connect({ key: 'k', hello: { token: 'k' } })
    peer.connection.drain(5000)
    expect(peer.socket.closed).toBeNull()
    await settled()
    expect(typesOf(peer)).toEqual(['welcome', 'draining'])
    expect(peer.socket.closed).toMatchObject({ code: CloseCode.goingAway })
  })
})

test('a connection is busy while responses run', async () => {
  const { connect, intake } = scriptedServer()
  const { connection, say } = connect()
  expect(connection.isBusy).toBe(false)
  say(generate('a'))
  expect(connection.isBusy).toBe(true)
  intake.work.finish()
  await settled()
  expect(connection.isBusy).toBe(false)
})
