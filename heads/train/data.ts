// Documents to learn from: text encoded for the model, ids checked against it, some held out, all of them in one digest.
import { createHash } from 'node:crypto'
import { GorgonError } from '../../src/errors.js'
import { tokenizerOf } from '../../src/prompt.js'
import type { Tokenizer } from '../../src/text/tokenizer.js'
import { listDataFiles, type RawText, readDataFile, type Skipped } from './data-files.js'

export interface TrainingDocument {
  readonly tokens: Int32Array
  /** Tokens before this index are context only. */
  readonly from: number
  /** Documents with the same have something in common, and are learnt from or held out together. */
  readonly group?: string
}

/** With fewer tokens no head has anything to learn. */
export const FEWEST_TOKENS = 3

/** What documents are made for. */
export interface Encoder {
  readonly tokenizer: Tokenizer | null
  readonly vocab: number
  /** Any of these ends a text, and the first is put where none does; empty where the model has none. */
  readonly endIds: readonly number[]
}

export interface TrainingData {
  readonly documents: readonly TrainingDocument[]
  readonly files: number
  readonly skipped: Readonly<Skipped>
}

export interface DataOptions {
  /** What the text is called in the objects of .jsonl files. */
  readonly field: string
  /** A folder that is not looked into. */
  readonly except?: string
  readonly signal?: AbortSignal | undefined
  /** Told of bytes read, of all. */
  readonly onProgress?: (done: number, total: number) => void
}

/**
 * All documents of these files and folders. Texts get what the tokenizer adds and the end token; ids stay as they are.
 *
 * @throws {GorgonError} ERR_DATA naming file, line and value where something cannot be used, or when there is nothing; ERR_FILE;
 *   ERR_TOKENIZER.
 */
export async function readTrainingData(
  paths: readonly string[],
  encoder: Encoder,
  { field, except, signal, onProgress }: DataOptions,
): Promise<TrainingData> {
  const skipped: Skipped = { hidden: 0, binary: 0, empty: 0, output: 0 }
  const files = await listDataFiles(paths, skipped, except)
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  const onBytes = (bytes: number) => {
    done += bytes
    onProgress?.(done, total)
  }
  const documents: TrainingDocument[] = []
  for (const file of files) {
    for await (const raw of readDataFile(file, { field, skipped, signal, onBytes })) {
      const document = await encodeText(raw, encoder, signal)
      if (document.tokens.length > 0) documents.push(document)
    }
  }
  if (documents.length === 0) {
    const { hidden, binary, empty, output } = skipped
    const without = `${empty} empty, ${binary} binary, ${hidden} hidden${output > 0 ? `, and the folder ${except}, which is written to` : ''}`
    throw new GorgonError(
      'ERR_DATA',
      `There is no text in ${paths.join(', ')} (${files.length} ${files.length === 1 ? 'file' : 'files'}; left out: ${without}). Give files with text.`,
      { paths, files: files.length, ...skipped },
    )
  }
  return { documents, files: files.length, skipped }
}

async function encodeText(
  { where, content, from, group, goesOn }: RawText,
  { tokenizer, vocab, endIds }: Encoder,
  signal: AbortSignal | undefined,
): Promise<TrainingDocument> {
  if (typeof content !== 'string') {
    checkVocabulary(content, vocab, where, 'These ids are of another model.')
    return group === undefined ? { tokens: content, from } : { tokens: content, from, group }
  }
  const ids = await tokenizerOf({ tokenizer }).encode(content, signal ? { signal } : {})
  checkVocabulary(ids, vocab, where, 'tokenizer.json is of another model than the weights.')
  const hasEnd = endIds.includes(ids.at(-1) ?? -1)
  // A tokenizer may put an end to everything; what goes on has none.
  if (goesOn) return { tokens: hasEnd ? ids.slice(0, -1) : ids, from }
  const [endId] = endIds
  if (endId === undefined || hasEnd) return { tokens: ids, from }
  const tokens = new Int32Array(ids.length + 1)
  tokens.set(ids)
  tokens[ids.length] = endId
  return { tokens, from }
}

export function checkVocabulary(ids: Int32Array, vocab: number, where: string, why: string): void {
  const index = ids.findIndex((id) => id >= vocab)
  if (index < 0) return
  throw new GorgonError(
    'ERR_DATA',
    `${where}: token ${index} is ${ids[index]}, but the model has tokens 0 to ${vocab - 1}. ${why}`,
    { where, index, token: ids[index], vocab },
  )
}

/** Of one document: its content alone decides. */
export function documentDigest({ tokens, from }: TrainingDocument): Buffer {
  const head = Buffer.alloc(4)
  head.writeUInt32LE(from)
  return createHash('sha256')
    .update(head)
    .update(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength))
    .digest()
}

/** Of all documents in their order, as hex. */
export function dataDigest(documents: readonly TrainingDocument[]): string {
  const hash = createHash('sha256')
  for (const document of documents) hash.update(documentDigest(document))
  return hash.digest('hex')
}

export interface Split {
  readonly training: readonly TrainingDocument[]
  readonly heldOut: readonly TrainingDocument[]
  /** There is one text, or one group of them, and what is held out is the end of each. */
  readonly isByEnds: boolean
}

/**
 * Sets about `share` of the documents aside, and at least one, in an order of their own. Which ones depends on the seed and on each document
 * alone, unless there are very few: what is added to the data moves no document to the other side, and copies of one are on one side. Of a
 * single document its end is set aside, if it is long enough.
 */
export function splitDocuments(documents: readonly TrainingDocument[], share: number, seed: number): Split {
  if (share === 0) return { training: documents, heldOut: [], isByEnds: false }
  const placed = documents.map((document) => ({ document, place: placeOf(document, seed) }))
  const places = placed.map(({ place }) => place).sort((a, b) => a - b)
  const [lowest, highest] = [places[0], places.at(-1)]
  if (lowest === highest) return splitEnds(documents, share)
  // Of few documents luck may put all on one side.
  const isHeldOut = (place: number) => place === lowest || (place < share && place !== highest)
  const training = placed.filter(({ place }) => !isHeldOut(place)).map(({ document }) => document)
  const heldOut = placed
    .filter(({ place }) => isHeldOut(place))
    .sort((a, b) => a.place - b.place)
    .map(({ document }) => document)
  return { training, heldOut, isByEnds: false }
}

/** What is held out of a document is read after what comes before it, as context. */
function splitEnds(documents: readonly TrainingDocument[], share: number): Split {
  const training: TrainingDocument[] = []
  const heldOut: TrainingDocument[] = []
  for (const document of documents) {
    const { tokens, from } = document
    const cut = tokens.length - Math.ceil((tokens.length - from) * share)
    const isLong = cut - from >= FEWEST_TOKENS && cut < tokens.length
    training.push(isLong ? { ...document, tokens: tokens.subarray(0, cut) } : document)
    if (isLong) heldOut.push({ ...document, from: cut })
  }
  return { training, heldOut, isByEnds: true }
}

/** In [0, 1), by content and seed; of a group's documents the same. */
function placeOf(document: TrainingDocument, seed: number): number {
  const what = document.group ?? documentDigest(document)
  const digest = createHash('sha256').update(`${seed}/`).update(what).digest()
  return digest.readUIntBE(0, 6) / 2 ** 48
}
