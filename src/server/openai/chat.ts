// POST /v1/chat/completions.
import { GorgonError } from '../../errors.js'
import type { Result } from '../../index.js'
import { requestShape } from '../../options.js'
import { flag, integer } from '../../schema.js'
import type { ServerContext } from '../context.js'
import type { Exchange, Route } from '../http.js'
import { answer, assertChoices, type Wording } from './answer.js'
import { Choices } from './choices.js'
import {
  bodySchema,
  choicesShape,
  generateOptionsOf,
  ignoredShape,
  maybe,
  REFUSED_EXTRAS,
  samplingShape,
} from './fields.js'
import { type BytesOf, type ListedLogprob, listedLogprobs } from './logprobs.js'
import { ChatMessages, chatOf } from './messages.js'
import { type EngineReport, finishReasonOf } from './reports.js'

export const ChatBody = bodySchema(
  {
    ...ignoredShape,
    ...samplingShape,
    ...choicesShape,
    messages: ChatMessages,
    max_completion_tokens: maybe(requestShape.maxTokens.unwrap()),
    logprobs: maybe(flag()),
    top_logprobs: maybe(integer(0, 20)),
  },
  [
    ...REFUSED_EXTRAS,
    'audio',
    'function_call',
    'functions',
    'modalities',
    'prediction',
    'reasoning_effort',
    'tool_choice',
    'tools',
    'verbosity',
    'web_search_options',
  ],
)

export function chatRoutes(context: ServerContext): readonly Route[] {
  return [{ method: 'POST', path: '/v1/chat/completions', handle: (exchange) => completeChat(exchange, context) }]
}

async function completeChat(exchange: Exchange, { intake, options: { limits } }: ServerContext): Promise<void> {
  const body = await exchange.body(ChatBody)
  const { id: model, engine } = intake.engineOf(body.model ?? undefined)
  const n = body.n ?? 1
  assertChoices(n, limits)
  const options = generateOptionsOf(body, {
    maxTokens: body.max_completion_tokens ?? body.max_tokens ?? engine.info.context,
    logprobs: logprobsOf(body),
  })
  const choices = new Choices(intake, exchange, {
    endpoint: 'chat',
    model,
    prompts: [chatOf(body.messages)],
    n,
    options,
  })
  await answer(
    exchange,
    choices,
    chatWording((id) => engine.tokenBytes(id)),
    body,
  )
}

function logprobsOf(body: { logprobs?: boolean | null | undefined; top_logprobs?: number | null | undefined }) {
  const { logprobs, top_logprobs } = body
  if (!logprobs && top_logprobs) {
    throw new GorgonError('ERR_OPTION', `top_logprobs is ${top_logprobs}, but logprobs is not true. Set it, too.`, {
      path: 'top_logprobs',
      value: top_logprobs,
    })
  }
  return logprobs ? (top_logprobs ?? 0) : false
}

interface Logprobs {
  readonly content: ListedLogprob[]
  readonly refusal: null
}

export interface ChatChoice {
  readonly index: number
  readonly message: {
    readonly role: 'assistant'
    readonly content: string
    readonly refusal: null
  }
  readonly logprobs: Logprobs | null
  readonly finish_reason: 'stop' | 'length'
  readonly gorgon: EngineReport
}

export interface ChatPart {
  readonly index: number
  readonly delta: { readonly role?: 'assistant'; readonly content?: string }
  readonly logprobs: Logprobs | null
  readonly finish_reason: 'stop' | 'length' | null
  readonly gorgon?: EngineReport
}

export function chatWording(bytesOf: BytesOf): Wording<ChatPart, ChatChoice> {
  const logprobs = (of: Pick<Result, 'logprobs'>): Logprobs | null =>
    of.logprobs ? { content: listedLogprobs(of.logprobs, bytesOf), refusal: null } : null
  return {
    object: 'chat.completion',
    partObject: 'chat.completion.chunk',
    prefix: 'chatcmpl',
    writer: (index) => ({
      begin: () => ({ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }),
      step(chunk) {
        if (chunk.text === '' && !chunk.logprobs) return null
        return { index, delta: { content: chunk.text }, logprobs: logprobs(chunk), finish_reason: null }
      },
      end: (result, gorgon) => ({
        index,
        delta: {},
        logprobs: null,
        finish_reason: finishReasonOf(result),
        gorgon,
      }),
      whole: (result, gorgon) => ({
        index,
        message: { role: 'assistant', content: result.text, refusal: null },
        logprobs: logprobs(result),
        finish_reason: finishReasonOf(result),
        gorgon,
      }),
    }),
  }
}
