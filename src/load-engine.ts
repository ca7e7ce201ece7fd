// From load options to an engine: files read and checked, weights mapped, defaults checked against what was found.
import { stat } from 'node:fs/promises'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { type BackendChoice, chooseBackend } from './backend.js'
import { costFolder, costKey, readCosts, writeCosts } from './cost-cache.js'
import { UNMEASURED_HEADS } from './decode/tree-family.js'
import { Engine } from './engine.js'
import { GorgonError, isGorgonError } from './errors.js'
import { type MeasuredCosts, measureStepCosts } from './measure-costs.js'
import { addonFile, type ModelInfo, type ModelSpec, type Native, native, packageRoot } from './native.js'
import { openModel } from './open-model.js'
import { type LoadOptions, type LoadOptionsInput, parseGenerateOptions, parseLoadOptions } from './options.js'
import type { EngineParts } from './parts.js'
import { resolvePlan } from './plan.js'
import { loadChatTemplate } from './text/chat.js'
import { loadTokenizer, type Tokenizer } from './text/tokenizer.js'
import { type HeadsFolder, headsOf, type ModelFolder, modelSpecOf, readModelFolder } from './weights/load.js'

/**
 * Loads a model.
 *
 * @param options a folder as Hugging Face lays it out, or `demo` for the model of this package; or all options.
 * @throws {GorgonError} ERR_OPTION, ERR_MODEL_NOT_FOUND, and what reading the folder, the heads and the tokenizer may raise; the signal's
 *   reason when it fires.
 */
export async function loadEngine(options: LoadOptionsInput | string): Promise<Engine> {
  return loadEngineWith(parseLoadOptions(options), native())
}

/** As `loadEngine`, on a native side of the caller's. */
export async function loadEngineWith(options: LoadOptions, addon: Native): Promise<Engine> {
  return new Engine(await loadParts(options, addon))
}

/** What an engine is made of, for those who also look beneath it. Its model is closed with the engine, or else by the caller. */
export async function loadParts(options: LoadOptions, addon: Native): Promise<EngineParts> {
  const { signal, onProgress, limits } = options
  signal?.throwIfAborted()
  const choice = chooseBackend(options, process.env, addon.backends())

  onProgress?.({ phase: 'read', done: 0, total: 1 })
  const folder = await readModelFolder(modelDir(options.model))
  const heads = await headsOf(folder, options.heads)
  const context = contextOf(folder, limits.maxContext)
  onProgress?.({ phase: 'read', done: 1, total: 1 })
  signal?.throwIfAborted()

  const spec = modelSpecOf(folder, heads, { ...options, ...choice, progress: new Int32Array(new SharedArrayBuffer(8)) })
  const [opened, tokenizing, templating] = await Promise.allSettled([
    openModel(addon, spec, options),
    loadTokenizer(folder.dir),
    loadChatTemplate(folder.dir, options.chatTemplate),
  ])
  try {
    const model = unwrap(opened)
    const tokenizer = unwrap(tokenizing)
    const chat = unwrap(templating)
    const found = { native: addon, model, tokenizer, chat, folder, heads, context, choice }
    const unmeasured = partsOf(found, options)
    // Defaults that no request could be served with are better known now.
    const { family } = resolvePlan(parseGenerateOptions(), unmeasured)
    // The trees to choose among are built now and not while the first request waits.
    for (const size of family.sizes) family.tree(size)
    signal?.throwIfAborted()
    const parts = needsCosts(unmeasured, options) ? await withCosts(unmeasured, spec, options) : unmeasured
    onProgress?.({ phase: 'ready', done: 1, total: 1 })
    return parts
  } catch (error) {
    if (opened.status === 'fulfilled') await addon.close(opened.value)
    if (tokenizing.status === 'fulfilled') await tokenizing.value?.close()
    throw error
  }
}

/** The folder of the model that comes with this package; `demo` is short for it. */
export function demoModel(): string {
  return join(packageRoot(), 'models', 'demo')
}

/** The folder that a `model` option names. */
export function modelDir(model: string): string {
  return model === 'demo' ? demoModel() : model
}

function contextOf({ config }: ModelFolder, maxContext: number | undefined): number {
  const { maxPositions } = config.shape
  if (maxContext === undefined || maxContext <= maxPositions) return maxContext ?? maxPositions
  throw new GorgonError(
    'ERR_OPTION',
    `limits.maxContext is ${maxContext}, but the model was made for ${maxPositions} positions. Use at most that many.`,
    { path: 'limits.maxContext', value: maxContext, maxPositions },
  )
}

/** Where every step is plain, or of the one tree that was named, no choice depends on costs. */
function needsCosts({ medusaHeads }: EngineParts, { speculation: { mode, tree } }: LoadOptions): boolean {
  return medusaHeads > 0 && mode !== 'off' && !(mode === 'medusa' && tree !== 'auto')
}

/** Step costs from the cache, or measured now. Without them the engine works as well: it has nothing to choose trees by. */
async function withCosts(
  parts: EngineParts,
  spec: ModelSpec,
  { signal, onProgress }: LoadOptions,
): Promise<EngineParts> {
  const { native: addon, model, vocab, medusaHeads, context, info } = parts
  const folder = costFolder(process.env)
  const key = costKey(await costFacts(addon.modelInfo(model), spec, context))
  const known = folder === null ? null : await readCosts(folder, key)
  if (known) return { ...parts, info: { ...info, stepCosts: known } }
  let measured: MeasuredCosts
  let isListenerFailing = false
  const report = (done: number, total: number) => {
    isListenerFailing = true
    onProgress?.({ phase: 'measure', done, total })
    isListenerFailing = false
  }
  try {
    const { kvBytesPerToken } = info
    measured = await measureStepCosts({
      native: addon,
      model,
      vocab,
      medusaHeads,
      context,
      kvBytesPerToken,
      signal,
      onProgress: report,
    })
  } catch (error) {
    if (signal?.aborted || isListenerFailing || !isGorgonError(error)) throw error
    const warning = `step costs could not be measured, so steps are plain with mode "auto": ${error.message}`
    return { ...parts, info: { ...info, warnings: [...info.warnings, warning] } }
  }
  const { costs, isSteady } = measured
  if (folder !== null && isSteady) await writeCosts(folder, key, costs)
  return { ...parts, info: { ...info, stepCosts: costs } }
}

/** Everything that what a step costs depends on. */
async function costFacts(
  { memoryUsed: _used, memoryPeak: _peak, ...info }: ModelInfo,
  { shape, heads, isa }: ModelSpec,
  context: number,
): Promise<Record<string, unknown>> {
  const file = addonFile()
  const built = file === null ? null : await stat(file).catch(() => null)
  const { medusaHeads, blocks, tensors } = heads!
  const headShapes = Object.entries(tensors).map(([role, slice]) => [role, slice.shape])
  return {
    info,
    isa,
    shape,
    heads: { medusaHeads, blocks, headShapes },
    context,
    cpu: cpus()[0]?.model ?? '',
    processors: availableParallelism(),
    platform: `${process.platform} ${process.arch}`,
    addon: built && { bytes: built.size, changed: built.mtimeMs },
  }
}

function unwrap<T>(outcome: PromiseSettledResult<T>): T {
  if (outcome.status === 'rejected') throw outcome.reason
  return outcome.value
}

/** What `engine.info` says of a device. */
function deviceOf({ device }: BackendChoice): EngineParts['info']['device'] {
  if (device === null) return null
  const { index, name, memoryBytes, budgetBytes } = device
  return { index, name, memoryBytes, budgetBytes }
}

function partsOf(
  {
    folder,
    heads,
    choice,
    ...found
  }: Pick<EngineParts, 'native' | 'model' | 'chat' | 'context'> & {
    readonly tokenizer: Tokenizer | null
    readonly folder: ModelFolder
    readonly heads: HeadsFolder | null
    readonly choice: BackendChoice
  },
  { speculation, kv, threads: asked, limits: { maxSequences, maxQueue } }: LoadOptions,
): EngineParts {
  const { vocab, layers } = folder.config.shape
  const { backend, isa, threads, dtype, weights, weightBytes, headsBytes, kvBytesPerToken } = found.native.modelInfo(
    found.model,
  )
  return {
    ...found,
    vocab,
    layers,
    eosIds: folder.generation.eosIds,
    medusaHeads: heads?.medusaHeads ?? 0,
    measured: heads ?? UNMEASURED_HEADS,
    speculation,
    kv,
    info: {
      model: folder.dir,
      architecture: folder.config.architecture,
      backend,
      backendReason: choice.reason,
      isa,
      threads,
      device: deviceOf(choice),
      dtype,
      weights,
      weightBytes,
      vocab,
      context: found.context,
      limits: { maxSequences, maxQueue },
      kvBytesPerToken,
      heads: heads && {
        path: heads.path,
        format: heads.format,
        medusaHeads: heads.medusaHeads,
        blocks: heads.blocks,
        bytes: headsBytes,
      },
      stepCosts: null,
      hasTokenizer: found.tokenizer !== null,
      hasChatTemplate: found.chat.exists,
      warnings: [...folder.warnings, ...(heads?.warnings ?? []), ...(backend === 'cpu' ? crowding(asked) : [])],
    },
  }
}

/** Threads that wait for one another take turns where there are more of them than cores. */
function crowding(threads: number): string[] {
  const cores = availableParallelism()
  return threads > cores ? [`threads is ${threads}, more than the ${cores} cores here: they wait for one another`] : []
}
