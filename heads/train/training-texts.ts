// What a run reads: texts from files or from the model itself, held out or learnt from, cut into windows.

import { GorgonError } from '../../src/errors.js'
import { loadEngineWith } from '../../src/load-engine.js'
import type { Native } from '../../src/native.js'
import { fixed } from '../../src/numbers.js'
import { parseLoadOptions } from '../../src/options.js'
import { loadTokenizer } from '../../src/text/tokenizer.js'
import type { ModelFolder } from '../../src/weights/load.js'
import { cutWindows, type Window } from './batches.js'
import {
  dataDigest,
  type Encoder,
  readTrainingData,
  splitDocuments,
  type TrainingData,
  type TrainingDocument,
} from './data.js'
import { DistilledFile, type DistilledOrigin } from './distilled-file.js'
import { DEFAULTS, FIXED, type TrainOptions } from './options.js'
import { enoughOf, SELF_DISTILL_DEFAULTS, type SelfDistilledText, selfDistill } from './self-distill.js'

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
 * The texts of a run. Those that the model writes are kept in `out` as they are done, where whoever comes again finds them.
 *
 * @param modelDigest names the model's weights.
 * @throws {GorgonError} ERR_DATA, ERR_FILE, ERR_TOKENIZER, ERR_OPTION for a context that the model does not have, or for texts in `out` that the
 *   model wrote otherwise; ERR_WRITE; the signal's reason.
 */
export async function readTrainingTexts(
  options: TrainOptions,
  folder: ModelFolder,
  modelDigest: string,
  addon: Native,
): Promise<TrainingTexts> {
  const context = contextOf(options, folder)
  const tokenizer = await loadTokenizer(folder.dir)
  try {
    const { config, generation } = folder
    const encoder: Encoder = { tokenizer, vocab: config.shape.vocab, endIds: config.eosIds }
    const { documents, files, skipped } =
      options.selfDistill > 0
        ? await distilledData(options, folder, encoder, modelDigest, addon)
        : await read(encoder, options)
    const { training, heldOut, isByEnds } = splitDocuments(documents, options.heldOut, options.seed)
    if (isByEnds) options.onProgress?.({ phase: 'warning', message: onlyOne(heldOut.length > 0, options.heldOut) })
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

function read(encoder: Encoder, { data, field, out, signal, onProgress }: TrainOptions): Promise<TrainingData> {
  return readTrainingData(data, encoder, {
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

const onlyOne = (isCut: boolean, share: number): string =>
  isCut
    ? `There is only one text to learn from, so its last ${fixed(100 * share, 1)} % are held out. Several texts tell more of how good the heads are.`
    : 'There is only one text to learn from, and it is too short to hold out a part. Nothing will tell how good the heads are.'

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

/** What the model writes, or has written, after the beginnings of the data. */
async function distilledData(
  options: TrainOptions,
  folder: ModelFolder,
  encoder: Encoder,
  modelDigest: string,
  addon: Native,
): Promise<TrainingData> {
  const { out, data, selfDistill: total, seed, temperature } = options
  // What is to be continued has no end.
  const found = data.length > 0 ? await read({ ...encoder, endIds: [] }, options) : NO_DATA
  const origin: DistilledOrigin = {
    ...SELF_DISTILL_DEFAULTS,
    temperature,
    tokens: total,
    seed,
    model: modelDigest,
    dtype: options.dtype === 'auto' ? folder.dtype : options.dtype,
    weights: options.weights,
    prompts: dataDigest(found.documents),
  }
  await using file = await DistilledFile.open(out, origin, encoder.vocab)
  const texts = enoughOf(file.texts, total) ?? (await distill(options, folder, found, file, addon))
  return { ...found, documents: texts.map(asDocument) }
}

const NO_DATA: TrainingData = { documents: [], files: 0, skipped: { hidden: 0, binary: 0, empty: 0, output: 0 } }

/** Texts after one prompt are much alike, however much of it each begins with. */
const asDocument = ({ tokens, from, prompt }: SelfDistilledText): TrainingDocument =>
  prompt === null ? { tokens, from } : { tokens, from, group: prompt }

async function distill(
  options: TrainOptions,
  folder: ModelFolder,
  { documents }: TrainingData,
  file: DistilledFile,
  addon: Native,
): Promise<readonly SelfDistilledText[]> {
  const { backend, dtype, weights, threads, isa, device, deviceMemory, signal, onProgress } = options
  await using engine = await loadEngineWith(
    parseLoadOptions({
      ...{ backend, dtype, weights, threads, isa, device, deviceMemory, signal },
      model: folder.dir,
      heads: false,
      limits: { maxSequences: DISTILLED_AT_ONCE },
      onProgress: ({ done, total }) => onProgress?.({ phase: 'load', done, total }),
    }),
    addon,
  )
  const texts = await selfDistill({
    engine,
    prompts: documents.map(({ tokens }) => tokens),
    tokens: options.selfDistill,
    seed: options.seed,
    temperature: options.temperature,
    known: file.texts,
    ...(signal && { signal }),
    onText: (index, text) => file.add(index, text),
    onProgress: ({ tokens: done, total }) => onProgress?.({ phase: 'distill', done, total }),
  })
  await file.settle(texts)
  return texts
}
