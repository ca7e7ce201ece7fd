// The way out of a connection: the ladder of back-pressure, and who has a turn.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { CloseCode } from '../../src/server/close-codes.js'
import { LADDER, type Lane, Outbox } from '../../src/server/outbox.js'
import { countingReaders } from '../support/counting-readers.js'
import { FakePeerSocket } from '../support/peer-socket.js'

const STALL_MS = 1000
const frame = (bytes: number, letter = 'x') => letter.repeat(bytes)

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})
afterEach(() => {
  vi.useRealTimers()
})

function open() {
  const socket = new FakePeerSocket()
  socket.isRead = false
  const { counts, readers } = countingReaders()
  const outbox = new Outbox(socket, {
    stallMs: STALL_MS,
    readers,
    close: (code, reason) => socket.close(code, reason),
  })
  return { socket, outbox, counts }
}

/** Holds messages until there is room. */
class Pile implements Lane {
  readonly held: string[] = []
  wakes = 0

  constructor(readonly outbox: Outbox) {
    outbox.add(this)
  }

  get heldBytes(): number {
    return this.held.reduce((bytes, message) => bytes + message.length, 0)
  }

  add(message: string): void {
    this.held.push(message)
    if (!this.sendNext()) this.outbox.held()
  }

  sendNext(): boolean {
    const [message] = this.held
    if (message === undefined || !this.outbox.offer(message, message.length)) return false
    this.held.shift()
    return true
  }

  unparked(): void {
    this.wakes++
  }
}

describe('a frame', () => {
  test('is sent while it and what waits are within the first rung', () => {
    const { socket, outbox } = open()
    expect(outbox.offer(frame(LADDER.coalesceBytes - 100), LADDER.coalesceBytes - 100)).toBe(true)
    expect(outbox.offer(frame(100), 100)).toBe(true)
    expect(outbox.offer(frame(1), 1)).toBe(false)
    expect(outbox.isCongested).toBe(true)
    expect(socket.bufferedBytes).toBe(LADDER.coalesceBytes)
  })

  test('that is larger than any room is sent when nothing else waits', () => {
    const { outbox } = open()
    const bytes = LADDER.parkBytes * 2
    expect(outbox.offer(frame(bytes), bytes)).toBe(true)
    expect(outbox.offer(frame(1), 1)).toBe(false)
  })

  test('held back is sent when little waits, not before', () => {
    const { socket, outbox } = open()
    const pile = new Pile(outbox)
    for (let i = 0; i < 8; i++) pile.add(frame(LADDER.coalesceBytes / 4))
    expect(socket.messages).toHaveLength(4)
    socket.take(2)
    expect(socket.bufferedBytes).toBe(LADDER.resumeBytes)
    expect(socket.messages).toHaveLength(4)
    socket.take(1)
    expect(socket.messages).toHaveLength(7)
    socket.take(7)
    expect(pile.held).toEqual([])
  })

  test('of each lane has its turn', () => {
    const { socket, outbox } = open()
    const piles = ['a', 'b', 'c'].map((letter) => ({ letter, pile: new Pile(outbox) }))
    expect(outbox.offer(frame(LADDER.coalesceBytes, '-'), LADDER.coalesceBytes)).toBe(true)
    for (const { letter, pile } of piles) for (let i = 0; i < 6; i++) pile.add(frame(10_000, letter))
    socket.take(1)
    expect(socket.messages.map((message) => message[0]).join('')).toBe('-abcabc')
    socket.take(6)
    expect(socket.messages.map((message) => message[0]).join('')).toBe('-abcabcabcabc')
  })
})

describe('a lane', () => {
  test('is parked when too much waits, counting what lanes hold, and goes on when little does', () => {
    const { socket, outbox, counts } = open()
    const pile = new Pile(outbox)
    const other = new Pile(outbox)
    let added = 0
    for (; !outbox.isParked && added < 100; added++) pile.add(frame(10_000))
    expect(outbox.waitingBytes).toBeGreaterThan(LADDER.parkBytes)
    expect(outbox.waitingBytes - 10_000).toBeLessThanOrEqual(LADDER.parkBytes)
    expect(counts.parked).toBe(2)
    for (let i = 0; i < added && outbox.isParked; i++) {
      expect(pile.wakes + other.wakes).toBe(0)
      socket.take(1)
    }
    expect(outbox.isParked).toBe(false)
    expect(outbox.waitingBytes).toBeLessThan(LADDER.resumeBytes)
    expect([pile.wakes, other.wakes]).toEqual([1, 1])
  })

  test('that leaves makes room for those that stay', () => {
    const { socket, outbox } = open()
    const leaving = new Pile(outbox)
    const staying = new Pile(outbox)
    for (let i = 0; i < 30; i++) leaving.add(frame(10_000))
    expect(outbox.isParked).toBe(true)
    outbox.remove(leaving)
    expect(outbox.isParked).toBe(true)
    socket.take(6)
    expect(outbox.isParked).toBe(false)
    expect(staying.wakes).toBe(1)
  })

  test('is woken when the connection ends, and nothing of it is sent', () => {
    const { socket, outbox } = open()
    const pile = new Pile(outbox)
    for (let i = 0; i < 30; i++) pile.add(frame(10_000))
    const sent = socket.messages.length
    outbox.close()
    expect(pile.wakes).toBe(1)
    expect(outbox.isParked).toBe(false)
    socket.take(100)
    expect(outbox.offer('late', 4)).toBe(false)
    outbox.send('late')
    expect(socket.messages).toHaveLength(sent)
  })
})

describe('a reader', () => {
  test('who takes nothing is closed after stallMs', () => {
    const { socket, outbox, counts } = open()
    const pile = new Pile(outbox)
    for (let i = 0; i < 30; i++) pile.add(frame(10_000))
    vi.advanceTimersByTime(STALL_MS - 1)
    expect(socket.closed).toBeNull()
    vi.advanceTimersByTime(1)
    expect(socket.closed).toMatchObject({ code: CloseCode.slowConsumer })
    expect(counts.slowClosed).toBe(1)
  })

  test('who reads slowly is not, as long as each stallMs takes enough', () => {
    const { socket, outbox, counts } = open()
    const pile = new Pile(outbox)
    for (let i = 0; i < 30; i++) pile.add(frame(10_000))
    for (let i = 0; i < 5; i++) {
      vi.advanceTimersByTime(STALL_MS - 1)
      socket.take(4)
      vi.advanceTimersByTime(1)
      expect(outbox.isParked).toBe(true)
    }
    expect(socket.closed).toBeNull()
    socket.take(2)
    vi.advanceTimersByTime(STALL_MS)
    expect(socket.closed).toMatchObject({ code: CloseCode.slowConsumer })
    expect(counts.slowClosed).toBe(1)
  })

  test('who catches up has a new clock the next time', () => {
    const { socket, outbox } = open()
    const pile = new Pile(outbox)
    for (let i = 0; i < 30; i++) pile.add(frame(10_000))
    vi.advanceTimersByTime(STALL_MS - 1)
    for (let i = 0; i < 40; i++) socket.take(1)
    expect(outbox.isParked).toBe(false)
    for (let i = 0; i < 30; i++) pile.add(frame(10_000))
    vi.advanceTimersByTime(STALL_MS - 1)
    expect(socket.closed).toBeNull()
    vi.advanceTimersByTime(1)
    expect(socket.closed).not.toBeNull()
  })
})

describe('an answer', () => {
  test('waits for no room', () => {
    const { socket, outbox } = open()
    const pile = new Pile(outbox)
    for (let i = 0; i < 30; i++) pile.add(frame(10_000))
    outbox.send('pong')
    expect(socket.messages.at(-1)).toBe('pong')
  })

  test('too many of which are not read cost the connection', () => {
    const { socket, outbox, counts } = open()
    const count = LADDER.answerBytes / 1024
    for (let i = 0; i < count; i++) outbox.send(frame(1024))
    expect(socket.closed).toBeNull()
    outbox.send('x')
    expect(socket.closed).toMatchObject({ code: CloseCode.slowConsumer })
    expect(counts.slowClosed).toBe(1)
  })

  test('any number of which are read costs nothing', () => {
    const { socket, outbox } = open()
    for (let i = 0; i < 2000; i++) {
      outbox.send(frame(1024))
      socket.take(1)
    }
    expect(socket.closed).toBeNull()
  })
})
