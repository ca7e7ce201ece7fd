// Results of quality/int8 as a table.
import { sections } from '../support/report.js'
import type { BenchResult } from '../support/results.js'
import { harmonicMeanOf, summaryOf } from '../support/statistics.js'
import { fixed, markdownTable, percent, spread } from '../support/table.js'
import type { Int8Measurement, Int8Options, Int8Text } from './int8.bench.js'

type Int8Result = BenchResult<Int8Options, Int8Measurement>

const MIB = 2 ** 20
const total = (texts: readonly Int8Text[], of: (text: Int8Text) => number): number =>
  texts.reduce((sum, text) => sum + of(text), 0)
/** Over all rows that have one: texts differ in length. */
const meanLoss = (texts: readonly Int8Text[]): number =>
  total(texts, ({ logits }) => logits.loss * (logits.rows - 1)) / total(texts, ({ logits }) => logits.rows - 1)
const meanDivergence = (texts: readonly Int8Text[]): number =>
  total(texts, ({ logits }) => logits.divergence * logits.rows) / total(texts, ({ logits }) => logits.rows)
const tokensPerStep = (texts: readonly Int8Text[]): string =>
  fixed(harmonicMeanOf(texts.map(({ greedy }) => greedy.tokensPerStep)), 2)

export function int8Table({ measurements }: Int8Result): string {
  const [baseline] = measurements
  const baselineLoss = meanLoss(baseline!.texts)
  const rows = measurements.map(({ arm, weightBytes, headsBytes, texts }) => {
    const isBaseline = arm === baseline!.arm
    const loss = meanLoss(texts)
    const change = 100 * (Math.exp(loss - baselineLoss) - 1)
    const agreements = total(texts, ({ logits }) => logits.agreements)
    const rowsOf = total(texts, ({ logits }) => logits.rows)
    return [
      arm,
      fixed((weightBytes + headsBytes) / MIB, 1),
      isBaseline ? '' : spread(summaryOf(texts.map(({ logits }) => 100 * logits.error)), (value) => fixed(value, 2)),
      isBaseline ? '' : meanDivergence(texts).toPrecision(2),
      isBaseline ? '' : `${fixed((100 * agreements) / rowsOf, 2)}%`,
      fixed(loss, 4),
      isBaseline ? '' : `${change < 0 ? '' : '+'}${fixed(change, 2)}%`,
      isBaseline
        ? ''
        : percent(
            total(texts, ({ greedy }) => Number(greedy.same === greedy.tokens)),
            texts.length,
          ),
      isBaseline ? '' : spread(summaryOf(texts.map(({ greedy }) => greedy.same)), (value) => fixed(value)),
      tokensPerStep(texts),
    ]
  })
  const head = [
    'weights',
    'MiB',
    'logit error, %',
    'KL, nats',
    'same top token',
    'loss, nats',
    'perplexity',
    'same text',
    'tokens until it parts',
    'tokens/step',
  ]
  return markdownTable([head, ...rows])
}

function describe({ options, measurements }: Int8Result): string {
  const texts = measurements[0]!.texts.length
  return (
    `${texts} texts of at most ${options.tokens} tokens, each continued greedily by ${options.greedy} with a tree of ${options.tree}; everything relative to f32. ` +
    'Logit error: norm of the difference over the norm. Median (p10–p90) of texts; MiB of model and heads.'
  )
}

const modelOf = ({ options }: Int8Result): string => options.model

export const variantOf = (result: BenchResult): string => modelOf(result as Int8Result)

/** Of each model one table: every machine gives the same numbers. */
export function report(results: readonly BenchResult[]) {
  const all = results as readonly Int8Result[]
  const newest = all.filter((result) => result === all.find((other) => modelOf(other) === modelOf(result)))
  const tables = { int8: sections(newest, (result) => `${describe(result)}\n\n${int8Table(result)}`) }
  return { tables, plots: {} }
}
