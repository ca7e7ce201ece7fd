// What the server answers, as OpenAI's own package types it: this file compiles or it does not.
import type OpenAI from 'openai'
import type { ChatChoice, ChatPart } from '../../src/server/openai/chat.js'
import type { CompletionChoice, CompletionPart } from '../../src/server/openai/completions.js'
import type { CompletionUsage } from '../../src/server/openai/reports.js'
import type { ResponseObject } from '../../src/server/openai/response-object.js'
import type { NumberedEvent } from '../../src/server/openai/responses-events.js'

export const chatChoice = (ours: ChatChoice): OpenAI.ChatCompletion.Choice => ours
export const chatPart = (ours: ChatPart): OpenAI.ChatCompletionChunk.Choice => ours
export const completionChoice = (ours: CompletionChoice): OpenAI.CompletionChoice => ours
export const usage = (ours: CompletionUsage): OpenAI.CompletionUsage => ours

// A completion's parts are typed as whole choices there, although only the last one says why it ended.
export const completionPart = (ours: CompletionPart): Omit<OpenAI.CompletionChoice, 'finish_reason'> => ours

/** As it comes over the wire: the client adds `output_text` itself, and what is not there is null. */
type Nullable = 'usage' | 'user' | 'safety_identifier' | 'prompt_cache_key'
type OnTheWire<Response extends OpenAI.Responses.Response> = Omit<Response, 'output_text' | Nullable> & {
  [Name in Nullable]?: Response[Name] | null
}
type EventOnTheWire<Event> = Event extends { response: infer Response extends OpenAI.Responses.Response }
  ? Omit<Event, 'response'> & { response: OnTheWire<Response> }
  : Event

export const response = (ours: ResponseObject): OnTheWire<OpenAI.Responses.Response> => ours
export const event = (ours: NumberedEvent): EventOnTheWire<OpenAI.Responses.ResponseStreamEvent> => ours
