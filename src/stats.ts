// One generation's times and accept lengths, and their summary.
import type { Tree } from './decode/tree.js'

export interface Percentiles {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

/** Wall times in milliseconds. A phase that was not reached took 0. */
export interface Timing {
  /** Accepted by the engine to the start of prefill. */
  readonly queueMs: number
  /** Prefill, compression included. */
  readonly prefillMs: number
  /** Time to first token: accepted to the first chunk with text; to the first chunk, where none has text. Null without a chunk. */
  readonly ttftMs: number | null
  /** End of prefill to the end. */
  readonly decodeMs: number
  /** Time per output token after the first, amortised over steps: (e2eMs - ttftMs) / (tokens - 1). Null below two tokens. */
  readonly tpotMs: number | null
  /** Accepted to the end. */
  readonly e2eMs: number
  /** Tokens per second of `decodeMs`, the first not counted: prefill chose it. 0 below two tokens. */
  readonly tokensPerSecond: number
  /** Between consecutive chunks, whatever they carry; percentiles by nearest rank. Null below two chunks. */
  readonly gapMs: Percentiles | null
}

export interface SpeculationReport {
  /** Whether any step verified a draft. */
  readonly used: boolean
  /** Name of the generation's tree, or `auto`; single steps may have used less of it. */
  readonly tree: string
  /** Of that tree, root included; of `auto`, in most of its steps with a tree. */
  readonly nodes: number
  /** How many steps verified how many nodes, root included; ascending. */
  readonly sizes: readonly { readonly nodes: number; readonly steps: number }[]
  /** Decode steps: passes of the base model after prefill. */
  readonly steps: number
  /** Tokens drafted, over all steps. */
  readonly drafted: number
  /** Drafts accepted, over all steps. `steps + accepted` tokens were committed: those past a stop or limit are not in the completion. */
  readonly accepted: number
  /** (steps + accepted) / steps: tokens committed per step, root included and the last step whole. Plain decoding has 1; 0 without a step. */
  readonly tokensPerStep: number
  /**
   * Of depth d at d - 1. Offered: steps that reached depth d - 1 at a node with children. Accepted: those that went on to depth d. Their
   * ratio is the acceptance at that depth, given that it came to it.
   */
  readonly byDepth: readonly { readonly offered: number; readonly accepted: number }[]
  /** Of accept length k at k: steps that accepted k drafts. */
  readonly lengths: readonly number[]
}

export interface StatsSummary {
  /** Tokens of all chunks. */
  readonly completion: number
  readonly timing: Timing
  readonly speculation: SpeculationReport
}

/** Nearest rank: a value that did occur. Null of nothing. */
export function percentilesOf(values: readonly number[]): Percentiles | null {
  if (values.length === 0) return null
  const sorted = values.toSorted((a, b) => a - b)
  const at = (fraction: number): number => sorted[Math.max(0, Math.ceil(fraction * sorted.length) - 1)]!
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: sorted.at(-1)! }
}

/**
 * Counts one generation. Marks come in the order queued (construction), started, prefilled, then steps and chunks, then end; a generation
 * cut short leaves later ones out. Marks after the end, and a mark made twice, change nothing.
 */
export class Stats {
  readonly #tree: Pick<Tree, 'name' | 'nodeCount'> & { readonly sizes?: readonly number[] }
  readonly #now: () => number
  readonly #queuedAt: number
  #startedAt: number | undefined
  #prefilledAt: number | undefined
  #firstTextAt: number | undefined
  #firstChunkAt: number | undefined
  #lastChunkAt: number | undefined
  #endedAt: number | undefined
  #completion = 0
  #steps = 0
  #drafted = 0
  #accepted = 0
  readonly #gaps: number[] = []
  readonly #offeredAt: number[] = []
  readonly #acceptedAt: number[] = []
  readonly #lengths: number[] = []
  /** Steps by node count. */
  readonly #stepsOf = new Map<number, number>()

  /**
   * @param tree the generation's, before any limit, or the family its steps choose from.
   * @param now milliseconds of a clock that never goes back.
   */
  constructor(
    tree: Pick<Tree, 'name' | 'nodeCount'> & { readonly sizes?: readonly number[] },
    now: () => number = () => performance.now(),
  ) {
    this.#tree = tree
    this.#now = now
    this.#queuedAt = now()
  }

  /** Prefill begins. */
  started(): void {
    if (this.#endedAt === undefined) this.#startedAt ??= this.#now()
  }

  /** Prefill and compression are done. */
  prefilled(): void {
    if (this.#endedAt === undefined) this.#prefilledAt ??= this.#now()
  }

  /**
   * One decode step.
   *
   * @param tree as verified in this step: the generation's, or less of it.
   * @param path nodes accepted, root first.
   */
  step(tree: Tree, path: Int32Array): void {
    if (this.#endedAt !== undefined) return
    const length = path.length - 1
    this.#steps += 1
    this.#stepsOf.set(tree.nodeCount, (this.#stepsOf.get(tree.nodeCount) ?? 0) + 1)
    this.#drafted += tree.nodeCount - 1
    this.#accepted += length
    bump(this.#lengths, length)
    path.forEach((node, depth) => {
      if (tree.children[node]!.length > 0) bump(this.#offeredAt, depth)
      if (depth > 0) bump(this.#acceptedAt, depth - 1)
    })
  }

  /**
   * One chunk handed to the consumer.
   *
   * @param tokenCount tokens it carries.
   * @param text it carries; may be empty.
   * @returns milliseconds since the generation was queued.
   */
  chunk(tokenCount: number, text: string): number {
    const at = this.#now()
    if (this.#endedAt === undefined) {
      this.#completion += tokenCount
      if (this.#lastChunkAt !== undefined) this.#gaps.push(at - this.#lastChunkAt)
      this.#lastChunkAt = at
      this.#firstChunkAt ??= at
      if (text !== '') this.#firstTextAt ??= at
    }
    return at - this.#queuedAt
  }

  /** The generation is over, however it ended. */
  end(): void {
    this.#endedAt ??= this.#now()
  }

  /** What was counted so far; times run on until `end`. */
  summary(): StatsSummary {
    return { completion: this.#completion, timing: this.#timing(), speculation: this.#speculation() }
  }

  #timing(): Timing {
    const end = this.#endedAt ?? this.#now()
    const start = this.#startedAt ?? end
    const prefilled = this.#prefilledAt ?? end
    const first = this.#firstTextAt ?? this.#firstChunkAt
    const decodeMs = end - prefilled
    return {
      queueMs: start - this.#queuedAt,
      prefillMs: prefilled - start,
      ttftMs: first === undefined ? null : first - this.#queuedAt,
      decodeMs,
      tpotMs: first === undefined || this.#completion < 2 ? null : (end - first) / (this.#completion - 1),
      e2eMs: end - this.#queuedAt,
      tokensPerSecond: decodeMs > 0 ? (1000 * Math.max(0, this.#completion - 1)) / decodeMs : 0,
      gapMs: percentilesOf(this.#gaps),
    }
  }

  #nodes(): number {
    if ((this.#tree.sizes?.length ?? 1) === 1) return this.#tree.nodeCount
    const trees = [...this.#stepsOf].filter(([nodes]) => nodes > 1)
    return trees.reduce((most, next) => (next[1] > most[1] ? next : most), [1, 0] as [number, number])[0]
  }

  #speculation(): SpeculationReport {
    return {
      used: this.#drafted > 0,
      tree: this.#tree.name,
      nodes: this.#nodes(),
      sizes: [...this.#stepsOf].map(([nodes, steps]) => ({ nodes, steps })).sort((a, b) => a.nodes - b.nodes),
      steps: this.#steps,
      drafted: this.#drafted,
      accepted: this.#accepted,
      tokensPerStep: this.#steps > 0 ? (this.#steps + this.#accepted) / this.#steps : 0,
      byDepth: Array.from({ length: this.#offeredAt.length }, (_, index) => ({
        offered: this.#offeredAt[index] ?? 0,
        accepted: this.#acceptedAt[index] ?? 0,
      })),
      lengths: Array.from(this.#lengths, (count) => count ?? 0),
    }
  }
}

function bump(counts: number[], index: number): void {
  counts[index] = (counts[index] ?? 0) + 1
}
