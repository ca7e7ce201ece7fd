// Any interleaving of what clients, engine, network and server may do ends each request exactly once, and leaves nothing behind.
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { ServerFrame } from '../../src/server/protocol.js'
import { expectWellFormed } from '../support/native-peer.js'
import { LIMITS, type ScriptedPeer, scriptedServer, settled } from '../support/scripted-connection.js'

const IDS = ['a', 'b', 'c'] as const
const id = fc.constantFrom(...IDS)
const op = <Do extends string>(name: Do) => fc.constant({ do: name })

const action = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('generate' as const), id, resumable: fc.boolean(), credit: fc.nat(3) }),
  },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('step' as const), id, size: fc.constantFrom(1, 30, 20_000) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('end' as const), id, how: fc.constantFrom('finish', 'fail') }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('cancel' as const), id }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('credit' as const), id }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('reconnect' as const), isNoticed: fc.boolean() }) },
  { weight: 1, arbitrary: op('finish') },
  { weight: 1, arbitrary: op('drain') },
  { weight: 1, arbitrary: op('bad frame') },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('read' as const), isRead: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(1, 1000, 6000) }) },
  { weight: 6, arbitrary: op('settle') },
)
type Action = typeof action extends fc.Arbitrary<infer A> ? A : never

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

const framesOf = ({ socket }: ScriptedPeer): ServerFrame[] => socket.frames()
const isOpen = ({ socket }: ScriptedPeer): boolean => socket.closed === null

/** Where a client of each response is: what it has, and how to come back. */
interface Seen {
  readonly token: string | undefined
  readonly seq: number
}

function seenIn(frames: readonly ServerFrame[], before: ReadonlyMap<string, Seen>): Map<string, Seen> {
  const seen = new Map(before)
  for (const frame of frames) {
    if (!('id' in frame) || frame.id === undefined) continue
    if (frame.type === 'accepted') seen.set(frame.id, { token: frame.token, seq: seen.get(frame.id)?.seq ?? 0 })
    else if (frame.type === 'delta') seen.set(frame.id, { ...seen.get(frame.id)!, seq: frame.seq })
    else if (frame.type === 'done' || frame.type === 'error') seen.delete(frame.id)
  }
  return seen
}

async function play(actions: readonly Action[]): Promise<void> {
  const { intake, detached, connect } = scriptedServer()
  const hello = { flow: 'credit' }
  const peers: ScriptedPeer[] = [connect({ hello })]
  const resumedAt: Map<string, number>[] = [new Map()]
  let seen = new Map<string, Seen>()
  const last = () => peers.at(-1)!
  /** The engine's side of the response that now has this id. */
  const workOf = (name: string) => intake.works.filter((_, i) => intake.requests[i]!.input === name).at(-1)

  const reconnect = (isNoticed: boolean): void => {
    const old = last()
    seen = seenIn(framesOf(old), seen)
    if (isNoticed) old.connection.left()
    peers.push(connect({ hello }))
    resumedAt.push(new Map())
    for (const [name, { token, seq }] of seen) {
      if (token === undefined) continue
      resumedAt.at(-1)!.set(name, seq)
      last().say({ type: 'resume', id: name, token, afterSeq: seq, credit: 2 })
    }
    seen = new Map([...seen].filter(([, { token }]) => token !== undefined))
  }

  for (const step of actions) {
    const { connection, socket, say } = last()
    switch (step.do) {
      case 'generate': {
        // A client does not use an id twice, unless it wants to lose its connection: that is another action.
        if (connection.isBusy && workOf(step.id)?.hasEnded === false) break
        say({ type: 'generate', id: step.id, input: step.id, resumable: step.resumable, credit: step.credit })
        break
      }
      case 'step':
        workOf(step.id)?.step('x'.repeat(step.size))
        break
      case 'end':
        if (step.how === 'finish') workOf(step.id)?.finish()
        else workOf(step.id)?.fail(new Error('scripted'))
        break
      case 'cancel':
        say({ type: 'cancel', id: step.id })
        break
      case 'credit':
        say({ type: 'credit', id: step.id, chunks: 2 })
        break
      case 'reconnect':
        reconnect(step.isNoticed)
        break
      case 'finish':
        say({ type: 'finish' })
        break
      case 'drain':
        connection.drain(1000)
        break
      case 'bad frame':
        connection.received('{')
        break
      case 'read':
        socket.isRead = step.isRead
        if (step.isRead) socket.take(Number.POSITIVE_INFINITY)
        break
      case 'wait':
        vi.advanceTimersByTime(step.ms)
        break
      case 'settle':
        await settled()
    }
  }

  // In the end everybody reads, allows everything, and the engine ends what it has.
  for (const { socket } of peers) {
    socket.isRead = true
    socket.take(Number.POSITIVE_INFINITY)
  }
  await settled()
  for (const work of intake.works) work.finish()
  for (const name of IDS) last().say({ type: 'credit', id: name, chunks: 1000 })
  await settled()
  for (const { connection } of peers.slice(0, -1)) connection.left()
  vi.advanceTimersByTime(LIMITS.resumeMs)
  await settled()

  for (const [i, peer] of peers.entries()) {
    expectWellFormed(framesOf(peer), (name) => resumedAt[i]!.get(name) ?? 0)
    expect(peer.connection.isBusy, 'a response is left').toBe(false)
    expect(peer.connection.waitingBytes).toBe(0)
  }
  if (isOpen(last())) {
    const ended = new Map<string, number>()
    for (const frame of framesOf(last())) {
      if (frame.type === 'accepted') ended.set(frame.id, (ended.get(frame.id) ?? 0) + 1)
      const isEnd = frame.type === 'done' || (frame.type === 'error' && frame.seq !== undefined)
      if (isEnd) ended.set(frame.id!, ended.get(frame.id!)! - 1)
    }
    for (const [name, open] of ended) expect(open, `${name} has no end`).toBe(0)
  }
  for (const work of intake.works) expect(work.hasEnded).toBe(true)
  expect(detached.counts()).toEqual({ responses: 0, sessions: 0 })
  last().connection.left()
  vi.advanceTimersByTime(LIMITS.resumeMs)
  expect(vi.getTimerCount(), 'a clock runs on').toBe(0)
}

test('each request ends exactly once', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 60 }), async (actions) => {
      vi.clearAllTimers()
      await play(actions)
    }),
    { numRuns: 300 },
  )
})
