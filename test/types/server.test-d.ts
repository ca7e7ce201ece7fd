// The types of `gorgon/server`, as whoever runs a server meets them: this file compiles or it does not.
import type { Engine } from '../../src/index.js'
import {
  type ClientFrameInput,
  CloseCode,
  createServer,
  type InferenceServer,
  type Principal,
  protocolJsonSchema,
  type ServerAddress,
  type ServerFrame,
  type ServerOptions,
} from '../../src/server/index.js'

export async function asUsed(engine: Engine, coming: Promise<Engine>): Promise<void> {
  const least: ServerOptions = { engine }
  const options: ServerOptions = {
    engine: { small: engine, large: coming },
    host: '0.0.0.0',
    port: 0,
    keys: ['a-long-key', { key: 'another-key', name: 'team', maxPriority: 5 }],
    origins: ['https://app.example'],
    limits: { perKey: { requestsPerMinute: 60 }, bodyBytes: 1024 },
    logger: console,
    loading: () => ({ phase: 'map', done: 1, total: 2 }),
  }
  const server: InferenceServer = createServer(least)
  const { url, port }: ServerAddress = await server.listen()
  url.toUpperCase()
  port.toFixed()
  await server.close({ drainMs: 1000 })
  await using other = createServer(options)
  other.address?.host.toUpperCase()

  createServer({
    engine,
    authenticate: ({ token, address, request }) =>
      token === 'secret' && request.method === 'POST' ? { id: address } : null,
  })
  createServer({ engine, authenticate: async (): Promise<Principal> => ({ id: 'me', maxPriority: 1 }) })

  const frame: ClientFrameInput = { type: 'generate', id: 'a', input: 'text', options: { maxTokens: 8 } }
  const answer = (given: ServerFrame): string => (given.type === 'delta' ? given.text : frame.type)
  answer({ type: 'pong', t: 1 })
  const code: 4499 = CloseCode.slowConsumer
  code.toFixed()
  protocolJsonSchema().client.toString()

  // @ts-expect-error: a server needs an engine
  createServer({ port: 1 })
  // @ts-expect-error: not an option
  createServer({ engine, ports: 1 })
}
