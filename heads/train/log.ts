// training.jsonl: one line per step and per look at the held-out texts, cut back to the checkpoint when a run goes on.
import { type FileHandle, open } from 'node:fs/promises'
import { z } from 'zod'
import { writeError } from '../../src/durable-file.js'
import { GorgonError } from '../../src/errors.js'
import { HeadScores } from './loss.js'

const count = z.int().min(0)

const Heads = z.array(HeadScores).min(1)

const StepLine = z.object({
  kind: z.literal('step'),
  /** From 1. */
  step: count,
  /** From 0. */
  epoch: count,
  /** The heads' mean losses, weighted as the gradients are. */
  loss: z.number(),
  heads: Heads,
  learningRate: z.number(),
  /** Before clipping. */
  gradientNorm: z.number(),
  /** Read in this step, context included. */
  tokens: count,
  /** Of training since the run began, pauses left out. */
  seconds: z.number(),
})

const HeldOutLine = z.object({
  kind: z.literal('held-out'),
  /** After which step; 0 before the first. */
  step: count,
  loss: z.number(),
  heads: Heads,
})

const LogLine = z.discriminatedUnion('kind', [StepLine, HeldOutLine])

export type StepLine = Readonly<z.output<typeof StepLine>>
export type HeldOutLine = Readonly<z.output<typeof HeldOutLine>>
export type LogLine = StepLine | HeldOutLine

/** A training.jsonl that is written. */
export class TrainingLog {
  readonly #path: string
  readonly #handle: FileHandle
  #lastHeldOutStep: number | null

  private constructor(path: string, handle: FileHandle, lastHeldOutStep: number | null) {
    this.#path = path
    this.#handle = handle
    this.#lastHeldOutStep = lastHeldOutStep
  }

  /** After which the held-out texts were last looked at; null when they were not. */
  get lastHeldOutStep(): number | null {
    return this.#lastHeldOutStep
  }

  /**
   * @param lastStep lines of later steps are cut off; null begins anew.
   * @throws {GorgonError} ERR_WRITE.
   */
  static async open(path: string, lastStep: number | null): Promise<TrainingLog> {
    let handle: FileHandle | undefined
    try {
      handle = await open(path, 'a+')
      const kept = lastStep === null ? NOTHING : partUntil(await handle.readFile('utf8'), lastStep)
      await handle.truncate(kept.bytes)
      return new TrainingLog(path, handle, kept.lastHeldOutStep)
    } catch (error) {
      await handle?.close()
      throw writeError(path, error)
    }
  }

  /** @throws {GorgonError} ERR_WRITE. */
  async write(line: LogLine): Promise<void> {
    await this.#handle.appendFile(`${JSON.stringify(line)}\n`).catch((error: unknown) => {
      throw writeError(this.#path, error)
    })
    if (line.kind === 'held-out') this.#lastHeldOutStep = line.step
  }

  /** Brings what was written to the disk, so that a checkpoint is never ahead of its log. */
  async sync(): Promise<void> {
    await this.#handle.sync().catch((error: unknown) => {
      throw writeError(this.#path, error)
    })
  }

  async close(): Promise<void> {
    await this.#handle.close()
  }
}

interface LogPart {
  readonly bytes: number
  readonly lastHeldOutStep: number | null
}

const NOTHING: LogPart = { bytes: 0, lastHeldOutStep: null }

/** The whole lines up to and with those of a step. */
function partUntil(text: string, lastStep: number): LogPart {
  let end = 0
  let lastHeldOutStep: number | null = null
  for (let next = text.indexOf('\n'); next >= 0; next = text.indexOf('\n', end)) {
    const line = parseLine(text.slice(end, next))
    if (line === null || line.step > lastStep) break
    if (line.kind === 'held-out') lastHeldOutStep = line.step
    end = next + 1
  }
  return { bytes: Buffer.byteLength(text.slice(0, end)), lastHeldOutStep }
}

function parseLine(text: string): LogLine | null {
  try {
    return LogLine.safeParse(JSON.parse(text)).data ?? null
  } catch {
    return null
  }
}

/**
 * The lines of a training.jsonl; the last one may be torn, and is left out then.
 *
 * @throws {GorgonError} ERR_FILE when there is none or a line before the last makes no sense.
 */
export async function readTrainingLog(path: string): Promise<LogLine[]> {
  const handle = await open(path, 'r').catch((error: Error) => {
    throw new GorgonError('ERR_FILE', `${path} cannot be read: ${error.message}.`, { file: path }, error)
  })
  const lines: LogLine[] = []
  try {
    const texts = (await handle.readFile('utf8')).split('\n')
    // After the last line break there is nothing, or what a crash left of a line.
    for (const [index, text] of texts.slice(0, -1).entries()) {
      const line = parseLine(text)
      if (line === null) {
        throw new GorgonError('ERR_FILE', `${path}:${index + 1} is no line of a training log.`, { file: path })
      }
      lines.push(line)
    }
  } finally {
    await handle.close()
  }
  return lines
}
