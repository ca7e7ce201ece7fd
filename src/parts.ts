// What an engine is made of, and shares with its sessions.
import type { Experience } from './decode/gate.js'
import type { LiveCosts, StepCosts } from './decode/step-costs.js'
import type { ModelHandle, Native } from './native.js'
import type { LoadOptions } from './options.js'
import type { PlanContext } from './plan.js'
import type { Encoding } from './prompt.js'
import type { Places } from './queue.js'
import type { Scheduler } from './scheduler.js'
import { Sequence } from './sequence.js'

/** A loaded model, and what was said about how to use it. */
export interface EngineParts extends Encoding, PlanContext {
  readonly native: Native
  readonly model: ModelHandle
  /** Tokens of prompt and output together. */
  readonly context: number
  readonly layers: number
  readonly info: EngineInfo
}

/** The parts, with what runs them. */
export interface EngineCore extends EngineParts {
  readonly scheduler: Scheduler
  readonly places: Places
  /** Not closed: of running generations, and of sessions between turns. */
  readonly sequences: Set<Sequence>
  /** What steps cost, as the table says and as they turned out; null where nothing was measured. */
  readonly costs: LiveCosts | null
  readonly experience: Experience
}

export interface EngineInfo {
  /** The model's folder. */
  readonly model: string
  /** `model_type` of its config.json. */
  readonly architecture: string
  readonly backend: string
  /** Why this backend. */
  readonly backendReason: string
  readonly isa: string
  readonly threads: number
  /** What computes, and how much of its memory may be used (0: what is free); null on the CPU. */
  readonly device: {
    readonly index: number
    readonly name: string
    readonly memoryBytes: number
    readonly budgetBytes: number
  } | null
  /** Of the weights in memory, unless they are int8; of activations and of the KV cache. */
  readonly dtype: string
  /** `full`: in `dtype`; `int8`: one byte each, with a scale for each column. */
  readonly weights: 'full' | 'int8'
  readonly weightBytes: number
  readonly vocab: number
  /** Tokens of prompt and output together. */
  readonly context: number
  /** How many run at once, and how many may wait. */
  readonly limits: Pick<LoadOptions['limits'], 'maxSequences' | 'maxQueue'>
  /** Of K and V over all layers. */
  readonly kvBytesPerToken: number
  /** Null without Medusa heads: plain decoding. */
  readonly heads: {
    readonly path: string
    readonly format: string
    readonly medusaHeads: number
    readonly blocks: number
    readonly bytes: number
  } | null
  /** What decode steps cost here, by which trees are chosen; null without heads, or where every step is of one kind anyway. */
  readonly stepCosts: StepCosts | null
  readonly hasTokenizer: boolean
  readonly hasChatTemplate: boolean
  /** Worth knowing about the files; nothing that stops loading. */
  readonly warnings: readonly string[]
}

export function openSequence({ native, scheduler, model, sequences }: EngineCore): Sequence {
  const sequence = new Sequence(native, scheduler, model, (closed) => sequences.delete(closed))
  sequences.add(sequence)
  return sequence
}
