// An engine that notes when it made each chunk, on a clock that the clients' process has too.
import type { Chunk, Engine, Generation } from '../../src/index.js'

/** Milliseconds of the system's own monotonic clock, which all processes of a machine share. */
export const sharedNow = (): number => Number(process.hrtime.bigint()) / 1e6

/** What was made of one request. */
export interface Made {
  /** Token ids. */
  readonly prompt: readonly number[]
  /** When each chunk with text was made, by the shared clock. */
  readonly atMs: readonly number[]
}

export interface WatchedEngine {
  readonly engine: Engine
  /** Takes notes from now on. */
  begin(): void
  /** Takes no more. @returns what was made meanwhile, in the order in which it was asked for. */
  end(): Made[]
}

/** The same engine but for the notes. Prompts that are not token ids are not noted. */
export function watched(engine: Engine): WatchedEngine {
  let made: Made[] | null = null
  const generate: Engine['generate'] = (prompt, options) => {
    const startMs = sharedNow()
    const generation = engine.generate(prompt, options)
    if (made === null || typeof prompt[0] !== 'number') return generation
    const atMs: number[] = []
    made.push({ prompt: [...(prompt as Iterable<number>)], atMs })
    return watchedGeneration(generation, ({ text, atMs: afterMs }) => {
      if (text !== '') atMs.push(startMs + afterMs)
    })
  }
  return {
    engine: delegate(engine, { generate }),
    begin() {
      made = []
    },
    end() {
      const taken = made ?? []
      made = null
      return taken
    },
  }
}

function watchedGeneration(generation: Generation, onChunk: (chunk: Chunk) => void): Generation {
  const iterate = (): AsyncIterator<Chunk> => {
    const chunks = generation[Symbol.asyncIterator]()
    const noted = (next: IteratorResult<Chunk>): IteratorResult<Chunk> => {
      if (!next.done) onChunk(next.value)
      return next
    }
    return { next: () => chunks.next().then(noted), return: () => chunks.return!() }
  }
  return delegate(generation, { [Symbol.asyncIterator]: iterate })
}

/** The object with some members replaced; its own private fields stay its own. */
function delegate<T extends object>(object: T, replaced: object): T {
  return new Proxy(object, {
    get(target, key) {
      const from = key in replaced ? replaced : target
      const value: unknown = Reflect.get(from, key, from)
      return typeof value === 'function' ? value.bind(from) : value
    },
  })
}

/**
 * How long each chunk with text took from its making to its reader. A request is found by its prompt: of several with one prompt the first
 * asked for is the first made. Streams in which chunks were put together are left out.
 */
export function lagsOf(
  answers: readonly { readonly prompt: readonly number[]; readonly arrivedMs: readonly number[] }[],
  made: readonly Made[],
): number[] {
  const waiting = new Map<string, Made[]>()
  for (const one of made) waiting.set(one.prompt.join(), [...(waiting.get(one.prompt.join()) ?? []), one])
  return answers.flatMap(({ prompt, arrivedMs }) => {
    const { atMs = [] } = waiting.get(prompt.join())?.shift() ?? {}
    return atMs.length === arrivedMs.length ? arrivedMs.map((arrived, i) => arrived - atMs[i]!) : []
  })
}
