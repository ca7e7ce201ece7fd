// Text that a model makes by itself: what its Medusa heads have to guess in use, and so the best they can learn from.
import { createHash } from 'node:crypto'
import type { Engine } from '../../src/engine.js'
import { GorgonError } from '../../src/errors.js'
import { shuffled } from './batches.js'

/** How texts are drawn unless somebody says otherwise. */
export const SELF_DISTILL_DEFAULTS = {
  temperature: 0.7,
  /** Among how many of the likeliest tokens. */
  topK: 60,
  /** Most tokens of a prompt that are shown; a text begins with half of its prompt at most. */
  promptTokens: 512,
  /** Fewest, of prompts long enough: with less a model seldom knows what to go on with. */
  leastPromptTokens: 16,
  /** Most tokens that are made after one prompt. */
  textTokens: 256,
} as const

/** Hexadecimal digits that tell prompts apart. */
const PROMPT_NAME = 16

/** A text and where what the model made begins: what stands before is context. */
export interface SelfDistilledText {
  readonly tokens: Int32Array
  readonly from: number
  /** Names the prompt, whole: texts that have it in common tell of each other. Null where there were no prompts. */
  readonly prompt: string | null
}

export interface SelfDistillProgress {
  /** Made so far, and wanted. */
  readonly tokens: number
  readonly total: number
}

export interface SelfDistillOptions {
  /** It does as many texts at once as `limits.maxSequences` allows: 32 and more keep a processor busy. */
  readonly engine: Engine
  /**
   * Texts whose beginnings are continued, in an order drawn from the seed. Where there are too few they come again, cut elsewhere. Empty: every
   * text begins with what the tokenizer puts before each.
   */
  readonly prompts: readonly Int32Array[]
  /** How many to make, at least; prompts do not count. */
  readonly tokens: number
  readonly seed: number
  readonly temperature?: number
  readonly topK?: number
  readonly promptTokens?: number
  readonly textTokens?: number
  /** Texts that the same options made before, by their numbers: they are not made again. */
  readonly known?: ReadonlyMap<number, SelfDistilledText>
  readonly signal?: AbortSignal
  /** Given each text as it is done, which is in no order. */
  readonly onText?: (index: number, text: SelfDistilledText) => Promise<void>
  readonly onProgress?: (progress: SelfDistillProgress) => void
}

/**
 * Continues prompts until there are enough tokens. The same options give the same texts, however many are made at once.
 *
 * @throws {GorgonError} ERR_DATA when there is nothing to begin a text with, and what `engine.generate` rejects with; the signal's reason.
 */
export async function selfDistill(options: SelfDistillOptions): Promise<SelfDistilledText[]> {
  const { engine, tokens: total } = options
  const prompts = new Prompts(await beginningsOf(options), options)
  const stop = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal
  const most = Math.min(options.textTokens ?? SELF_DISTILL_DEFAULTS.textTokens, total)
  const texts = new Map<number, SelfDistilledText>()
  const running = new Set<Promise<void>>()
  let started = 0
  let made = 0
  /** Of texts that are done. */
  let kept = 0
  let finished = 0

  const finish = (index: number, text: SelfDistilledText): void => {
    texts.set(index, text)
    kept += text.tokens.length - text.from
    finished++
  }

  const continueOne = async (index: number): Promise<void> => {
    const { prompt, name, seed } = prompts.at(index)
    const generation = engine.generate(prompt, {
      maxTokens: Math.min(most, engine.info.context - prompt.length),
      temperature: options.temperature ?? SELF_DISTILL_DEFAULTS.temperature,
      topK: options.topK ?? SELF_DISTILL_DEFAULTS.topK,
      seed,
      speculation: { mode: 'off' },
      kv: { policy: 'full' },
      signal,
    })
    for await (const chunk of generation) {
      made += chunk.tokens.length
      options.onProgress?.({ tokens: Math.min(made, total), total })
    }
    const { tokens } = await generation
    // Whoever is stopped resolves too, with half a text.
    signal.throwIfAborted()
    const text = { tokens: Int32Array.from([...prompt, ...tokens]), from: prompt.length, prompt: name }
    await options.onText?.(index, text)
    finish(index, text)
  }

  const begin = (index: number): void => {
    const known = options.known?.get(index)
    if (known) {
      made += known.tokens.length - known.from
      options.onProgress?.({ tokens: Math.min(made, total), total })
      finish(index, known)
      return
    }
    const one: Promise<void> = continueOne(index).finally(() => running.delete(one))
    running.add(one)
  }

  /** No more are begun than will be wanted, if those that run become as long as others did. */
  const isShort = (): boolean => kept + running.size * (finished > 0 ? kept / finished : most) < total
  try {
    while (isShort() || running.size > 0) {
      while (isShort() && running.size < engine.info.limits.maxSequences) begin(started++)
      if (running.size > 0) await Promise.race(running)
    }
  } catch (error) {
    stop.abort()
    await Promise.allSettled(running)
    throw error
  }
  // Which texts were begun depends on which came first; these do not.
  return enoughOf(texts, total)!
}

/** The first texts that have so many tokens together; null while one of them is missing. */
export function enoughOf(texts: ReadonlyMap<number, SelfDistilledText>, total: number): SelfDistilledText[] | null {
  const first: SelfDistilledText[] = []
  for (let made = 0; made < total; ) {
    const text = texts.get(first.length)
    if (!text) return null
    made += text.tokens.length - text.from
    first.push(text)
  }
  return first
}

async function beginningsOf({ engine, prompts }: SelfDistillOptions): Promise<readonly Int32Array[]> {
  const beginnings = prompts.length > 0 ? prompts : [await engine.tokenize('')]
  if (beginnings.every(({ length }) => length > 0)) return beginnings
  throw new GorgonError(
    'ERR_DATA',
    prompts.length > 0
      ? 'A prompt to continue is empty. Leave it out.'
      : 'The model has no token that every text begins with, so there is nothing to continue. Give texts as data.',
  )
}

/** Which prompt a text begins with, how much of it, and the seed of what follows: by the text's number alone. */
class Prompts {
  readonly #all: readonly Int32Array[]
  readonly #seed: number
  readonly #most: number
  readonly #isGiven: boolean
  #round = -1
  #order: Uint32Array = new Uint32Array()

  constructor(all: readonly Int32Array[], { engine, seed, prompts, promptTokens }: SelfDistillOptions) {
    this.#all = all
    this.#isGiven = prompts.length > 0
    this.#seed = seed
    // Half of the context is left for what is made.
    this.#most = Math.min(promptTokens ?? SELF_DISTILL_DEFAULTS.promptTokens, Math.floor(engine.info.context / 2))
  }

  /** Texts are asked for in order. */
  at(index: number): { readonly prompt: Int32Array; readonly name: string | null; readonly seed: bigint } {
    const round = Math.floor(index / this.#all.length)
    if (round !== this.#round) {
      this.#round = round
      this.#order = shuffled(this.#all.length, `${this.#seed}/order/${round}`)
    }
    const whole = this.#all[this.#order[index % this.#all.length]!]!
    const bits = drawn(`${this.#seed}/text/${index}`)
    const most = Math.max(1, Math.min(this.#most, Math.floor(whole.length / 2)))
    const least = Math.min(SELF_DISTILL_DEFAULTS.leastPromptTokens, most)
    const length = least + Math.floor((bits.readUInt32LE(8) / 2 ** 32) * (most - least + 1))
    const name = this.#isGiven ? promptName(whole) : null
    return { prompt: whole.slice(0, length), name, seed: bits.readBigUInt64LE() }
  }
}

/** By content: copies of a prompt are one. */
const promptName = (tokens: Int32Array): string =>
  createHash('sha256')
    .update(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength))
    .digest('hex')
    .slice(0, PROMPT_NAME)

/** 32 random bytes, always the same for the same words. */
const drawn = (words: string): Buffer => createHash('sha256').update(words).digest()
