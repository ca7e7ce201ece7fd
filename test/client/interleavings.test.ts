// Whatever happens in whatever order: each generation ends once, with all of its text, unless somebody aborted it.
import fc from 'fast-check'
import { expect, it, vi } from 'vitest'
import { type Client, connect, type Generation } from '../../src/client/browser.js'
import { watchRejections } from '../support/client.js'
import { answerTo, ToyServer } from '../support/toy-server.js'

watchRejections()

type Event =
  | { readonly type: 'generate' | 'abort' | 'read' | 'tick' | 'step' | 'break'; readonly value: number }
  | { readonly type: 'turn' | 'abort turn' | 'open' | 'work' | 'forget' | 'drain' | 'refuse' | 'cut short' }

const event: fc.Arbitrary<Event> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ type: fc.constant('generate' as const), value: fc.nat(3) }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('step' as const), value: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('read' as const), value: fc.nat(7) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('abort' as const), value: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('tick' as const), value: fc.constantFrom(0, 1, 200, 6000) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('break' as const),
      value: fc.constantFrom(1000, 1001, 1006, 1011, 1013, 4408, 4499),
    }),
  },
  {
    weight: 9,
    arbitrary: fc.record({
      type: fc.constantFrom(
        'turn',
        'turn',
        'abort turn',
        'open',
        'open',
        'work',
        'work',
        'work',
        'forget',
        'drain',
        'refuse',
        'cut short',
      ),
    }),
  },
)

interface Asked {
  readonly generation: Generation
  readonly expected: string
  readonly chunks: AsyncIterator<{ readonly text: string }> | null
  isAborted: boolean
  outcomes: unknown[]
}

/** One run: a server, a client, and what became of all that was asked. */
class Run {
  readonly server = new ToyServer()
  readonly client: Client
  readonly asked: Asked[] = []
  readonly turns: { readonly text: string; readonly expected: string }[] = []
  readonly lostTurns: unknown[] = []
  readonly #session
  /** Of the session, by what its answers say. */
  #context = ''
  #turn: Promise<unknown> | null = null
  #turnGeneration: Generation | null = null
  #turnCount = 0

  constructor() {
    const { WebSocket } = this.server.network
    const endless = Number.POSITIVE_INFINITY
    this.client = connect('ws://test', { WebSocket, retries: endless, reconnect: { retries: endless } })
    this.#session = this.client.session()
  }

  async do(event: Event): Promise<void> {
    const { server } = this
    if (event.type === 'generate') this.#generate(event.value)
    else if (event.type === 'turn') this.#takeTurn()
    else if (event.type === 'abort turn') this.#turnGeneration?.abort()
    else if (event.type === 'abort') this.#abort(event.value)
    else if (event.type === 'read') this.#read(event.value)
    else if (event.type === 'tick') await vi.advanceTimersByTimeAsync(event.value)
    else if (event.type === 'step') server.step(event.value)
    else if (event.type === 'break') server.break(event.value)
    else if (event.type === 'open') server.open()
    else if (event.type === 'work') server.work()
    else if (event.type === 'forget') server.forget()
    else if (event.type === 'drain') server.drain()
    else if (event.type === 'refuse') server.refusals++
    else server.cutShort()
    await vi.advanceTimersByTimeAsync(0)
  }

  /** From here on everybody behaves. */
  async calm(): Promise<void> {
    const ended = [...this.asked.map((asked) => this.#readAll(asked)), this.#turn]
    await this.#serveUntil(Promise.allSettled(ended))
    await this.#serveUntil(this.client.close())
  }

  async #serveUntil(promise: Promise<unknown>): Promise<void> {
    let isOver = false
    promise.then(() => {
      isOver = true
    })
    for (let i = 0; i < 100 && !isOver; i++) {
      this.server.open()
      this.server.finish()
      await vi.advanceTimersByTimeAsync(6000)
    }
    expect(isOver).toBe(true)
  }

  #generate(kind: number): void {
    const prompt = `prompt ${this.asked.length}`
    const generation = this.client.generate(prompt, { highWaterMark: 1 + kind, resumable: kind !== 3 })
    const chunks = kind % 2 === 0 ? generation[Symbol.asyncIterator]() : null
    const asked: Asked = { generation, expected: answerTo(prompt), chunks, isAborted: false, outcomes: [] }
    this.asked.push(asked)
    this.#watch(asked)
  }

  #watch(asked: Asked): void {
    asked.generation.then(
      ({ text }) => asked.outcomes.push(text),
      (error: unknown) => asked.outcomes.push(error),
    )
  }

  /** The session's answers must be those to the whole conversation, with no turn lost and none in it twice. */
  #takeTurn(): void {
    if (this.#turn) return
    const input = ` turn ${++this.#turnCount}`
    const expected = answerTo(this.#context + input)
    this.#turnGeneration = this.#session.send(input, { onAbort: 'return' })
    this.#turn = this.#turnGeneration
      .result()
      .then(
        ({ text, finish }) => {
          this.turns.push({ text, expected: finish === 'aborted' ? expected.slice(0, text.length) : expected })
          this.#context += input + text
        },
        (error: unknown) => this.lostTurns.push(error),
      )
      .then(() => {
        this.#turn = null
      })
  }

  #abort(index: number): void {
    const asked = this.asked[index % this.asked.length]
    if (!asked || asked.outcomes.length > 0) return
    asked.isAborted = true
    asked.generation.abort()
  }

  #read(index: number): void {
    const asked = this.asked[index % this.asked.length]
    asked?.chunks?.next().catch(() => undefined)
  }

  /** To the end of its chunks, and of its result. */
  async #readAll({ chunks, generation }: Asked): Promise<void> {
    for (let done = chunks === null; !done; ) {
      done = await chunks!.next().then(
        (next) => next.done === true,
        () => true,
      )
    }
    await generation
  }
}

it('each generation ends once, with all of its text, unless it was aborted; each turn of a session follows those before', async () => {
  vi.useFakeTimers()
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 60 }), async (events) => {
        const run = new Run()
        for (const event of events) await run.do(event)
        await run.calm()
        for (const { outcomes, expected, isAborted } of run.asked) {
          expect(outcomes).toHaveLength(1)
          if (isAborted && outcomes[0] !== expected) expect(outcomes[0]).toMatchObject({ name: 'AbortError' })
          else expect(outcomes).toEqual([expected])
        }
        for (const { text, expected } of run.turns) expect(text).toBe(expected)
        for (const error of run.lostTurns) {
          const { code, name } = error as { code?: unknown; name: string }
          expect(['ERR_SESSION_LOST', 'AbortError']).toContain(name === 'AbortError' ? name : code)
        }
        expect(run.client.state).toBe('closed')
      }),
      { numRuns: 1000 },
    )
  } finally {
    vi.useRealTimers()
  }
})
