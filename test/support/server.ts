// A running server over the demo engine, one engine for a test file.
import { afterAll, afterEach } from 'vitest'
import { type Engine, type LoadOptions, loadEngine } from '../../src/index.js'
import { createServer, type InferenceServer, type ServerOptions } from '../../src/server/index.js'

export interface RunningServer {
  readonly server: InferenceServer
  readonly engine: Engine
  readonly url: string
  readonly port: number
  /** Frees the port; afterwards too for a test that does not call it. */
  close(options?: { readonly drainMs?: number }): Promise<void>
}

/** Starts a server; another engine can be given. */
export type StartServer = (options?: Partial<ServerOptions>) => Promise<RunningServer>

/** Starts servers on ports that were free; after each test they are closed. Call at the top of a test file. */
export function runningServers(load: Partial<LoadOptions> = {}): StartServer {
  const running = new Set<RunningServer>()
  let loading: Promise<Engine> | null = null
  afterEach(async () => {
    for (const server of running) await server.close({ drainMs: 0 })
  })
  afterAll(async () => (await loading)?.close())
  return async (options = {}) => {
    loading ??= loadEngine({ model: 'demo', threads: 1, ...load })
    const engine = await loading
    const server = createServer({ engine, port: 0, ...options })
    const { url, port } = await server.listen()
    const started: RunningServer = {
      server,
      engine,
      url,
      port,
      close: async (how) => {
        running.delete(started)
        await server.close(how)
      },
    }
    running.add(started)
    return started
  }
}

/** Resolves when it holds, which it must before long. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`still not after 20 s: ${holds}`)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}
