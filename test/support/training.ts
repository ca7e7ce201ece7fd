// Trainers on tiny models: their tensors by name, filled, read back and laid out as the oracles take them.
import { type ModelHandle, native } from '../../src/native.js'
import type { TrainerHandle, TrainerSpec, TrainingSlice, TrainingText, UpdateSpec } from '../../src/native-training.js'
import type { MedusaHead } from '../oracle/medusa-heads.js'
import type { Random } from './random.js'
import type { TinyModel } from './tiny-model.js'

/** By role: `H.block.R.weight`, `H.block.R.bias`, `H.projection`. */
export type TrainedValues = ReadonlyMap<string, Float32Array>

/** Settings that f32 holds as they are. */
export const UPDATE: UpdateSpec = {
  scale: 1,
  clip: 0,
  learningRate: 2 ** -7,
  beta1: 0.875,
  beta2: 0.984375,
  epsilon: 2 ** -26,
  weightDecay: 2 ** -6,
  step: 1,
}

/** A text of `count` tokens of a vocabulary. */
export function randomText(random: Random, count: number, vocab: number, from = 0): TrainingText {
  return { tokens: Int32Array.from({ length: count }, () => random.integer(0, vocab - 1)), from, hidden: null }
}

/** Heads in training on a model of this shape. */
export class TrainedHeads {
  private constructor(
    readonly trainer: TrainerHandle,
    readonly spec: TrainerSpec,
    readonly model: Pick<TinyModel, 'hidden' | 'vocab'>,
  ) {}

  static async open(
    handle: ModelHandle,
    model: Pick<TinyModel, 'hidden' | 'vocab'>,
    spec: Partial<TrainerSpec> = {},
  ): Promise<TrainedHeads> {
    const whole = { medusaHeads: 2, blocks: 1, privateProjection: false, ...spec }
    return new TrainedHeads(await native().training.openTrainer(handle, whole), whole, model)
  }

  /** Elements of each tensor. */
  sizes(): Map<string, number> {
    const { medusaHeads, blocks, privateProjection } = this.spec
    const { hidden, vocab } = this.model
    const sizes = new Map<string, number>()
    for (let head = 0; head < medusaHeads; head++) {
      for (let block = 0; block < blocks; block++) {
        sizes.set(`${head}.block.${block}.weight`, hidden * hidden)
        sizes.set(`${head}.block.${block}.bias`, hidden)
      }
      if (privateProjection) sizes.set(`${head}.projection`, vocab * hidden)
    }
    return sizes
  }

  async read(part: TrainingSlice['part']): Promise<TrainedValues> {
    const values = new Map<string, Float32Array>()
    for (const [tensor, size] of this.sizes()) {
      values.set(tensor, await native().training.read(this.trainer, { tensor, part, first: 0 }, size))
    }
    return values
  }

  async write(values: TrainedValues, part: TrainingSlice['part'] = 'weights'): Promise<void> {
    for (const [tensor, array] of values) await native().training.write(this.trainer, { tensor, part, first: 0 }, array)
  }

  /** Moves every weight by a random number of about what a block's would be after some training. */
  async scatter(random: Random): Promise<void> {
    const values = await this.read('weights')
    for (const [name, array] of values) {
      const deviation = name.endsWith('bias') ? 0.1 : 0.5 / Math.sqrt(this.model.hidden)
      array.forEach((value, i) => {
        array[i] = value + deviation * random.normal()
      })
    }
    await this.write(values)
  }

  score(texts: readonly TrainingText[]) {
    return native().training.score(this.trainer, texts)
  }

  accumulate(texts: readonly TrainingText[], scales = new Float32Array(this.spec.medusaHeads).fill(1)) {
    return native().training.accumulate(this.trainer, texts, scales)
  }

  update(spec: Partial<UpdateSpec> = {}) {
    return native().training.update(this.trainer, { ...UPDATE, ...spec })
  }

  close() {
    return native().training.closeTrainer(this.trainer)
  }
}

/** Heads as the oracles take them. */
export function oracleHeads(
  spec: TrainerSpec,
  values: ReadonlyMap<string, ArrayLike<number>>,
  lmHead: ArrayLike<number>,
): MedusaHead[] {
  return Array.from({ length: spec.medusaHeads }, (_, head) => {
    const names = Array.from({ length: spec.blocks }, (_, block) => `${head}.block.${block}`)
    return {
      blocks: names.map((name) => values.get(`${name}.weight`)!),
      biases: names.map((name) => values.get(`${name}.bias`)!),
      projection: values.get(`${head}.projection`) ?? lmHead,
    }
  })
}
