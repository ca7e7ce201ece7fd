// What was promised of a tree beside what the engine does with it, on texts that it was not grown from.
import type { Choices } from '../../src/decode/choices.js'
import type { Engine } from '../../src/engine.js'
import type { GenerateOptionsInput } from '../../src/options.js'
import type { Result } from '../../src/result.js'
import type { CalibrationText, DealtTexts } from './texts.js'
import type { Trace } from './trace.js'
import { type Rate, rateOf, type Steps, walkTexts } from './walk.js'

/** How well a tree was predicted at one temperature. */
export interface Check {
  readonly temperature: number
  /** By the texts it was grown from. */
  readonly predicted: Rate
  /** By the engine, on other texts; null where there are none. */
  readonly measured: Rate | null
  /** Decoding speed over plain decoding's, one text at a time: by step costs, where they are known, and by the clock. */
  readonly predictedSpeedup: number | null
  readonly measuredSpeedup: number | null
}

/** Texts of a temperature whose making is timed. */
export const TIMED_TEXTS = 4

export interface CheckOptions {
  readonly tokens: number
  /** Of a step with the tree over a plain one; null where it is not known. */
  readonly stepRatio: number | null
  /** Texts of each temperature that are made twice more, alone, to be timed. */
  readonly timed: number
  readonly signal: AbortSignal
  readonly onProgress?: (done: number, total: number) => void
}

/** Drafts that were right after the end of a text are not among its tokens; those after its last one count as those of its last step. */
export function stepsOf({ finish, usage, speculation: { steps, accepted } }: Result): Steps {
  return { steps, tokens: finish === 'stop' ? usage.completion : steps + accepted }
}

/** @param traces of `grown`, text by text. */
export async function checkTree(
  engine: Engine,
  paths: Choices,
  { grown, heldOut }: DealtTexts,
  traces: readonly Trace[],
  { tokens, stepRatio, timed: timedTexts, signal, onProgress }: CheckOptions,
): Promise<Check[]> {
  const temperatures = [...new Set(grown.map(({ temperature }) => temperature))]
  const of = (temperature: number) => heldOut.filter((text) => text.temperature === temperature)
  const timed = temperatures.map((temperature) => of(temperature).slice(0, timedTexts))
  const total = heldOut.length + 2 * timed.flat().length
  let done = 0
  const run = async (text: CalibrationText, speculation: GenerateOptionsInput['speculation']) => {
    const { prompt, temperature, seed } = text
    const result = await engine.generate(prompt, { maxTokens: tokens, temperature, seed, speculation, signal })
    signal.throwIfAborted()
    onProgress?.(++done, total)
    return result
  }
  const withTree = { mode: 'medusa', tree: { paths } } as const

  const measured = await Promise.all(
    heldOut.map(async (text): Promise<Steps> => {
      return stepsOf(await run(text, withTree))
    }),
  )
  const checks: Check[] = []
  for (const [i, temperature] of temperatures.entries()) {
    const walked = walkTexts(
      paths,
      traces.filter((_, text) => grown[text]!.temperature === temperature),
    )
    const predicted = rateOf(walked)
    const own = measured.filter((_, text) => heldOut[text]!.temperature === temperature)
    // Together: a text is too short for a ratio of its own.
    let [plainMs, treeMs] = [0, 0]
    for (const text of timed[i]!) {
      const plain = await run(text, { mode: 'off' })
      const tree = await run(text, withTree)
      plainMs += plain.timing.decodeMs
      treeMs += tree.timing.decodeMs
    }
    checks.push({
      temperature,
      predicted,
      measured: own.length > 0 ? rateOf(own) : null,
      predictedSpeedup: stepRatio === null ? null : predicted.tokensPerStep / stepRatio,
      measuredSpeedup: treeMs > 0 ? plainMs / treeMs : null,
    })
  }
  return checks
}
