// Schemas of everything a user may set; types inferred from them.
import { z } from 'zod'
import {
  abortSignal,
  above,
  between,
  callback,
  flag,
  integer,
  list,
  numberThat,
  oneOf,
  parse,
  strict,
  suggest,
  text,
  violate,
  withoutDefaults,
} from './schema.js'

const UINT64_MAX = 2n ** 64n - 1n

/** When a drafted token is accepted; see AcceptRule in src/decode/accept.ts. */
const AcceptOptions = z.discriminatedUnion(
  'rule',
  [
    strict({
      /** The tokens plain decoding would make, at any temperature. */
      rule: z.literal('exact'),
    }),
    strict({
      /**
       * Tokens the model finds likely enough: faster, another text. p > min(epsilon, delta * exp(-entropy)). At temperature 0 the likeliest
       * token alone is accepted, as with `exact`.
       */
      rule: z.literal('typical'),
      /** Probability that is always enough. Above 0, at most 1; default 0.09. */
      epsilon: above(0, 1).default(0.09),
      /** How far the threshold falls where the model is uncertain; the square root of epsilon is a good value. Above 0, at most 1; default 0.3. */
      delta: above(0, 1).default(0.3),
    }),
  ],
  {
    error: (issue) => {
      const rule = (issue.input as { rule?: unknown } | null | undefined)?.rule
      return `{ rule: "exact" } or { rule: "typical", epsilon, delta }.${suggest(rule, ['exact', 'typical'])}`
    },
  },
)

const TREE_FORMS = '"auto", the name of a tree, a number of nodes, "chain:N", or { paths: [[0], [0, 0], …] }'

const GATE_FORMS = '{ margin, probeEvery, maxBatch }, or false'

const gateShape = {
  /** How much faster than plain decoding speculation must promise to be before it begins: 0.03 is 3 %. 0 to 10; default 0.03. */
  margin: between(0, 10).default(0.03),
  /** Plain steps from one look at what the heads would have drafted to the next, at least. 1 to 1000000; default 32. */
  probeEvery: integer(1, 1_000_000).default(32),
  /** Generations decoding at once above which none speculates. 1 to 1024; default 1024: step costs decide. */
  maxBatch: integer(1, 1024).default(1024),
}

const speculationShape = {
  /**
   * Whether Medusa heads draft. `auto`: when there are heads, at steps where it pays. `medusa`: at every step, and an error without heads.
   * `off`: plain decoding. Default `auto`.
   */
  mode: oneOf(['auto', 'medusa', 'off']).default('auto'),
  /**
   * Shape of the draft. `auto`: the engine's choice, from step to step, by what steps cost here and how good the drafts are. A name of
   * `CHOICES`; a number of nodes, root included (the first ones of mc_sim_7b_63, at most 64); `chain:N`; or paths of ranks 0 to 9. No deeper
   * than there are heads. Default `auto`.
   */
  tree: z
    .union(
      [
        text(TREE_FORMS),
        z.int(TREE_FORMS),
        strict({
          /** Ranks from the root down, one path per node; every prefix of a path is listed. */
          paths: list(list(z.number(TREE_FORMS), TREE_FORMS).readonly(), TREE_FORMS).readonly(),
        }),
      ],
      { error: TREE_FORMS },
    )
    .default('auto'),
  /** When a drafted token is accepted. Default `{ rule: 'exact' }`. */
  accept: AcceptOptions.default({ rule: 'exact' }),
  /**
   * What keeps `mode: 'auto'` from being slower than plain decoding: it goes over to plain steps where drafts are not accepted often enough
   * for what a step with a tree costs, and back. Tokens do not depend on it. False: every step speculates, as with `mode: 'medusa'`.
   * `accept: typical` with a tree that is named has no gate, since there the text depends on the tree.
   */
  gate: z
    .union([strict(gateShape), z.literal(false)], { error: GATE_FORMS })
    .default({ margin: 0.03, probeEvery: 32, maxBatch: 1024 }),
}

/** How tokens are drafted and accepted. */
export const SpeculationOptions = strict(speculationShape)
export type SpeculationOptionsInput = z.input<typeof SpeculationOptions>
export type SpeculationOptions = z.output<typeof SpeculationOptions>
const SpeculationOverrides = strict(withoutDefaults(speculationShape))
export type SpeculationOverrides = z.output<typeof SpeculationOverrides>

const kvShape = {
  /**
   * Which rows of the KV cache outlive prefill. `full`: all. `snapkv`: those the last tokens of the prompt attend to. `h2o`: those all of
   * the prompt attended to. `streaming`: the first few and the last ones. Default `snapkv`.
   */
  policy: oneOf(['full', 'snapkv', 'h2o', 'streaming']).default('snapkv'),
  /**
   * Rows kept per layer and KV head, window included; a shorter prompt is left whole. At least 2, and more than `window` (`streaming`: more
   * than `sinks`); default 2048.
   */
  budget: integer(2).default(2048),
  /** Last prompt tokens: always kept, and with `snapkv` the ones whose queries vote. At least 1; default 32. */
  window: integer(1).default(32),
  /** Width of the smoothing over votes; 1 is none. Odd, 1 to 255; default 7. */
  poolSize: numberThat(
    (size) => Number.isInteger(size) && size % 2 === 1 && size >= 1 && size <= 255,
    'an odd whole number from 1 to 255',
  ).default(7),
  /** Kind of smoothing: the largest vote around a row, or the average. Default `max`. */
  pool: oneOf(['max', 'avg']).default('max'),
  /** How the votes of a KV head's query heads become one. Default `mean`. */
  groupReduce: oneOf(['mean', 'max']).default('mean'),
  /** First rows always kept; `streaming` only. At least 0; default 4. */
  sinks: integer(0).default(4),
  /**
   * What later turns of a session do. `recompress`: all rows compete again, within the budget. `frozen`: only the first prompt is
   * compressed, later turns are kept whole. Default `recompress`.
   */
  turns: oneOf(['recompress', 'frozen']).default('recompress'),
  /** Put the kept positions into the result. Default false. */
  reportKept: flag().default(false),
}

/** How far the KV cache is compressed after prefill. */
export const KvOptions = strict(kvShape).superRefine(({ policy, budget, window, sinks }, context) => {
  if ((policy === 'snapkv' || policy === 'h2o') && budget <= window) {
    violate(
      context,
      ['budget'],
      `is ${budget}, not larger than the window (${window}). The budget includes the window: use at least ${window + 1}, or lower the window.`,
    )
  }
  if (policy === 'streaming' && budget <= sinks) {
    violate(
      context,
      ['budget'],
      `is ${budget}, not larger than sinks (${sinks}). The budget includes the sinks: use at least ${sinks + 1}, or lower sinks.`,
    )
  }
})
export type KvOptionsInput = z.input<typeof KvOptions>
export type KvOptions = z.output<typeof KvOptions>
const KvOverrides = strict(withoutDefaults(kvShape))
export type KvOverrides = z.output<typeof KvOverrides>

/** What `onProgress` is told while an engine loads. */
export interface LoadProgress {
  readonly phase: 'read' | 'map' | 'measure' | 'ready'
  /** Of `total`, in units of the phase; `measure` is in milliseconds, and may end early. */
  readonly done: number
  readonly total: number
}

/** What `onQueue` is told. */
export interface QueueProgress {
  /** How many are before it. */
  readonly position: number
}

/** What `onPrefill` is told. */
export interface PrefillProgress {
  /** Work done and in all, in token-layers. */
  readonly done: number
  readonly total: number
  /** Tokens that this prefill runs, as `usage.prompt` says in the end. */
  readonly tokens: number
  /** Rows that earlier turns had left in the cache, for which there is nothing to do. */
  readonly cached: number
}

const HEADS_FORMS = 'the folder or file of Medusa heads, or false'

/** How an engine is loaded, and what its requests do unless they say otherwise. */
export const LoadOptions = strict({
  /** Model folder, as Hugging Face lays it out. */
  model: text('the folder of a model'),
  /** Medusa heads: a folder or file; false for none. Default: heads found in the model folder, or the demo model's own. */
  heads: z.union([text(HEADS_FORMS), z.literal(false)], { error: HEADS_FORMS }).optional(),
  /** File of a Jinja template that writes the messages of a chat as a prompt. Default: the model's own, if it has one. */
  chatTemplate: text('the file of a chat template').optional(),
  /** What computes. `auto`: CUDA when it is built and a device is there, else CPU. Default `auto`. */
  backend: oneOf(['auto', 'cpu', 'cuda']).default('auto'),
  /** Of the weights in memory. `auto`: as in the checkpoint, or bf16 with int8 weights. Default `auto`. */
  dtype: oneOf(['auto', 'f32', 'bf16', 'f16']).default('auto'),
  /**
   * How weights that are multiplied are held. `full`: in `dtype`. `int8`: as whole numbers of one byte with a scale for each output column,
   * rounded while loading; the embedding table, norms and biases stay as they are. Half the bytes of bf16 to hold and to read in every
   * step: faster where steps wait for memory (plain decoding, small trees, models larger than the processor's caches), a little slower
   * where they compute (prefill, large trees). The model is another one, slightly: README.md has what it costs. Speculation stays exact.
   * Default `full`.
   */
  weights: oneOf(['full', 'int8']).default('full'),
  /** Compute threads of the CPU, 0 to 1024; 0 is one per physical core. Default 0. */
  threads: integer(0, 1024).default(0),
  /** Instruction set of the backend, by a name that `backends()` lists. Default `auto`: the best of this machine. */
  isa: text('the name of an instruction set, or "auto"').default('auto'),
  /** Which CUDA device, by its number in `gorgon doctor`. Default: the one that `GORGON_DEVICE` names, or 0. */
  device: integer(0, 1023).optional(),
  /**
   * Bytes of the device's memory that this engine may use, for weights, caches and all else: what would take more is refused with
   * ERR_OUT_OF_MEMORY. Default: what is free.
   */
  deviceMemory: integer(1, 2 ** 50).optional(),
  limits: strict({
    /** Generations that run at once; others wait. 1 to 1024; default 16. */
    maxSequences: integer(1, 1024).default(16),
    /** Generations that may wait; one more is refused. At least 0; default 1024. */
    maxQueue: integer(0).default(1024),
    /** Tokens of prompt and output together. At least 2; default: what the model was made for. */
    maxContext: integer(2).optional(),
  }).prefault({}),
  /** Default for requests. */
  speculation: SpeculationOptions.prefault({}),
  /** Default for requests. */
  kv: KvOptions.prefault({}),
  /** Called while files are read, weights mapped and step costs measured. */
  onProgress: callback<LoadProgress>().optional(),
  /** Stops loading. */
  signal: abortSignal().optional(),
}).superRefine(({ backend, device, deviceMemory, dtype, weights, heads, speculation }, context) => {
  if (backend === 'cpu') {
    const given = device !== undefined ? 'device' : deviceMemory !== undefined ? 'deviceMemory' : null
    if (given !== null) {
      violate(
        context,
        [given],
        'is given, but backend is "cpu", which has no devices. Leave it out, or use backend "cuda".',
      )
    }
  }
  if (weights === 'int8' && dtype !== 'auto' && dtype !== 'bf16') {
    violate(context, ['dtype'], `is "${dtype}", but int8 weights are multiplied with bf16. Use dtype "auto" or "bf16".`)
  }
  if (heads === false && speculation.mode === 'medusa') {
    violate(
      context,
      ['speculation', 'mode'],
      'is "medusa", but heads is false. Give heads, or use mode "auto" or "off".',
    )
  }
})
export type LoadOptionsInput = z.input<typeof LoadOptions>
export type LoadOptions = z.output<typeof LoadOptions>

const SEED_FORMS = `a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, or a bigint below 2n ** 64n`
/** Stop strings are looked for at every token, and what is looked for with is built beforehand: at these limits in 40 to 70 ms. */
const MOST_STOPS = 64
const MOST_STOP_CHARACTERS = 1024
const STOP_FORM = `a string of 1 to ${MOST_STOP_CHARACTERS} characters`
const STOP_FORMS = `${STOP_FORM}, or an array of at most ${MOST_STOPS} such`
const stopString = (allowed: string) => text(allowed).max(MOST_STOP_CHARACTERS, allowed)
const LOGPROB_FORMS = 'a whole number from 0 to 20, or false'
const BIAS_FORMS = 'a number from -100 to 100, or -Infinity'
const MOST_BIASES = 16_384
const BIASES_FORMS = `an object from token ids to numbers, of at most ${MOST_BIASES}`

/** What is asked of one generation: all that can be written as JSON. */
export const requestShape = {
  /** Most tokens to make. At least 1; default 256. */
  maxTokens: integer(1).default(256),
  /** Tokens to make before an end-of-sequence or stop id may be chosen. At least 0, at most maxTokens; default 0. */
  minTokens: integer(0).default(0),
  /** Treat end-of-sequence ids as any other token. Default false. */
  ignoreEos: flag().default(false),
  /** 0 is greedy: always the likeliest token. Above, the distribution is flattened or, below 1, sharpened. 0, or 0.001 to 100; default 0. */
  temperature: numberThat(
    (value) => value === 0 || (value >= 0.001 && value <= 100),
    '0 for greedy decoding, or a number from 0.001 to 100',
  ).default(0),
  /** Sample among the k likeliest tokens; 0 is off. At least 0; default 0. */
  topK: integer(0).default(0),
  /** Sample among the likeliest tokens that together have this probability; 1 is off. Above 0, at most 1; default 1. */
  topP: above(0, 1).default(1),
  /** Sample among tokens at least this likely, relative to the likeliest; 0 is off. 0 to 1; default 0. */
  minP: between(0, 1).default(0),
  /**
   * Same seed, same request, same text. 0 to 2^53 - 1, or a bigint below 2^64; default: a random one, named in the result. Greedy decoding
   * uses none.
   */
  seed: z
    .union([z.int(SEED_FORMS).min(0, SEED_FORMS), z.bigint().min(0n, SEED_FORMS).max(UINT64_MAX, SEED_FORMS)], {
      error: SEED_FORMS,
    })
    .transform((seed) => BigInt(seed))
    .optional(),
  /** Divides (positive) or multiplies (negative) the logits of tokens in prompt or output; 1 is off. Above 0, at most 100; default 1. */
  repetitionPenalty: above(0, 100).default(1),
  /** Subtracted from a token's logit per time it is in the output; 0 is off. -2 to 2; default 0. */
  frequencyPenalty: between(-2, 2).default(0),
  /** Subtracted from the logit of a token that is in the output; 0 is off. -2 to 2; default 0. */
  presencePenalty: between(-2, 2).default(0),
  /**
   * Token id to a number added to its logit: -100 to 100, or -Infinity, with which the token is never chosen. At most 16384; default none.
   */
  logitBias: z
    .unknown()
    // Before a schema looks at each.
    .refine((biases) => Object.keys(biases ?? {}).length <= MOST_BIASES, BIASES_FORMS)
    .pipe(z.record(z.string(), z.unknown(), BIASES_FORMS))
    .superRefine((biases, context) => {
      for (const [id, bias] of Object.entries(biases)) {
        const isId = /^(0|[1-9]\d{0,9})$/.test(id)
        if (isId && (bias === Number.NEGATIVE_INFINITY || (typeof bias === 'number' && Math.abs(bias) <= 100))) continue
        // Of a hostile object with a million keys the first is told.
        context.addIssue(
          isId
            ? { code: 'custom', path: [id], message: BIAS_FORMS }
            : {
                code: 'invalid_key',
                origin: 'record',
                issues: [],
                path: [id],
                message: 'token ids as keys',
                input: biases,
              },
        )
        return
      }
    })
    .meta({
      type: 'object',
      maxProperties: MOST_BIASES,
      propertyNames: { pattern: '^(0|[1-9]\\d{0,9})$' },
      additionalProperties: { type: 'number', minimum: -100, maximum: 100 },
    })
    .default({}) as z.ZodDefault<z.ZodType<Readonly<Record<number, number>>, Readonly<Record<number, number>>>>,
  /** Text that ends the generation and is not part of it: up to 64 strings, each of 1 to 1024 characters. Default none. */
  stop: z
    .union([stopString(STOP_FORMS), list(stopString(STOP_FORM), STOP_FORMS, 0, MOST_STOPS).readonly()], {
      error: STOP_FORMS,
    })
    .transform((stop): readonly string[] => (typeof stop === 'string' ? [stop] : stop))
    .default([]),
  /** Token ids that end the generation, beside the model's own. Default none. */
  stopTokenIds: list(integer(0), 'an array of token ids').readonly().default([]),
  /** Log-probabilities per token: false for none, 0 for the chosen token's, n for the n likeliest too. At most 20; default false. */
  logprobs: z
    .union([z.int(LOGPROB_FORMS).min(0, LOGPROB_FORMS).max(20, LOGPROB_FORMS), z.literal(false)], {
      error: LOGPROB_FORMS,
    })
    .default(false),
  /** Overrides of the engine's, field by field. */
  speculation: SpeculationOverrides.optional(),
  /** Overrides of the engine's, field by field. */
  kv: KvOverrides.optional(),
  /** End after this long, with what there is. At least 1, in milliseconds; default: never. */
  timeoutMs: integer(1).optional(),
  /**
   * Whose turn it is when generations wait: a higher one first; a minute of waiting counts as one more. -10 to 10; default 0.
   */
  priority: integer(-10, 10).default(0),
}

/** One generation. */
export const GenerateOptions = strict({
  ...requestShape,
  /** Ends the generation within a step. */
  signal: abortSignal().optional(),
  /** What the result does on abort: reject, or resolve with what there is. Default `throw`. */
  onAbort: oneOf(['throw', 'return']).default('throw'),
  /** Chunks held for a slow consumer before the generation pauses. At least 1; default 64. */
  highWaterMark: integer(1).default(64),
  /** Who asks, in any words: among generations of one priority that wait, clients take turns. Default: one client for all. */
  client: z.string('a string').default(''),
  /** Called when it has to wait, and when its place in the queue changes. */
  onQueue: callback<QueueProgress>().optional(),
  /** Called as the prompt is worked through. */
  onPrefill: callback<PrefillProgress>().optional(),
}).superRefine(({ minTokens, maxTokens }, context) => {
  if (minTokens > maxTokens) {
    violate(
      context,
      ['minTokens'],
      `is ${minTokens}, larger than maxTokens (${maxTokens}). Use at most ${maxTokens}, or raise maxTokens.`,
    )
  }
})
export type GenerateOptionsInput = z.input<typeof GenerateOptions>
export type GenerateOptions = z.output<typeof GenerateOptions>

/** What all turns of a session share. A turn's own options come on top. */
export const SessionOptions = strict({
  /** Overrides of the engine's, field by field. */
  speculation: SpeculationOverrides.optional(),
  /** Overrides of the engine's, field by field. */
  kv: KvOverrides.optional(),
})
export type SessionOptionsInput = z.input<typeof SessionOptions>
export type SessionOptions = z.output<typeof SessionOptions>

/** One message of a chat; the model's template says which roles it knows. */
export const Message = strict({
  /** Who speaks: `system`, `user`, `assistant`, or another role of the template. */
  role: text('a role, such as "user"'),
  content: z.string('a string'),
})
export type Message = Readonly<z.output<typeof Message>>

const Messages = list(Message, 'an array of { role, content }').min(1, 'at least one message')

/**
 * Load options with defaults; a string is the model.
 *
 * @throws {GorgonError} ERR_OPTION naming path, value and what is allowed. So do the functions below.
 */
export function parseLoadOptions(input: LoadOptionsInput | string): LoadOptions {
  return parse(LoadOptions, typeof input === 'string' ? { model: input } : input)
}

/** Generate options with defaults; `speculation` and `kv` are still overrides, for `mergeSpeculation` and `mergeKv`. */
export function parseGenerateOptions(input: GenerateOptionsInput = {}): GenerateOptions {
  return parse(GenerateOptions, input)
}

export function parseSessionOptions(input: SessionOptionsInput = {}): SessionOptions {
  return parse(SessionOptions, input)
}

/** Messages of a chat, at least one. */
export function parseMessages(input: readonly Message[]): readonly Message[] {
  return parse(Messages, input, 'messages')
}

/** Later fields that are given replace earlier ones. */
function overlay(layers: readonly (object | undefined)[]): Record<string, unknown> {
  const given = layers.flatMap((layer) => Object.entries(layer ?? {})).filter(([, value]) => value !== undefined)
  return Object.fromEntries(given)
}

/** The engine's speculation options with overrides on top, field by field; `accept`, `tree` and `gate` are one field each. */
export function mergeSpeculation(
  defaults: SpeculationOptions,
  ...overrides: readonly (SpeculationOverrides | undefined)[]
): SpeculationOptions {
  return parse(SpeculationOptions, overlay([defaults, ...overrides]), 'speculation')
}

/** The engine's cache options with overrides on top, field by field; rules between fields hold for what results. */
export function mergeKv(defaults: KvOptions, ...overrides: readonly (KvOverrides | undefined)[]): KvOptions {
  return parse(KvOptions, overlay([defaults, ...overrides]), 'kv')
}
