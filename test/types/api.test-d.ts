// The public API's types, as a user meets them: this file compiles or it does not.
import type {
  Chunk,
  Engine,
  EngineMemory,
  GenerateOptions,
  Generation,
  LoadOptions,
  PrefillProgress,
  QueueProgress,
  Result,
  Session,
} from '../../src/index.js'
import { GorgonError, isGorgonError, loadEngine } from '../../src/index.js'

export async function asUsed(engine: Engine, session: Session): Promise<void> {
  const result: Result = await engine.generate('prompt')
  const ids: Int32Array = result.tokens
  const again: Result = await engine.generate(ids, { seed: result.seed ?? 0 })
  const finish: 'stop' | 'length' | 'aborted' | 'timeout' = again.finish
  if (finish === 'stop') result.stopString?.toUpperCase()

  const generation: Generation = engine.generate([{ role: 'user', content: 'hi' }], { stop: ['a'], logprobs: 3 })
  for await (const chunk of generation) {
    const one: Chunk = chunk
    one.logprobs?.[0]?.top[0]?.id.toFixed()
    one.pieces[0]?.toUpperCase()
  }
  for await (const piece of generation.text) piece.toUpperCase()
  const stream: ReadableStream<Chunk> = generation.toReadableStream()
  await stream.cancel()
  generation.abort('reason')

  await session.send({ role: 'user', content: 'hi' }, { speculation: { tree: { paths: [[0]] } }, kv: { budget: 64 } })
  await using loaded = await loadEngine({
    model: 'demo',
    heads: false,
    limits: { maxQueue: 1 },
    signal: AbortSignal.timeout(1),
  })
  const queued: QueueProgress[] = []
  const prefill: PrefillProgress[] = []
  await loaded.generate('x', {
    priority: 1,
    client: 'me',
    onQueue: (at) => void queued.push(at),
    onPrefill: (at) => void prefill.push(at),
  })
  const places: number = loaded.info.limits.maxSequences - loaded.stats().running
  const memory: EngineMemory = loaded.stats().memory
  if (memory.device) places.toFixed(memory.device.used)
  const text: string = loaded.detokenize(await loaded.tokenize('x'))
  if (isGorgonError(text)) throw new GorgonError('ERR_OPTION', 'x')

  // @ts-expect-error a result is read, not written
  result.text = ''
  // @ts-expect-error no such option
  engine.generate('x', { maxTokenz: 1 })
  // @ts-expect-error a policy that does not exist
  engine.generate('x', { kv: { policy: 'best' } })
  // @ts-expect-error chunks are no strings
  for await (const piece of engine.generate('x')) piece.toUpperCase()
  // @ts-expect-error engines are loaded, not made
  new Engine({})
}

export const options: GenerateOptions = { temperature: 0.8, topP: 0.9, logitBias: { 5: -100 }, onAbort: 'return' }
export const load: LoadOptions = {
  model: 'demo',
  backend: 'cpu',
  dtype: 'f32',
  speculation: { accept: { rule: 'typical' } },
}
