// Messages as OpenAI's endpoints take them, to messages of the chat template.
import { z } from 'zod'
import type { Message } from '../../index.js'
import { list, oneOf, strict, text } from '../../schema.js'
import { anything, maybe, unsupported } from './fields.js'

const CONTENT_FORMS = 'a string, or an array of { type: "text", text }'

/** Any kind of part, to be told apart by its type: one of another kind is refused by name. */
const Part = z.looseObject({ type: text('the type of a part, such as "text"'), text: anything() })
export const Content = z.union([z.string(), list(Part, CONTENT_FORMS)], { error: CONTENT_FORMS })

/**
 * Parts as one text, each on a line of its own: templates take a string.
 *
 * @param types of text parts here.
 * @throws {GorgonError} ERR_UNSUPPORTED for a part that is no text.
 */
export function contentText(content: z.output<typeof Content>, types: readonly string[], path: string): string {
  if (typeof content === 'string') return content
  const texts = content.map(({ type, text }, i) => {
    const where = `${path}[${i}]`
    if (!types.includes(type)) throw unsupported(where, `it is of type "${type}", and the model reads text alone`)
    if (typeof text !== 'string') throw unsupported(`${where}.text`, 'it is no string')
    return text
  })
  return texts.join('\n')
}

/** OpenAI's newer name for the system's role; templates know the older. */
export const roleOf = (role: string): string => (role === 'developer' ? 'system' : role)

const ChatMessage = strict({
  role: oneOf(['system', 'developer', 'user', 'assistant'], ['tool', 'function']),
  content: maybe(Content),
  /** Which of several speakers of a role; templates do not tell them apart. */
  name: anything(),
  // Of an assistant's message as it was answered, given back.
  refusal: anything(),
  annotations: anything(),
  audio: anything(),
  function_call: anything(),
  tool_calls: anything(),
  tool_call_id: anything(),
})

export const ChatMessages = list(ChatMessage, 'an array of { role, content }, at least one', 1)

const REFUSED = ['refusal', 'audio', 'function_call', 'tool_calls'] as const

/** @throws {GorgonError} ERR_UNSUPPORTED for what is not text: tool calls and their results, audio, images. */
export function chatOf(messages: z.output<typeof ChatMessages>): Message[] {
  return messages.map((message, i) => {
    const path = `messages[${i}]`
    const { role, content } = message
    if (role === 'tool' || role === 'function') throw unsupported(`${path}.role`, 'this server calls no tools')
    for (const field of REFUSED) {
      const value = message[field]
      const isNothing = value === null || value === undefined || (Array.isArray(value) && value.length === 0)
      if (!isNothing) throw unsupported(`${path}.${field}`, 'the model reads text alone')
    }
    if (content === null || content === undefined)
      throw unsupported(`${path}.content`, 'a message without text says nothing')
    return { role: roleOf(role), content: contentText(content, ['text'], `${path}.content`) }
  })
}
