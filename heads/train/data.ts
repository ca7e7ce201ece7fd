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

/** What documents are made for. */
export interface Encoder {
  readonly tokenizer: Tokenizer | null
  readonly vocab: number
  /** Ends a text; null where the model has none. */
  readonly endId: number | null
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
  const skipped: Skipped = { hidden: 0, binary: 0, empty: 0 }
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
    const { hidden, binary, empty } = skipped
    throw new GorgonError(
      'ERR_DATA',
      `There is no text in ${paths.join(', ')} (${files.length} ${files.length === 1 ? 'file' : 'files'}; left out: ${empty} empty, ${binary} binary, ${hidden} hidden). Give files with text.`,
      { paths, files: files.length, ...skipped },
    )
  }
  return { documents, files: files.length, skipped }
}

async function encodeText(
  { where, content, from, group }: RawText,
  { tokenizer, vocab, endId }: Encoder,
  signal: AbortSignal | undefined,
): Promise<TrainingDocument> {
  if (typeof content !== 'string') {
    checkVocabulary(content, vocab, where, 'These ids are of another model.')
    return group === undefined ? { tokens: content, from } : { tokens: content, from, group }
  }
  const ids = await tokenizerOf({ tokenizer }).encode(content, signal ? { signal } : {})
  checkVocabulary(ids, vocab, where, 'tokenizer.json is of another model than the weights.')
  if (endId === null || ids.at(-1) === endId) return { tokens: ids, from }
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
}

/**
 * Sets about `share` of the documents aside, and at least one, in an order of their own. Which ones depends on the seed and on each document
 * alone, unless there are very few: what is added to the data moves no document to the other side, and copies of one are on one side.
 *
 * @throws {GorgonError} ERR_DATA when there is no document left for either side.
 */
export function splitDocuments(documents: readonly TrainingDocument[], share: number, seed: number): Split {
  if (share === 0) return { training: documents, heldOut: [] }
  const placed = documents.map((document) => ({ document, place: placeOf(document, seed) }))
  const places = placed.map(({ place }) => place).sort((a, b) => a - b)
  const [lowest, highest] = [places[0], places.at(-1)]
  // Of few documents luck may put all on one side.
  const isHeldOut = (place: number) => place === lowest || (place < share && place !== highest)
  const training = placed.filter(({ place }) => !isHeldOut(place)).map(({ document }) => document)
  const heldOut = placed
    .filter(({ place }) => isHeldOut(place))
    .sort((a, b) => a.place - b.place)
    .map(({ document }) => document)
  if (training.length > 0) return { training, heldOut }
  throw new GorgonError(
    'ERR_DATA',
    `The data have ${documents.length} ${documents.length === 1 ? 'text' : 'texts'}, too few to hold some out. Give more texts, cut them into more files, or use --held-out 0.`,
    { documents: documents.length, heldOut: share },
  )
}

/** In [0, 1), by content and seed; of a group's documents the same. */
function placeOf(document: TrainingDocument, seed: number): number {
  const what = document.group ?? documentDigest(document)
  const digest = createHash('sha256').update(`${seed}/`).update(what).digest()
  return digest.readUIntBE(0, 6) / 2 ** 48
}
