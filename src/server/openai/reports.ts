// What answers say beside the text: how it ended, what it used, and what the engine has to tell.
import { randomBytes } from 'node:crypto'
import type { Result } from '../../index.js'
import type { Work } from '../intake.js'

/** OpenAI's words for an end: a limit of time is a limit as that of tokens. */
export function finishReasonOf({ finish }: Pick<Result, 'finish'>): 'stop' | 'length' {
  return finish === 'stop' ? 'stop' : 'length'
}

/** Tokens of the context, and how many of them an earlier turn had left in the cache. */
export function promptTokensOf({ kv, usage }: Pick<Result, 'kv' | 'usage'>): { prompt: number; cached: number } {
  return { prompt: kv.promptTokens, cached: Math.max(0, kv.promptTokens - usage.prompt) }
}

export interface CompletionUsage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
  readonly completion_tokens_details: {
    /** Drafted, and in the text. */
    readonly accepted_prediction_tokens: number
    /** Drafted, and not; other than OpenAI's they are not among the completion tokens. */
    readonly rejected_prediction_tokens: number
  }
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

/**
 * Of all choices together.
 *
 * @param results of each prompt, those of its choices: they share it, so it counts once.
 */
export function completionUsageOf(results: readonly (readonly Result[])[]): CompletionUsage {
  const prompts = results.map((choices) => choices.map(promptTokensOf))
  const promptTokens = sum(prompts.map((of) => Math.max(0, ...of.map(({ prompt }) => prompt))))
  const all = results.flat()
  const completion = sum(all.map(({ usage }) => usage.completion))
  // Each step adds one token of the base model's own.
  const accepted = sum(all.map(({ usage, speculation }) => usage.completion - speculation.steps))
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completion,
    total_tokens: promptTokens + completion,
    prompt_tokens_details: {
      cached_tokens: sum(prompts.map((of) => Math.max(0, ...of.map(({ cached }) => cached)))),
    },
    completion_tokens_details: {
      accepted_prediction_tokens: accepted,
      rejected_prediction_tokens: sum(all.map(({ speculation }) => speculation.drafted)) - accepted,
    },
  }
}

/** The library's result, but for text, tokens and log-probabilities: what OpenAI's answers have no place for. */
export type EngineReport = ReturnType<typeof engineReportOf>

export function engineReportOf({ finish, stopString, timing, speculation, kv }: Result, seed: Work['seed']) {
  return { finish, ...(stopString !== undefined && { stopString }), seed, timing, speculation, kv }
}

/** Since 1970, as OpenAI writes times. */
export const secondsNow = (): number => Math.floor(Date.now() / 1000)

/** Nobody guesses it. */
export const newId = (prefix: string): string => `${prefix}_${randomBytes(16).toString('hex')}`
