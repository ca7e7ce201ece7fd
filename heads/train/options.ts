// What a training run is told: schemas of its options and the one table of their defaults.
import type { z } from 'zod'
import { LoadOptions, requestShape } from '../../src/options.js'
import { abortSignal, above, between, callback, flag, integer, parse, strict, text, violate } from '../../src/schema.js'
import { MAX_BLOCKS, MAX_MEDUSA_HEADS } from '../format/names.js'
import { textSource } from '../text-source.js'
import { SELF_DISTILL_DEFAULTS } from './self-distill.js'

/** Found by experiment on the demo model: bench/README.md has what was tried. */
export const DEFAULTS = {
  heads: 4,
  layers: 1,
  epochs: 4,
  batchTokens: 2048,
  context: 1024,
  learningRate: 2e-3,
  weightDecay: 0.01,
  warmup: 0.05,
  clip: 1,
  depthDecay: 0.8,
  heldOut: 0.05,
  temperature: SELF_DISTILL_DEFAULTS.temperature,
  checkpointEvery: 100,
  /** Evaluations of a run, where nobody says how often. */
  evaluations: 10,
} as const

/** What nobody needs to set. */
export const FIXED = {
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  /** The learning rate ends at this share of its height. */
  floor: 0.05,
  /** Held-out tokens that an evaluation reads at most: enough for shares to half a percent. */
  evaluationTokens: 32_768,
  /** Tokens of one native call, about: how long a run takes to notice that it is to stop. Numbers depend on it, so no machine has its own. */
  callTokens: 4096,
} as const

/** The order of every epoch is drawn before the first, to know the steps. */
const MOST_EPOCHS = 10_000

const CACHE_FORMS = '"auto", "off" or a folder'

/** What `onProgress` is told while heads are trained. */
export type TrainingProgress =
  | {
      readonly phase: 'load' | 'read' | 'distill' | 'evaluate' | 'write'
      readonly done: number
      readonly total: number
    }
  | {
      readonly phase: 'train'
      /** Steps. */
      readonly done: number
      readonly total: number
      /** Mean over heads, weighted as the gradients are. */
      readonly loss: number
      /** Per head, of this step's positions. */
      readonly top1: readonly number[]
      readonly top5: readonly number[]
      readonly top10: readonly number[]
      /** Of training alone, since this run began. */
      readonly tokensPerSecond: number
    }
  | {
      readonly phase: 'evaluated'
      readonly step: number
      readonly loss: number
      readonly top1: readonly number[]
      readonly top5: readonly number[]
      readonly top10: readonly number[]
    }
  /** One is there: written, or found by a run that goes on. */
  | { readonly phase: 'checkpoint'; readonly step: number; readonly total: number }
  | { readonly phase: 'warning'; readonly message: string }

const { model, backend, dtype, weights, threads, isa, device, deviceMemory } = LoadOptions.shape

const source = textSource(0)

/** How heads are trained. */
export const TrainOptions = strict({
  model,
  /**
   * Text to learn from. With `selfDistill` the model continues the beginnings of these instead, and none are needed.
   */
  data: source.data.default([]),
  /** Folder for the heads, made if it is not there. */
  out: text('the folder to write to'),
  /** Medusa heads. 1 to 63; default 4. */
  heads: integer(1, MAX_MEDUSA_HEADS).default(DEFAULTS.heads),
  /** Residual blocks per head. 0 to 16, and at least 1 without `private`; default 1. */
  layers: integer(0, MAX_BLOCKS).default(DEFAULTS.layers),
  /** Each head has a projection to the vocabulary of its own, trained too; otherwise the model's lm_head serves all. Default false. */
  private: flag().default(false),
  /** Updates of the weights; instead of `epochs`. At least 1. */
  steps: integer(1).optional(),
  /** Times through the data. 1 to 10000; default 4. */
  epochs: integer(1, MOST_EPOCHS).optional(),
  /** Tokens that the model itself is to write, to learn from; 0 is none. Default 0. */
  selfDistill: integer(0).default(0),
  /** At which the model writes them. 0, or 0.001 to 100; default 0.7. */
  temperature: requestShape.temperature.unwrap().default(DEFAULTS.temperature),
  /** Go on from the last checkpoint in `out`. Default false. */
  resume: flag().default(false),
  /** Tokens per update, about. At least 1; default 2048. */
  batchTokens: integer(1).default(DEFAULTS.batchTokens),
  /** Longest stretch of a text that is read at once. At least 3; default 1024, or what the model was made for if that is less. */
  context: integer(3).optional(),
  /** Height of the schedule: it rises, then falls along a cosine. Above 0, at most 1; default 0.002. */
  learningRate: above(0, 1).default(DEFAULTS.learningRate),
  /** Of AdamW, on weights and not on biases. 0 to 1; default 0.01. */
  weightDecay: between(0, 1).default(DEFAULTS.weightDecay),
  /** Share of the steps in which the learning rate rises. 0 to 1; default 0.05. */
  warmup: between(0, 1).default(DEFAULTS.warmup),
  /** Largest norm of a step's gradients; larger ones are scaled down. 0 is any. 0 to 1e6; default 1. */
  clip: between(0, 1e6).default(DEFAULTS.clip),
  /** What each head's loss counts, as a share of the one's before it. Above 0, at most 1; default 0.8. */
  depthDecay: above(0, 1).default(DEFAULTS.depthDecay),
  /** Same seed, same data, same heads, on the CPU. 0 to 2^53 - 1; default 1. */
  seed: source.seed,
  /** Share of the texts that are not learnt from, but tell how good the heads are; 0 is none. 0 to 0.5; default 0.05. */
  heldOut: between(0, 0.5).default(DEFAULTS.heldOut),
  /** What the text is called in the objects of `.jsonl` files. Default `text`. */
  field: source.field,
  /** Steps from one checkpoint to the next. At least 1; default 100. */
  checkpointEvery: integer(1).default(DEFAULTS.checkpointEvery),
  /** Steps from one look at the held-out texts to the next. At least 1; default: a tenth of the run. */
  evaluateEvery: integer(1).optional(),
  /**
   * Where the model's hidden rows are kept, so that it reads each text once: `auto` in `out` while the run lasts, when there are several
   * epochs; `off` nowhere; or a folder, which stays. Default `auto`.
   */
  hiddenCache: text(CACHE_FORMS).default('auto'),
  backend,
  dtype,
  weights,
  threads,
  isa,
  device,
  deviceMemory,
  /** Called as the run goes on. */
  onProgress: callback<TrainingProgress>().optional(),
  /** Ends the run after a checkpoint, from which `resume` goes on. */
  signal: abortSignal().optional(),
}).superRefine(({ data, selfDistill, steps, epochs, layers, private: isPrivate }, context) => {
  if (data.length === 0 && selfDistill === 0) {
    violate(context, ['data'], 'is missing: give files or folders of text, or let the model write some (selfDistill).')
  }
  if (steps !== undefined && epochs !== undefined) {
    violate(context, ['steps'], `is ${steps} and epochs is ${epochs}: give one of them.`)
  }
  if (layers === 0 && !isPrivate) {
    violate(context, ['layers'], 'is 0, which leaves nothing to train without private. Use at least 1, or private.')
  }
})
export type TrainOptionsInput = z.input<typeof TrainOptions>
export type TrainOptions = z.output<typeof TrainOptions>

/**
 * Options with defaults.
 *
 * @throws {GorgonError} ERR_OPTION naming path, value and what is allowed.
 */
export function parseTrainOptions(input: TrainOptionsInput): TrainOptions {
  return parse(TrainOptions, input)
}
