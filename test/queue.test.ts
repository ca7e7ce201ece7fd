// Who is served next: priorities, clients in turns, age; places that are never lost; positions that are told.
import { setMaxListeners } from 'node:events'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type Claim, Places, type Ticket, Turns } from '../src/queue.js'

const MINUTE = 60_000
const never = new AbortController().signal
setMaxListeners(0, never)

const claim = (client = '', options: Partial<Claim> = {}): Claim => ({
  priority: 0,
  client,
  onQueue: undefined,
  ...options,
})

/** Long enough for every promise that can settle without anybody's help. */
const settle = () => new Promise((resolve) => setImmediate(resolve))

interface Named extends Ticket {
  readonly name: string
}

/** Tickets of clients by letter, each named and in the order of arrival: `a` then `b`, then the second of `a`. */
const arrivals = (letters: string, priority = 0): Named[] =>
  [...letters].map((client, i) => ({ name: `${client}${i}`, client, priority, since: 0 }))

const namesOf = (tickets: readonly Named[]) => tickets.map((ticket) => ticket.name).join(' ')

describe('turns', () => {
  it('go round among clients, whoever asked how often', () => {
    expect(namesOf(new Turns().order(arrivals('aaaabbc'), 0))).toBe('a0 b4 c6 a1 b5 a2 a3')
  })

  it('go to the client with the fewest running', () => {
    const turns = new Turns()
    turns.begin('a')
    turns.begin('a')
    turns.begin('b')
    expect(namesOf(turns.order(arrivals('aaabbbc'), 0))).toBe('c6 b3 a0 b4 a1 b5 a2')
    turns.end('a')
    turns.end('a')
    expect(namesOf(turns.order(arrivals('ab'), 0))).toBe('a0 b1')
  })

  it('go to the one served longest ago, also when nothing of it has been waiting since', () => {
    const turns = new Turns()
    for (const client of 'cba') {
      turns.begin(client)
      turns.end(client)
    }
    expect(namesOf(turns.order(arrivals('abcd'), 0))).toBe('d3 c2 b1 a0')
  })

  it('come to a higher priority first', () => {
    const waiting = [...arrivals('ab', -1), ...arrivals('cd', 3), ...arrivals('ef')]
    expect(namesOf(new Turns().order(waiting, 0))).toBe('c0 d1 e0 f1 a0 b1')
  })

  it('count a minute of waiting as one more priority', () => {
    const old = { name: 'old', client: 'a', priority: 0, since: 0 }
    const urgent = { name: 'urgent', client: 'b', priority: 2, since: MINUTE }
    expect(new Turns().next([old, urgent], 3 * MINUTE - 1)).toBe(urgent)
    const turns = new Turns()
    turns.begin('b')
    expect(turns.next([old, urgent], 2 * MINUTE)?.name).toBe('urgent')
    const late = { ...urgent, since: 2 * MINUTE }
    expect(turns.next([old, late], 2 * MINUTE)?.name).toBe('old')
  })

  it('come to nobody where nobody waits', () => {
    expect(new Turns().next([], 0)).toBeNull()
    expect(new Turns().order([], 0)).toEqual([])
  })

  it('remember a bounded number of clients', () => {
    const turns = new Turns()
    for (let i = 0; i < 10_000; i++) {
      turns.begin(`client ${i}`)
      turns.end(`client ${i}`)
    }
    const waiting = ['client 9999', 'client 0'].map((client) => ({ name: client, client, priority: 0, since: 0 }))
    expect(turns.next(waiting, 0)?.name).toBe('client 0')
  })
})

const someTickets = fc.array(
  fc.record({
    client: fc.constantFrom('a', 'b', 'c', 'd'),
    priority: fc.integer({ min: -2, max: 2 }),
    since: fc.integer({ min: 0, max: 4 * MINUTE }),
  }),
  { maxLength: 30 },
)
const someServed = fc.array(fc.record({ client: fc.constantFrom('a', 'b', 'c', 'd'), ends: fc.boolean() }), {
  maxLength: 12,
})

describe('for any queue', () => {
  it('the order told is the order of being served', () => {
    fc.assert(
      fc.property(someTickets, someServed, (tickets, history) => {
        const waiting = tickets.toSorted((a, b) => a.since - b.since)
        const turns = new Turns()
        for (const { client, ends } of history) {
          turns.begin(client)
          if (ends) turns.end(client)
        }
        const told = turns.order(waiting, 4 * MINUTE)
        const served: Ticket[] = []
        const left = new Set(waiting)
        while (left.size > 0) {
          const next = turns.next(left, 4 * MINUTE)!
          left.delete(next)
          turns.begin(next.client)
          served.push(next)
        }
        expect(told).toEqual(served)
      }),
      { numRuns: 2000 },
    )
  })

  it('what a client asks for at one priority is served in the order it asked', () => {
    fc.assert(
      fc.property(someTickets, someServed, (tickets, history) => {
        const waiting = tickets.toSorted((a, b) => a.since - b.since)
        const turns = new Turns()
        for (const { client } of history) turns.begin(client)
        const order = turns.order(waiting, 5 * MINUTE)
        for (const ticket of waiting) {
          const isAlike = (other: Ticket) => other.client === ticket.client && other.priority === ticket.priority
          expect(order.filter(isAlike)).toEqual(waiting.filter(isAlike))
        }
      }),
    )
  })

  it('nobody waits for ever, however urgent all who come later are', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1000, max: MINUTE }), (newcomers, interval) => {
        const turns = new Turns()
        const patient = { client: 'patient', priority: -10, since: 0 }
        const waiting: Ticket[] = [patient]
        // One is served an interval; as many urgent ones as there are newcomers always wait, the oldest since before it.
        for (let now = 0; now <= 22 * MINUTE + interval * (newcomers + 1); now += interval) {
          while (waiting.length <= newcomers) waiting.push({ client: `urgent ${now}`, priority: 10, since: now })
          const next = turns.next(waiting, now)!
          if (next === patient) return
          waiting.splice(waiting.indexOf(next), 1)
        }
        throw new Error('still waiting')
      }),
    )
  })
})

describe('places', () => {
  it('are given at once while there are some, then in order', async () => {
    const places = new Places(2, 10)
    const order: number[] = []
    const asked = Array.from({ length: 6 }, async (_, i) => {
      const free = await places.take(claim(), never)
      order.push(i)
      return free
    })
    await settle()
    expect(places).toMatchObject({ taken: 2, queued: 4 })
    for (const one of asked) {
      ;(await one)()
      await settle()
    }
    expect(order).toEqual([0, 1, 2, 3, 4, 5])
    expect(places).toMatchObject({ taken: 0, queued: 0 })
  })

  it('are given back once, however often it is said', async () => {
    const places = new Places(1, 10)
    const free = await places.take(claim(), never)
    const next = places.take(claim(), never)
    const last = places.take(claim(), never)
    free()
    free()
    await next
    await settle()
    expect(places).toMatchObject({ taken: 1, queued: 1 })
    ;(await next)()
    ;(await last)()
    expect(places).toMatchObject({ taken: 0, queued: 0 })
  })

  it('go round among clients', async () => {
    const places = new Places(1, 10)
    const free = await places.take(claim('greedy'), never)
    const order: string[] = []
    const all = ['greedy', 'greedy', 'greedy', 'modest'].map(async (client) => {
      const release = await places.take(claim(client), never)
      order.push(client)
      release()
    })
    free()
    await Promise.all(all)
    expect(order).toEqual(['modest', 'greedy', 'greedy', 'greedy'])
  })

  it('refuse whoever does not fit into the queue', async () => {
    const places = new Places(1, 1)
    const free = await places.take(claim(), never)
    const waiting = places.take(claim(), never)
    await expect(places.take(claim('', { priority: 10 }), never)).rejects.toMatchObject({
      code: 'ERR_QUEUE_FULL',
      details: { running: 1, maxSequences: 1, queued: 1, maxQueue: 1 },
    })
    free()
    ;(await waiting)()
    expect(places).toMatchObject({ taken: 0, queued: 0 })
  })

  it('are not lost on one who leaves the queue', async () => {
    const places = new Places(1, 10)
    const free = await places.take(claim(), never)
    const impatient = new AbortController()
    const first = places.take(claim(), impatient.signal)
    const second = places.take(claim(), never)
    impatient.abort('enough')
    await expect(first).rejects.toBe('enough')
    free()
    ;(await second)()
    expect(places).toMatchObject({ taken: 0, queued: 0 })
    await expect(places.take(claim(), AbortSignal.abort('before'))).rejects.toBe('before')
  })

  it('are not waited for by one whose preparation failed', async () => {
    const places = new Places(1, 10)
    const free = await places.take(claim(), never)
    await expect(places.take(claim(), never, Promise.reject('no such prompt'))).rejects.toBe('no such prompt')
    expect(places.queued).toBe(0)
    free()
    // With a place at once the failure is left to the caller, and is not unhandled here.
    ;(await places.take(claim(), never, Promise.reject('no such prompt')))()
    await settle()
  })

  it('are never lost nor given twice, whatever comes, ends and is aborted', async () => {
    type Step =
      | { readonly do: 'take'; readonly client: string; readonly priority: number }
      | { readonly do: 'free' | 'abort'; readonly which: number }
    const step: fc.Arbitrary<Step> = fc.oneof(
      fc.record({
        do: fc.constant('take' as const),
        client: fc.constantFrom('a', 'b', 'c'),
        priority: fc.integer({ min: -1, max: 1 }),
      }),
      fc.record({ do: fc.constantFrom('free' as const, 'abort' as const), which: fc.nat() }),
    )
    const run = async (limit: number, maxQueue: number, steps: readonly Step[]) => {
      const places = new Places(limit, maxQueue)
      const held: (() => void)[] = []
      const waiting = new Set<AbortController>()
      const outcomes = { given: 0, refused: 0, aborted: 0 }
      let asked = 0
      for (const one of steps) {
        if (one.do === 'take') {
          const controller = new AbortController()
          const { client, priority } = one
          asked++
          waiting.add(controller)
          void places.take(claim(client, { priority }), controller.signal).then(
            (free) => {
              waiting.delete(controller)
              outcomes.given++
              held.push(free)
            },
            (error: unknown) => {
              waiting.delete(controller)
              outcomes[error === 'mine' ? 'aborted' : 'refused']++
            },
          )
        } else if (one.do === 'free' && held.length > 0) held.splice(one.which % held.length, 1)[0]!()
        else if (one.do === 'abort' && waiting.size > 0) [...waiting][one.which % waiting.size]!.abort('mine')
        if (one.do !== 'take') await settle()
        expect(places.taken).toBeLessThanOrEqual(limit)
        expect(places.queued).toBeLessThanOrEqual(maxQueue)
        // Nobody waits beside a free place.
        expect(places.taken === limit || places.queued === 0).toBe(true)
      }
      for (await settle(); held.length > 0; await settle()) held.pop()!()
      expect(places).toMatchObject({ taken: 0, queued: 0 })
      expect(outcomes.given + outcomes.refused + outcomes.aborted).toBe(asked)
    }
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 0, max: 6 }),
        fc.array(step, { maxLength: 40 }),
        run,
      ),
    )
  })
})

describe('positions', () => {
  beforeEach(() => vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
  afterEach(() => vi.useRealTimers())

  /** Places of which one is taken, and a queue whose members write down what they are told. */
  async function queueOf(letters: string, priorities: Readonly<Record<string, number>> = {}) {
    const places = new Places(1, 5000)
    const free = await places.take(claim(), never)
    const told: string[] = []
    const frees: Promise<() => void>[] = []
    const join = (client: string) => {
      const onQueue = ({ position }: { position: number }) => void told.push(`${client}${position}`)
      frees.push(places.take(claim(client, { onQueue, priority: priorities[client] ?? 0 }), never))
    }
    for (const client of letters) join(client)
    await settle()
    return { places, free, told, frees, join }
  }

  it('are told to whoever has to wait, and to nobody else', async () => {
    const onQueue = vi.fn()
    await new Places(1, 1).take(claim('', { onQueue }), never)
    await settle()
    expect(onQueue).not.toHaveBeenCalled()
    const { told } = await queueOf('abc')
    expect(told).toEqual(['a0', 'b1', 'c2'])
  })

  it('are told when they change, and only then', async () => {
    const { told, free, join } = await queueOf('abc', { urgent: 5 })
    free()
    await vi.advanceTimersByTimeAsync(250)
    expect(told.splice(0)).toEqual(['a0', 'b1', 'c2', 'b0', 'c1'])
    join('d')
    await vi.advanceTimersByTimeAsync(250)
    expect(told.splice(0)).toEqual(['d2'])
    join('urgent')
    await vi.advanceTimersByTimeAsync(250)
    expect(told.splice(0)).toEqual(['urgent0', 'b1', 'c2', 'd3'])
  })

  it('are told at most four times a second, however fast the queue moves', async () => {
    const { told, free, frees } = await queueOf('x'.repeat(2000))
    expect(told).toHaveLength(2000)
    free()
    for (const one of frees.slice(0, 999)) (await one)()
    expect(told).toHaveLength(2000)
    await vi.advanceTimersByTimeAsync(250)
    expect(told).toHaveLength(3000)
    expect(told.slice(2000, 2002)).toEqual(['x0', 'x1'])
    await vi.advanceTimersByTimeAsync(10_000)
    expect(told).toHaveLength(3000)
  })

  it('reach everybody else when somebody fails to hear', async () => {
    const places = new Places(1, 10)
    await places.take(claim(), never)
    const told: number[] = []
    const deaf = places.take(
      claim('a', {
        onQueue() {
          throw new Error('mine')
        },
      }),
      never,
    )
    void places.take(claim('b', { onQueue: ({ position }) => void told.push(position) }), never)
    await expect(deaf).rejects.toThrow('mine')
    await vi.advanceTimersByTimeAsync(250)
    expect(told).toEqual([1, 0])
    expect(places).toMatchObject({ taken: 1, queued: 1 })
  })

  it('may be answered by leaving, or by making others leave', async () => {
    const places = new Places(1, 10)
    await places.take(claim(), never)
    const leaving = new AbortController()
    const onQueue = vi.fn()
    const both = [
      places.take(claim('a', { onQueue: () => leaving.abort('all of us') }), leaving.signal),
      places.take(claim('b', { onQueue }), leaving.signal),
    ]
    for (const one of both) await expect(one).rejects.toBe('all of us')
    expect(onQueue).not.toHaveBeenCalled()
    expect(places.queued).toBe(0)
  })
})
