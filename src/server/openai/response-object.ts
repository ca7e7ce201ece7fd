// A response as clients see it, at any time of its life.
import type { Result } from '../../index.js'
import type { Problem } from '../errors.js'
import { DEFAULT_TEMPERATURE } from './fields.js'
import type { ListedLogprob } from './logprobs.js'
import { type EngineReport, promptTokensOf } from './reports.js'
import type { ResponseBody } from './responses-input.js'

export interface OutputText {
  readonly type: 'output_text'
  readonly text: string
  readonly annotations: never[]
  readonly logprobs: ListedLogprob[]
}

export interface OutputMessage {
  readonly type: 'message'
  readonly id: string
  readonly role: 'assistant'
  readonly status: 'in_progress' | 'completed' | 'incomplete'
  readonly content: OutputText[]
}

export interface ResponseUsage {
  readonly input_tokens: number
  readonly input_tokens_details: { readonly cached_tokens: number }
  readonly output_tokens: number
  readonly output_tokens_details: { readonly reasoning_tokens: number }
  readonly total_tokens: number
}

export type ResponseStatus = 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled'

export interface ResponseError {
  readonly code: 'server_error' | 'rate_limit_exceeded' | 'invalid_prompt'
  readonly message: string
}

export interface ResponseObject {
  readonly id: string
  readonly object: 'response'
  readonly created_at: number
  readonly completed_at: number | null
  readonly status: ResponseStatus
  readonly background: false
  readonly error: ResponseError | null
  readonly incomplete_details: { readonly reason: 'max_output_tokens' } | null
  readonly instructions: string | null
  readonly max_output_tokens: number | null
  readonly max_tool_calls: null
  readonly model: string
  readonly output: OutputMessage[]
  readonly parallel_tool_calls: boolean
  readonly previous_response_id: string | null
  readonly prompt_cache_key: string | null
  readonly reasoning: null
  readonly safety_identifier: string | null
  readonly service_tier: 'default'
  readonly store: boolean
  readonly temperature: number
  readonly presence_penalty: number
  readonly frequency_penalty: number
  readonly text: { readonly format: { readonly type: 'text' } }
  readonly tool_choice: 'auto'
  readonly tools: never[]
  readonly top_logprobs: number
  readonly top_p: number
  readonly truncation: 'auto' | 'disabled'
  readonly usage: ResponseUsage | null
  readonly user: string | null
  readonly metadata: Record<string, string>
  /** Of one that has ended with a result. */
  readonly gorgon?: EngineReport
}

/** A response that has not ended. */
export function newResponse(
  body: ResponseBody,
  about: { readonly id: string; readonly createdAt: number; readonly model: string },
): ResponseObject {
  return {
    id: about.id,
    object: 'response',
    created_at: about.createdAt,
    completed_at: null,
    status: 'in_progress',
    background: false,
    error: null,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: null,
    model: about.model,
    output: [],
    parallel_tool_calls: false,
    previous_response_id: body.previous_response_id ?? null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    reasoning: null,
    safety_identifier: body.safety_identifier ?? null,
    service_tier: 'default',
    store: body.store ?? true,
    temperature: body.gorgon?.temperature ?? body.temperature ?? DEFAULT_TEMPERATURE,
    presence_penalty: body.gorgon?.presencePenalty ?? body.presence_penalty ?? 0,
    frequency_penalty: body.gorgon?.frequencyPenalty ?? body.frequency_penalty ?? 0,
    text: { format: { type: 'text' } },
    tool_choice: 'auto',
    tools: [],
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.gorgon?.topP ?? body.top_p ?? 1,
    truncation: body.truncation ?? 'disabled',
    usage: null,
    user: body.user ?? null,
    metadata: body.metadata ?? {},
  }
}

/** It has ended with a result. A limit of time counts as one of tokens, for which OpenAI has a word. */
export function endedResponse(
  response: ResponseObject,
  result: Result,
  about: { readonly message: OutputMessage; readonly report: EngineReport; readonly completedAt: number },
): ResponseObject {
  const status = statusOf(result)
  return {
    ...response,
    status,
    completed_at: status === 'completed' ? about.completedAt : null,
    incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
    output: [about.message],
    usage: usageOf(result),
    gorgon: about.report,
  }
}

export function failedResponse(response: ResponseObject, { status, message }: Problem): ResponseObject {
  const code = status === 429 ? 'rate_limit_exceeded' : status >= 500 ? 'server_error' : 'invalid_prompt'
  return { ...response, status: 'failed', error: { code, message } }
}

function statusOf({ finish }: Result): 'completed' | 'incomplete' | 'cancelled' {
  if (finish === 'aborted') return 'cancelled'
  return finish === 'stop' ? 'completed' : 'incomplete'
}

function usageOf(result: Result): ResponseUsage {
  const { prompt, cached } = promptTokensOf(result)
  const output = result.usage.completion
  return {
    input_tokens: prompt,
    input_tokens_details: { cached_tokens: cached },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: prompt + output,
  }
}
