// gorgon generate: one prompt in, its continuation out, as text or as one JSON object.
import { type Chunk, type Engine, inspect, loadEngine, type Result } from '../index.js'
import { type Given, readGenerateOptions, readLoadOptions } from './args.js'
import { bytes } from './format.js'
import { type Io, write } from './io.js'
import { checkWritable, writeOutput } from './output-file.js'
import { createProgress } from './progress.js'
import { type PromptSource, readPrompt } from './prompts.js'

/** Flags of this command beside those that set options. */
interface GenerateFlags extends PromptSource {
  readonly plain?: true
  readonly ignoreEos?: true
  readonly dumpKept?: string
  readonly json?: true
}

export async function generate(given: Given, io: Io): Promise<void> {
  const flags: GenerateFlags = given
  const load = readLoadOptions(given, {
    model: 'demo',
    ...(flags.plain && { speculation: { mode: 'off' } }),
    ...(flags.dumpKept !== undefined && { kv: { reportKept: true } }),
  })
  const options = readGenerateOptions(given, { ignoreEos: flags.ignoreEos ?? false })
  const prompt = await readPrompt(flags, io)
  if (flags.dumpKept !== undefined) await checkWritable('--dump-kept', flags.dumpKept)

  const progress = createProgress(io.stderr)
  let isMidLine = false
  try {
    await using engine = await loadEngine({
      ...load,
      signal: io.signal,
      onProgress: ({ phase, done, total }) =>
        progress.show(phase === 'measure' ? 'measuring this machine' : 'loading', done, total),
    })
    progress.clear()
    for (const warning of engine.info.warnings) await write(io.stderr, `gorgon: warning: ${warning}\n`)
    const generation = engine.generate(prompt, {
      ...options,
      signal: io.signal,
      onPrefill: ({ done, total }) => progress.show('reading the prompt', done, total),
    })
    for await (const chunk of generation) {
      progress.clear()
      if (flags.json) continue
      isMidLine = io.stdout.isTTY ?? false
      await write(io.stdout, shown(chunk, engine))
    }
    const result = await generation
    if (flags.json) await write(io.stdout, `${JSON.stringify(asJson(result, engine))}\n`)
    else if (io.stdout.isTTY) {
      await write(io.stderr, `\n${summary(result)}\n`)
      isMidLine = false
    }
    if (flags.dumpKept !== undefined) await dumpKept(flags.dumpKept, result, load.kv.window, engine)
  } finally {
    progress.clear()
    // An error, or the shell's prompt, belongs on a line of its own.
    if (isMidLine) await write(io.stderr, '\n').catch(() => undefined)
  }
}

/** Without a tokenizer there is no text, and ids are what there is to see. */
function shown(chunk: Chunk, engine: Engine): string {
  return engine.info.hasTokenizer ? chunk.text : [...chunk.tokens].map((id) => `${id} `).join('')
}

/** The contract scripts depend on: README.md describes it. */
function asJson(result: Result, { info }: Engine): object {
  const { text, tokens, usage, finish, timing, speculation, kv } = result
  return {
    text,
    tokens: [...tokens],
    promptTokens: usage.prompt,
    finish,
    timing: {
      prefillMs: timing.prefillMs,
      ttftMs: timing.ttftMs,
      decodeMs: timing.decodeMs,
      tokensPerSecond: timing.tokensPerSecond,
    },
    speculation: {
      steps: speculation.steps,
      tokensPerStep: speculation.tokensPerStep,
      acceptedByDepth: speculation.byDepth.map(({ accepted }) => accepted),
      tree: speculation.tree,
      nodes: speculation.nodes,
      gate: speculation.gate,
    },
    kv: {
      policy: kv.policy,
      promptTokens: kv.promptTokens,
      keptTokens: kv.keptTokens,
      bytes: kv.bytes,
      fullBytes: kv.fullBytes,
    },
    engine: {
      backend: info.backend,
      isa: info.isa,
      device: info.device?.name ?? null,
      dtype: info.dtype,
      weights: info.weights,
      threads: info.threads,
    },
  }
}

function summary({ usage, timing, speculation, kv, finish }: Result): string {
  return [
    `${usage.completion} tokens (${finish})`,
    `${timing.tokensPerSecond.toFixed(1)} tokens/s`,
    `${speculation.tokensPerStep.toFixed(2)} tokens/step (${gateWords(speculation)})`,
    `prompt rows kept ${kv.keptTokens} of ${kv.promptTokens} (${bytes(kv.bytes)})`,
  ].join(', ')
}

/** `8 nodes, expected 2.1 times plain` */
function gateWords({ used, nodes, gate }: Result['speculation']): string {
  const trees = used ? `${nodes} nodes` : 'plain'
  const words = gate.decision === 'mixed' ? `${trees}, ${gate.plainSteps} plain steps` : trees
  return gate.expectedSpeedup === null ? words : `${words}, expected ${gate.expectedSpeedup.toFixed(1)} times plain`
}

/** Writes `[layer][kvHead][position]`, ascending, without the window. */
async function dumpKept(file: string, { kv }: Result, window: number, engine: Engine): Promise<void> {
  const kept = kv.kept ?? (await everyPosition(engine.info.model, kv.promptTokens - window))
  await writeOutput('--dump-kept', file, `${JSON.stringify(kept)}\n`)
}

/** Of a cache that was left whole. */
async function everyPosition(model: string, count: number): Promise<number[][][]> {
  const { model: shape } = await inspect(model, { heads: false })
  const positions = Array.from({ length: Math.max(0, count) }, (_, position) => position)
  return Array.from({ length: shape?.layers ?? 0 }, () => Array.from({ length: shape?.kvHeads ?? 0 }, () => positions))
}
