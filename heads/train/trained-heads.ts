// The tensors of heads in training: their roles and shapes, read and written in pieces, and the files a loader reads.
import { join } from 'node:path'
import { writeDurably } from '../../src/durable-file.js'
import { GorgonError } from '../../src/errors.js'
import type { ModelShape, WeightDtype } from '../../src/native.js'
import type { NativeTraining, TrainerHandle, TrainerSpec, TrainingSlice } from '../../src/native-training.js'
import { bytesOf, firstBeyond } from '../../src/weights/dtype.js'
import { type TensorData, writeSafetensors } from '../../src/weights/safetensors.js'

export const HEADS_FILE = 'medusa_lm_head.safetensors'
export const HEADS_CONFIG_FILE = 'config.json'

/** Elements of one piece: 64 MiB of f32. Heads may be larger than memory has room for twice. */
export const PIECE_ELEMENTS = 1 << 24

export interface TrainedTensor {
  /** As `TrainingSlice` calls it. */
  readonly role: string
  /** In a file of layout A or B. */
  readonly name: string
  readonly shape: readonly number[]
}

/** Every tensor that training changes, in the order they are stored. */
export function trainedTensors(
  { medusaHeads, blocks, privateProjection }: TrainerSpec,
  { hidden, vocab }: Pick<ModelShape, 'hidden' | 'vocab'>,
): TrainedTensor[] {
  const tensors: TrainedTensor[] = []
  for (let head = 0; head < medusaHeads; head++) {
    for (let block = 0; block < blocks; block++) {
      const [role, name] = [`${head}.block.${block}`, `${head}.${block}.linear`]
      tensors.push({ role: `${role}.weight`, name: `${name}.weight`, shape: [hidden, hidden] })
      tensors.push({ role: `${role}.bias`, name: `${name}.bias`, shape: [hidden] })
    }
    if (privateProjection) {
      tensors.push({ role: `${head}.projection`, name: `${head}.${blocks}.weight`, shape: [vocab, hidden] })
    }
  }
  return tensors
}

export const elementsOf = ({ shape }: Pick<TrainedTensor, 'shape'>): number =>
  shape.reduce((product, size) => product * size, 1)

/** A tensor's part, piece by piece. */
export async function* piecesOf(
  training: NativeTraining,
  trainer: TrainerHandle,
  tensor: TrainedTensor,
  part: TrainingSlice['part'],
): AsyncGenerator<Float32Array> {
  const elements = elementsOf(tensor)
  for (let first = 0; first < elements; first += PIECE_ELEMENTS) {
    yield await training.read(trainer, { tensor: tensor.role, part, first }, Math.min(PIECE_ELEMENTS, elements - first))
  }
}

/** What becomes of the heads. */
export interface HeadsToWrite {
  readonly training: NativeTraining
  readonly trainer: TrainerHandle
  readonly spec: TrainerSpec
  readonly shape: Pick<ModelShape, 'hidden' | 'vocab'>
  /** Of the weights in the file. */
  readonly dtype: WeightDtype
  /** What config.json names as the model. */
  readonly baseModel: string
}

/**
 * Writes medusa_lm_head.safetensors and config.json: layout A with projections, B without.
 *
 * @throws {GorgonError} ERR_TENSOR when a weight is too large for the dtype; ERR_WRITE.
 */
export async function writeTrainedHeads(dir: string, heads: HeadsToWrite): Promise<void> {
  const { training, trainer, spec, shape, dtype, baseModel } = heads
  const tensors = trainedTensors(spec, shape).map((tensor): [string, TensorData] => [
    tensor.name,
    {
      dtype: dtype.toUpperCase(),
      shape: tensor.shape,
      async *data() {
        for await (const piece of piecesOf(training, trainer, tensor, 'weights')) {
          checkRange(piece, dtype, tensor.name)
          yield bytesOf(piece, dtype)
        }
      },
    },
  ])
  await writeSafetensors(join(dir, HEADS_FILE), new Map(tensors), { format: 'pt' })
  const config = {
    medusa_num_heads: spec.medusaHeads,
    medusa_num_layers: spec.blocks,
    base_model_name_or_path: baseModel,
    ...(spec.privateProjection ? {} : { version: '2' }),
  }
  await writeDurably(join(dir, HEADS_CONFIG_FILE), (handle) => handle.writeFile(`${JSON.stringify(config, null, 1)}\n`))
}

function checkRange(values: Float32Array, dtype: WeightDtype, tensor: string): void {
  const beyond = firstBeyond(values, dtype)
  if (beyond === undefined) return
  throw new GorgonError(
    'ERR_TENSOR',
    `tensor "${tensor}" came to hold ${beyond}, which is too large for ${dtype}. Train with a lower learning rate, or with another dtype.`,
    { tensor, value: beyond, dtype },
  )
}
