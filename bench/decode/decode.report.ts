// What the decode benchmark found: speed, latency, memory and acceptance, by prompt length and arm.
import { basename } from 'node:path'
import { ARM_NAMES, ARMS, DecodeRun } from '../../src/bench/decode.js'
import { acceptanceRows, type DecodeSummary, speedRows, summariseDecode } from '../../src/bench/decode-summary.js'
import { lineChart } from '../../src/charts.js'
import type { DecodeBenchOptions } from '../../src/cli/bench.js'
import { measurementsOf, plotName, type Rendered, section } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { markdownTable } from '../support/table.js'

/** Of the whole table, what a first look needs. */
const FIRST_LOOK = ['prompt', 'arm', 'tokens/s', 'x plain', 'tokens/step', 'TTFT ms', 'KV cache MiB']

const optionsOf = ({ options }: BenchResult): DecodeBenchOptions => options as DecodeBenchOptions

/** Other models, rules of sampling, trees and budgets stand beside each other. */
export function variantOf(result: BenchResult): string {
  const { model, dtype, weights, temperature, mode, tree, budget, window } = optionsOf(result)
  return JSON.stringify([basename(model), dtype, weights, temperature, mode, tree, budget, window])
}

/** What the plot's name says of a variant that is not the default one. */
function nameOfVariant(result: BenchResult): string {
  const { model, weights, temperature, mode, tree, budget } = optionsOf(result)
  return [
    model !== 'demo' && basename(model),
    weights !== 'full' && weights,
    temperature !== 0 && `temperature ${temperature}`,
    mode !== 'auto' && `mode ${mode}`,
    tree !== 'auto' && `tree ${tree}`,
    budget !== 1024 && `budget ${budget}`,
  ]
    .filter(Boolean)
    .join(' ')
}

export function report(results: readonly BenchResult[]): Rendered {
  const found = results.map((result) => ({
    result,
    summaries: summariseDecode(measurementsOf(result, DecodeRun)),
    plot: plotName('decode', result, nameOfVariant(result)),
  }))
  return {
    tables: {
      decode: found.map(({ result, summaries, plot }) => section(result, overview(result, summaries, plot))).join('\n'),
      'decode-details': found.map(({ result, summaries }) => section(result, details(summaries))).join('\n'),
    },
    plots: Object.fromEntries(found.map(({ result, summaries, plot }) => [plot, speedPlot(result, summaries)])),
  }
}

function conditions(result: BenchResult): string {
  const { model, dtype, weights, tokens, temperature, mode, tree, budget, window, rounds } = optionsOf(result)
  const how = temperature === 0 ? 'greedy' : `temperature ${temperature}`
  return `${basename(model)} in ${dtype}${weights === 'int8' ? ' with int8 weights' : ''}, ${how}, ${mode === 'medusa' ? 'speculating at every step, ' : ''}tree \`${tree}\`, budget ${budget}, window ${window}; ${tokens} tokens after each prompt; medians of ${rounds} rounds (p10–p90), each with another prompt.`
}

function overview(result: BenchResult, summaries: readonly DecodeSummary[], plot: string): string {
  const [head = [], ...body] = speedRows(summaries)
  const columns = FIRST_LOOK.map((name) => head.indexOf(name))
  const rows = [head, ...body].map((row) => columns.map((column) => row[column]!))
  return `${conditions(result)}\n\n${markdownTable(rows)}\n![tokens per second by prompt length](bench/plots/${plot}.svg)`
}

function details(summaries: readonly DecodeSummary[]): string {
  const acceptance = acceptanceRows(summaries)
  const byDepth = `Trees, what the gate decided, and drafts accepted of those offered at a depth:\n\n${markdownTable(acceptance)}`
  return `${markdownTable(speedRows(summaries))}\n${acceptance.length > 0 ? byDepth : ''}`
}

function speedPlot(result: BenchResult, summaries: readonly DecodeSummary[]): string {
  return lineChart({
    title: `Decoding speed: ${basename(optionsOf(result).model)}, ${result.machine.cpu}, ${result.machine.isa}`,
    x: { label: 'prompt tokens', scale: 'log', ticks: [...new Set(summaries.map((one) => one.promptTokens))] },
    y: { label: 'tokens per second' },
    series: ARM_NAMES.map((arm) => ({
      name: ARMS[arm].name,
      points: summaries
        .filter((one) => one.arm === arm)
        .map(({ promptTokens, tokensPerSecond: { median, p10, p90 } }) => ({
          x: promptTokens,
          y: median,
          low: p10,
          high: p90,
        })),
    })).filter((series) => series.points.length > 0),
  })
}
