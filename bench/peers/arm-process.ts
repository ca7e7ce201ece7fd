// Runs each engine of a comparison in a process of its own, so that neither's threads, allocator or garbage are the other's. A process
// that waits for its turn sleeps.
import { type ChildProcess, fork } from 'node:child_process'
import { performance } from 'node:perf_hooks'
import { watchMemory } from '../../src/bench/memory.js'
import { type ErrorCode, GorgonError, isGorgonError } from '../../src/errors.js'

/** What an engine is asked to do once. */
export interface Request {
  readonly prompt: readonly number[]
  /** To generate. */
  readonly tokens: number
}

/** One generation, timed where it was made. */
export interface Sample {
  /** From the request to the first token. */
  readonly ttftMs: number
  /** Tokens that came after the first arrival, over the time they took. */
  readonly tokensPerSecond: number
  readonly tokens: readonly number[]
  /** How many came at once, on average: those of a step. */
  readonly tokensPerStep: number
  /** Highest resident size of the process meanwhile: weights, caches and Node. */
  readonly peakRssBytes: number
}

/** An engine that is loaded; `Info` is what it says about itself. */
export interface Arm<Info> {
  readonly info: Info
  /** Makes room for generations of this size; not timed. */
  prepare(size: { readonly promptTokens: number; readonly tokens: number }): Promise<void>
  /** Token ids as they come, greedy, from an empty cache; as many as asked for. */
  generate(request: Request): AsyncIterable<Iterable<number>>
}

type Call =
  | { readonly call: 'load'; readonly setup: unknown }
  | { readonly call: 'prepare'; readonly size: Parameters<Arm<unknown>['prepare']>[0] }
  | { readonly call: 'run'; readonly request: Request }

type Answer =
  | { readonly value: unknown }
  | { readonly failure: { readonly code: string | null; readonly message: string } }

/** Times a generation from now on. */
export async function sampleOf(
  arrivals: AsyncIterable<Iterable<number>>,
  now: () => number = () => performance.now(),
): Promise<Omit<Sample, 'peakRssBytes'>> {
  const tokens: number[] = []
  const begin = now()
  let first = { at: begin, tokens: 0 }
  let last = begin
  let steps = 0
  for await (const arrived of arrivals) {
    const before = tokens.length
    tokens.push(...arrived)
    // The end may come with nothing in it.
    if (tokens.length === before) continue
    last = now()
    steps += 1
    if (before === 0) first = { at: last, tokens: tokens.length }
  }
  return {
    ttftMs: first.at - begin,
    tokensPerSecond: (1000 * (tokens.length - first.tokens)) / (last - first.at),
    tokens,
    tokensPerStep: tokens.length / steps,
  }
}

/** The whole of a process that is one arm. */
export function serveArm<Setup, Info>(load: (setup: Setup) => Promise<Arm<Info>>): void {
  let arm: Arm<Info> | null = null
  const answer = async (message: Call): Promise<unknown> => {
    if (message.call === 'load') {
      arm = await load(message.setup as Setup)
      return arm.info
    }
    if (!arm) throw new Error('an arm is loaded before it is used: a bug, please report it')
    if (message.call === 'prepare') return arm.prepare(message.size)
    const { request } = message
    const { result: sample, peakRssBytes } = await watchMemory(sampleOf(arm.generate(request)))
    if (sample.tokens.length !== request.tokens) {
      throw new Error(`${request.tokens} tokens were asked for, ${sample.tokens.length} came`)
    }
    return { ...sample, peakRssBytes } satisfies Sample
  }
  const send = (message: Answer): void => void process.send!(message)
  process.on('message', (message: Call) => {
    answer(message).then(
      (value) => send({ value }),
      (error: Error) => {
        send({ failure: { code: isGorgonError(error) ? error.code : null, message: error.message } })
      },
    )
  })
  process.on('disconnect', () => process.exit())
}

/** The other end: one process, one call at a time. */
export class ArmProcess<Info> {
  readonly info: Info
  readonly #child: ChildProcess

  private constructor(child: ChildProcess, info: Info) {
    this.#child = child
    this.info = info
  }

  /**
   * @param file the module that calls `serveArm`.
   * @param execArgv node's own arguments; default: those of this process.
   * @throws {GorgonError} what loading gives.
   */
  static async start<Setup, Info>(
    file: string,
    setup: Setup,
    execArgv: readonly string[] = process.execArgv,
  ): Promise<ArmProcess<Info>> {
    const child = fork(file, {
      execArgv: [...execArgv],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    try {
      return new ArmProcess(child, (await ask(child, { call: 'load', setup })) as Info)
    } catch (error) {
      child.kill()
      throw error
    }
  }

  async prepare(size: Parameters<Arm<Info>['prepare']>[0]): Promise<void> {
    await ask(this.#child, { call: 'prepare', size })
  }

  async run(request: Request): Promise<Sample> {
    return (await ask(this.#child, { call: 'run', request })) as Sample
  }

  /** Ends the process. */
  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const ended = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.disconnect()
    await ended
  }
}

function ask(child: ChildProcess, call: Call): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const onMessage = (answer: Answer): void => {
      child.off('exit', onExit)
      if ('value' in answer) resolve(answer.value)
      else {
        const { code, message } = answer.failure
        reject(code === null ? new Error(message) : new GorgonError(code as ErrorCode, message))
      }
    }
    const onExit = (status: number | null, signal: string | null): void => {
      child.off('message', onMessage)
      reject(new Error(`the process of an engine ended with ${signal ?? status} instead of an answer`))
    }
    child.once('message', onMessage as (answer: unknown) => void)
    child.once('exit', onExit)
    child.send(call, (error) => error && reject(error))
  })
}
