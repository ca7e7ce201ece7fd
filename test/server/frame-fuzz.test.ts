// Frames that no client should send, at a connection without a network: each is answered or costs the connection, and none throws.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { BadFrames } from '../../bench/server/bad-frames.js'
import { CloseCode } from '../../src/server/close-codes.js'
import { LIMITS, scriptedServer, settled } from '../support/scripted-connection.js'

/** More where more is asked for: `GORGON_FUZZ_FRAMES=100000 npx vitest run test/server/frame-fuzz.test.ts`. */
const FRAMES = Number(process.env['GORGON_FUZZ_FRAMES'] ?? 5000)

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

test(`${FRAMES} bad frames leave nothing behind`, async () => {
  const { intake, detached, connect } = scriptedServer()
  const bad = new BadFrames('frame-fuzz')
  const codes = new Set<number>(Object.values(CloseCode))
  const seen = new Map<string, number>()
  let peer = connect()
  let said = 0
  for (let i = 0; i < FRAMES; i++) {
    const frame = bad.next()
    // What is binary or in fragments is the socket's to refuse, or to put together.
    const message = typeof frame === 'string' ? frame : 'fragments' in frame ? frame.fragments.join('') : String(frame)
    peer.connection.received(message)
    said++
    if (intake.works.length > 0) {
      for (const work of intake.works.splice(0)) work.finish()
      intake.requests.length = 0
      await settled()
    }
    const { closed } = peer.socket
    if (!closed && said < 200) continue
    for (const { type } of peer.socket.frames()) seen.set(type, (seen.get(type) ?? 0) + 1)
    if (closed) {
      expect(codes, closed.reason).toContain(closed.code)
      seen.set(String(closed.code), (seen.get(String(closed.code)) ?? 0) + 1)
    }
    peer.connection.left()
    peer = connect()
    said = 0
  }
  peer.connection.left()
  vi.advanceTimersByTime(LIMITS.resumeMs)
  await settled()
  expect(vi.getTimerCount()).toBe(0)
  expect(detached.counts()).toEqual({ responses: 0, sessions: 0 })
  expect(({} as { polluted?: boolean }).polluted).toBeUndefined()
  // The frames were not all of one kind.
  for (const kind of ['accepted', 'done', 'error', 'pong', 'session.opened', '4400'])
    expect(seen.get(kind), kind).toBeGreaterThan(0)
})
