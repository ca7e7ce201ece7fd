// Who asks when: clients that ask again once they have their answer, or arrivals that wait for nobody.
import { Choices } from '../quality/random.js'
import { sharedNow } from './watched-engine.js'

/** Clients, each of which asks so often, one request after another. */
export interface ClosedLoop {
  readonly loop: 'closed'
  readonly clients: number
  readonly requestsEach: number
}

/** Requests that come as a Poisson process does: the time from one to the next does not depend on anything. */
export interface OpenLoop {
  readonly loop: 'open'
  readonly perSecond: number
  readonly requests: number
}

export type LoadPlan = ClosedLoop | OpenLoop

/** Something a stream brought, at a time of the shared clock, in milliseconds. */
export interface Arrival {
  readonly atMs: number
  readonly hasText: boolean
}

/** What one request got. */
export interface Answer {
  /** The first sign of an answer; null in the library, which has none but its chunks. */
  readonly firstByteMs: number | null
  readonly arrivals: readonly Arrival[]
  readonly endMs: number
  readonly tokens: number
  readonly text: string
  /** Null where the stream does not carry them. */
  readonly ids: readonly number[] | null
}

/** Makes the request with this number and waits for all of its answer. */
export type Ask = (question: number) => Promise<Answer>

/** An answer and when it was asked for. In an open loop that is when it was due, whatever kept it from being sent. */
export interface Timed extends Answer {
  readonly question: number
  readonly dueMs: number
}

export interface LoadRun {
  readonly answers: readonly Timed[]
  /** From the first request to the last end. */
  readonly wallMs: number
}

export interface Clock {
  now(): number
  sleep(ms: number): Promise<void>
}

const REAL_CLOCK: Clock = {
  now: sharedNow,
  sleep: (ms) => new Promise((wake) => setTimeout(wake, ms)),
}

/** @throws what `ask` throws: a request without an answer makes no measurement. */
export async function runLoad(plan: LoadPlan, ask: Ask, clock: Clock = REAL_CLOCK): Promise<LoadRun> {
  const startMs = clock.now()
  const answers = plan.loop === 'closed' ? await closed(plan, ask, clock) : await open(plan, ask, clock)
  return { answers, wallMs: Math.max(...answers.map(({ endMs }) => endMs)) - startMs }
}

async function closed({ clients, requestsEach }: ClosedLoop, ask: Ask, clock: Clock): Promise<Timed[]> {
  const asked = Array.from({ length: clients }, async (_, client) => {
    const answers: Timed[] = []
    for (let turn = 0; turn < requestsEach; turn++) {
      const question = turn * clients + client
      const dueMs = clock.now()
      answers.push({ question, dueMs, ...(await ask(question)) })
    }
    return answers
  })
  return (await Promise.all(asked)).flat()
}

async function open(plan: OpenLoop, ask: Ask, clock: Clock): Promise<Timed[]> {
  const startMs = clock.now()
  const asked: Promise<Timed>[] = []
  for (const [question, afterMs] of dueTimes(plan).entries()) {
    const dueMs = startMs + afterMs
    const early = dueMs - clock.now()
    if (early > 0) await clock.sleep(early)
    const answer = ask(question).then((given) => ({ question, dueMs, ...given }))
    // It is awaited with all others; until then its failure is nobody's.
    answer.catch(() => undefined)
    asked.push(answer)
  }
  return Promise.all(asked)
}

/** When each request is due, in milliseconds from the start; the same plan gives the same times. */
export function dueTimes({ perSecond, requests }: Pick<OpenLoop, 'perSecond' | 'requests'>): number[] {
  const choices = new Choices(`arrivals at ${perSecond} a second`)
  let atMs = 0
  return Array.from({ length: requests }, () => {
    atMs += (-Math.log(1 - choices.uniform()) / perSecond) * 1000
    return atMs
  })
}
