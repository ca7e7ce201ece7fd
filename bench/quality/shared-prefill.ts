// All arms' answers to a prompt that runs once: what the engine answers arm by arm, in a fraction of the time.

import { planCompression } from '../../src/cache/budget.js'
import type { Engine } from '../../src/index.js'
import { type CompressionSpec, type ModelHandle, native } from '../../src/native.js'
import { KvOptions } from '../../src/options.js'
import { wrongResult } from '../support/command.js'
import type { Arm } from './arms.js'
import { CHUNK, openCopy } from './model-copy.js'

export interface Question {
  readonly maxTokens: number
  /** Single characters that end an answer and are not part of it. */
  readonly stop?: readonly string[]
  /** Told the text so far: true when what follows changes nothing. */
  readonly isDone?: (text: string) => boolean
}

export interface SharedPrefill {
  /** What each arm generates after a prompt, greedily. */
  answers(arms: readonly Arm[], prompt: Int32Array, question: Question): string[]
  close(): Promise<void>
}

type ContinueGreedily = (
  model: ModelHandle,
  tokens: Int32Array,
  args: {
    readonly chunk: number
    readonly count: number
    readonly stopIds: Int32Array
    readonly compressions: readonly (CompressionSpec | null)[]
  },
) => { readonly rowsKept: number; readonly tokens: Int32Array }[]

const compressionOf = ({ kv }: Arm, promptTokens: number): CompressionSpec | null =>
  planCompression({ rows: 0, newTokens: promptTokens, kv: KvOptions.parse(kv) })

/** A text up to the first of some characters. */
export function upTo(text: string, stop: readonly string[]): string {
  const ends = stop.map((character) => text.indexOf(character)).filter((at) => at >= 0)
  return ends.length === 0 ? text : text.slice(0, Math.min(...ends))
}

export async function openSharedPrefill(engine: Engine): Promise<SharedPrefill> {
  const copy = await openCopy(engine.info)
  const continueGreedily = native().ops['continueGreedily'] as ContinueGreedily
  const eosIds = new Set(copy.folder.generation.eosIds)
  const pieces = Array.from({ length: engine.info.vocab }, (_, id) => engine.detokenize([id]))
  const idsWith = (characters: readonly string[]): number[] =>
    pieces.flatMap((piece, id) => (characters.some((character) => piece.includes(character)) ? [id] : []))
  /** By the characters: a benchmark asks for the same ones every time. */
  const stopIds = new Map<string, Int32Array>()
  const stopIdsOf = (stop: readonly string[]): Int32Array => {
    const key = stop.join('')
    if (!stopIds.has(key)) stopIds.set(key, Int32Array.from([...eosIds, ...idsWith(stop)]))
    return stopIds.get(key)!
  }
  return {
    answers(arms, prompt, { maxTokens, stop = [] }) {
      const branches = continueGreedily(copy.handle, prompt, {
        chunk: CHUNK,
        count: maxTokens,
        stopIds: stopIdsOf(stop),
        compressions: arms.map((arm) => compressionOf(arm, prompt.length)),
      })
      return branches.map(({ tokens, rowsKept }, i) => {
        checkRows(arms[i]!, prompt.length, rowsKept)
        return upTo(engine.detokenize(tokens.filter((id) => !eosIds.has(id))), stop)
      })
    },
    close: copy.close,
  }
}

/** What an arm generates after a prompt, greedily: a prefill of its own, through the engine. */
export async function answerOf(engine: Engine, arm: Arm, prompt: Int32Array, question: Question): Promise<string> {
  const { maxTokens, stop = [], isDone } = question
  const generation = engine.generate(prompt, { maxTokens, stop, kv: arm.kv, onAbort: 'return' })
  let text = ''
  for await (const piece of generation.text) {
    text += piece
    if (isDone?.(text)) break
  }
  const { kv } = await generation
  checkRows(arm, prompt.length, kv.keptTokens)
  return text
}

/** An arm must do what its name says. */
function checkRows(arm: Arm, promptTokens: number, kept: number): void {
  const expected = Math.min(promptTokens, arm.budget ?? promptTokens)
  if (kept !== expected)
    throw wrongResult(`${arm.name} kept ${kept} rows of a prompt of ${promptTokens}, not ${expected}`)
}
