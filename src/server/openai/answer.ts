// Choices to an answer of chat completions or completions: JSON, or events. The endpoints bring the words.
import { GorgonError } from '../../errors.js'
import type { Chunk, Result } from '../../index.js'
import type { Exchange } from '../http.js'
import type { ServerLimits } from '../options.js'
import type { Choices, MadeChoice, Progress } from './choices.js'
import { type CompletionUsage, completionUsageOf, type EngineReport, engineReportOf, secondsNow } from './reports.js'

/** Writes one choice: of an answer in pieces its parts, of one in one piece the whole. It is told of all chunks in either case. */
export interface ChoiceWriter<Part, Whole> {
  /** Before any text; null for nothing. */
  begin(): Part | null
  /** Null when there is nothing to say. */
  step(chunk: Chunk): Part | null
  end(result: Result, report: EngineReport): Part
  whole(result: Result, report: EngineReport): Whole
}

/** How an endpoint words its answers. */
export interface Wording<Part, Whole> {
  /** `object` of an answer in one piece. */
  readonly object: string
  /** `object` of a piece. */
  readonly partObject: string
  /** What ids begin with. */
  readonly prefix: string
  writer(index: number): ChoiceWriter<Part, Whole>
}

export interface AnswerOptions {
  readonly stream?: boolean | null | undefined
  readonly stream_options?: StreamOptions | null | undefined
}

interface StreamOptions {
  readonly include_usage?: boolean | null | undefined
  readonly continuous_usage_stats?: boolean | null | undefined
}

/**
 * Each choice counts against the key's limits as well, so a request of more than those allow could never be served.
 *
 * @throws {GorgonError} ERR_OPTION when the request asks for more generations than one may.
 */
export function assertChoices(count: number, { choices, perKey }: Pick<ServerLimits, 'choices' | 'perKey'>): void {
  const bounds = [
    ['limits.choices', choices],
    ['limits.perKey.concurrent', perKey.concurrent],
    ['limits.perKey.requestsPerMinute', perKey.requestsPerMinute || Number.POSITIVE_INFINITY],
  ] as const
  const [name, limit] = bounds.reduce((least, bound) => (bound[1] < least[1] ? bound : least))
  if (count <= limit) return
  throw new GorgonError(
    'ERR_OPTION',
    `The request asks for ${count} choices, those of all its prompts together; one request may have ${limit} (${name}). Send several.`,
    { path: 'n', value: count, limit },
  )
}

/** @throws what a generation failed for; the others have ended then. */
export async function answer<Part, Whole>(
  exchange: Exchange,
  choices: Choices,
  wording: Wording<Part, Whole>,
  options: AnswerOptions,
): Promise<void> {
  const head = { id: `${wording.prefix}-${choices.id}`, created: secondsNow(), model: choices.model }
  const writers = choices.all.map(({ index }) => wording.writer(index))
  if (options.stream) {
    await answerInParts(
      exchange,
      choices,
      writers,
      { ...head, object: wording.partObject },
      options.stream_options ?? {},
    )
    return
  }
  const made = await choices.read((choice, chunk) => void writers[choice.index]!.step(chunk))
  exchange.json(200, {
    ...head,
    object: wording.object,
    choices: made
      .flat()
      .map(({ index, work, result }) => writers[index]!.whole(result, engineReportOf(result, work.seed))),
    usage: usageOf(made),
  })
}

async function answerInParts<Part, Whole>(
  exchange: Exchange,
  choices: Choices,
  writers: readonly ChoiceWriter<Part, Whole>[],
  head: object,
  { include_usage, continuous_usage_stats }: StreamOptions,
): Promise<void> {
  await choices.begun()
  const events = exchange.events()
  const send = async (part: Part | null, progress: Progress): Promise<void> => {
    if (part === null) return
    const usage = continuous_usage_stats ? usageSoFar(progress) : null
    await events.send(null, { ...head, choices: [part], ...((include_usage || continuous_usage_stats) && { usage }) })
  }
  for (const { index, progress } of choices.all) await send(writers[index]!.begin(), progress)
  const made = await choices.read(
    ({ index, progress }, chunk) => send(writers[index]!.step(chunk), progress),
    ({ index, progress, work, result }) =>
      send(writers[index]!.end(result, engineReportOf(result, work.seed)), progress),
  )
  if (include_usage) await events.send(null, { ...head, choices: [], usage: usageOf(made) })
  await events.send(null, '[DONE]')
}

function usageOf(made: readonly (readonly MadeChoice[])[]): CompletionUsage {
  return completionUsageOf(made.map((prompt) => prompt.map(({ result }) => result)))
}

function usageSoFar({ promptTokens, completionTokens }: Progress) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  }
}
