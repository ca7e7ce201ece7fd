// The prompt of a request: an argument, a file, standard input, or token ids used as they are.
import { readFile } from 'node:fs/promises'
import { addAbortSignal } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { GorgonError } from '../index.js'
import { UsageError } from './args.js'
import type { Io } from './io.js'

export interface PromptSource {
  readonly prompt?: string | undefined
  readonly promptFile?: string | undefined
  readonly promptIds?: string | undefined
}

/**
 * Text, or ids that get no special tokens added.
 *
 * @throws {UsageError} unless exactly one source is given.
 * @throws {GorgonError} ERR_FILE when a file cannot be read, is not UTF-8, or does not hold an array of ids.
 */
export async function readPrompt(source: PromptSource, io: Io): Promise<string | number[]> {
  const { prompt, promptFile, promptIds } = source
  const given = [
    prompt !== undefined && 'PROMPT',
    promptFile !== undefined && '--prompt-file',
    promptIds !== undefined && '--prompt-ids',
  ].filter((name) => name !== false)
  if (given.length !== 1) {
    const what = given.length === 0 ? 'no prompt is given' : `${given.join(' and ')} are given together`
    throw new UsageError(
      `${what}. Give exactly one of PROMPT, --prompt-file F (- reads standard input), --prompt-ids F.`,
      { isLost: true },
    )
  }
  if (promptIds !== undefined) return parseIds(await readText(promptIds, io), promptIds)
  if (promptFile !== undefined) return readText(promptFile, io)
  return prompt ?? ''
}

/** @param file a path, or `-` for standard input. */
async function readText(file: string, io: Io): Promise<string> {
  const name = file === '-' ? 'standard input' : file
  const bytes = await readBytes(file, io).catch((error: NodeJS.ErrnoException) => {
    throw new GorgonError(
      'ERR_FILE',
      `${name} cannot be read (${error.code ?? error.message}). Check the path.`,
      { file },
      error,
    )
  })
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw new GorgonError('ERR_FILE', `${name} is not UTF-8 text. Convert it first.`, { file }, error)
  }
}

function readBytes(file: string, { stdin, signal }: Io): Promise<Buffer> {
  // Somebody who interrupts is not about to finish typing.
  return file === '-' ? buffer(addAbortSignal(signal, stdin)) : readFile(file, { signal })
}

function parseIds(json: string, file: string): number[] {
  let ids: unknown
  try {
    ids = JSON.parse(json)
  } catch (error) {
    throw new GorgonError('ERR_FILE', `${file} is not JSON: ${(error as Error).message}.`, { file }, error)
  }
  if (!Array.isArray(ids))
    throw new GorgonError('ERR_FILE', `${file} holds no array. Token ids look like [0, 17, 4].`, { file })
  const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0)
  if (bad >= 0) {
    const value = JSON.stringify(ids[bad])
    throw new GorgonError(
      'ERR_FILE',
      `${file}: element ${bad} is ${value}, not a token id. Ids are whole numbers from 0.`,
      {
        file,
        index: bad,
      },
    )
  }
  return ids
}
