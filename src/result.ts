// What a generation gives: chunks while it runs, a result at its end, and the record that makes both.
import type { AcceptRule } from './decode/accept.js'
import type { GateDecision } from './decode/gate.js'
import type { Tree } from './decode/tree.js'
import type { CompressionReport, CompressionSpec, Drafts, Posterior, SessionInfo } from './native.js'
import type { KvOptions } from './options.js'
import type { Plan } from './plan.js'
import type { SpeculationReport, Stats, Timing } from './stats.js'

/** Why a generation ended: a stop id, string or end of sequence; its limit of tokens; its caller; its time. */
export type Finish = 'stop' | 'length' | 'aborted' | 'timeout'

/** Under the model's own distribution, before temperature, penalties and the like. In nats. */
export interface TokenLogprob {
  readonly id: number
  /** Empty without a tokenizer. */
  readonly token: string
  readonly logprob: number
  /** The likeliest tokens in its place, best first; as many as were asked for. */
  readonly top: readonly { readonly id: number; readonly token: string; readonly logprob: number }[]
}

/** What one decode step added. */
export interface Chunk {
  /** Of the chunk, from 0. */
  readonly index: number
  /** Decode step that made it, from 0. */
  readonly step: number
  /** Milliseconds since the generation was queued. */
  readonly atMs: number
  /** May be empty, while a character is incomplete or a stop string may have begun. */
  readonly text: string
  /** The text, by which of `tokens` brought it: one piece for each, often its own text. One piece where there are no tokens. */
  readonly pieces: readonly string[]
  /** i32: the root, then the accepted drafts, stop id included. Empty only in the last chunk of a generation cut short. */
  readonly tokens: Int32Array
  /** How many of `tokens` were drafted. */
  readonly drafted: number
  /** Of each of `tokens`, when asked for. */
  readonly logprobs?: readonly TokenLogprob[]
}

/** The cache as the prompt left it. */
export interface KvReport {
  readonly policy: KvOptions['policy']
  /** Tokens of the context when prefill was done: those of this turn and of all before. */
  readonly promptTokens: number
  /** Rows per layer and KV head then; less than `promptTokens` when rows were dropped. */
  readonly keptTokens: number
  readonly bytes: number
  /** What the same context takes uncompressed. */
  readonly fullBytes: number
  /** `[layer][kvHead]`: positions kept, ascending, without the window. With `reportKept`, when this turn dropped rows. */
  readonly kept?: readonly (readonly (readonly number[])[])[]
}

export interface Usage {
  /** Tokens this turn's prefill ran; in a session, the last token of the turn before among them. */
  readonly prompt: number
  /** Rows that earlier turns had left in the cache. */
  readonly cached: number
  /** Tokens made, a stop id included. */
  readonly completion: number
}

export interface Result {
  /** Of all chunks, joined. */
  readonly text: string
  /** i32: of all chunks, joined. */
  readonly tokens: Int32Array
  readonly finish: Finish
  /** The stop string that ended it; not part of `text`. */
  readonly stopString?: string
  /** What reproduces the text; null for greedy decoding. A bigint when it is not a safe integer. */
  readonly seed: number | bigint | null
  readonly usage: Usage
  readonly timing: Timing
  readonly speculation: SpeculationReport & {
    /** By which drafts were accepted. With `typical` the text is not that of plain decoding; greedy decoding is always `exact`. */
    readonly accept: AcceptRule['rule']
    /** Where steps were plain although there are heads, and why. */
    readonly gate: GateDecision
  }
  readonly kv: KvReport
  /** Of each of `tokens`, when asked for. */
  readonly logprobs?: readonly TokenLogprob[]
}

/** Everything of a finished prefill that the result speaks of. */
export interface PrefillRecord {
  readonly tokenCount: number
  readonly cachedRows: number
  readonly spec: CompressionSpec | null
  readonly report: CompressionReport | null
  readonly info: SessionInfo
}

/** Collects one generation. */
export class Transcript {
  readonly #stats: Stats
  readonly #plan: Plan
  readonly #kvBytesPerToken: number
  readonly #layers: number
  #chunkCount = 0
  readonly #logprobs: TokenLogprob[] = []
  readonly #tokens: number[] = []
  #text = ''
  #prefill: PrefillRecord | null = null

  constructor({
    stats,
    plan,
    kvBytesPerToken,
    layers,
  }: {
    readonly stats: Stats
    readonly plan: Plan
    readonly kvBytesPerToken: number
    readonly layers: number
  }) {
    this.#stats = stats
    this.#plan = plan
    this.#kvBytesPerToken = kvBytesPerToken
    this.#layers = layers
  }

  get isPrefilled(): boolean {
    return this.#prefill !== null
  }

  /** Of all chunks so far. */
  get tokens(): readonly number[] {
    return this.#tokens
  }

  /** Of all chunks so far. */
  get text(): string {
    return this.#text
  }

  prefilled(record: PrefillRecord): void {
    this.#prefill = record
  }

  /** The next chunk. */
  chunk(pieces: readonly string[], tokens: Int32Array, logprobs: readonly TokenLogprob[] | null): Chunk {
    const index = this.#chunkCount++
    const text = pieces.join('')
    const chunk: Chunk = {
      index,
      step: tokens.length > 0 ? index : Math.max(0, index - 1),
      atMs: this.#stats.chunk(tokens.length, text),
      text,
      pieces,
      tokens,
      drafted: Math.max(0, tokens.length - 1),
      ...(logprobs && { logprobs }),
    }
    this.#logprobs.push(...(logprobs ?? []))
    this.#tokens.push(...tokens)
    this.#text += text
    return chunk
  }

  result(finish: Finish, stopString: string | null, gate: GateDecision): Result {
    this.#stats.end()
    const { seed } = this.#plan
    const { completion, timing, speculation } = this.#stats.summary()
    return {
      text: this.#text,
      tokens: Int32Array.from(this.#tokens),
      finish,
      ...(stopString !== null && { stopString }),
      seed: seed !== null && seed <= Number.MAX_SAFE_INTEGER ? Number(seed) : seed,
      usage: { prompt: this.#prefill?.tokenCount ?? 0, cached: this.#prefill?.cachedRows ?? 0, completion },
      timing,
      speculation: { ...speculation, accept: this.#plan.accept.rule, gate },
      kv: this.#kvReport(),
      ...(this.#plan.sampling.logprobs >= 0 && { logprobs: this.#logprobs }),
    }
  }

  #kvReport(): KvReport {
    const { position = 0, rows = 0 } = this.#prefill?.info ?? {}
    const { spec, report } = this.#prefill ?? {}
    return {
      policy: this.#plan.kv.policy,
      promptTokens: position,
      keptTokens: rows,
      bytes: rows * this.#kvBytesPerToken,
      fullBytes: position * this.#kvBytesPerToken,
      ...(spec &&
        report?.kept && { kept: keptBefore(position - spec.window, report.kept, this.#layers, report.rowsKept) }),
    }
  }
}

/**
 * The kept positions below `end`, as [layer][kvHead][…].
 *
 * @param kept i32 [L, Hkv, rowsKept], each list ascending
 */
function keptBefore(end: number, kept: Int32Array, layers: number, rowsKept: number): number[][][] {
  const kvHeads = kept.length / (layers * rowsKept)
  return Array.from({ length: layers }, (_, layer) =>
    Array.from({ length: kvHeads }, (_, kvHead) => {
      const begin = (layer * kvHeads + kvHead) * rowsKept
      return [...kept.subarray(begin, begin + rowsKept)].filter((position) => position < end)
    }),
  )
}

/**
 * Log-probabilities of a step's tokens; null when none were asked for.
 *
 * The root's came with the drafts; a drafted token's are those of its own node, and what it was preferred to stands at its parent.
 *
 * @param path nodes, root first; no more than were emitted.
 * @param posterior null when only the root was emitted and nothing had to be verified.
 */
export function stepLogprobs(
  {
    tree,
    path,
    drafts,
    posterior,
    tokens,
  }: {
    readonly tree: Tree
    readonly path: Int32Array
    readonly drafts: Drafts
    readonly posterior: Posterior | null
    readonly tokens: Int32Array
  },
  tokenText: (id: number) => string,
): TokenLogprob[] | null {
  if (!drafts.logprobs) return null
  const entry = (id: number, logprob: number, topIds: Int32Array, topValues: Float32Array): TokenLogprob => ({
    id,
    token: tokenText(id),
    logprob,
    top: Array.from(topIds, (topId, i) => ({ id: topId, token: tokenText(topId), logprob: topValues[i]! })),
  })
  const verified = posterior?.logprobs
  const count = verified ? verified.topIds.length / tree.nodeCount : 0
  return Array.from(path, (node) => {
    if (node === 0 || !verified) {
      const { chosen, topIds, topValues } = drafts.logprobs!
      return entry(drafts.root, chosen, topIds, topValues)
    }
    const begin = tree.parents[node]! * count
    return entry(
      tokens[node]!,
      verified.token[node]!,
      verified.topIds.subarray(begin, begin + count),
      verified.topValues.subarray(begin, begin + count),
    )
  })
}
