// What a calibration is told: schema of its options and the one table of their defaults.
import type { z } from 'zod'
import { NODE_LIMIT } from '../../src/decode/choices.js'
import { LoadOptions } from '../../src/options.js'
import { abortSignal, callback, integer, list, numberThat, parse, strict, text } from '../../src/schema.js'
import { textSource } from '../text-source.js'

/** Tried on the demo model, by walks over texts held out, and over texts of another kind. */
export const DEFAULTS = {
  /**
   * 24576 positions to grow from: half as many cost 0.2 % of the tokens per step, a quarter 0.5 %, twice as many gain nothing. Texts differ by
   * more than that: what 64 of them are measured to do is uncertain by 2 to 5 %.
   */
  prompts: 256,
  promptTokens: 256,
  tokens: 128,
  /** Grown from greedy texts alone a tree loses 1 % where tokens are sampled, from sampled ones alone 0.4 % where they are not. */
  temperatures: [0, 0.7],
  batch: 16,
} as const

/** One text in so many is not grown from, but measured on. */
export const HELD_OUT_EVERY = 4

const TEMPERATURE_FORMS = '0 for greedy decoding, or a number from 0.001 to 100'

/** What `onProgress` is told while heads are calibrated. */
export interface CalibrationProgress {
  /** `trace`: texts are made and their drafts judged; `grow`; `check`: the tree decodes texts that it was not grown from. */
  readonly phase: 'load' | 'read' | 'trace' | 'grow' | 'check'
  readonly done: number
  readonly total: number
}

const { model, backend, dtype, weights, threads, isa, device, deviceMemory, kv } = LoadOptions.shape

const source = textSource(1)

/** How heads are calibrated. */
export const CalibrateOptions = strict({
  model,
  /** Medusa heads: a folder or file. Default: those of the model, as `loadEngine` finds them. */
  heads: text('the folder or file of Medusa heads').optional(),
  /** Text whose beginnings are continued: files, or folders of them; as `trainHeads` reads them. */
  data: source.data,
  /** What the text is called in the objects of `.jsonl` files. Default `text`. */
  field: source.field,
  /** Beginnings to continue; a quarter of them only to measure on. 4 to 100000; default 256. */
  prompts: integer(HELD_OUT_EVERY, 100_000).default(DEFAULTS.prompts),
  /** Tokens of each, at most; half of a text shorter than twice as many. At least 1; default 256. */
  promptTokens: integer(1).default(DEFAULTS.promptTokens),
  /** Tokens to make after each. 1 to 100000; default 128. */
  tokens: integer(1, 100_000).default(DEFAULTS.tokens),
  /** At which they are made, in turns; 0 is greedy. Each 0, or 0.001 to 100; default 0 and 0.7. */
  temperatures: list(
    numberThat((value) => value === 0 || (value >= 0.001 && value <= 100), TEMPERATURE_FORMS),
    'an array of temperatures, up to 8',
    1,
    8,
  ).default([...DEFAULTS.temperatures]),
  /** Nodes of the tree, root included. 2 to 64; default: as many as decode fastest here, by what steps cost. */
  nodes: integer(2, NODE_LIMIT).optional(),
  /** Chooses the beginnings, and what is drawn. 0 to 2^53 - 1; default 1. */
  seed: source.seed,
  /** Texts made at once. 1 to 1024; default 16. */
  batch: integer(1, 1024).default(DEFAULTS.batch),
  /** As it will be when the heads are used: drafts depend on what of the prompt is kept. */
  kv,
  backend,
  dtype,
  weights,
  threads,
  isa,
  device,
  deviceMemory,
  /** Called as it goes on. */
  onProgress: callback<CalibrationProgress>().optional(),
  /** Stops it; nothing was written then. */
  signal: abortSignal().optional(),
})
export type CalibrateOptionsInput = z.input<typeof CalibrateOptions>
export type CalibrateOptions = z.output<typeof CalibrateOptions>

/**
 * Options with defaults.
 *
 * @throws {GorgonError} ERR_OPTION naming path, value and what is allowed.
 */
export function parseCalibrateOptions(input: CalibrateOptionsInput): CalibrateOptions {
  return parse(CalibrateOptions, input)
}
