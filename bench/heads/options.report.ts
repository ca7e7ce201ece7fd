// What the benchmark of training options found: heads of runs that differ in one option each.
import { basename } from 'node:path'
import { z } from 'zod'
import { measurementsOf, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent } from '../support/table.js'
import { Rate } from './rates.js'

/** What one run came to. */
export const OptionsMeasurement = z.object({
  /** What differs from the defaults, by option; empty for the defaults themselves. */
  changed: z.record(z.string(), z.union([z.number(), z.string(), z.boolean()])),
  steps: z.int(),
  /** Read in training, every epoch counted. */
  tokens: z.int(),
  seconds: z.number(),
  /** Of each head, on texts held out. */
  heldOut: z.array(z.object({ loss: z.number().nullable(), top1: z.number(), top5: z.number(), top10: z.number() })),
  rates: z.array(Rate),
})
export type OptionsMeasurement = Readonly<z.infer<typeof OptionsMeasurement>>

export interface OptionsBenchOptions {
  readonly model: string
  readonly data: readonly string[]
  /** What every run was given, its own change aside. */
  readonly base: Readonly<Record<string, number | string | boolean>>
  readonly prompts: number
  readonly promptTokens: number
  readonly tokens: number
}

/** Runs over other text, or from other defaults, stand beside each other. */
export function variantOf({ options }: BenchResult): string {
  const { data, base } = options as OptionsBenchOptions
  return JSON.stringify([data, base])
}

const said = (changed: OptionsMeasurement['changed']): string =>
  Object.entries(changed)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ') || 'none'

/** A head, then a row per run, in the order they ran. */
export function optionsTable(measurements: readonly OptionsMeasurement[]): string[][] {
  const rates = measurements[0]?.rates ?? []
  const heads = (own: OptionsMeasurement['heldOut'], share: 'top1' | 'top10'): string =>
    own.map((head) => percent(head[share], 1)).join(' ')
  return [
    [
      'changed',
      'steps',
      'seconds',
      'held out: loss of the first and last head',
      'top-1 of each head',
      'top-10',
      ...rates.map(({ tree, temperature }) => `tokens/step, ${tree}, temperature ${temperature}`),
    ],
    ...measurements.map((one) => [
      said(one.changed),
      String(one.steps),
      fixed(one.seconds, 0),
      [one.heldOut[0], one.heldOut.at(-1)].map((head) => fixed(head?.loss, 3)).join(' '),
      heads(one.heldOut, 'top1'),
      heads(one.heldOut, 'top10'),
      ...one.rates.map(({ tokensPerStep }) => fixed(tokensPerStep, 3)),
    ]),
  ]
}

export function report(results: readonly BenchResult[]): Rendered {
  const text = sections(results, (result) => {
    const { model, data, base, prompts, promptTokens, tokens } = result.options as OptionsBenchOptions
    const given = Object.entries(base)
      .map(([name, value]) => `${name} ${value}`)
      .join(', ')
    const from = data.map((file) => basename(file)).join(', ')
    const where = `${basename(model)}, fresh heads learnt from ${from}; every run has ${given}, and one change.`
    const how = `Tokens/step on ${prompts} of the project's own sources: ${promptTokens} tokens of each as the prompt, ${tokens} after it.`
    return `${where} ${how}\n\n${markdownTable(optionsTable(measurementsOf(result, OptionsMeasurement)))}`
  })
  return { tables: { 'training-options': text }, plots: {} }
}
