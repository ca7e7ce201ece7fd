// What a run reads: texts from files or from the model itself, held out or learnt from, cut into windows.
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { writeDurably } from '../../src/durable-file.js'
import { GorgonError } from '../../src/errors.js'
import { loadEngineWith } from '../../src/load-engine.js'
import type { Native } from '../../src/native.js'
import { parseLoadOptions } from '../../src/options.js'
import { loadTokenizer } from '../../src/text/tokenizer.js'
import type { ModelFolder } from '../../src/weights/load.js'
import { cutWindows, type Window } from './batches.js'
import { dataDigest, type Encoder, readTrainingData, splitDocuments, type TrainingData } from './data.js'
import { DEFAULTS, FIXED, type TrainOptions } from './options.js'
import { type SelfDistilledText, selfDistill } from './self-distill.js'

const DISTILLED_FILE = 'self-distilled.jsonl'
/** Texts that the model writes at once: more keep no processor busier. */
const DISTILLED_AT_ONCE = 32

export interface TrainingTexts {
  /** To learn from. */
  readonly windows: readonly Window[]
  /** To look at now and then; empty when nothing is held out. */
  readonly heldOut: readonly Window[]
  /** Of all documents in their order. */
  readonly digest: string
  /** Longest stretch read at once. */
  readonly context: number
  readonly counts: {
    readonly files: number
    readonly documents: number
    readonly heldOutDocuments: number
    readonly tokens: number
    readonly heldOutTokens: number
    /** Left out of folders. */
    readonly skipped: TrainingData['skipped']
  }
}

/**
 * The texts of a run. Those that the model writes are kept in `out`, where a run that goes on finds them.
 *
 * @throws {GorgonError} ERR_DATA, ERR_FILE, ERR_TOKENIZER, ERR_OPTION for a context that the model does not have, ERR_WRITE; the signal's
 *   reason.
 */
export async function readTrainingTexts(
  options: TrainOptions,
  folder: ModelFolder,
  addon: Native,
): Promise<TrainingTexts> {
  const context = contextOf(options, folder)
  const tokenizer = await loadTokenizer(folder.dir)
  try {
    const { config, generation } = folder
    const encoder: Encoder = { tokenizer, vocab: config.shape.vocab, endId: config.eosIds[0] ?? null }
    const paths = options.selfDistill > 0 ? [await distilledFile(options, folder, encoder, addon)] : options.data
    const { documents, files, skipped } = await read(paths, encoder, options)
    const { training, heldOut } = splitDocuments(documents, options.heldOut, options.seed)
    const windows = cutWindows(training, context, generation.bosId)
    const looked = firstTokens(cutWindows(heldOut, context, generation.bosId), FIXED.evaluationTokens)
    if (windows.length === 0) throw tooShort('to learn from', training.length)
    if (heldOut.length > 0 && looked.length === 0) throw tooShort('held out', heldOut.length)
    return {
      windows,
      heldOut: looked,
      digest: dataDigest(documents),
      context,
      counts: {
        files,
        documents: training.length,
        heldOutDocuments: heldOut.length,
        tokens: countTokens(windows),
        heldOutTokens: countTokens(looked),
        skipped,
      },
    }
  } finally {
    await tokenizer?.close()
  }
}

function read(paths: readonly string[], encoder: Encoder, { field, out, signal, onProgress }: TrainOptions) {
  return readTrainingData(paths, encoder, {
    field,
    except: out,
    signal,
    onProgress: (done, total) => onProgress?.({ phase: 'read', done, total }),
  })
}

function contextOf({ context }: TrainOptions, { config }: ModelFolder): number {
  const { maxPositions } = config.shape
  if (context === undefined) return Math.min(DEFAULTS.context, maxPositions)
  if (context <= maxPositions) return context
  throw new GorgonError(
    'ERR_OPTION',
    `context is ${context}, but the model was made for ${maxPositions} positions. Use at most that many.`,
    { path: 'context', value: context, maxPositions },
  )
}

function tooShort(what: string, documents: number): GorgonError {
  return new GorgonError(
    'ERR_DATA',
    `No text ${what} is long enough: a head looks two tokens ahead, and all ${documents} have fewer than three. Give longer texts.`,
    { documents },
  )
}

const countTokens = (windows: readonly Window[]): number => windows.reduce((sum, { tokens }) => sum + tokens.length, 0)

/** As many as have these tokens together, and at least one. */
function firstTokens(windows: readonly Window[], limit: number): Window[] {
  let tokens = 0
  const taken = windows.findIndex((window, i) => {
    tokens += window.tokens.length
    return i > 0 && tokens > limit
  })
  return taken < 0 ? [...windows] : windows.slice(0, taken)
}

/** The file of texts that the model wrote: found, or written now. */
async function distilledFile(
  options: TrainOptions,
  folder: ModelFolder,
  encoder: Encoder,
  addon: Native,
): Promise<string> {
  const { out, data, selfDistill: tokens, temperature, seed, resume, signal, onProgress } = options
  const path = join(out, DISTILLED_FILE)
  if (resume && (await stat(path).catch(() => null))) return path
  // What is to be continued has no end.
  const found = data.length === 0 ? [] : (await read(data, { ...encoder, endId: null }, options)).documents
  const { backend, dtype, threads, isa, device, deviceMemory } = options
  const where = { backend, dtype, threads, isa, device, deviceMemory, signal }
  await using engine = await loadEngineWith(
    parseLoadOptions({
      ...where,
      model: folder.dir,
      heads: false,
      limits: { maxSequences: DISTILLED_AT_ONCE },
      onProgress: ({ done, total }) => onProgress?.({ phase: 'load', done, total }),
    }),
    addon,
  )
  const texts = await selfDistill({
    engine,
    prompts: found.map((document) => document.tokens),
    tokens,
    seed,
    temperature,
    ...(signal && { signal }),
    onProgress: ({ tokens: done, total }) => onProgress?.({ phase: 'distill', done, total }),
  })
  await writeDurably(path, async (handle) => {
    for (const text of texts) await handle.appendFile(lineOf(text))
  })
  return path
}

const lineOf = ({ tokens, from }: SelfDistilledText): string => `${JSON.stringify({ tokens: [...tokens], from })}\n`
