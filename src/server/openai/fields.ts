// The request fields that OpenAI's endpoints share, and what they ask of the engine.
//
// Each field is one of three: honoured, which is most; without effect here, such as `user`; or refused by name, because ignoring it would give
// another text than was asked for. A field nobody knows is a misspelt one, and an error.
import { z } from 'zod'
import { GorgonError } from '../../errors.js'
import type { GenerateOptionsInput } from '../../index.js'
import { requestShape } from '../../options.js'
import { flag, integer, strict, text, withoutDefaults } from '../../schema.js'
import { Seed } from '../protocol.js'

/** As OpenAI's clients write it: null is the default. */
export const maybe = <Schema extends z.ZodType>(schema: Schema) => schema.nullish()

/** A field whose value is looked at elsewhere, or not at all. */
export const anything = () => z.unknown().optional()

const { logprobs: _, ...engineShape } = requestShape

/** Options of the engine that OpenAI has no field for, by the library's names. They come on top of the fields. */
export const EngineFields = strict({ ...withoutDefaults(engineShape), seed: Seed.optional() })

/** What changes nothing about the text. */
export const ignoredShape = {
  user: anything(),
  metadata: anything(),
  store: maybe(flag()),
  service_tier: anything(),
  safety_identifier: anything(),
  prompt_cache_key: anything(),
  prompt_cache_retention: anything(),
  parallel_tool_calls: anything(),
}

const StreamOptions = strict({
  /** A last chunk with the usage. */
  include_usage: maybe(flag()),
  /** Usage so far in every chunk. */
  continuous_usage_stats: maybe(flag()),
  /** Padding against observers of an encrypted stream; there is none. */
  include_obfuscation: maybe(flag()),
})

export const isTokenId = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0

/** By hand, as wherever there may be millions: schemas take microseconds for each. */
const TokenIds = z.custom<readonly number[]>(
  (value) => Array.isArray(value) && value.every(isTokenId),
  'an array of token ids',
)

/** Of chat completions and completions, which may give several choices. */
export const choicesShape = {
  max_tokens: maybe(requestShape.maxTokens.unwrap()),
  n: maybe(integer(1)),
  stream_options: maybe(StreamOptions),
}

/** Of all endpoints. */
export const samplingShape = {
  model: maybe(text('the name of a model')),
  temperature: maybe(requestShape.temperature.unwrap()),
  top_p: maybe(requestShape.topP.unwrap()),
  frequency_penalty: maybe(requestShape.frequencyPenalty.unwrap()),
  presence_penalty: maybe(requestShape.presencePenalty.unwrap()),
  logit_bias: maybe(requestShape.logitBias.unwrap()),
  seed: maybe(Seed),
  stop: maybe(requestShape.stop.unwrap()),
  stream: maybe(flag()),
  // Not OpenAI's, but what its clients send to servers such as this one.
  top_k: maybe(integer(-1).transform((k) => Math.max(0, k))),
  min_p: maybe(requestShape.minP.unwrap()),
  repetition_penalty: maybe(requestShape.repetitionPenalty.unwrap()),
  min_tokens: maybe(requestShape.minTokens.unwrap()),
  ignore_eos: maybe(flag()),
  stop_token_ids: maybe(TokenIds),
  gorgon: maybe(EngineFields),
}

type SamplingFields = z.output<z.ZodObject<typeof samplingShape>>

/** OpenAI's own default; the library's is greedy decoding. */
export const DEFAULT_TEMPERATURE = 1

export function generateOptionsOf(
  fields: SamplingFields,
  own: Pick<GenerateOptionsInput, 'maxTokens' | 'logprobs'>,
): GenerateOptionsInput {
  return given({
    ...own,
    minTokens: fields.min_tokens,
    ignoreEos: fields.ignore_eos,
    temperature: fields.temperature ?? DEFAULT_TEMPERATURE,
    topK: fields.top_k,
    topP: fields.top_p,
    minP: fields.min_p,
    seed: fields.seed,
    repetitionPenalty: fields.repetition_penalty,
    frequencyPenalty: fields.frequency_penalty,
    presencePenalty: fields.presence_penalty,
    logitBias: fields.logit_bias,
    stop: fields.stop,
    stopTokenIds: fields.stop_token_ids,
    ...fields.gorgon,
  })
}

/** Without what is null or undefined. */
function given(fields: object): GenerateOptionsInput {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null))
}

/** A field whose effect is missing here. What asks for nothing passes: null, an empty array or object, and these values. */
interface Unsupported {
  readonly harmless?: readonly unknown[]
  readonly why: string
}

const NO_TOOLS = 'this server calls no tools'
const TEXT_ONLY = 'this server reads and writes text alone'
const NO_GRAMMAR = 'this server does not hold a text to a format'
const NO_BEAMS = 'there is no beam search'

const UNSUPPORTED = {
  add_generation_prompt: { harmless: [true], why: 'an answer always follows the messages' },
  add_special_tokens: { harmless: [true], why: 'the tokenizer decides about special tokens. Send token ids' },
  allowed_token_ids: { why: 'tokens are not allowed one by one. Use logit_bias' },
  audio: { why: TEXT_ONLY },
  background: { harmless: [false], why: 'a response ends when nobody listens to it' },
  bad_words: { why: 'words are not banned. Use logit_bias' },
  best_of: { harmless: [1], why: 'choices are not ranked. Use n' },
  chat_template: { why: 'the template is the model’s. The server can be started with another' },
  chat_template_kwargs: { why: 'the template gets the messages alone' },
  context_management: { why: 'no request compacts a context. Use gorgon.kv' },
  continue_final_message: { harmless: [false], why: 'an answer always begins anew. Use completions' },
  conversation: { why: 'there are no stored conversations. Use previous_response_id' },
  documents: { why: 'the template gets the messages alone' },
  echo: { harmless: [false], why: 'the prompt is not repeated. Put it before the text yourself' },
  function_call: { harmless: ['none', 'auto'], why: NO_TOOLS },
  functions: { why: NO_TOOLS },
  guided_choice: { why: NO_GRAMMAR },
  guided_grammar: { why: NO_GRAMMAR },
  guided_json: { why: NO_GRAMMAR },
  guided_regex: { why: NO_GRAMMAR },
  include_stop_str_in_output: { harmless: [false], why: 'a stop string is no part of the text' },
  length_penalty: { harmless: [1], why: NO_BEAMS },
  modalities: { harmless: [['text']], why: TEXT_ONLY },
  prediction: { why: 'drafts come from the model’s own heads' },
  priority: {
    harmless: [0],
    why: 'servers disagree about which end comes first. Use gorgon.priority: higher is sooner',
  },
  prompt: { why: 'there are no stored prompts. Send the text' },
  prompt_logprobs: { harmless: [0], why: 'only tokens that were made have log-probabilities' },
  reasoning: { harmless: [{ effort: 'none' }], why: 'the model does not reason before it answers' },
  reasoning_effort: { harmless: ['none'], why: 'the model does not reason before it answers' },
  response_format: { harmless: [{ type: 'text' }], why: NO_GRAMMAR },
  skip_special_tokens: { harmless: [true], why: 'special tokens are no part of the text' },
  spaces_between_special_tokens: { harmless: [true, false], why: 'special tokens are no part of the text' },
  structured_outputs: { why: NO_GRAMMAR },
  suffix: { harmless: [''], why: 'the model goes on from a text and fills no gaps' },
  tool_choice: { harmless: ['none', 'auto'], why: NO_TOOLS },
  tools: { why: NO_TOOLS },
  truncate_prompt_tokens: { why: 'a prompt is never cut without a word' },
  use_beam_search: { harmless: [false], why: NO_BEAMS },
  verbosity: { harmless: ['medium'], why: 'the model has one manner' },
  web_search_options: { why: NO_TOOLS },
} as const satisfies Readonly<Record<string, Unsupported>>

type UnsupportedField = keyof typeof UNSUPPORTED

/** Not OpenAI's fields, but those of servers that speak as it does. */
export const REFUSED_EXTRAS = [
  'add_generation_prompt',
  'add_special_tokens',
  'allowed_token_ids',
  'bad_words',
  'best_of',
  'chat_template',
  'chat_template_kwargs',
  'continue_final_message',
  'documents',
  'echo',
  'guided_choice',
  'guided_grammar',
  'guided_json',
  'guided_regex',
  'include_stop_str_in_output',
  'length_penalty',
  'priority',
  'prompt_logprobs',
  'response_format',
  'skip_special_tokens',
  'spaces_between_special_tokens',
  'structured_outputs',
  'truncate_prompt_tokens',
  'use_beam_search',
] as const satisfies readonly UnsupportedField[]

function asksForNothing(value: unknown, harmless: readonly unknown[]): boolean {
  if (value === null || value === undefined) return true
  if (typeof value === 'object' && Object.values(value).every((part) => part === null)) return true
  const written = JSON.stringify(value)
  return harmless.some((one) => JSON.stringify(one) === written)
}

/** @throws {GorgonError} ERR_UNSUPPORTED when the value asks for what is not there. */
export function refuse(field: UnsupportedField, value: unknown, path: string = field): void {
  const { harmless = [], why }: Unsupported = UNSUPPORTED[field]
  if (!asksForNothing(value, harmless)) throw unsupported(path, why)
}

export function unsupported(path: string, why: string): GorgonError {
  return new GorgonError('ERR_UNSUPPORTED', `${path} is not supported: ${why}.`, { path })
}

/**
 * The schema of a request's body.
 *
 * @param refused fields that are known, and whose effect is missing: parsing throws ERR_UNSUPPORTED for one that asks for it.
 */
export function bodySchema<Shape extends z.ZodRawShape>(shape: Shape, refused: readonly UnsupportedField[]) {
  const unjudged = Object.fromEntries(refused.map((field) => [field, anything()]))
  return strict({ ...unjudged, ...shape }, refused).transform((body) => {
    for (const field of refused) refuse(field, (body as Readonly<Record<string, unknown>>)[field])
    return body as z.output<z.ZodObject<Shape>>
  })
}
