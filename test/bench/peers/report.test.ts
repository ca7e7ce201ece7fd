// The tables of the comparison with node-llama-cpp: ratios against the better of its arms, and what was run said beside them.
import { describe, expect, it } from 'vitest'
import {
  matching,
  type Peer,
  type PeerMeasurement,
  report,
  variantOf,
} from '../../../bench/peers/node-llama-cpp.report.js'
import { sampleResult } from '../sample.js'

const own = (name: string): Peer => ({ engine: 'gorgon', name, isa: 'avx512', threads: 2, dtype: 'bf16' })

const rival = (name: string): Peer => ({
  engine: 'node-llama-cpp',
  name,
  version: '3.22.1',
  llamaCpp: 'v0.5.0',
  library: 'libggml-cpu-zen4',
  features: 'AVX512 = 1',
  threads: 2,
  flashAttention: true,
  batchSize: 512,
  kv: 'f16',
})

function speed(peer: Peer, promptTokens: number, ttftMs: number[], tokensPerSecond: number[]): PeerMeasurement {
  return {
    kind: 'speed',
    peer,
    promptTokens,
    ttftMs,
    tokensPerSecond,
    tokensPerStep: [2, 3],
    peakRssBytes: 64 * 2 ** 20,
    equal: 127,
    of: 128,
  }
}

const options = {
  model: 'demo',
  dtype: 'bf16',
  promptTokens: [512, 4096],
  tokens: 64,
  rounds: 2,
  warmup: 1,
  threads: 2,
  tree: 'auto',
  budget: 1024,
}

function resultOf(measurements: PeerMeasurement[], changes: Partial<typeof options> = {}) {
  return sampleResult({ bench: 'peers/node-llama-cpp', options: { ...options, ...changes }, measurements })
}

const rows = (markdown: string): string[][] =>
  markdown
    .split('\n')
    .filter((line) => line.startsWith('| ') && !line.startsWith('| ---'))
    .map((line) => line.slice(2, -2).split(' | '))

describe('report', () => {
  it('compares each figure with the better rival at that length', () => {
    const measured = resultOf([
      speed(own('plain'), 512, [100, 100], [300, 300]),
      speed(rival('on'), 512, [400, 400], [100, 100]),
      speed(rival('off'), 512, [200, 200], [50, 50]),
      speed(own('plain'), 4096, [1000, 1000], [60, 60]),
      speed(rival('on'), 4096, [8000, 8000], [20, 20]),
    ])
    const [head, ...body] = rows(report([measured]).tables['peers']!)
    expect(head!.slice(0, 6)).toEqual(['prompt', 'engine', 'first token, s', 'x', 'tokens/s', 'x'])
    expect(body[0]).toEqual([
      '512',
      'gorgon, plain',
      '0.100 (0.100–0.100)',
      '2.00',
      '300 (300–300)',
      '3.00',
      '2.50',
      '127 of 128',
      '64.0',
    ])
    expect([body[3]![3], body[3]![5]]).toEqual(['8.00', '3.00'])
    expect([body[1]![3], body[1]![5]]).toEqual(['', ''])
  })

  it('a slower figure is shown as one', () => {
    const measured = resultOf([speed(own('plain'), 512, [300], [50]), speed(rival('on'), 512, [100], [100])])
    const body = rows(report([measured]).tables['peers']!)
    expect([body[1]![3], body[1]![5]]).toEqual(['0.33', '0.50'])
  })

  it('says what ran, and how many golden tokens were right', () => {
    const measured = resultOf([
      { kind: 'goldens', peer: rival('on'), equal: 543, of: 544 },
      speed(own('plain'), 512, [100], [300]),
      speed(rival('on'), 512, [100], [300]),
    ])
    const table = report([measured]).tables['peers']!
    expect(table).toContain(
      'node-llama-cpp 3.22.1: llama.cpp v0.5.0, prebuilt, libggml-cpu-zen4; batches of 512, f16 KV cache',
    )
    expect(table).toContain('node-llama-cpp, on: 543 of 544')
    expect(table).toContain(measured.command)
  })

  it('draws both figures, the same every time', () => {
    const measured = resultOf([speed(own('plain'), 512, [100, 120], [300, 310]), speed(rival('on'), 512, [400], [90])])
    const { plots, tables } = report([measured])
    for (const name of Object.keys(plots)) expect(tables['peers-plots']).toContain(`(bench/plots/${name}.svg)`)
    expect(Object.keys(plots)).toEqual(['peers-tokens-per-second', 'peers-first-token'])
    expect(plots['peers-first-token']).toContain('node-llama-cpp, on')
    expect(report([measured])).toEqual(report([structuredClone(measured)]))
  })

  it('results of other models or thread counts stand beside each other', () => {
    expect(variantOf(resultOf([]))).toBe(variantOf(resultOf([], { tokens: 3 })))
    expect(variantOf(resultOf([]))).not.toBe(variantOf(resultOf([], { threads: 8 })))
    expect(variantOf(resultOf([]))).not.toBe(variantOf(resultOf([], { model: 'other' })))
  })
})

describe('matching', () => {
  it.each([
    [[1, 2, 3], [1, 2, 3], 3],
    [[1, 2, 3], [1, 9, 3], 1],
    [[], [1], 0],
    [[1, 2], [1], 1],
    [[1], [1, 2], 1],
  ])('%j and %j: %i', (a, b, expected) => {
    expect(matching(a, b)).toBe(expected)
  })
})
