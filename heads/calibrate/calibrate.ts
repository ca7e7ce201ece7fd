// Calibration from top to bottom: texts made and drafts judged, a tree grown, its size chosen, and the promise checked on texts held out.
import { type Choices, firstPaths } from '../../src/decode/choices.js'
import { Engine } from '../../src/engine.js'
import { GorgonError } from '../../src/errors.js'
import { loadParts } from '../../src/load-engine.js'
import { native } from '../../src/native.js'
import { type LoadOptions, parseLoadOptions } from '../../src/options.js'
import type { EngineInfo, EngineParts } from '../../src/parts.js'
import type { HeadsAccuracy } from '../format/accuracy.js'
import { type Check, checkTree, TIMED_TEXTS } from './check.js'
import { countRanks, growTree } from './grow.js'
import { type CalibrateOptions, type CalibrateOptionsInput, parseCalibrateOptions } from './options.js'
import { readPrompts } from './prompts.js'
import { fastest, type SizeRate, type SizeTokens, sizeTokens, timeSizes } from './sizes.js'
import { type CalibrationText, type DealtTexts, dealTexts } from './texts.js'
import { type Trace, traceTexts } from './trace.js'

/** What was found out about heads. */
export interface Calibration {
  /** For the heads' folder: where it is there, `auto` takes its trees from it. */
  readonly accuracy: HeadsAccuracy
  /** The tree of the size asked for, or of that which decodes fastest here. */
  readonly tree: { readonly nodes: number; readonly paths: Choices }
  /** Grown trees of rising size, plain decoding first. */
  readonly sizes: readonly SizeRate[]
  /** Rows that the steps of these texts attend to, on average: what `sizes` are timed with. */
  readonly cacheRows: number
  /** The fastest size by rows attended to; empty where step costs are not known. */
  readonly fastest: readonly { readonly cacheRows: number; readonly nodes: number; readonly speedup: number }[]
  /** Promise and fact, by temperature. */
  readonly checks: readonly Check[]
  readonly conditions: CalibrationConditions
  readonly info: EngineInfo
}

/** What it was found out with. */
export interface CalibrationConditions {
  /** Texts that the tree was grown from, and others that it was checked on. */
  readonly texts: number
  readonly heldOut: number
  /** Of the texts grown from: tokens that a decode step could begin with. */
  readonly positions: number
  /** Most of a prompt, and made after it. */
  readonly promptTokens: number
  readonly tokens: number
  readonly temperatures: readonly number[]
  readonly seed: number
  readonly kv: Pick<LoadOptions['kv'], 'policy' | 'budget' | 'window'>
}

/** Cache sizes that the fastest tree is told for. */
const CACHE_ROWS = [256, 1024, 4096, 16_384, 65_536, 262_144]

/**
 * Measures a model's Medusa heads, and grows a tree for them. Nothing is written: `writeCalibration` does that.
 *
 * Same options, same tree, on the CPU of any machine; but for its size, which `nodes` can give.
 *
 * @throws {GorgonError} ERR_OPTION, also where there are no heads; ERR_DATA when there is nothing to continue; ERR_CONTEXT_OVERFLOW; what
 *   loading and generating may raise; the signal's reason.
 */
export async function calibrateHeads(input: CalibrateOptionsInput): Promise<Calibration> {
  const options = parseCalibrateOptions(input)
  const { onProgress } = options
  const signal = options.signal ?? new AbortController().signal
  const parts = await loadParts(loadOptionsOf(options), native())
  await using engine = new Engine(parts)
  checkRoom(parts, options)
  const prompts = await readPrompts(options.data, parts, {
    ...options,
    count: options.prompts,
    onProgress: (done, total) => onProgress?.({ phase: 'read', done, total }),
  })
  const texts = dealTexts(prompts, options)

  const total = texts.grown.length * (options.tokens + parts.medusaHeads)
  const traces = await traceTexts(parts, texts.grown, {
    ...options,
    signal,
    onStep: (steps) => onProgress?.({ phase: 'trace', done: steps, total }),
  })
  onProgress?.({ phase: 'grow', done: 0, total: 1 })
  const grown = growTree(traces)
  onProgress?.({ phase: 'grow', done: 1, total: 1 })
  if (grown.length === 0) throw neverRight(parts, traces)

  const choices = grown.map(({ ranks }) => ranks)
  const cacheRows = rowsAttended(texts.grown, options)
  const tokens = sizeTokens(choices, traces)
  const sizes = timeSizes(tokens, parts.info.stepCosts, cacheRows)
  const nodes = Math.min(options.nodes ?? fastest(sizes).nodes, choices.length + 1)
  const paths = firstPaths(choices, nodes - 1)

  const [plain] = sizes
  const [own] = timeSizes(sizeTokens(paths, traces).slice(-1), parts.info.stepCosts, cacheRows)
  const checks = await checkTree(engine, paths, texts, traces, {
    tokens: options.tokens,
    timed: TIMED_TEXTS,
    stepRatio: own!.stepMs === null ? null : own!.stepMs / plain!.stepMs!,
    signal,
    onProgress: (done, total) => onProgress?.({ phase: 'check', done, total }),
  })
  const conditions = conditionsOf(texts, traces, options)
  const { accuracy, counts } = countRanks(traces)
  return {
    accuracy: { rank_accuracy: accuracy, counts, paths: grown, conditions },
    tree: { nodes, paths },
    sizes,
    cacheRows,
    fastest: fastestByRows(tokens, parts),
    checks,
    conditions,
    info: parts.info,
  }
}

/** Step costs are measured where trees are chosen by them. */
function loadOptionsOf(options: CalibrateOptions): LoadOptions {
  const { model, heads, backend, dtype, weights, threads, isa, device, deviceMemory, kv, batch, prompts } = options
  const { signal, onProgress } = options
  return parseLoadOptions({
    model,
    backend,
    dtype,
    weights,
    threads,
    isa,
    kv,
    ...(heads !== undefined && { heads }),
    ...(device !== undefined && { device }),
    ...(deviceMemory !== undefined && { deviceMemory }),
    ...(signal && { signal }),
    limits: { maxSequences: batch, maxQueue: prompts },
    speculation: { mode: 'auto', tree: 'auto' },
    onProgress: ({ done, total }) => onProgress?.({ phase: 'load', done, total }),
  })
}

function checkRoom({ medusaHeads, context, info }: EngineParts, { promptTokens, tokens }: CalibrateOptions): void {
  if (medusaHeads === 0) {
    throw new GorgonError(
      'ERR_OPTION',
      `${info.model} has no Medusa heads, so there is nothing to calibrate. Name the folder of some with heads.`,
      { model: info.model },
    )
  }
  const wanted = promptTokens + tokens + medusaHeads
  if (wanted <= context) return
  throw new GorgonError(
    'ERR_CONTEXT_OVERFLOW',
    `promptTokens (${promptTokens}) and tokens (${tokens}), with ${medusaHeads} more that drafts stand for, do not fit a context of ${context}. Lower them by ${wanted - context} together.`,
    { promptTokens, tokens, medusaHeads, context },
  )
}

function neverRight({ info }: EngineParts, traces: readonly Trace[]): GorgonError {
  const positions = traces.reduce((sum, trace) => sum + trace.positions, 0)
  const why =
    positions === 0
      ? 'the model ends every text at once, so no draft could be judged. Give other texts'
      : `none of the drafts at ${positions} positions was right. Were these heads trained for this model?`
  return new GorgonError('ERR_DATA', `No tree can be grown: ${why}.`.replace('?.', '?'), {
    heads: info.heads?.path,
    positions,
  })
}

/** In the middle of a text, whose prompt was compressed to the budget if it was longer. */
function rowsAttended(texts: readonly CalibrationText[], { kv, tokens }: CalibrateOptions): number {
  const kept = texts.reduce((sum, { prompt }) => {
    return sum + (kv.policy === 'full' ? prompt.length : Math.min(prompt.length, kv.budget))
  }, 0)
  return Math.round(kept / texts.length + tokens / 2)
}

function fastestByRows(tokens: readonly SizeTokens[], { context, info }: EngineParts): Calibration['fastest'] {
  if (!info.stepCosts) return []
  return CACHE_ROWS.filter((rows) => rows <= context).map((cacheRows) => {
    const { nodes, speedup } = fastest(timeSizes(tokens, info.stepCosts, cacheRows))
    return { cacheRows, nodes, speedup: speedup! }
  })
}

function conditionsOf(
  { grown, heldOut }: DealtTexts,
  traces: readonly Trace[],
  { promptTokens, tokens, temperatures, seed, kv }: CalibrateOptions,
): CalibrationConditions {
  return {
    texts: grown.length,
    heldOut: heldOut.length,
    positions: traces.reduce((sum, { positions }) => sum + positions, 0),
    promptTokens,
    tokens,
    temperatures,
    seed,
    kv: { policy: kv.policy, budget: kv.budget, window: kv.window },
  }
}
