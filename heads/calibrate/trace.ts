// Texts as the model makes them by plain decoding, each token ranked among the drafts that stood for it.
import { planCompression } from '../../src/cache/budget.js'
import { RANK_COUNT } from '../../src/decode/choices.js'
import { samplingSpecOf } from '../../src/decode/sampling.js'
import { PLAIN_TREE } from '../../src/decode/tree.js'
import { type KvOptions, parseGenerateOptions } from '../../src/options.js'
import type { EngineParts } from '../../src/parts.js'
import { Scheduler } from '../../src/scheduler.js'
import { Sequence } from '../../src/sequence.js'
import type { CalibrationText } from './texts.js'

/** In place of a rank: none of the drafts was right. */
export const MISSED = -1
/** In place of a rank: the text had ended. */
export const UNSEEN = -2

/** A text that follows a prompt. */
export interface Trace {
  /** Tokens a decode step could begin with: T. */
  readonly positions: number
  readonly medusaHeads: number
  /**
   * i8 [T, M]: at position t, which draft of head h, 0 the best, is the token at t + 1 + h; `MISSED`, or `UNSEEN` where there is no such
   * token.
   */
  readonly ranks: Int8Array
  /** The model ended it: one more token, the end itself, stands at position T. */
  readonly isEnded: boolean
}

/** What texts are made with. */
export interface TraceOptions {
  /** Positions to rank, unless the text ends before. */
  readonly tokens: number
  readonly kv: KvOptions
  /** Texts made at once. */
  readonly batch: number
  readonly signal: AbortSignal
  /** Called after each step, with the steps of all texts so far. */
  readonly onStep?: ((steps: number) => void) | undefined
}

/** What of an engine's parts it takes. */
export type TraceBase = Pick<EngineParts, 'native' | 'model' | 'vocab' | 'medusaHeads' | 'eosIds'>

/** The path of a plain step. */
const ROOT_ALONE = new Int32Array(1)

/**
 * Makes the texts. It is the very path that inference takes, compression of the prompt included, so the ranks are those that decode
 * steps would meet: with exact acceptance the text does not depend on the tree that is verified.
 *
 * @param texts their prompts checked.
 * @throws what a native call raises, and the signal's reason.
 */
export async function traceTexts(
  base: TraceBase,
  texts: readonly CalibrationText[],
  options: TraceOptions,
): Promise<Trace[]> {
  const scheduler = new Scheduler(base.native)
  const traces: Trace[] = []
  let [begun, steps] = [0, 0]
  const onStep = () => options.onStep?.(++steps)
  const failure = new AbortController()
  const work = async (): Promise<void> => {
    // One each: every sequence listens to its signal.
    const signal = AbortSignal.any([options.signal, failure.signal])
    while (begun < texts.length) {
      const index = begun++
      traces[index] = await traceText(base, scheduler, texts[index]!, { ...options, signal, onStep })
    }
  }
  const workers = Array.from({ length: Math.min(options.batch, texts.length) }, () =>
    work().catch((error: unknown) => {
      // The others stop at their next phase, and nothing is left running when this returns.
      failure.abort(error)
    }),
  )
  await Promise.all(workers)
  if (failure.signal.aborted) throw failure.signal.reason
  return traces
}

async function traceText(
  base: TraceBase,
  scheduler: Scheduler,
  { prompt, temperature, seed }: CalibrationText,
  { tokens, kv, signal, onStep }: Pick<TraceOptions, 'tokens' | 'kv' | 'signal'> & { readonly onStep: () => void },
): Promise<Trace> {
  const { native, model, medusaHeads, eosIds, vocab } = base
  const request = { medusaHeads, topK: Math.min(RANK_COUNT, vocab) }
  const sampling = samplingSpecOf(parseGenerateOptions({ temperature }), { ...base, seed })
  const compression = planCompression({ rows: 0, newTokens: prompt.length, kv })
  const text: number[] = []
  const drafted: Int32Array[] = []
  let isEnded = false
  const sequence = new Sequence(native, scheduler, model, () => undefined)
  try {
    let { drafts } = await sequence.prefill({ tokens: prompt, sampling, compression, drafts: request }, signal)
    for (;;) {
      text.push(drafts.root)
      isEnded = text.length <= tokens && eosIds.includes(drafts.root)
      // The last drafts of interest stand for as many tokens more as there are heads, an end among them or not.
      if (isEnded || text.length === tokens + medusaHeads) break
      drafted.push(drafts.tokens)
      const root = Int32Array.of(drafts.root)
      await sequence.verify(PLAIN_TREE, root, false, signal)
      sequence.emit(root, ROOT_ALONE)
      onStep()
      drafts = await sequence.commit(request, signal)
    }
  } finally {
    await sequence.close()
  }
  return { ...rankText(text, drafted.slice(0, tokens), request), isEnded }
}

/**
 * @param text tokens; a step may begin with those that have drafts.
 * @param drafted i32 [M, K] of each position.
 */
export function rankText(
  text: readonly number[],
  drafted: readonly Int32Array[],
  { medusaHeads, topK }: { readonly medusaHeads: number; readonly topK: number },
): Omit<Trace, 'isEnded'> {
  const ranks = new Int8Array(drafted.length * medusaHeads)
  for (const [at, drafts] of drafted.entries()) {
    for (let head = 0; head < medusaHeads; head++) {
      const token = text[at + 1 + head]
      const row = drafts.subarray(head * topK, (head + 1) * topK)
      ranks[at * medusaHeads + head] = token === undefined ? UNSEEN : row.indexOf(token)
    }
  }
  return { positions: drafted.length, medusaHeads, ranks }
}
