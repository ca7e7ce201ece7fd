// gorgon demo: plain decoding beside Medusa and SnapKV, on a short prompt and on a long real one, measured while you watch.
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Engine, type GenerateOptions, loadEngine, packageRoot, type Result } from '../index.js'
import { type Given, readGenerateOptions, readLoadOptions } from './args.js'
import { bytes, placeOf, table } from './format.js'
import { type Io, write } from './io.js'
import { createProgress } from './progress.js'

const SHORT_PROMPT = `// path: src/collections/lru-cache.ts
import { EventEmitter } from 'node:events'

export interface LruCacheOptions {
  /** Most entries to hold. */
  readonly capacity: number
  /** Called with each entry that is dropped. */
  readonly onEvict?: (key: string, value: unknown) => void
}

/** A map that forgets what was not used for longest. */
export class LruCache<T> extends EventEmitter {
  private readonly entries = new Map<string, T>()

  constructor(private readonly options: LruCacheOptions) {
    super()
  }

  get(key: string): T | undefined {
`

/** Of the long prompt: many times the default budget, with room in the demo model's context. */
const LONG_PROMPT_TOKENS = 7000
/** More than tokens have on average, so that one look at the tokenizer is enough. */
const CHARS_PER_TOKEN = 4
const TOKENS = 128

/** Variants take turns, so that a machine that grows slower meanwhile is slower for all. */
const MAX_ROUNDS = 3
/** No further round is begun after this long. */
const ROUNDS_MS = 8000

/** What is compared. The last one is what the package is about; the one before it must give the same tokens. */
const VARIANTS = [
  { name: 'plain, full cache', options: { speculation: { mode: 'off' }, kv: { policy: 'full' } } },
  { name: 'plain, SnapKV', options: { speculation: { mode: 'off' }, kv: { policy: 'snapkv' } } },
  { name: 'Medusa, SnapKV', options: { speculation: { mode: 'medusa' }, kv: { policy: 'snapkv' } } },
] as const
const SHOWN = VARIANTS.length - 1

/** @returns whether speculation gave the tokens of plain decoding, every time. */
export async function demo(given: Given, io: Io): Promise<boolean> {
  const options = { ...readGenerateOptions(given, { maxTokens: TOKENS, seed: 1 }), signal: io.signal }
  await using engine = await loadEngine({ ...readLoadOptions(given, { model: 'demo' }), signal: io.signal })
  await write(io.stdout, `demo model on ${placeOf(engine.info)}\n\n`)
  // Page faults and first calls would count against whatever runs first.
  await engine.generate(SHORT_PROMPT, { ...options, maxTokens: 16 })

  let isExact = true
  for (const [name, text] of [
    ['short prompt', SHORT_PROMPT],
    ["long prompt: this package's source", await longPrompt(engine)],
  ] as const) {
    await write(io.stdout, `── ${name} ${'─'.repeat(Math.max(0, 60 - name.length))}\n${lastLines(text)}`)
    const rounds = await compare(engine, text, options, io)
    isExact &&= rounds.every(isExactRound)
    await write(io.stdout, `\n\n${report(rounds)}\n`)
  }
  if (!isExact) await write(io.stderr, 'gorgon: speculation changed the tokens. This is a bug: please report it.\n')
  return isExact
}

/** One result per variant. */
type Round = readonly Result[]

/** The text of the first Medusa run is shown while it is made; the other runs only measure. */
async function compare(engine: Engine, prompt: string, options: GenerateOptions, io: Io): Promise<Round[]> {
  const progress = createProgress(io.stderr)
  const started = performance.now()
  const rounds: Round[] = []
  try {
    while (rounds.length < MAX_ROUNDS && (rounds.length === 0 || performance.now() - started < ROUNDS_MS)) {
      const round: Result[] = []
      for (const [index, variant] of VARIANTS.entries()) {
        progress.show('measuring', rounds.length * VARIANTS.length + index, MAX_ROUNDS * VARIANTS.length)
        const isShown = index === SHOWN && rounds.length === 0
        if (isShown) progress.clear()
        const generation = engine.generate(prompt, { ...options, ...variant.options })
        for await (const chunk of generation) if (isShown) await write(io.stdout, chunk.text)
        round.push(await generation)
      }
      rounds.push(round)
    }
  } finally {
    progress.clear()
  }
  return rounds
}

/** So that a reader sees what is being continued. */
function lastLines(text: string): string {
  return text.split('\n').slice(-6).join('\n')
}

function isExactRound(round: Round): boolean {
  const [medusa, plain] = [round[SHOWN]!.tokens, round[SHOWN - 1]!.tokens]
  return medusa.length === plain.length && medusa.every((token, i) => token === plain[i])
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!
}

function report(rounds: readonly Round[]): string {
  const speeds = VARIANTS.map((_, index) => median(rounds.map((round) => round[index]!.timing.tokensPerSecond)))
  const rows = VARIANTS.map(({ name }, index) => {
    const { usage, speculation, kv } = rounds[0]![index]!
    return [
      name,
      String(usage.prompt),
      median(rounds.map((round) => round[index]!.timing.prefillMs)).toFixed(0),
      speeds[index]!.toFixed(1),
      speculation.tokensPerStep.toFixed(2),
      `${bytes(kv.bytes)} of ${bytes(kv.fullBytes)}`,
      `${(speeds[index]! / speeds[0]!).toFixed(2)}x`,
    ]
  })
  const head = ['', 'prompt tokens', 'prefill ms', 'decode tokens/s', 'tokens/step', 'KV cache', 'decode speed']
  const of = rounds.length === 1 ? 'one run each' : `medians of ${rounds.length} runs, taken in turn`
  const count = rounds[0]![SHOWN]!.usage.completion
  const same = rounds.every(isExactRound) ? 'yes' : 'NO'
  return `${table([head, ...rows])}${of}; ${count} tokens; Medusa's are those of plain decoding over the same cache: ${same}\n`
}

/** The package's own TypeScript: files in path order, each after a line that names it, cut at a line. */
async function longPrompt(engine: Engine): Promise<string> {
  const root = packageRoot()
  const names = await readdir(join(root, 'src'), { recursive: true })
  const paths = names.filter((name) => name.endsWith('.ts')).sort()
  let text = ''
  for (const path of paths) {
    if (text.length > LONG_PROMPT_TOKENS * CHARS_PER_TOKEN) break
    text += `// path: src/${path}\n${await readFile(join(root, 'src', path), 'utf8')}\n`
  }
  const ids = await engine.tokenize(text)
  const fitting = ids.length <= LONG_PROMPT_TOKENS ? text : engine.detokenize(ids.subarray(0, LONG_PROMPT_TOKENS))
  return fitting.slice(0, fitting.lastIndexOf('\n') + 1)
}
