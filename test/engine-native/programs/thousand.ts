// Generates until warm, then 1,000 times more: full and compressed, plain and speculated, aborted, stopped, refused, in sessions, side by
// side. Prints an account of the process before and after. Argument: a model folder. Needs --expose-gc.
import { readdirSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { type Engine, type GenerateOptions, loadEngine } from '../../../src/index.js'

const PROMPT = Int32Array.from({ length: 42 }, (_, i) => 3 + ((i * 97) % 4000))
const AT_ONCE = 8

const KINDS: readonly GenerateOptions[] = [
  {},
  { speculation: { mode: 'off' } },
  { kv: { budget: 40 }, speculation: { tree: 'chain:4' } },
  { temperature: 0.8, logprobs: 5, repetitionPenalty: 1.1 },
  { temperature: 0.8, speculation: { accept: { rule: 'typical' } } },
  { kv: { policy: 'h2o', budget: 40, reportKept: true } },
  { stop: ['e', ' '] },
]

async function one(engine: Engine, i: number): Promise<void> {
  const options = { maxTokens: 4, ignoreEos: true, seed: i, ...KINDS[i % KINDS.length] }
  if (i % 10 === 7) {
    const generation = engine.generate(PROMPT, { ...options, maxTokens: 500 })
    for await (const _ of generation) generation.abort()
  } else if (i % 10 === 8) {
    await engine.generate(PROMPT, { ...options, timeoutMs: 1 })
  } else if (i % 10 === 9) {
    await engine.generate(PROMPT, { ...options, onPrefill: refuse })
  } else if (i % 10 === 6) {
    await using session = engine.session()
    await session.send(PROMPT, options)
    await session.send(PROMPT.subarray(0, 5), options)
  } else {
    await engine.generate(PROMPT, options)
  }
}

function refuse(): never {
  throw new Error('on purpose')
}

let generations = 0

async function generate(engine: Engine, count: number): Promise<void> {
  const end = generations + count
  const lane = async () => {
    // An abort and a failure on purpose are ends like any other.
    while (generations < end) await one(engine, generations++).catch(() => undefined)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, lane))
}

async function account() {
  for (let i = 0; i < 3; i++) {
    globalThis.gc!()
    await setTimeout(20)
  }
  const { rss, heapUsed, external } = process.memoryUsage()
  return {
    generations,
    rss,
    heapUsed,
    external,
    descriptors: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
  }
}

const engine = await loadEngine(process.argv[2]!)
await generate(engine, 200)
const before = await account()
await generate(engine, 1000)
process.stdout.write(JSON.stringify([before, await account()]))
await engine.close()
