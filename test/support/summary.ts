// A summary that no generation made, for tests of what is done with summaries.
import type { Result } from '../../src/index.js'
import type { Summary } from '../../src/server/protocol.js'

/** Of a generation that was short, plain and whole; tests change what they are about. */
export const SUMMARY = {
  finish: 'length',
  seed: 7,
  usage: { prompt: 3, cached: 0, completion: 5 },
  timing: {
    queueMs: 0,
    prefillMs: 1,
    ttftMs: 1,
    decodeMs: 1,
    tpotMs: 1,
    e2eMs: 3,
    tokensPerSecond: 5,
    gapMs: null,
  },
  speculation: {
    used: false,
    tree: 'auto',
    nodes: 1,
    sizes: [],
    steps: 5,
    drafted: 0,
    accepted: 0,
    tokensPerStep: 1,
    byDepth: [],
    lengths: [],
    accept: 'exact',
    gate: { decision: 'off', reason: '', expectedSpeedup: null, plainSteps: 5, probes: 0 },
  },
  kv: { policy: 'snapkv', promptTokens: 3, keptTokens: 3, bytes: 1, fullBytes: 1 },
} satisfies Summary & Omit<Result, 'text' | 'tokens'>
