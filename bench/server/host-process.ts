// Starts a host, and asks it things: its parent's side.
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { EngineInfo, LoadOptions } from '../../src/index.js'
import type { ServerOptionsInput } from '../../src/server/index.js'
import type { Request } from './askers.js'
import { forkProgram } from './fork-program.js'
import type { LoadPlan, LoadRun } from './load.js'
import type { Marks } from './marks.js'
import type { Made } from './watched-engine.js'

export type ServerLimits = NonNullable<ServerOptionsInput['limits']>

export interface HostVerbs {
  /** Serves with these limits, in place of any server before. @returns its address, `http://127.0.0.1:PORT`. */
  serve(limits: ServerLimits): Promise<string>
  info(): Promise<EngineInfo>
  /** Token ids of `count` prompts, with these lengths in turn. */
  prompts(of: { readonly count: number; readonly lengths: readonly number[] }): Promise<number[][]>
  /** The load, put on the library itself. */
  library(of: { readonly plan: LoadPlan; readonly request: Request }): Promise<LoadRun>
  /** Notes when each chunk is made, until `made` is asked. */
  watch(): Promise<void>
  made(): Promise<Made[]>
  marks(of: { readonly afterGc: boolean }): Promise<Marks>
  /** Stops the server and frees the engine. */
  close(): Promise<void>
}

export interface Call {
  readonly id: number
  readonly verb: keyof HostVerbs | 'load'
  readonly argument: unknown
}

export type Reply = { readonly id: number } & ({ readonly value: unknown } | { readonly error: string })

export class HostProcess implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>()
  #calls = 0

  private constructor(child: ChildProcess) {
    this.#child = child
    child.on('message', (reply: Reply) => this.#answered(reply))
    child.once('exit', (code, signal) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`The host ended with ${code ?? signal}`))
      this.#waiting.clear()
    })
  }

  /** @param flags of node, beside those a host always has. */
  static async start(load: LoadOptions, flags: readonly string[] = []): Promise<HostProcess> {
    const host = new HostProcess(forkProgram('host', [], ['--expose-gc', ...flags]))
    try {
      await host.#ask('load', load)
      return host
    } catch (error) {
      host.#child.disconnect()
      throw error
    }
  }

  ask<Verb extends keyof HostVerbs>(
    verb: Verb,
    ...[argument]: Parameters<HostVerbs[Verb]>
  ): ReturnType<HostVerbs[Verb]> {
    return this.#ask(verb, argument) as ReturnType<HostVerbs[Verb]>
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = once(this.#child, 'exit')
    await this.ask('close').catch(() => undefined)
    this.#child.disconnect()
    await gone
  }

  #ask(verb: Call['verb'], argument: unknown): Promise<unknown> {
    const id = ++this.#calls
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#child.send({ id, verb, argument } satisfies Call)
    })
  }

  #answered(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id)
    this.#waiting.delete(reply.id)
    if ('error' in reply) waiting?.reject(new Error(reply.error))
    else waiting?.resolve(reply.value)
  }
}
