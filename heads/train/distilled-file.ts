// self-distilled.jsonl: texts that a model wrote for a run, kept as each is done, with a note of what they are of.
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { writeDurably, writeError } from '../../src/durable-file.js'
import { GorgonError, isGorgonError } from '../../src/errors.js'
import { readJsonObject } from '../../src/json.js'
import { checkVocabulary } from './data.js'
import type { SelfDistilledText } from './self-distill.js'

export const DISTILLED_FILE = 'self-distilled.jsonl'
/** Beside it: what it is of. */
export const ORIGIN_FILE = 'self-distilled.json'

/** All that texts follow from; with another value of any of these they would be others. */
export type DistilledOrigin = Readonly<Record<string, string | number>>

const Origin = z.record(z.string(), z.union([z.string(), z.number()]))

const Line = z.object({
  /** The text's number. */
  index: z.int().min(0),
  from: z.int().min(0),
  tokens: z.array(z.int().min(0).max(0x7fffffff)),
  prompt: z.string().nullable(),
})

/** The texts in a run's folder. */
export class DistilledFile {
  readonly #path: string
  readonly #handle: FileHandle
  readonly #texts = new Map<number, SelfDistilledText>()
  /** Lines are written one after the other. */
  #written: Promise<void> = Promise.resolve()

  private constructor(path: string, handle: FileHandle) {
    this.#path = path
    this.#handle = handle
  }

  /**
   * Opens the texts in `out`, or begins with none.
   *
   * @param vocab of the model: tokens are below it.
   * @throws {GorgonError} ERR_OPTION when there are texts of another origin, ERR_DATA when they are damaged; ERR_WRITE.
   */
  static async open(out: string, origin: DistilledOrigin, vocab: number): Promise<DistilledFile> {
    const path = join(out, DISTILLED_FILE)
    let handle: FileHandle | undefined
    try {
      handle = await open(path, 'a+')
      await checkOrigin(out, origin, (await handle.stat()).size === 0)
      const file = new DistilledFile(path, handle)
      await file.#read(vocab)
      return file
    } catch (error) {
      await handle?.close()
      throw isGorgonError(error) ? error : writeError(path, error)
    }
  }

  /** Takes the lines that are there, and cuts off what a crash left of one. */
  async #read(vocab: number): Promise<void> {
    const { size } = await this.#handle.stat()
    let [number, end] = [0, 0]
    for await (const line of this.#handle.readLines({ start: 0, autoClose: false })) {
      number++
      const after = end + Buffer.byteLength(line) + 1
      if (after > size) break
      const { index, text } = parseLine(line, `${this.#path}:${number}`, vocab)
      this.#texts.set(index, text)
      end = after
    }
    if (end < size) await this.#handle.truncate(end)
  }

  /** By their numbers. */
  get texts(): ReadonlyMap<number, SelfDistilledText> {
    return this.#texts
  }

  /** @throws {GorgonError} ERR_WRITE. */
  add(index: number, text: SelfDistilledText): Promise<void> {
    this.#texts.set(index, text)
    this.#written = this.#written.then(() => this.#handle.appendFile(lineOf(index, text)))
    return this.#written.catch((error: unknown) => {
      throw writeError(this.#path, error)
    })
  }

  /**
   * Leaves these texts alone, in their order.
   *
   * @throws {GorgonError} ERR_WRITE.
   */
  async settle(texts: readonly SelfDistilledText[]): Promise<void> {
    await writeDurably(this.#path, async (handle) => {
      for (const [index, text] of texts.entries()) await handle.appendFile(lineOf(index, text))
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#written.catch(() => undefined)
    await this.#handle.close()
  }
}

/** Checks what the texts in `out` are of, or notes it before there are any. */
async function checkOrigin(out: string, origin: DistilledOrigin, isNew: boolean): Promise<void> {
  const path = join(out, ORIGIN_FILE)
  if (isNew) {
    await writeDurably(path, (handle) => handle.writeFile(`${JSON.stringify(origin, null, 1)}\n`))
    return
  }
  const found = Origin.safeParse(await readJsonObject(path, 'ERR_DATA')).data
  const names = Object.keys({ ...found, ...origin })
  const differing = names.filter((name) => found?.[name] !== origin[name])
  if (differing.length === 0) return
  const texts = join(out, DISTILLED_FILE)
  const why = found
    ? `is of another ${differing.map((name) => `${name} (${show(found[name])}, now ${show(origin[name])})`).join(', ')}`
    : `does not say what it is of: there is no ${ORIGIN_FILE} beside it that makes sense`
  throw new GorgonError(
    'ERR_OPTION',
    `${texts} ${why}. Give what it was written with, or another folder; or remove it.`,
    { file: texts, differing },
  )
}

const show = (value: string | number | undefined): string =>
  typeof value === 'string' && value.length > 24 ? `${value.slice(0, 12)}…` : String(value)

function parseLine(
  line: string,
  where: string,
  vocab: number,
): { readonly index: number; readonly text: SelfDistilledText } {
  const found = Line.safeParse(parseJson(line)).data
  if (!found || found.from > found.tokens.length) {
    throw new GorgonError('ERR_DATA', `${where}: this is no text as a model wrote it. Remove the file.`, { where })
  }
  const { index, from, prompt } = found
  const tokens = Int32Array.from(found.tokens)
  checkVocabulary(tokens, vocab, where, 'These ids are of another model.')
  return { index, text: { tokens, from, prompt } }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const lineOf = (index: number, { tokens, from, prompt }: SelfDistilledText): string =>
  `${JSON.stringify({ index, from, prompt, tokens: [...tokens] })}\n`
