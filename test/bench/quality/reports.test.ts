// Tables of scores: what is lost is counted on the same cases, marked, and put into words.
import { describe, expect, it } from 'vitest'
import { ARM_KINDS, type ArmKind } from '../../../bench/quality/arms.js'
import { report as completionReport } from '../../../bench/quality/completion.report.js'
import { report as hitRateReport } from '../../../bench/quality/hit-rate.report.js'
import { report as longevalReport } from '../../../bench/quality/longeval.report.js'
import { foundByDepth, report as needleReport } from '../../../bench/quality/needle.report.js'
import { representatives, scoreTable, verdict } from '../../../bench/quality/score-tables.js'
import { encodeScores } from '../../../bench/quality/scores.js'
import { summaryTable } from '../../../bench/quality/summary.js'
import type { BenchResult } from '../../../bench/support/results.js'
import { sampleResult } from '../sample.js'

/** `right` of `count` cases, the wrong ones last; or scores as they are. */
type Scores = readonly [right: number, count: number] | readonly (number | null)[]

const isCount = (scores: Scores): scores is readonly [number, number] => scores.length === 2 && scores[1]! > 1

function measurement(kind: ArmKind, budget: number | null, length: number, promptTokens: number, scores: Scores) {
  const cases = isCount(scores) ? Array.from({ length: scores[1] }, (_, i) => (i < scores[0] ? 1 : 0)) : scores
  return {
    arm: budget === null ? kind : `${kind}-${budget}`,
    kind,
    budget,
    length,
    promptTokens,
    scores: encodeScores(cases),
  }
}

const resultOf = (bench: string, measurements: readonly unknown[], options: object = {}): BenchResult =>
  sampleResult({ bench, measurements, options: { model: 'demo', ...options } })

const LINES = resultOf('quality/longeval', [
  measurement('full', null, 100, 2700, [40, 50]),
  measurement('full', null, 200, 5400, [40, 50]),
  measurement('full', null, 300, 8100, [40, 50]),
  measurement('snapkv', 128, 100, 2700, [10, 50]),
  measurement('snapkv', 128, 200, 5400, [10, 50]),
  measurement('snapkv', 128, 300, 8100, [10, 50]),
  measurement('snapkv', 1024, 100, 2700, [0, 50]),
  measurement('snapkv', 1024, 200, 5400, [40, 50]),
  measurement('snapkv', 1024, 300, 8100, [39, 50]),
  measurement('h2o', 1024, 100, 2700, [1, 50]),
  measurement('h2o', 1024, 200, 5400, [1, 50]),
  measurement('h2o', 1024, 300, 8100, [1, 50]),
])

describe('points', () => {
  const { tables, plots } = longevalReport([LINES], () => [])
  const table = tables['quality-longeval']!

  it('stand with what is lost against the full cache, bold where it is more than two', () => {
    expect(table).toContain('| full cache | 80.0 | 80.0 | 80.0 | 80.0 | 73–86 |')
    expect(table).toContain('| SnapKV 1024 | **0.0 (−80.0)** | 80.0 (±0.0) | 78.0 (−2.0) | **52.7 (−27.3)** | 45–60 |')
    expect(table).toContain('| cases | 50 | 50 | 50 | 150 |  |')
    expect(table).toContain('200 lines, 5.4K tokens')
  })

  it('stand under the command that made them', () => {
    expect(table.startsWith('`npm run bench -- quality/longeval`\n')).toBe(true)
  })

  it('are drawn by budget, and by policy at one budget', () => {
    expect(Object.keys(plots)).toEqual(['quality-longeval-budgets', 'quality-longeval-policies'])
    expect(plots['quality-longeval-budgets']).toContain('SnapKV 128')
    expect(plots['quality-longeval-policies']).not.toContain('SnapKV 128')
    expect(plots['quality-longeval-policies']).toContain('H2O 1024')
    for (const name of Object.keys(plots)) expect(table).toContain(`(bench/plots/${name}.svg)`)
  })

  it('of cases not asked are left out on both sides', () => {
    const partly = resultOf('quality/longeval', [
      measurement('full', null, 200, 5400, [1, null, 0, 1]),
      measurement('snapkv', 1024, 200, 5400, [1, null, 0, 0]),
    ])
    const text = longevalReport([partly], () => []).tables['quality-longeval']!
    expect(text).toContain('**33.3 (−33.3)**')
    expect(text).toContain('| cases | 3 | 3 |  |')
  })

  it('without a full cache are points alone', () => {
    const alone = resultOf('quality/longeval', [measurement('snapkv', 1024, 200, 5400, [1, 0, 0])])
    const text = longevalReport([alone], () => []).tables['quality-longeval']!
    expect(text).toContain('| SnapKV 1024 | 33.3 | 33.3 |')
    expect(verdict(scoreTable(alone))).toBe('')
  })

  it('name cases that were too long', () => {
    const result = resultOf('quality/longeval', LINES.measurements, { tooLong: { 680: 7 } })
    expect(longevalReport([result], () => []).tables['quality-longeval']).toContain('context: 7 of 680 lines.')
  })

  it('of another version are refused', () => {
    expect(() => longevalReport([resultOf('quality/longeval', [{ arm: 'full', points: 80 }])], () => [])).toThrow(
      /measurement 0/,
    )
  })
})

describe('the verdict on a budget of 1024', () => {
  const of = (...byLength: (readonly [full: number, kept: number])[]) =>
    verdict(
      scoreTable(
        resultOf(
          'quality/longeval',
          byLength.flatMap(([full, kept], i) => [
            measurement('full', null, i, 4000 + 4000 * i, [full, 50]),
            measurement('snapkv', 1024, i, 4000 + 4000 * i, [kept, 50]),
          ]),
        ),
      ),
    )

  it('is on long prompts only', () => {
    // The 2.7K prompts, of which it gets none right, do not count.
    expect(verdict(scoreTable(LINES))).toContain('SnapKV 1024 loses 1.0 points')
    expect(verdict(scoreTable(LINES))).toContain(
      'over prompts of 5.4K to 8.1K tokens: within 2 points at every length.',
    )
  })

  it('says plainly when too much is lost, where, and how sure that is', () => {
    const text = of([40, 30], [40, 39])
    expect(text).toContain('loses 11.0 points')
    expect(text).toContain('**more than the 2 it should stay within**')
    expect(text).toContain('Lost: 20.0 at 4.0K.')
    expect(text).toContain('worse in 11 and better in 0 of 100 cases')
  })

  it('does not let one length hide behind the others', () => {
    const text = of([40, 40], [40, 40], [40, 38])
    expect(text).toContain('loses 1.3 points')
    expect(text).toContain('within 2 points over all, **but not at every length**')
    expect(text).toContain('Lost: 4.0 at 12.0K.')
  })

  it('speaks of gains and of nothing', () => {
    expect(of([40, 41])).toContain('gains 2.0 points')
    expect(of([40, 40])).toContain('loses nothing')
  })
})

describe('several results', () => {
  const few = resultOf('quality/longeval', [measurement('full', null, 200, 5400, [1, 3])])

  it('the one with the most answers speaks for its model', () => {
    expect(representatives([few, LINES]).map(({ result }) => result)).toEqual([LINES])
    const other = resultOf('quality/longeval', few.measurements, { model: 'models/other' })
    expect(representatives([few, LINES, other]).map(({ result }) => result)).toEqual([LINES, other])
  })
})

describe('the summary', () => {
  it('has a row per benchmark there is, of long prompts, and every verdict', () => {
    const completion = resultOf('quality/completion', [
      measurement('full', null, 4096, 4096, [0.5, 0.7, 0.6]),
      measurement('snapkv', 1024, 4096, 4096, [0.5, 0.6, 0.6]),
    ])
    const results: Record<string, BenchResult[]> = { 'quality/longeval': [LINES], 'quality/completion': [completion] }
    const resultsFor = (bench: string) => results[bench] ?? []
    const text = summaryTable(resultsFor)
    expect(text).toContain('| LongEval-lines, % right | 80.0 | – | 79.0 | – | – | **20.0** | **2.0** | – |')
    expect(text).toContain('| next line of code, edit similarity | 60.0 | – | **56.7** | – | – | – | – | – |')
    expect(text).not.toContain('needle')
    expect(text).toContain('- LongEval-lines: SnapKV 1024 loses 1.0 points')
    expect(longevalReport([LINES], resultsFor).tables['quality']).toBe(text)
    expect(completionReport([completion], resultsFor).tables['quality']).toBe(text)
  })
})

describe('the heat maps of needles', () => {
  const result = resultOf(
    'quality/needle',
    [
      // Three depths, asked twice; the last was not asked the second time.
      measurement('full', null, 4096, 4096, [1, 0, 1, 1, 1, null]),
      measurement('full', null, 8192, 8192, [null, 0, null, null, null, null]),
      measurement('h2o', 1024, 4096, 4096, [0, 0, 0, 0, 0, null]),
      measurement('h2o', 1024, 8192, 8192, [null, 0, null, null, null, null]),
    ],
    { depths: 3 },
  )

  it('have what was found at every depth and length', () => {
    const table = scoreTable(result)
    expect(foundByDepth(table, table.rows[0]!)).toEqual([
      [100, null],
      [50, 0],
      [100, null],
    ])
  })

  it('are one for each arm, all of them shown', () => {
    const { tables, plots } = needleReport([result], () => [])
    expect(Object.keys(plots)).toEqual(['quality-needle-full', 'quality-needle-h2o-1024'])
    for (const name of Object.keys(plots)) expect(tables['quality-needle']).toContain(`(bench/plots/${name}.svg)`)
    expect(plots['quality-needle-h2o-1024']).toContain('H2O 1024')
  })
})

describe('the attention study', () => {
  const place = { length: 4096, depth: 0 }
  const hit = (window: number, threshold: number, parts: string) => ({
    ...place,
    measure: 'hit rate',
    window,
    threshold,
    parts,
    wholes: '10 10',
  })
  const recall = (kind: ArmKind, budget: number | null, parts: string) => ({
    ...place,
    measure: 'recall',
    arm: `${kind}-${budget}`,
    kind,
    budget,
    parts,
    wholes: '1 1',
  })
  const measurements = [
    hit(16, 0.05, '8 6'),
    hit(32, 0.05, '9 7'),
    hit(32, 0.005, '5 5'),
    ...ARM_KINDS.map((kind) => recall(kind, kind === 'full' ? null : 1024, kind === 'full' ? '1 1' : '0.5 0.75')),
  ]
  const result = resultOf('quality/hit-rate', measurements, { texts: 2, share: 0.05, temperature: 0.7, rows: 8 })

  it('has hit rates and recall as tables, and by layer as plots', () => {
    const { tables, plots } = hitRateReport([result])
    const text = tables['quality-hit-rate']!
    expect(text).toContain('| 0.05 | 16 | 4096 | 70.0 | 70.0 |')
    expect(text).toContain('| 0.05 | 32 | 4096 | 80.0 | 80.0 |')
    expect(text).toContain('| SnapKV 1024, no pool | 62.5 | 62.5 |')
    expect(text).toContain('| full cache | 100.0 | 100.0 |')
    expect(Object.keys(plots)).toEqual([
      'quality-hit-rate-windows',
      'quality-hit-rate-depths',
      'quality-recall-budgets',
      'quality-recall-policies',
    ])
    for (const name of Object.keys(plots)) expect(text).toContain(`(bench/plots/${name}.svg)`)
    expect(plots['quality-hit-rate-windows']).toContain('window of 16')
    expect(plots['quality-recall-policies']).toContain('StreamingLLM 1024')
  })
})
