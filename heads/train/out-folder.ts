// The folder that a run writes to: its own while it lasts, and with nothing in it that the run would overwrite.
import { mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { removeParts, writeError } from '../../src/durable-file.js'
import { GorgonError } from '../../src/errors.js'
import { hasCheckpoint, noCheckpoint } from './checkpoint.js'
import { DISTILLED_FILE, ORIGIN_FILE } from './distilled-file.js'
import type { TrainOptions } from './options.js'
import { lockFolder } from './run-lock.js'
import { HEADS_CONFIG_FILE, HEADS_FILE } from './trained-heads.js'

export const LOG_FILE = 'training.jsonl'
export const CURVES_FILE = 'training.svg'
export const ACCURACY_FILE = 'accuracy.json'

/** What every run writes. */
const FILES = [HEADS_FILE, HEADS_CONFIG_FILE, ACCURACY_FILE, LOG_FILE, CURVES_FILE] as const
/** What a run writes whose model writes texts. They are looked at where that is done: those of the same origin are used again. */
const DISTILLED_FILES = [DISTILLED_FILE, ORIGIN_FILE] as const

/**
 * Makes the folder, and makes it this run's until the function returned is called.
 *
 * @throws {GorgonError} ERR_OPTION when another run is at work there, or it has what the run would overwrite; ERR_CHECKPOINT when it has a
 *   checkpoint and `resume` is not set, or has none and `resume` is; ERR_WRITE.
 */
export async function openOut(options: TrainOptions): Promise<() => Promise<void>> {
  const { out } = options
  await mkdir(out, { recursive: true }).catch((error: unknown) => {
    throw writeError(out, error)
  })
  const unlock = await lockFolder(out)
  try {
    for (const name of [...FILES, ...DISTILLED_FILES]) await removeParts(join(out, name))
    await checkData(options)
    await checkPlace(options)
    return unlock
  } catch (error) {
    await unlock().catch(() => undefined)
    throw error
  }
}

/** What is to be read is not what is to be written. */
async function checkData({ out, data, selfDistill }: TrainOptions): Promise<void> {
  const written = selfDistill > 0 ? [...FILES, ...DISTILLED_FILES] : FILES
  for (const path of data) {
    const found = await statOf(path)
    if (!found) continue
    for (const name of written) {
      const own = await statOf(join(out, name))
      if (own?.dev !== found.dev || own?.ino !== found.ino) continue
      throw new GorgonError(
        'ERR_OPTION',
        `data has ${path}, which the run itself would write. Give another folder as out, or other texts.`,
        { path: 'data', value: path, out },
      )
    }
  }
}

/** A run goes on from a checkpoint, or begins where nothing is lost by it. */
async function checkPlace({ out, resume }: TrainOptions): Promise<void> {
  const isBegun = await hasCheckpoint(out)
  if (resume) {
    if (isBegun) return
    throw noCheckpoint(out)
  }
  if (isBegun) {
    throw new GorgonError(
      'ERR_CHECKPOINT',
      `${out} already holds a checkpoint. Go on from it with resume (--resume), or give another folder.`,
      { out },
    )
  }
  const there: string[] = []
  for (const name of FILES) {
    const found = await statOf(join(out, name))
    // An empty file is all that a run leaves which was killed before its first checkpoint.
    if (found && !(found.isFile() && found.size === 0)) there.push(name)
  }
  if (there.length === 0) return
  throw new GorgonError('ERR_OPTION', `out is ${out}, which already has ${there.join(', ')}. Give another folder.`, {
    path: 'out',
    value: out,
    there,
  })
}

const statOf = (path: string) => stat(path).catch(() => null)
