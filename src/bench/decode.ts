// The decode benchmark: plain decoding, Medusa, SnapKV and both, over prompts of several lengths, in turns.
import { z } from 'zod'
import { type Engine, type GenerateOptions, GorgonError, type Result } from '../index.js'
import { interleave } from './interleave.js'
import { watchMemory } from './memory.js'
import type { Prompts } from './prompts.js'

/** What is compared, and which arm each must equal token for token: the plain one over the same cache. */
export const ARMS = {
  plain: { name: 'plain', speculates: false, policy: 'full', same: 'plain' },
  medusa: { name: 'Medusa', speculates: true, policy: 'full', same: 'plain' },
  snapkv: { name: 'SnapKV', speculates: false, policy: 'snapkv', same: 'snapkv' },
  both: { name: 'Medusa + SnapKV', speculates: true, policy: 'snapkv', same: 'snapkv' },
} as const
export type Arm = keyof typeof ARMS
export const ARM_NAMES = Object.keys(ARMS) as readonly Arm[]

/** One generation of one arm. */
export const DecodeRun = z.object({
  arm: z.enum(ARM_NAMES),
  /** Also which prompt: every round has its own. */
  round: z.int(),
  promptTokens: z.int(),
  /** Made; the limit, since nothing else ends it. */
  tokens: z.int(),
  ttftMs: z.number(),
  prefillMs: z.number(),
  decodeMs: z.number(),
  tpotMs: z.number(),
  /** Of decoding, the first token not counted. */
  tokensPerSecond: z.number(),
  /** Between chunks. */
  gapMs: z.object({ p50: z.number(), p90: z.number(), p99: z.number(), max: z.number() }),
  /** Name of the tree, or `auto`. */
  tree: z.string(),
  /** Of that tree, root included; of `auto`, in most of its steps with a tree. */
  nodes: z.int(),
  /** What the gate decided. */
  gate: z.enum(['speculated', 'plain', 'mixed', 'off']),
  /** Steps without a tree. */
  plainSteps: z.int(),
  steps: z.int(),
  tokensPerStep: z.number(),
  byDepth: z.array(z.object({ offered: z.int(), accepted: z.int() })),
  /** Rows of the prompt kept per layer and KV head. */
  keptTokens: z.int(),
  cacheBytes: z.number(),
  fullCacheBytes: z.number(),
  /** Highest resident size of the process meanwhile: weights, caches and Node. */
  peakRssBytes: z.number(),
})
export type DecodeRun = Readonly<z.infer<typeof DecodeRun>>

export interface DecodeOptions {
  /** To generate. */
  readonly tokens: number
  readonly rounds: number
  readonly temperature: number
  /** Of the arms that speculate: where it pays, or at every step. */
  readonly mode: 'auto' | 'medusa'
  readonly signal?: AbortSignal | undefined
  /** What was done when it ends early. */
  readonly onRun?: (run: DecodeRun) => void
}

/** What a model leaves out. */
export interface DecodePlan {
  readonly arms: readonly Arm[]
  readonly promptLengths: readonly number[]
  /** What was left out, and why, for people. */
  readonly notes: readonly string[]
}

/** Which arms and lengths a model can run. */
export function planDecode(
  { context, heads }: Pick<Engine['info'], 'context' | 'heads'>,
  { promptLengths, tokens }: { readonly promptLengths: readonly number[]; readonly tokens: number },
): DecodePlan {
  const fitting = promptLengths.filter((length) => length + tokens <= context)
  const tooLong = promptLengths.filter((length) => !fitting.includes(length))
  const arms = ARM_NAMES.filter((arm) => heads !== null || !ARMS[arm].speculates)
  return {
    arms,
    promptLengths: fitting,
    notes: [
      ...(heads ? [] : ['No Medusa heads: plain decoding and SnapKV alone.']),
      ...(tooLong.length > 0
        ? [
            `Left out: prompts of ${tooLong.join(', ')} tokens do not fit a context of ${context} with ${tokens} after them.`,
          ]
        : []),
    ],
  }
}

/** Times a short prompt is run per arm before anything counts: first calls and page faults. */
const WARMUP_PROMPT = 64
const WARMUP_TOKENS = 8

/**
 * Every arm once per round and length, in turns; each round has another prompt.
 *
 * @throws {GorgonError} ERR_INTERNAL when speculation changed the tokens; the signal's reason when it fires.
 */
export async function measureDecode(
  engine: Pick<Engine, 'generate'>,
  prompts: Prompts,
  { arms, promptLengths }: Pick<DecodePlan, 'arms' | 'promptLengths'>,
  options: DecodeOptions,
): Promise<DecodeRun[]> {
  const { rounds, signal, onRun } = options
  const runs: DecodeRun[] = []
  for (const arm of arms) {
    const prompt = await prompts.take(0, Math.min(WARMUP_PROMPT, promptLengths[0] ?? WARMUP_PROMPT))
    await engine.generate(prompt, { ...requestOf(arm, options), maxTokens: WARMUP_TOKENS })
  }
  for (const promptLength of promptLengths) {
    /** By round: what the plain arms said, or the speculating ones, whoever came first. */
    const said = new Map<string, Said>()
    const armsOf = arms.map((arm) => [
      arm,
      async (round: number): Promise<DecodeRun> => {
        const { result, peakRssBytes } = await watchMemory(
          engine.generate(await prompts.take(round, promptLength), requestOf(arm, options)),
        )
        checkSame(said, { arm, round, tokens: result.tokens })
        return runOf(arm, round, result, peakRssBytes)
      },
    ])
    await interleave(Object.fromEntries(armsOf) as Record<Arm, (round: number) => Promise<DecodeRun>>, {
      rounds,
      signal,
      onSample: (_, run) => {
        runs.push(run)
        onRun?.(run)
      },
    })
  }
  return runs
}

function requestOf(arm: Arm, { tokens, temperature, mode, signal }: DecodeOptions): GenerateOptions {
  const { speculates, policy } = ARMS[arm]
  return {
    maxTokens: tokens,
    ignoreEos: true,
    temperature,
    seed: 1,
    speculation: { mode: speculates ? mode : 'off' },
    kv: { policy },
    ...(signal && { signal }),
  }
}

interface Said {
  readonly arm: Arm
  readonly round: number
  readonly tokens: Int32Array
}

/** Before anything is reported of it. */
function checkSame(said: Map<string, Said>, now: Said): void {
  const key = `${ARMS[now.arm].same} ${now.round}`
  const before = said.get(key)
  if (!before) {
    said.set(key, now)
    return
  }
  const at = now.tokens.findIndex((token, i) => token !== before.tokens[i])
  if (at < 0 && now.tokens.length === before.tokens.length) return
  throw new GorgonError(
    'ERR_INTERNAL',
    `${ARMS[now.arm].name} and ${ARMS[before.arm].name} differ from token ${at} on, over the same cache. This is a bug in gorgon: please report it.`,
    { arms: [before.arm, now.arm], round: now.round, token: at },
  )
}

function runOf(arm: Arm, round: number, { usage, timing, speculation, kv }: Result, peakRssBytes: number): DecodeRun {
  const { ttftMs, prefillMs, decodeMs, tpotMs, tokensPerSecond, gapMs } = timing
  const { tree, nodes, gate, steps, tokensPerStep, byDepth } = speculation
  return {
    arm,
    round,
    promptTokens: usage.prompt,
    tokens: usage.completion,
    ttftMs: ttftMs ?? prefillMs,
    prefillMs,
    decodeMs,
    tpotMs: tpotMs ?? decodeMs,
    tokensPerSecond,
    gapMs: gapMs ?? { p50: 0, p90: 0, p99: 0, max: 0 },
    tree,
    nodes,
    gate: gate.decision,
    plainSteps: gate.plainSteps,
    steps,
    tokensPerStep,
    byDepth: byDepth.map(({ offered, accepted }) => ({ offered, accepted })),
    keptTokens: kv.keptTokens,
    cacheBytes: kv.bytes,
    fullCacheBytes: kv.fullBytes,
    peakRssBytes,
  }
}
