// A process with an engine and a server around it, that measures itself when its parent asks. Started by host-process.ts.
import { promptsFor } from '../../src/bench/prompts.js'
import { type Engine, type LoadOptions, loadEngine } from '../../src/index.js'
import { createServer, type InferenceServer } from '../../src/server/index.js'
import { libraryAsker } from './askers.js'
import type { Call, HostVerbs, Reply } from './host-process.js'
import { runLoad } from './load.js'
import { marksOf } from './marks.js'
import { type WatchedEngine, watched } from './watched-engine.js'

class Host {
  readonly #engine: Engine
  readonly #watched: WatchedEngine
  #server: InferenceServer | null = null

  constructor(engine: Engine) {
    this.#engine = engine
    this.#watched = watched(engine)
  }

  readonly verbs: HostVerbs = {
    serve: async (limits) => {
      await this.#server?.close({ drainMs: 0 })
      this.#server = createServer({ engine: this.#watched.engine, host: '127.0.0.1', port: 0, limits })
      return (await this.#server.listen()).url
    },
    info: async () => this.#engine.info,
    prompts: async ({ count, lengths }) => {
      const prompts = await promptsFor(this.#engine, { count })
      const take = async (index: number) => [...(await prompts.take(index, lengths[index % lengths.length]!))]
      return Promise.all(Array.from({ length: count }, (_, index) => take(index)))
    },
    library: async ({ plan, request }) => runLoad(plan, libraryAsker(this.#watched.engine, request).ask),
    watch: async () => this.#watched.begin(),
    made: async () => this.#watched.end(),
    marks: async (of) => marksOf(this.#engine, of),
    close: async () => {
      await this.#server?.close({ drainMs: 0 })
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
    if (verb === 'load') {
      host = new Host(await loadEngine(argument as LoadOptions))
      answer({ id, value: null })
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
