import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { ServedSession } from '../../../src/server/index.js'
import { newResponse } from '../../../src/server/openai/response-object.js'
import { type KeptResponse, ResponseStore, STORE_LIMITS } from '../../../src/server/openai/response-store.js'
import { failure } from '../../support/errors.js'

const kept = (id: string, owner = 'one', content = 'text'): KeptResponse => ({
  owner,
  response: newResponse({}, { id, createdAt: 0, model: 'm' }),
  input: [],
  messages: [{ role: 'user', content }],
})

/** A session that says when it is closed. */
function sessionOf(): { session: ServedSession; readonly isClosed: boolean } {
  let isClosed = false
  const close = async (): Promise<void> => {
    isClosed = true
  }
  return {
    session: { close } as ServedSession,
    get isClosed() {
      return isClosed
    },
  }
}

function storeOf(limits: Partial<Record<keyof typeof STORE_LIMITS, number>> = {}) {
  const clock = { now: 0 }
  return { store: new ResponseStore({ ...STORE_LIMITS, ...limits }, () => clock.now), clock }
}

describe('what is kept', () => {
  it('is found by its owner alone', async () => {
    const { store } = storeOf()
    store.keep(kept('a'))
    expect(store.find('a', 'one')?.response.id).toBe('a')
    expect(store.find('a', 'two')).toBeNull()
    await failure(() => store.get('a', 'two'), 'ERR_RESPONSE_NOT_FOUND', /"a"/)
    await failure(() => store.delete('a', 'two'), 'ERR_RESPONSE_NOT_FOUND')
    store.delete('a', 'one')
    expect(store.find('a', 'one')).toBeNull()
  })

  it('is so many at most, the oldest going first', () => {
    const { store } = storeOf({ responses: 3 })
    for (const id of ['a', 'b', 'c', 'd']) store.keep(kept(id))
    expect(['a', 'b', 'c', 'd'].map((id) => store.find(id, 'one')?.response.id)).toEqual([undefined, 'b', 'c', 'd'])
  })

  it('is so large at most, whatever its number', () => {
    const { store } = storeOf({ characters: 300 })
    for (const id of ['a', 'b', 'c']) store.keep(kept(id, 'one', 'x'.repeat(40)))
    expect(store.size).toBe(2)
    store.keep(kept('huge', 'one', 'x'.repeat(300)))
    expect(store.size).toBe(0)
  })

  it('counts messages that say nothing', () => {
    const { store } = storeOf({ characters: 1000 })
    const messages = Array.from({ length: 10 }, () => ({ role: 'user', content: '' }))
    store.keep({ ...kept('a'), messages })
    store.keep({ ...kept('b'), messages })
    expect(store.find('a', 'one')).toBeNull()
    expect(store.find('b', 'one')).not.toBeNull()
  })

  it('of others stays when one owner keeps too much', () => {
    const { store } = storeOf({ responses: 4 })
    store.keep(kept('mine', 'quiet'))
    for (let i = 0; i < 20; i++) store.keep(kept(`${i}`, 'noisy'))
    expect(store.find('mine', 'quiet')).not.toBeNull()
    expect(store.size).toBe(4)
  })

  it('is kept so long', () => {
    const { store, clock } = storeOf({ keepMs: 1000 })
    store.keep(kept('a'))
    clock.now = 500
    store.keep(kept('b'))
    clock.now = 1000
    expect(store.find('a', 'one')).toBeNull()
    expect(store.find('b', 'one')).not.toBeNull()
  })
})

describe('a session held for the next turn', () => {
  it('is taken once', () => {
    const { store } = storeOf()
    const response = kept('a')
    const { session } = sessionOf()
    store.hold(response, session)
    expect(store.take(response)).toBe(session)
    expect(store.take(response)).toBeNull()
  })

  it('is closed when too many are held, the oldest first', () => {
    const { store } = storeOf({ sessions: 2 })
    const sessions = ['a', 'b', 'c'].map((id) => {
      const session = sessionOf()
      store.hold(kept(id), session.session)
      return session
    })
    expect(sessions.map(({ isClosed }) => isClosed)).toEqual([true, false, false])
  })

  it('is closed when its time is over, while its response stays', () => {
    const { store, clock } = storeOf({ sessionMs: 1000, keepMs: 5000 })
    const response = kept('a')
    const held = sessionOf()
    store.keep(response)
    store.hold(response, held.session)
    clock.now = 1000
    store.sweep()
    expect(held.isClosed).toBe(true)
    expect(store.take(response)).toBeNull()
    expect(store.find('a', 'one')).toBe(response)
  })

  it.each(['deleted', 'pushed out', 'too old'])('is closed when its response is %s', (how) => {
    const { store, clock } = storeOf({ responses: 1, keepMs: 1000 })
    const response = kept('a')
    const held = sessionOf()
    store.keep(response)
    store.hold(response, held.session)
    if (how === 'deleted') store.delete('a', 'one')
    if (how === 'pushed out') store.keep(kept('b'))
    if (how === 'too old') {
      clock.now = 1000
      store.sweep()
    }
    expect(held.isClosed).toBe(true)
  })
})

describe('the clock of a store', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  it('drops what is too old although nobody asks, and stops when nothing is left', () => {
    const { store, clock } = storeOf({ keepMs: 60_000 })
    store.keep(kept('a'))
    expect(vi.getTimerCount()).toBe(1)
    clock.now = 60_000
    vi.advanceTimersByTime(60_000)
    expect(store.size).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
    store.keep(kept('b'))
    expect(vi.getTimerCount()).toBe(1)
  })

  it('stops when the store is closed', () => {
    const { store } = storeOf()
    store.keep(kept('a'))
    store.close()
    expect(store.size).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
  })
})
