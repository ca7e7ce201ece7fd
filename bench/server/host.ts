// A process with an engine and a server around it, that measures itself when its parent asks. Started by host-process.ts.
import { promptsFor } from '../../src/bench/prompts.js'
import { type Engine, loadEngine } from '../../src/index.js'
import { createServer, type InferenceServer } from '../../src/server/index.js'
import { libraryAsker } from './askers.js'
import type { Call, HostVerbs, Reply, StartOptions } from './host-process.js'
import { runLoad } from './load.js'
import { marksOf } from './marks.js'

class Host {
  readonly #engine: Engine
  readonly #server: InferenceServer

  private constructor(engine: Engine, server: InferenceServer) {
    this.#engine = engine
    this.#server = server
  }

  static async start({ load, server }: StartOptions): Promise<{ host: Host; url: string }> {
    const engine = await loadEngine(load)
    const running = createServer({ ...server, host: '127.0.0.1', port: 0, engine })
    const { url } = await running.listen()
    return { host: new Host(engine, running), url }
  }

  readonly verbs: HostVerbs = {
    info: async () => this.#engine.info,
    prompts: async ({ count, lengths }) => {
      const prompts = await promptsFor(this.#engine, { count })
      const take = async (index: number) => [...(await prompts.take(index, lengths[index % lengths.length]!))]
      return Promise.all(Array.from({ length: count }, (_, index) => take(index)))
    },
    library: async ({ plan, request }) => runLoad(plan, libraryAsker(this.#engine, request).ask),
    marks: async (of) => marksOf(this.#engine, of),
    close: async () => {
      await this.#server.close({ drainMs: 0 })
      await this.#engine.close()
    },
  }
}

const answer = (reply: Reply): void => {
  process.send!(reply)
}

let host: Host | null = null

async function serve({ id, verb, argument }: Call): Promise<void> {
  try {
    if (verb === 'start') {
      const started = await Host.start(argument as StartOptions)
      host = started.host
      answer({ id, value: started.url })
    } else {
      const call = host!.verbs[verb] as (argument: unknown) => Promise<unknown>
      answer({ id, value: await call(argument) })
    }
  } catch (error) {
    answer({ id, error: String((error as Error).stack ?? error) })
  }
}

process.on('message', (call: Call) => void serve(call))
// Without its parent it is of no use to anybody.
process.on('disconnect', () => process.exit(0))
