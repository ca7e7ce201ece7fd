// An engine over the fake native side, with a tokenizer of one token per ASCII character.
import { afterEach, expect } from 'vitest'
import type { RankAccuracy } from '../../src/decode/accuracy.js'
import type { StepCosts } from '../../src/decode/step-costs.js'
import { UNMEASURED_HEADS } from '../../src/decode/tree-family.js'
import { Engine } from '../../src/engine.js'
import { type LoadOptions, type LoadOptionsInput, parseGenerateOptions, parseLoadOptions } from '../../src/options.js'
import type { EngineParts } from '../../src/parts.js'
import { resolvePlan } from '../../src/plan.js'
import { ChatTemplate } from '../../src/text/chat.js'
import { Detokenizer, type DetokenizerOptions, Pieces } from '../../src/text/detokenizer.js'
import type { EncodeOptions, Tokenizer } from '../../src/text/tokenizer.js'
import { FakeNative, type ToyOptions } from './fake-native.js'

export const TOY_VOCAB = 97
export const TOY_BOS = 95
export const TOY_EOS = 96

const SPELLED = [...Array.from({ length: 95 }, (_, id) => String.fromCharCode(32 + id)), '<s>', '</s>']

/** Ids 0 to 94 are the printable ASCII characters; two special tokens follow. */
export class ToyTokenizer implements Tokenizer {
  readonly vocabSize = TOY_VOCAB
  isClosed = false
  /** Awaited before a text is encoded. */
  gate: Promise<void> | null = null
  readonly #pieces = new Pieces(
    (id) => (SPELLED[id] === undefined ? null : { token: SPELLED[id], added: false, special: id >= TOY_BOS }),
    { type: 'Fuse' },
  )

  async encode(text: string, { addSpecial = true, signal }: EncodeOptions = {}): Promise<Int32Array> {
    await this.gate
    signal?.throwIfAborted()
    const ids = Array.from(text.matchAll(/<s>|<\/s>|./gs), ([spelled]) => SPELLED.indexOf(spelled))
    return Int32Array.from(addSpecial ? [TOY_BOS, ...ids] : ids)
  }

  decode(ids: Iterable<number>, options?: DetokenizerOptions): string {
    const detokenizer = this.detokenizer(options)
    return Array.from(ids, (id) => detokenizer.push(id)).join('') + detokenizer.flush()
  }

  detokenizer(options?: DetokenizerOptions): Detokenizer {
    return new Detokenizer(this.#pieces, options)
  }

  isSpecial(id: number): boolean {
    return this.#pieces.isSpecial(id)
  }

  tokenText(id: number): string {
    return SPELLED[id] ?? ''
  }

  tokenBytes(id: number): Uint8Array {
    return new TextEncoder().encode(this.tokenText(id))
  }

  tokenId(token: string): number | null {
    return SPELLED.includes(token) ? SPELLED.indexOf(token) : null
  }

  async close(): Promise<void> {
    this.isClosed = true
  }
}

/** Ends every message with the end-of-sequence token. */
export const TOY_TEMPLATE =
  '{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}'

export interface ToyEngineOptions extends Omit<LoadOptionsInput, 'model'> {
  readonly toy?: ToyOptions
  readonly tokenizer?: Tokenizer | null
  readonly template?: string | null
  readonly native?: FakeNative
  readonly accuracy?: RankAccuracy
  /** Null: not measured. Without it nothing was either, and every step speculates. */
  readonly stepCosts?: StepCosts | null
}

export interface ToyEngine {
  readonly engine: Engine
  readonly native: FakeNative
  readonly tokenizer: Tokenizer | null
}

/** Opens toy engines; after each test they are closed, and must have left nothing behind. Call at the top of a test file. */
export function toyEngines(): typeof toyEngine {
  const opened: ToyEngine[] = []
  afterEach(async () => {
    for (const { engine, native } of opened.splice(0)) {
      await engine.close()
      expect(native.breaches).toEqual([])
      expect(native.openSessions).toBe(0)
      expect(native.openModels).toBe(0)
    }
  })
  return (options) => {
    const toy = toyEngine(options)
    opened.push(toy)
    return toy
  }
}

export function toyEngine({ toy = {}, template = TOY_TEMPLATE, ...options }: ToyEngineOptions = {}): ToyEngine {
  const native = options.native ?? new FakeNative({ stopId: TOY_EOS, stopEvery: 1000, ...toy })
  const tokenizer = options.tokenizer === undefined ? new ToyTokenizer() : options.tokenizer
  const { native: _, tokenizer: __, accuracy = null, stepCosts = null, speculation, ...load } = options
  const gate = options.stepCosts === undefined ? { gate: false as const } : {}
  const parsed = parseLoadOptions({
    model: 'toy',
    kv: { policy: 'full' },
    speculation: { ...gate, ...speculation },
    ...load,
  })
  const bare = toyParts(native, tokenizer, template, parsed, toy)
  const parts = { ...bare, measured: { accuracy, grown: null }, info: { ...bare.info, stepCosts } }
  resolvePlan(parseGenerateOptions(), parts)
  return { engine: new Engine(parts), native, tokenizer }
}

function toyParts(
  native: FakeNative,
  tokenizer: Tokenizer | null,
  template: string | null,
  { speculation, kv, limits }: LoadOptions,
  toy: ToyOptions,
): EngineParts {
  const context = limits.maxContext ?? toy.maxPositions ?? 4096
  const model = native.openToyModel()
  return {
    native,
    model,
    tokenizer,
    chat: new ChatTemplate('toy', {
      namedTokens: { bos_token: '<s>', eos_token: '</s>' },
      specialTokens: new Set(['<s>', '</s>']),
      chatTemplate: template,
    }),
    vocab: TOY_VOCAB,
    context,
    layers: toy.layers ?? 2,
    medusaHeads: toy.medusaHeads ?? 4,
    measured: UNMEASURED_HEADS,
    eosIds: [TOY_EOS],
    speculation,
    kv,
    info: {
      model: 'toy',
      architecture: 'toy',
      backend: 'cpu',
      backendReason: 'a toy',
      isa: 'portable',
      threads: 1,
      device: null,
      dtype: 'f32',
      weights: 'full',
      weightBytes: 1,
      vocab: TOY_VOCAB,
      context,
      limits: { maxSequences: limits.maxSequences, maxQueue: limits.maxQueue },
      kvBytesPerToken: native.modelInfo(model).kvBytesPerToken,
      heads: null,
      stepCosts: null,
      hasTokenizer: tokenizer !== null,
      hasChatTemplate: template !== null,
      warnings: [],
    },
  }
}
