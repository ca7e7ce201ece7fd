// What the training benchmark found: tokens per step of fresh heads beside those a model came with, and how they came about.
import { basename } from 'node:path'
import { z } from 'zod'
import { lineChart } from '../../src/charts.js'
import { measurementsOf, plotName, type Rendered, sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { fixed, markdownTable, percent, short } from '../support/table.js'
import { Rate } from './rates.js'

/** Heads as they were at some moment of a run, or as the model came with them. */
export const TrainingMeasurement = z.object({
  heads: z.enum(['shipped', 'fresh']),
  /** Of the run, when these were measured. */
  step: z.int(),
  /** Read by then. */
  tokens: z.int(),
  /** Of training by then: the wall's time, measuring left out. */
  seconds: z.number(),
  rates: z.array(Rate),
  /** Of each head, on texts held out; null where it was not looked at. */
  heldOut: z.array(z.object({ top1: z.number(), top5: z.number(), top10: z.number() })).nullable(),
})
export type TrainingMeasurement = Readonly<z.infer<typeof TrainingMeasurement>>

export interface TrainingBenchOptions {
  readonly model: string
  /** Files learnt from; with `selfDistill` those whose beginnings the model went on from. */
  readonly data: readonly string[]
  /** Tokens that the model wrote to learn from, and the seconds that took. */
  readonly selfDistill: number
  readonly distillSeconds: number | null
  readonly medusaHeads: number
  readonly layers: number
  readonly private: boolean
  readonly epochs: number
  readonly batchTokens: number
  readonly learningRate: number
  readonly prompts: number
  readonly promptTokens: number
  readonly tokens: number
}

const optionsOf = ({ options }: Pick<BenchResult, 'options'>): TrainingBenchOptions => options as TrainingBenchOptions

/** What is asked of fresh heads: this share of the tokens per step of heads that were trained together with the model. */
const GOAL = 0.93

/** Runs on other text, or of other heads, stand beside each other. */
export function variantOf(result: BenchResult): string {
  const { model, data, selfDistill, layers, private: isPrivate } = optionsOf(result)
  return JSON.stringify([basename(model), data, selfDistill, layers, isPrivate])
}

const nameOf = ({ tree, temperature }: Rate): string =>
  `${tree}, ${temperature === 0 ? 'greedy' : `temperature ${temperature}`}`

/** A head, then a row per tree and temperature: heads a model came with, and the last of the run. */
export function ratesTable(measurements: readonly TrainingMeasurement[]): string[][] {
  const shipped = measurements.find(({ heads }) => heads === 'shipped')
  const last = measurements.findLast(({ heads }) => heads === 'fresh')
  return [
    ['tree', 'nodes', 'shipped heads, tokens/step', 'fresh heads, tokens/step', 'fresh / shipped'],
    ...(last?.rates ?? []).map((rate, i) => {
      const before = shipped?.rates[i]
      const nodes = [before, rate].map((one) => fixed(one?.nodes, 0))
      return [
        nameOf(rate),
        [...new Set(nodes)].join(' / '),
        fixed(before?.tokensPerStep, 2),
        fixed(rate.tokensPerStep, 2),
        fixed(before && rate.tokensPerStep / before.tokensPerStep, 3),
      ]
    }),
  ]
}

/** A head, then a row per moment of the run. */
export function progressTable(measurements: readonly TrainingMeasurement[]): string[][] {
  const fresh = measurements.filter(({ heads }) => heads === 'fresh')
  const shipped = measurements.find(({ heads }) => heads === 'shipped')
  const names = (fresh[0]?.rates ?? []).map(nameOf)
  return [
    ['seconds', 'steps', 'tokens read', ...names, 'held out, top-1 of each head'],
    ...[...fresh, ...(shipped ? [shipped] : [])].map((one) => [
      ...(one.heads === 'shipped'
        ? ['shipped', '', '']
        : [fixed(one.seconds, 0), String(one.step), String(one.tokens)]),
      ...one.rates.map(({ tokensPerStep }) => fixed(tokensPerStep, 2)),
      one.heldOut?.map(({ top1 }) => percent(top1, 1)).join(' ') ?? '',
    ]),
  ]
}

export function report(results: readonly BenchResult[]): Rendered {
  const plots = new Map<string, string>()
  const text = sections(results, (result) => {
    const measurements = measurementsOf(result, TrainingMeasurement)
    const { data, selfDistill, layers, private: isPrivate } = optionsOf(result)
    const variant = [selfDistill > 0 ? `self ${selfDistill}` : data.map((file) => basename(file)).join(' ')]
    if (layers !== 1) variant.push(`${layers} layers`)
    if (isPrivate) variant.push('private')
    const plot = plotName('training', result, variant.join(' '))
    plots.set(plot, plotOf(result, measurements))
    const image = `![tokens per step over seconds of training](bench/plots/${plot}.svg)`
    const tables = [ratesTable, progressTable].map((table) => markdownTable(table(measurements)))
    return [conditionsOf(result, measurements), ...tables, image].join('\n\n')
  })
  return { tables: { training: text }, plots: Object.fromEntries(plots) }
}

function conditionsOf(result: BenchResult, measurements: readonly TrainingMeasurement[]): string {
  const options = optionsOf(result)
  const { model, data, selfDistill, distillSeconds, medusaHeads, layers, epochs, batchTokens, learningRate } = options
  const last = measurements.findLast(({ heads }) => heads === 'fresh')
  const rate = last && last.seconds > 0 ? last.tokens / last.seconds : null
  const files = [...new Set(data.map((file) => basename(file)))].join(', ')
  const wrote = [
    `${selfDistill} tokens that the model wrote`,
    ...(distillSeconds === null ? [] : [`in ${fixed(distillSeconds, 0)} s`]),
    ...(files === '' ? [] : [`after beginnings of ${files}`]),
  ].join(' ')
  const learnt = selfDistill > 0 ? wrote : files
  const kind = `${medusaHeads} ${options.private ? 'private' : 'shared'} heads of ${layers} ${layers === 1 ? 'block' : 'blocks'}`
  return [
    `${basename(model)}, frozen; fresh ${kind} learnt from ${learnt}:`,
    `${epochs} ${epochs === 1 ? 'epoch' : 'epochs'}, ${last?.step ?? 0} steps of about ${batchTokens} tokens, learning rate ${learningRate},`,
    `${last?.tokens ?? 0} tokens read in ${fixed(last?.seconds, 0)} s (${short(rate)} tokens/s).`,
    `Tokens/step on ${options.prompts} of the project's own sources: ${options.promptTokens} tokens of each as the prompt, ${options.tokens} after it.`,
  ].join(' ')
}

function plotOf(result: BenchResult, measurements: readonly TrainingMeasurement[]): string {
  const fresh = measurements.filter(({ heads }) => heads === 'fresh')
  const shipped = measurements.find(({ heads }) => heads === 'shipped')
  const names = (fresh[0]?.rates ?? []).map(nameOf)
  return lineChart({
    title: `Fresh heads for ${basename(optionsOf(result).model)}: tokens per step, over those of its own heads`,
    x: { label: 'seconds of training' },
    y: { label: 'share of the shipped heads’ tokens per step' },
    series: names.map((name, i) => ({
      name,
      points: fresh.flatMap(({ seconds, rates }) => {
        const before = shipped?.rates[i]
        return before && rates[i] ? [{ x: seconds, y: rates[i].tokensPerStep / before.tokensPerStep }] : []
      }),
    })),
    guides: [
      { y: 1, label: 'shipped heads' },
      { y: GOAL, label: `${GOAL}` },
    ],
  })
}
