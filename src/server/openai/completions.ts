// POST /v1/completions.
import { z } from 'zod'
import type { Prompt } from '../../index.js'
import { integer } from '../../schema.js'
import type { ServerContext } from '../context.js'
import type { Exchange, Route } from '../http.js'
import { answer, assertChoices, type Wording } from './answer.js'
import { Choices } from './choices.js'
import {
  bodySchema,
  choicesShape,
  generateOptionsOf,
  ignoredShape,
  isTokenId,
  maybe,
  REFUSED_EXTRAS,
  samplingShape,
} from './fields.js'
import { type ColumnLogprobs, joinColumns, LogprobColumns } from './logprobs.js'
import { type EngineReport, finishReasonOf } from './reports.js'

/** OpenAI's default, and that of the servers after its model: whoever wants more says so. */
const DEFAULT_MAX_TOKENS = 16

const PROMPT_FORMS = 'a string, an array of strings, an array of token ids, or an array of such'

type TokenIds = readonly number[]
type PromptInput = string | readonly string[] | TokenIds | readonly TokenIds[]

const isText = (value: unknown): value is string => typeof value === 'string'
const isListOf = <T>(is: (value: unknown) => value is T) => {
  return (value: unknown): value is readonly T[] => Array.isArray(value) && value.length > 0 && value.every(is)
}
const isTokenIds = isListOf(isTokenId)

const PromptField = z
  .custom<PromptInput>(
    (value) => isText(value) || isTokenIds(value) || isListOf(isText)(value) || isListOf(isTokenIds)(value),
    PROMPT_FORMS,
  )
  .transform((prompt): readonly Prompt[] => {
    if (isText(prompt)) return [prompt]
    return isTokenId(prompt[0]) ? [prompt as TokenIds] : (prompt as readonly (string | TokenIds)[])
  })

export const CompletionsBody = bodySchema(
  {
    ...ignoredShape,
    ...samplingShape,
    ...choicesShape,
    prompt: PromptField,
    logprobs: maybe(integer(0, 20)),
  },
  [...REFUSED_EXTRAS, 'suffix'],
)

export function completionsRoutes(context: ServerContext): readonly Route[] {
  return [{ method: 'POST', path: '/v1/completions', handle: (exchange) => complete(exchange, context) }]
}

async function complete(exchange: Exchange, { intake, options: { limits } }: ServerContext): Promise<void> {
  const body = await exchange.body(CompletionsBody)
  const { id: model } = intake.engineOf(body.model ?? undefined)
  const { prompt: prompts } = body
  const n = body.n ?? 1
  assertChoices(prompts.length * n, limits)
  const options = generateOptionsOf(body, {
    maxTokens: body.max_tokens ?? DEFAULT_MAX_TOKENS,
    logprobs: body.logprobs ?? false,
  })
  const choices = new Choices(intake, exchange, {
    endpoint: 'completions',
    model,
    prompts,
    n,
    options,
  })
  await answer(exchange, choices, COMPLETIONS_WORDING, body)
}

export interface CompletionChoice {
  readonly index: number
  readonly text: string
  readonly logprobs: ColumnLogprobs | null
  readonly finish_reason: 'stop' | 'length'
  readonly gorgon: EngineReport
}

export interface CompletionPart extends Omit<CompletionChoice, 'finish_reason' | 'gorgon'> {
  readonly finish_reason: 'stop' | 'length' | null
  readonly gorgon?: EngineReport
}

export const COMPLETIONS_WORDING: Wording<CompletionPart, CompletionChoice> = {
  object: 'text_completion',
  partObject: 'text_completion',
  prefix: 'cmpl',
  writer(index) {
    const columns = new LogprobColumns()
    const made: ColumnLogprobs[] = []
    return {
      begin: () => null,
      step(chunk) {
        const logprobs = chunk.logprobs ? columns.of(chunk) : null
        if (logprobs) made.push(logprobs)
        if (chunk.text === '' && !logprobs) return null
        return { index, text: chunk.text, logprobs, finish_reason: null }
      },
      end: (result, gorgon) => ({ index, text: '', logprobs: null, finish_reason: finishReasonOf(result), gorgon }),
      whole: (result, gorgon) => ({
        index,
        text: result.text,
        logprobs: result.logprobs ? joinColumns(made) : null,
        finish_reason: finishReasonOf(result),
        gorgon,
      }),
    }
  },
}
