// What the latency benchmark's runs come to.
import { describe, expect, test } from 'vitest'
import {
  type LatencyMeasurement,
  latencyTable,
  measurementOf,
  report,
  summariseLatency,
  variantOf,
} from '../../../bench/server/latency.report.js'
import type { Timed } from '../../../bench/server/load.js'
import { digestOf, tpotOf, ttftOf } from '../../../bench/server/times.js'
import { sampleResult } from '../sample.js'

/** An answer due at 1000 ms, with chunks at these times after that. */
function answer(chunks: readonly number[], of: Partial<Timed> = {}): Timed {
  return {
    question: 0,
    dueMs: 1000,
    firstByteMs: 1002,
    arrivals: chunks.map((at) => ({ atMs: 1000 + at, hasText: true })),
    endMs: 1000 + (chunks.at(-1) ?? 0),
    tokens: chunks.length,
    text: 'x'.repeat(chunks.length),
    ids: null,
    ...of,
  }
}

const LOAD = { loop: 'closed', clients: 16 } as const
const LIMITS = { ttftMs: 50, tpotMs: 10 }

function measured(of: Partial<LatencyMeasurement>, gapMs = 5): LatencyMeasurement {
  const answers = [answer([20, 20 + gapMs, 20 + 2 * gapMs])]
  const run = { transport: 'library', round: 0, load: LOAD, limits: LIMITS } as const
  return { ...measurementOf({ answers, wallMs: 1000, busyMs: 3, lagsMs: [0.25, 0.25, 0.25] }, run), ...of }
}

describe('a run', () => {
  test('has its times from when a request was due', () => {
    const one = answer([20, 26, 40])
    expect(ttftOf(one)).toBe(20)
    expect(tpotOf(one)).toBe(10)
    expect(measured({})).toMatchObject({
      requests: 1,
      tokens: 3,
      chunks: 3,
      firstByteMs: { n: 1, p50: 2 },
      ttftMs: { p50: 20 },
      gapMs: { n: 2, p50: 5 },
      lagMs: { n: 3, p50: 0.25 },
      e2eMs: { p50: 30 },
    })
  })

  test('counts text, not chunks, as the first sign of an answer to a reader', () => {
    const arrivals = [
      { atMs: 1010, hasText: false },
      { atMs: 1030, hasText: true },
    ]
    expect(ttftOf(answer([], { arrivals }))).toBe(30)
    expect(ttftOf(answer([], { arrivals: arrivals.slice(0, 1) }))).toBe(10)
  })

  test.each([
    ['is good within both limits', [50, 60, 70], 1],
    ['is not when its text begins late', [51, 60, 70], 0],
    ['is not when its tokens come slowly', [20, 30, 41], 0],
    ['is good with one token in time', [50], 1],
  ])('a request %s', (_, chunks, good) => {
    const run = { transport: 'sse', round: 0, load: LOAD, limits: LIMITS } as const
    expect(measurementOf({ answers: [answer(chunks)], wallMs: 1, busyMs: 0, lagsMs: [] }, run).good).toBe(good)
  })

  test('what was never seen has no time', () => {
    expect(digestOf([])).toEqual({ n: 0, mean: null, p50: null, p95: null, p99: null, max: null })
    const run = { transport: 'library', round: 0, load: LOAD, limits: LIMITS } as const
    const answers = [answer([1], { firstByteMs: null })]
    expect(measurementOf({ answers, wallMs: 1, busyMs: 0, lagsMs: [] }, run).firstByteMs.n).toBe(0)
  })
})

describe('the summary', () => {
  test('says what a step costs more than in the library of the same round', () => {
    const [library, websocket] = summariseLatency([
      measured({ transport: 'library', round: 0 }, 5),
      measured({ transport: 'library', round: 1 }, 15),
      measured({ transport: 'websocket', round: 0 }, 6),
      // The second round met a machine three times as slow, library and server alike.
      measured({ transport: 'websocket', round: 1 }, 16),
    ])
    expect(library!.added.gapMs.median).toBe(0)
    expect(websocket!.added.gapMs).toMatchObject({ n: 2, median: 1, p10: 1, p90: 1 })
    expect(websocket!.busyUs.median).toBe(1000)
    expect(websocket!.goodput.median).toBe(0.5)
  })

  test('where it is not known when chunks were made nothing is said of their way', () => {
    const summaries = summariseLatency([
      measured({}),
      measured({ transport: 'sse', lagMs: digestOf([]), firstByteMs: digestOf([2]) }),
    ])
    expect(summaries[1]!.added.lagMs.n).toBe(0)
    expect(latencyTable(summaries)[2]!.slice(1, 8)).toEqual([
      'SSE',
      '2.00 / 2.00 / 2.00',
      '20.0 / 20.0 / 20.0',
      '5.00 / 5.00 / 5.00',
      '5.00 / 5.00 / 5.00',
      '+0.00',
      '–',
    ])
  })

  test('loads go from few clients to many, then from low rates to high, the library first', () => {
    const open = (share: number, perSecond: number) => ({ loop: 'open', share, perSecond }) as const
    const summaries = summariseLatency([
      measured({ load: open(0.8, 80) }),
      measured({ load: { loop: 'closed', clients: 64 }, transport: 'sse' }),
      measured({ load: { loop: 'closed', clients: 64 } }),
      measured({ load: { loop: 'closed', clients: 4 } }),
      measured({ load: open(0.5, 50) }),
      // Another capacity, hence another rate, and the same load.
      measured({ load: open(0.5, 55), round: 1 }),
    ])
    expect(latencyTable(summaries).map((row) => row.slice(0, 2))).toEqual([
      ['load', 'asked over'],
      ['4 clients', 'library'],
      ['64 clients', 'library'],
      ['64 clients', 'SSE'],
      ['50% of capacity', 'library'],
      ['80% of capacity', 'library'],
    ])
    expect(summaries[3]!.tokensPerSecond.n).toBe(2)
  })
})

test('the report has a table, its conditions, a legend and a plot', () => {
  const options = {
    model: 'demo',
    speculation: 'off',
    promptLengths: [32],
    tokens: 3,
    clients: [16],
    requestsEach: 1,
    loads: [],
    openRequests: 0,
    rounds: 1,
    limits: LIMITS,
    quick: false,
  }
  const measurements = [measured({}), measured({ transport: 'websocket' }, 6), measured({ transport: 'sse' }, 7)]
  const result = sampleResult({ bench: 'server/latency', options, measurements })
  const { tables, plots } = report([result])
  expect(tables['server-latency']).toContain('first text within 50 ms and at most 10 ms per token')
  expect(tables['server-latency']).toMatch(/\| 16 clients \| WebSocket \| .* \| \+1\.00 \| \+0\.00 \|/)
  expect(tables['server']).toMatch(
    /\| load \| asked over \| first byte ms \| TTFT ms \| step, added ms \| arrival, added ms \| tokens\/s \|/,
  )
  expect(tables['server']).toContain('| 16 clients | SSE | 2.00 / 2.00 / 2.00 | 20.0 / 20.0 / 20.0 | +2.00 | +0.00 |')
  expect(tables['server-latency']).toContain('(bench/plots/server-latency-fast-avx512-2t.svg)')
  expect(plots['server-latency-fast-avx512-2t']).toContain('>SSE: step</text>')
  expect(variantOf(result)).not.toBe(variantOf({ ...result, options: { ...options, speculation: 'auto' } }))
})
