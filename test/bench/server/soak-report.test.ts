// What a soak's measurements come to.
import { describe, expect, test } from 'vitest'
import {
  type Crowd,
  crowdProblems,
  type Fault,
  growthOf,
  memoryTable,
  report,
} from '../../../bench/server/soak.report.js'
import { sampleResult } from '../sample.js'

const MIB = 2 ** 20

/** Twenty looks at a heap: it fills for the first two hundred requests, then each request leaves so many bytes. */
function samples(leftPerRequest: number): Crowd['samples'] {
  return Array.from({ length: 20 }, (_, i) => {
    const requests = 50 * (i + 1)
    const settled = Math.max(0, requests - 200)
    const heapBytes = Math.min(requests, 200) * MIB + settled * leftPerRequest
    return { requests, heapBytes, externalBytes: MIB, rssBytes: 300 * MIB - requests * 1000, files: 30 }
  })
}

const crowd: Crowd = {
  kind: 'crowd',
  clients: 64,
  requests: 1000,
  tokens: 32_000,
  wallMs: 8000,
  gapMs: { n: 31_000, mean: 9, p50: 8, p95: 12, p99: 20, max: 45 },
  fairness: 0.987,
  samples: samples(24),
}

const fault: Fault = {
  kind: 'fault',
  name: 'readers that stall',
  size: '4 sockets of 8 streams',
  requests: 32,
  ended: 32,
  ends: { 'closed 4499': 30, length: 2 },
  restMs: 12.6,
  heapGrowthBytes: 2 ** 18,
  wallMs: 3456,
  coalesced: 100,
  parked: 8,
  slowCloses: 4,
}

test('what a request leaves behind is the slope once pools are full', () => {
  expect(growthOf(samples(24), 'heapBytes')).toBeCloseTo(24, 6)
  expect(growthOf(samples(0), 'heapBytes')).toBeCloseTo(0, 6)
  expect(growthOf(samples(0), 'rssBytes')).toBeCloseTo(-1000, 6)
})

describe('a crowd that is not served as it must be', () => {
  const long = (made: Partial<Crowd>): Crowd => ({
    ...crowd,
    requests: 10_000,
    samples: crowd.samples.map((sample) => ({ ...sample, requests: 10 * sample.requests })),
    ...made,
  })
  const leaking = (perRequest: number) =>
    long({
      samples: samples(0).map((sample) => ({
        ...sample,
        requests: 10 * sample.requests,
        heapBytes: MIB + 10 * sample.requests * perRequest,
      })),
    })

  test('has nothing wrong otherwise', () => expect(crowdProblems(long({}))).toEqual([]))

  test('leaves memory behind', () => {
    expect(crowdProblems(leaking(900))).toEqual([])
    expect(crowdProblems(leaking(1100))).toEqual(['each request left 1100 bytes in the heap'])
  })

  test('too short a one says nothing about memory', () => {
    expect(crowdProblems({ ...leaking(5000), requests: 1999 })).toEqual([])
  })

  test('leaves files open', () => {
    const more = crowd.samples.map((sample, i) => ({ ...sample, files: i === 19 ? 33 : 30 }))
    expect(crowdProblems({ ...crowd, samples: more })).toEqual(['3 more files were open at the end'])
  })

  test('starves', () => {
    expect(crowdProblems(long({ fairness: 0.5 }))).toEqual([])
    expect(crowdProblems(long({ fairness: 0.31 }))).toEqual(['streams starved: the fairness of a round was 0.310'])
  })
})

test('memory is shown after a fifth, half and all of the requests', () => {
  expect(memoryTable(crowd)).toEqual([
    ['MiB', 'after 200 requests', 'after 500 requests', 'after 1000 requests', 'bytes a request leaves'],
    ['heap', '200.0', '200.0', '200.0', '24'],
    ['outside the heap', '1.0', '1.0', '1.0', '0'],
    ['resident', '299.8', '299.5', '299.0', '-1000'],
    ['open files', '30', '30', '30', ''],
  ])
})

test('the report has the crowd, its memory, the faults, and what was held to be so', () => {
  const options = { model: 'demo', clients: 64, requests: 1000, tokens: 32, temperature: 0.8, quick: false }
  const result = sampleResult({ bench: 'server/soak', options, measurements: [crowd, fault] })
  const { 'server-soak': text } = report([result]).tables
  expect(text).toContain('| 64 | 1000 | 4000 | 8.00 / 12.0 / 20.0 / 45.0 | 0.987 |')
  expect(text).toContain('| open files | 30 | 30 | 30 |')
  expect(text).toContain(
    '| readers that stall | 4 sockets of 8 streams | 32 | 32 | 30 closed 4499, 2 length | 3.5 | 13 | 0.3 | 100 coalesced, 8 parked, 4 closed |',
  )
  expect(text).toContain('none ended twice or never')
})
