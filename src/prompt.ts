// What a caller gives as a prompt, as checked token ids.
import { GorgonError } from './errors.js'
import { type Message, parseMessages } from './options.js'
import type { ChatTemplate, RenderedChat } from './text/chat.js'
import type { Tokenizer } from './text/tokenizer.js'

/** Text; token ids, used as they are; or the messages of a chat. */
export type Prompt = string | readonly number[] | Int32Array | readonly Message[]

/** What turns prompts into ids. */
export interface Encoding {
  readonly tokenizer: Tokenizer | null
  readonly chat: ChatTemplate
  readonly vocab: number
  /** Tokens the model can hold. */
  readonly context: number
}

export function isChat(prompt: Prompt): prompt is readonly Message[] {
  return Array.isArray(prompt) && typeof prompt[0] === 'object'
}

/** @throws {GorgonError} ERR_TOKENIZER when the model folder has none. */
export function tokenizerOf({ tokenizer }: Pick<Encoding, 'tokenizer'>): Tokenizer {
  if (tokenizer) return tokenizer
  throw new GorgonError(
    'ERR_TOKENIZER',
    'The model folder has no tokenizer.json, so there is no way between text and tokens. Use token ids, or add the tokenizer to the folder.',
  )
}

/** @throws {GorgonError} ERR_CHAT_TEMPLATE when the model folder has no template, or it refuses the messages; ERR_OPTION. */
export function renderMessages({ chat }: Pick<Encoding, 'chat'>, messages: readonly Message[]): RenderedChat {
  return chat.render(parseMessages(messages))
}

/**
 * Messages that are to fit the context. Each takes a token at least, and rendering is slow and holds up everybody else: more messages than
 * the context has tokens are refused before it.
 *
 * @throws {GorgonError} ERR_CONTEXT_OVERFLOW; as `renderMessages`.
 */
export function renderPrompt(encoding: Encoding, messages: readonly Message[]): RenderedChat {
  const { context } = encoding
  if (messages.length <= context) return renderMessages(encoding, messages)
  throw new GorgonError(
    'ERR_CONTEXT_OVERFLOW',
    `The chat has ${messages.length} messages, but the context holds ${context} tokens. Leave out the oldest messages.`,
    { messages: messages.length, context },
  )
}

/**
 * A prompt that begins a context: text gets the special tokens its tokenizer adds, a rendered chat those its template left out.
 *
 * @throws {GorgonError} ERR_EMPTY_PROMPT, ERR_TOKEN_RANGE, ERR_TOKENIZER, ERR_CHAT_TEMPLATE, ERR_OPTION, ERR_CONTEXT_OVERFLOW.
 */
export async function encodePrompt(prompt: Prompt, encoding: Encoding, signal: AbortSignal): Promise<Int32Array> {
  if (!isChat(prompt)) return encodeRaw(prompt, encoding, { addSpecial: true, signal })
  const { text, addSpecial } = renderPrompt(encoding, prompt)
  return encodeRaw(text, encoding, { addSpecial, signal })
}

/** Text or ids alone. */
export async function encodeRaw(
  prompt: string | readonly number[] | Int32Array,
  encoding: Encoding,
  options: { readonly addSpecial: boolean; readonly signal: AbortSignal },
): Promise<Int32Array> {
  if (prompt === '') throw emptyPrompt('it has no text')
  if (typeof prompt === 'string') return checkTokens(await tokenizerOf(encoding).encode(prompt, options), encoding)
  if (Array.isArray(prompt) || prompt instanceof Int32Array) return checkTokens(prompt, encoding)
  throw new GorgonError(
    'ERR_OPTION',
    `The prompt is ${prompt === null ? 'null' : typeof prompt}. Give text, an array of token ids, or an array of messages { role, content }.`,
    { value: prompt },
  )
}

function emptyPrompt(why: string): GorgonError {
  return new GorgonError(
    'ERR_EMPTY_PROMPT',
    `The prompt is empty: ${why}, so there is nothing to go on from. Give at least one token.`,
  )
}

function checkTokens(ids: readonly number[] | Int32Array, { vocab }: Pick<Encoding, 'vocab'>): Int32Array {
  if (ids.length === 0) throw emptyPrompt('it has no tokens')
  const index = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocab)
  if (index >= 0) {
    throw new GorgonError(
      'ERR_TOKEN_RANGE',
      `The prompt's token ${index} is ${ids[index]}, but the model has ${vocab} tokens: ids are whole numbers from 0 to ${vocab - 1}. Encode the prompt with the tokenizer of this model.`,
      { index, id: ids[index], vocab },
    )
  }
  return Int32Array.from(ids)
}

/**
 * Positions left for new tokens.
 *
 * @param cached tokens of earlier turns.
 * @throws {GorgonError} ERR_CONTEXT_OVERFLOW when not even one is left.
 */
export function roomAfter(promptTokens: number, cached: number, context: number): number {
  const room = context - cached - promptTokens
  if (room >= 1) return room
  const held = cached > 0 ? ` after ${cached} of earlier turns` : ''
  throw new GorgonError(
    'ERR_CONTEXT_OVERFLOW',
    `The prompt has ${promptTokens} tokens${held}, but the context holds ${context} and one must be left for the answer. Shorten the prompt by ${1 - room}${cached > 0 ? ', or begin a new session' : ''}.`,
    { promptTokens, cached, context },
  )
}
