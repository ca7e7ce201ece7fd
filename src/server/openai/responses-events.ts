// The events of a response, in order. Whoever sends them numbers them, and may have to put some together first.
import type { Chunk } from '../../index.js'
import type { Problem } from '../errors.js'
import type { ListedLogprob } from './logprobs.js'
import type { OutputMessage, OutputText, ResponseObject } from './response-object.js'

/** A response gives one message, of one text. */
interface InText {
  readonly item_id: string
  readonly output_index: 0
  readonly content_index: 0
}

interface ResponseIs<Type extends string> {
  readonly type: Type
  readonly response: ResponseObject
}

interface ItemIs<Type extends string> {
  readonly type: Type
  readonly output_index: 0
  readonly item: OutputMessage
}

interface PartIs<Type extends string> extends InText {
  readonly type: Type
  readonly part: OutputText
}

export interface TextDelta extends InText {
  readonly type: 'response.output_text.delta'
  readonly delta: string
  readonly logprobs: ListedLogprob[]
}

interface TextDone extends InText {
  readonly type: 'response.output_text.done'
  readonly text: string
  readonly logprobs: ListedLogprob[]
}

export interface ErrorEvent {
  readonly type: 'error'
  readonly code: string
  readonly message: string
  readonly param: string | null
}

/** The last one. */
export type EndEvent =
  | ResponseIs<'response.completed'>
  | ResponseIs<'response.incomplete'>
  | ResponseIs<'response.failed'>

export type ResponseEvent =
  | ResponseIs<'response.created'>
  | ResponseIs<'response.in_progress'>
  | ItemIs<'response.output_item.added'>
  | ItemIs<'response.output_item.done'>
  | PartIs<'response.content_part.added'>
  | PartIs<'response.content_part.done'>
  | TextDelta
  | TextDone
  | ErrorEvent
  | EndEvent

/** As it is sent. */
export type NumberedEvent = ResponseEvent & { readonly sequence_number: number }

/** Of one step, or of several that were put together. */
export function joinDeltas(first: TextDelta, second: TextDelta): TextDelta {
  return { ...first, delta: first.delta + second.delta, logprobs: [...first.logprobs, ...second.logprobs] }
}

/** A response as its events tell it. */
export interface Telling {
  /** As it is now. */
  readonly response: ResponseObject
  readonly messageId: string
  readonly chunks: AsyncIterable<Chunk>
  logprobsOf(chunk: Chunk): ListedLogprob[]
  /** Waits for the end: the response as it is then, or what it failed for. */
  ended(): Promise<{ readonly response: ResponseObject; readonly problem: Problem | null }>
}

/** Never throws: a failure is told. */
export async function* responseEvents(telling: Telling): AsyncGenerator<ResponseEvent, void, void> {
  const { response, messageId } = telling
  yield { type: 'response.created', response }
  yield { type: 'response.in_progress', response }

  const place = { item_id: messageId, output_index: 0, content_index: 0 } as const
  let isOpen = false
  try {
    for await (const chunk of telling.chunks) {
      if (!isOpen) yield* opening(place)
      isOpen = true
      const logprobs = telling.logprobsOf(chunk)
      if (chunk.text === '' && logprobs.length === 0) continue
      yield { type: 'response.output_text.delta', ...place, delta: chunk.text, logprobs }
    }
  } catch {
    // `ended` has it.
  }

  const { response: made, problem } = await telling.ended()
  const [item] = made.output
  if (problem || !item) {
    if (problem) yield errorEventOf(problem)
    yield { type: problem ? 'response.failed' : 'response.incomplete', response: made }
    return
  }
  if (!isOpen) yield* opening(place)
  const part = item.content[0]!
  yield { type: 'response.output_text.done', ...place, text: part.text, logprobs: part.logprobs }
  yield { type: 'response.content_part.done', ...place, part }
  yield { type: 'response.output_item.done', output_index: 0, item }
  yield { type: made.status === 'completed' ? 'response.completed' : 'response.incomplete', response: made }
}

function* opening(place: InText): Generator<ResponseEvent> {
  const item: OutputMessage = {
    type: 'message',
    id: place.item_id,
    role: 'assistant',
    status: 'in_progress',
    content: [],
  }
  yield { type: 'response.output_item.added', output_index: 0, item }
  yield {
    type: 'response.content_part.added',
    ...place,
    part: { type: 'output_text', text: '', annotations: [], logprobs: [] },
  }
}

export function errorEventOf({ code, message, param }: Problem): ErrorEvent {
  return { type: 'error', code, message, param: param ?? null }
}
