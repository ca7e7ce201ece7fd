// Checkpoints: the heads' weights and moments in f32 with the state of their run, whole or not there, and believed only when they fit.
import { createHash, type Hash } from 'node:crypto'
import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { recoverFolder, replaceFolder, writeDurably } from '../../src/durable-file.js'
import { GorgonError, isGorgonError } from '../../src/errors.js'
import { readJsonObject } from '../../src/json.js'
import type { NativeTraining, TrainerHandle } from '../../src/native-training.js'
import { bytesOf } from '../../src/weights/dtype.js'
import {
  openSafetensors,
  type SafetensorsFile,
  type TensorData,
  writeSafetensors,
} from '../../src/weights/safetensors.js'
import { elementsOf, PIECE_ELEMENTS, piecesOf, type TrainedTensor } from './trained-heads.js'

const VERSION = 1
const PARTS = ['weights', 'mean', 'variance'] as const
const WEIGHTS_FILE = 'heads.safetensors'
const STATE_FILE = 'state.json'

/** What decides the numbers of a run; another value of any of these is another run. */
export type RunIdentity = Readonly<Record<string, string | number | boolean>>

const CheckpointState = z.object({
  version: z.literal(VERSION),
  /** Updates done. */
  step: z.int().min(0),
  /** Tokens read in them, and the seconds they took. */
  tokens: z.int().min(0),
  seconds: z.number().min(0),
  run: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  /** SHA-256 of the weights and moments, in their order. */
  digest: z.string(),
})
export type CheckpointState = Readonly<z.output<typeof CheckpointState>>

/** The heads that a checkpoint is of. */
export interface Trained {
  readonly training: NativeTraining
  readonly trainer: TrainerHandle
  readonly tensors: readonly TrainedTensor[]
}

const folderOf = (out: string): string => join(out, 'checkpoint')

/**
 * Whether a run left a checkpoint in `out`. Clears up what a crash left of writing one.
 *
 * @throws {GorgonError} ERR_WRITE.
 */
export async function hasCheckpoint(out: string): Promise<boolean> {
  await recoverFolder(folderOf(out))
  return stat(folderOf(out)).then(
    () => true,
    () => false,
  )
}

/**
 * Puts a checkpoint in the place of the last one.
 *
 * @param diverged makes the error for a tensor with a number that is none: it is nothing to go on from.
 * @throws {GorgonError} that error, or ERR_WRITE; the last one is unchanged.
 */
export async function writeCheckpoint(
  out: string,
  { training, trainer, tensors }: Trained,
  state: Omit<CheckpointState, 'version' | 'digest'>,
  diverged: (tensor: string) => GorgonError,
): Promise<void> {
  await replaceFolder(folderOf(out), async (folder) => {
    const hash = createHash('sha256')
    const data = PARTS.flatMap((part) =>
      tensors.map((tensor): [string, TensorData] => [
        `${tensor.role}.${part}`,
        {
          dtype: 'F32',
          shape: tensor.shape,
          async *data() {
            for await (const piece of piecesOf(training, trainer, tensor, part)) {
              if (!isAllFinite(piece)) throw diverged(tensor.role)
              const bytes = bytesOf(piece, 'f32')
              hash.update(bytes)
              yield bytes
            }
          },
        },
      ]),
    )
    await writeSafetensors(join(folder, WEIGHTS_FILE), new Map(data))
    const whole: CheckpointState = { version: VERSION, ...state, digest: hash.digest('hex') }
    await writeDurably(join(folder, STATE_FILE), (handle) => handle.writeFile(`${JSON.stringify(whole, null, 1)}\n`))
  })
}

/** A loop: a callback for each of billions of numbers takes longer than writing them. */
function isAllFinite(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false
  return true
}

/**
 * The state of the checkpoint in `out`, checked to be of this run.
 *
 * @throws {GorgonError} ERR_CHECKPOINT when there is none, it is damaged, or it is of another run; ERR_WRITE; ERR_FILE.
 */
export async function readCheckpointState(out: string, run: RunIdentity): Promise<CheckpointState> {
  if (!(await hasCheckpoint(out))) throw noCheckpoint(out)
  const path = join(folderOf(out), STATE_FILE)
  const json = await readJsonObject(path, 'ERR_CHECKPOINT')
  const parsed = CheckpointState.safeParse(json)
  if (!parsed.success) throw damaged(path, `${STATE_FILE} ${json === null ? 'is missing' : 'makes no sense'}`)
  const state = parsed.data
  const names = [...new Set([...Object.keys(run), ...Object.keys(state.run)])]
  const differing = names.filter((name) => run[name] !== state.run[name])
  if (differing.length === 0) return state
  const shown = differing.map((name) => `${name} (${show(state.run[name])}, now ${show(run[name])})`).join(', ')
  const why = differing.includes('steps') ? ' The learning rate follows from the number of steps.' : ''
  throw new GorgonError(
    'ERR_CHECKPOINT',
    `The checkpoint in ${out} is of a run with another ${shown}.${why} Give what that run was given, or start anew in another folder.`,
    { out, differing },
  )
}

export function noCheckpoint(out: string): GorgonError {
  return new GorgonError(
    'ERR_CHECKPOINT',
    `${out} has no checkpoint to go on from. Start without resume; texts that the model wrote there are taken as they are.`,
    { out },
  )
}

const show = (value: string | number | boolean | undefined): string =>
  typeof value === 'string' && value.length > 24 ? `${value.slice(0, 12)}…` : String(value)

function damaged(path: string, what: string, cause?: unknown): GorgonError {
  return new GorgonError(
    'ERR_CHECKPOINT',
    `The checkpoint ${path} is damaged: ${what}. Start anew in an empty folder.`,
    { file: path },
    cause,
  )
}

/**
 * Gives a trainer the weights and moments of the checkpoint in `out`.
 *
 * @throws {GorgonError} ERR_CHECKPOINT when they are damaged or of other heads; the trainer is of no use then.
 */
export async function restoreCheckpoint(out: string, trained: Trained, { digest }: CheckpointState): Promise<void> {
  const path = join(folderOf(out), WEIGHTS_FILE)
  let file: SafetensorsFile
  try {
    file = await openSafetensors(path)
  } catch (error) {
    throw isGorgonError(error) ? damaged(path, error.message.replace(/\.$/, ''), error) : error
  }
  const hash = createHash('sha256')
  const names = PARTS.flatMap((part) =>
    trained.tensors.map((tensor) => ({ part, tensor, name: `${tensor.role}.${part}` })),
  )
  if (file.tensors.size !== names.length) throw damaged(path, `it has ${file.tensors.size} of ${names.length} tensors`)
  for (const { part, tensor, name } of names) {
    const entry = file.tensors.get(name)
    if (entry?.dtype !== 'F32' || entry.end - entry.begin !== 4 * elementsOf(tensor)) {
      throw damaged(path, `the tensor "${name}" is not what it should be`)
    }
    await restoreTensor(path, entry.begin, trained, { role: tensor.role, part, elements: elementsOf(tensor) }, hash)
  }
  if (hash.digest('hex') !== digest) throw damaged(path, 'its numbers are not those that were written')
}

async function restoreTensor(
  path: string,
  begin: number,
  { training, trainer }: Trained,
  { role, part, elements }: { readonly role: string; readonly part: (typeof PARTS)[number]; readonly elements: number },
  hash: Hash,
): Promise<void> {
  const handle = await open(path, 'r')
  try {
    for (let first = 0; first < elements; first += PIECE_ELEMENTS) {
      const values = new Float32Array(Math.min(PIECE_ELEMENTS, elements - first))
      const bytes = bytesOf(values, 'f32')
      for (let done = 0; done < bytes.length; ) {
        const { bytesRead } = await handle.read(bytes, done, bytes.length - done, begin + 4 * first + done)
        if (bytesRead === 0) throw damaged(path, 'it ends early')
        done += bytesRead
      }
      hash.update(bytes)
      await training.write(trainer, { tensor: role, part, first }, values)
    }
  } finally {
    await handle.close()
  }
}
