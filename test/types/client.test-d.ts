// The client's types, as a user meets them, and what code written for the library finds the same: this file compiles or it does not.
import {
  type Chunk,
  type Client,
  ClientError,
  type ClientState,
  CloseCode,
  type ConnectOptions,
  connect,
  type GenerateOptions,
  type Generation,
  type Result,
  type Session,
} from '../../src/client/node.js'
import type { Engine } from '../../src/index.js'

export async function asUsed(session: Session): Promise<void> {
  await using client: Client = connect('ws://127.0.0.1:8080', { key: 'k', onState: ({ state }) => state.toUpperCase() })
  await client.ready()
  const names: string[] = client.models.map(({ id }) => id)
  const state: ClientState = client.state
  const generation: Generation = client.generate([{ role: 'user', content: 'hi' }], {
    model: names[0] ?? state,
    ids: true,
    seed: 2n ** 60n,
    kv: { budget: 64 },
    onRestart: ({ tokens, error }) => `${tokens.toFixed()} ${error.code}`,
    onPrefill: ({ done, total }) => done / total,
  })
  for await (const chunk of generation) {
    const one: Chunk = chunk
    for (const { step, chars } of one.spans ?? []) chars.map((units) => units + step)
    one.ids?.map((id) => id.toFixed())
  }
  const result: Result = await generation
  result.speculation.byDepth.map(({ offered, accepted }) => accepted / offered)
  const stream: ReadableStream<Chunk> = generation.toReadableStream()
  await stream.cancel()
  const second: Result = await session.send({ role: 'user', content: 'and' }, { maxTokens: 5 })
  second.text.toUpperCase()
  await client.close({ drainMs: 1000 })

  // @ts-expect-error no such option
  client.generate('x', { maxTokenz: 1 })
  // @ts-expect-error a policy that does not exist
  client.generate('x', { kv: { policy: 'best' } })
  // @ts-expect-error who asks is the server's to say
  client.generate('x', { client: 'me' })
  // @ts-expect-error no such option
  connect('ws://a', { retrys: 1 })
  // @ts-expect-error a result is read, not written
  result.text = ''
}

/** What a library's engine and a client of a server are both good for. */
type Generator = Pick<Engine, 'generate'> | Pick<Client, 'generate'>

export async function movesBetween(generator: Generator, signal: AbortSignal): Promise<string> {
  const options = { maxTokens: 10, temperature: 0.5, seed: 1, stop: ['\n'], signal, onAbort: 'return' } as const
  for await (const chunk of generator.generate('x', options)) if (chunk.drafted > 1) break
  const { text, finish, usage, timing, kv } = await generator.generate([1, 2, 3], options)
  return `${text} ${finish} ${usage.completion} ${timing.ttftMs} ${kv.keptTokens}`
}

export const error = new ClientError('ERR_QUEUE_FULL', 'x', { retryable: true, retryAfterMs: CloseCode.normal })
export const options: GenerateOptions = { resumable: false, provenance: false, minIntervalMs: 50, highWaterMark: 8 }
export const connecting: ConnectOptions = { reconnect: { retries: 3 }, affinity: false, heartbeatMs: 1000 }
