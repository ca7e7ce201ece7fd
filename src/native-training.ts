// What crosses to the addon to train Medusa heads: beside inference's interface in native.ts, and nothing of it.
import type { ModelHandle } from './native.js'

declare const kind: unique symbol
/** Made and read by C++ alone. */
export type TrainerHandle = { readonly [kind]: 'trainer' }

export interface TrainerSpec {
  readonly medusaHeads: number
  /** Residual blocks per head; may be 0 with private projections. */
  readonly blocks: number
  /** Each head projects through its own matrix, which begins as the model's lm_head; else the lm_head itself serves and stays as it is. */
  readonly privateProjection: boolean
}

/** A text to learn from: head h at position t stands for the token at t + 2 + h. */
export interface TrainingText {
  /** i32 [T]. */
  readonly tokens: Int32Array
  /** Tokens before this index are read and not learnt. */
  readonly from: number
  /** [T, C] of the model's dtype, as `hiddenRows` gave them; null: the model computes them. */
  readonly hidden: Uint8Array | null
}

/** Of one text; where a head has no loss, 0 and -1. */
export interface TextScores {
  /** f32 [medusaHeads, T], nats. */
  readonly losses: Float32Array
  /** i32 [medusaHeads, T]: where the right token ranks among all, 0 the likeliest. */
  readonly ranks: Int32Array
}

export interface UpdateSpec {
  /** Multiplies gradients: one over the rows of the batch. */
  readonly scale: number
  /** Largest norm of all gradients together; larger ones are scaled down to it. 0: any. */
  readonly clip: number
  readonly learningRate: number
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  /** Of weights, not of biases. */
  readonly weightDecay: number
  /** Number of this update, from 1. */
  readonly step: number
}

/** Some of a tensor that is trained. */
export interface TrainingSlice {
  /** Its role, as in `HeadsSpec`: `H.block.R.weight` [C, C], `H.block.R.bias` [C], `H.projection` [V, C]. */
  readonly tensor: string
  readonly part: 'weights' | 'mean' | 'variance' | 'gradient'
  readonly first: number
}

/** A trainer takes one call at a time (`ERR_BUSY`). Its model may run inference meanwhile; passes take turns. */
export interface NativeTraining {
  /** Heads whose blocks are zeros: each guesses what the model itself does. */
  openTrainer(model: ModelHandle, spec: TrainerSpec): Promise<TrainerHandle>
  trainerInfo(trainer: TrainerHandle): { readonly bytes: number }
  /** [T, C] of the model's dtype: a text's rows after the final norm, as heads take them. */
  hiddenRows(trainer: TrainerHandle, tokens: Int32Array): Promise<Uint8Array>
  score(trainer: TrainerHandle, texts: readonly TrainingText[]): Promise<TextScores[]>
  /** As `score`, and adds to the gradients: of head h times scales[h], f32 [medusaHeads]. If it fails halfway all gradients are forgotten. */
  accumulate(trainer: TrainerHandle, texts: readonly TrainingText[], scales: Float32Array): Promise<TextScores[]>
  /**
   * One step of AdamW by the gradients gathered, which are zero afterwards. `gradientNorm` is theirs, scaled, before clipping; if it is not
   * finite nothing changes but the gradients, which are forgotten.
   */
  update(trainer: TrainerHandle, spec: UpdateSpec): Promise<{ readonly gradientNorm: number }>
  read(trainer: TrainerHandle, slice: TrainingSlice, count: number): Promise<Float32Array>
  write(trainer: TrainerHandle, slice: TrainingSlice, values: Float32Array): Promise<void>
  /** Waits for a running call, then frees; calling it again does nothing. The trainer keeps its model alive until then. */
  closeTrainer(trainer: TrainerHandle): Promise<void>
}
