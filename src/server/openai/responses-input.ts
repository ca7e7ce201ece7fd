// What a response is asked for: the body of a request for one, and its items as messages.
import { z } from 'zod'
import type { GenerateOptionsInput, Message } from '../../index.js'
import { requestShape } from '../../options.js'
import { flag, integer, list, oneOf, strict, text } from '../../schema.js'
import {
  anything,
  bodySchema,
  generateOptionsOf,
  ignoredShape,
  maybe,
  REFUSED_EXTRAS,
  refuse,
  samplingShape,
  unsupported,
} from './fields.js'
import { Content, contentText, roleOf } from './messages.js'

const MESSAGE = 'message'
const ITEM_FORMS = 'an item such as { role: "user", content: "…" }'

/** Any kind of item, to be told apart by its type: one of another kind is refused by name. */
const Item = z.looseObject(
  { type: maybe(text('the type of an item')), role: anything(), content: anything() },
  ITEM_FORMS,
)
const Role = oneOf(['system', 'developer', 'user', 'assistant'])
const INPUT_FORMS = 'a string, or an array of items such as { role: "user", content: "…" }'

const TextConfig = strict({ format: anything(), verbosity: anything() })

const NAMES_OF_MORE = [
  'message.output_text.logprobs',
  'reasoning.encrypted_content',
  'file_search_call.results',
  'web_search_call.results',
  'web_search_call.action.sources',
  'message.input_image.image_url',
  'computer_call_output.output.image_url',
  'code_interpreter_call.outputs',
] as const

const MAX_METADATA = 16
const METADATA_FORMS = `an object of at most ${MAX_METADATA} strings, of up to 512 characters`
const LABEL_FORMS = 'a string of at most 512 characters'
const Label = z.string(LABEL_FORMS).max(512, LABEL_FORMS)

const Metadata = z
  .custom<Record<string, string>>((value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
    const keys = Object.keys(value)
    return keys.length <= MAX_METADATA && keys.every((key) => key.length <= 64)
  }, METADATA_FORMS)
  .superRefine((metadata, context) => {
    for (const [key, value] of Object.entries(metadata)) {
      const { success } = Label.safeParse(value)
      if (!success) context.addIssue({ code: 'custom', path: [key], message: LABEL_FORMS })
    }
  })

const label = () => maybe(Label)

const responseShape = {
  ...ignoredShape,
  ...samplingShape,
  input: z.union([z.string(), list(Item, INPUT_FORMS, 1)], { error: INPUT_FORMS }).optional(),
  instructions: maybe(z.string('a string')),
  previous_response_id: maybe(text('the id of a response')),
  max_output_tokens: maybe(requestShape.maxTokens.unwrap()),
  top_logprobs: maybe(integer(0, 20)),
  include: maybe(list(oneOf(NAMES_OF_MORE), 'an array of names of more output')),
  text: maybe(TextConfig),
  truncation: maybe(oneOf(['auto', 'disabled'])),
  metadata: maybe(Metadata),
  user: label(),
  safety_identifier: label(),
  prompt_cache_key: label(),
  // There are no tools, so neither are there calls to limit.
  max_tool_calls: anything(),
  stream_options: anything(),
}

const REFUSED = [
  ...REFUSED_EXTRAS,
  'context_management',
  'conversation',
  'prompt',
  'reasoning',
  'tool_choice',
  'tools',
] as const

export const ResponseBody = bodySchema(responseShape, [...REFUSED, 'background'])
export type ResponseBody = z.output<typeof ResponseBody>

/** Of a message that asks for a response over a socket, which has no use for `stream` and `background`. */
export const ResponseCreate = bodySchema(
  {
    ...responseShape,
    type: z.literal('response.create', '"response.create"'),
    /** The order in which responses are made on this connection. */
    stream_id: anything(),
    /** False: keep the input for a later response, and answer nothing now. */
    generate: maybe(flag()),
    background: anything(),
  },
  REFUSED,
)

/** @throws {GorgonError} ERR_UNSUPPORTED for a format of the text other than text. */
export function refuseTextConfig({ text }: ResponseBody): void {
  refuse('response_format', text?.format, 'text.format')
  refuse('verbosity', text?.verbosity, 'text.verbosity')
}

/** @throws {GorgonError} ERR_UNSUPPORTED for an item that is no message, or has more than text. */
export function messagesOf(input: ResponseBody['input']): Message[] {
  if (input === undefined) return []
  if (typeof input === 'string') return [{ role: 'user', content: input }]
  return input.map(({ type, role, content }, i) => {
    const path = `input[${i}]`
    if ((type ?? MESSAGE) !== MESSAGE)
      throw unsupported(path, `it is of type "${type}", and the model reads messages alone`)
    const known = Role.safeParse(role)
    if (!known.success) throw unsupported(`${path}.role`, 'it is none of system, developer, user and assistant')
    const parsed = Content.safeParse(content)
    if (!parsed.success) throw unsupported(`${path}.content`, 'it is neither a string nor an array of text parts')
    return {
      role: roleOf(known.data),
      content: contentText(parsed.data, ['input_text', 'output_text', 'text'], `${path}.content`),
    }
  })
}

/** @param context what the model holds: the limit where the request names none. */
export function responseOptionsOf(body: ResponseBody, { context }: { readonly context: number }): GenerateOptionsInput {
  const isAsked = body.include?.includes('message.output_text.logprobs') ?? false
  return generateOptionsOf(body, {
    maxTokens: body.max_output_tokens ?? context,
    logprobs: body.top_logprobs ?? (isAsked ? 0 : false),
  })
}
