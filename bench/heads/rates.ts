// Tokens per step that heads reach: on the heads of the project's own sources, tree by tree and temperature by temperature.
import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import { type Engine, loadEngine } from '../../src/index.js'
import { wrongResult } from '../support/command.js'
import { sourceText } from '../support/own-sources.js'

/** What heads do under one tree at one temperature, over all prompts. */
export const Rate = z.object({
  /** As it was asked for. */
  tree: z.string(),
  temperature: z.number(),
  /** Of the tree it became, root included; of `auto` the mean over prompts. */
  nodes: z.number(),
  /** Committed, the root included, over all steps of all prompts. */
  tokensPerStep: z.number(),
})
export type Rate = Readonly<z.infer<typeof Rate>>

export interface RateOptions {
  readonly model: string
  /** Files whose beginnings are continued. */
  readonly files: readonly string[]
  readonly promptTokens: number
  readonly tokens: number
  readonly trees: readonly string[]
  readonly temperatures: readonly number[]
  readonly threads: number
}

/**
 * Measures heads.
 *
 * @param heads a folder; null for those the model comes with.
 * @throws {GorgonError} ERR_INTERNAL when a tree gave other tokens than plain decoding.
 */
export async function ratesOf(heads: string | null, options: RateOptions): Promise<Rate[]> {
  const { model, files, promptTokens, threads, trees, temperatures } = options
  await using engine = await loadEngine({ model, threads, kv: { policy: 'full' }, ...(heads !== null && { heads }) })
  const prompts = await Promise.all(files.map((file) => beginningOf(engine, file, promptTokens)))
  const rates: Rate[] = []
  for (const temperature of temperatures) {
    const plain = await Promise.all(
      prompts.map((prompt) => engine.generate(prompt, { ...how(options, temperature), speculation: { mode: 'off' } })),
    )
    for (const tree of trees) {
      let steps = 0
      let accepted = 0
      let nodes = 0
      for (const [i, prompt] of prompts.entries()) {
        const speculation = { mode: 'medusa', tree } as const
        const result = await engine.generate(prompt, { ...how(options, temperature), speculation })
        if (!isDeepStrictEqual(result.tokens, plain[i]!.tokens)) {
          throw wrongResult(`${files[i]}: tree ${tree} gave other tokens than plain decoding`)
        }
        steps += result.speculation.steps
        accepted += result.speculation.accepted
        nodes += result.speculation.nodes / prompts.length
      }
      rates.push({ tree, temperature, nodes, tokensPerStep: (steps + accepted) / steps })
    }
  }
  return rates
}

const how = ({ tokens }: RateOptions, temperature: number) => ({
  maxTokens: tokens,
  ignoreEos: true,
  temperature,
  seed: 1,
})

async function beginningOf(engine: Engine, file: string, tokens: number): Promise<Int32Array> {
  return (await engine.tokenize(await sourceText(file))).slice(0, tokens)
}
