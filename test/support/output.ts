// Arrays for an operation to write: full of NaN where it must write, of sentinels where it must not.
import { expect } from 'vitest'

/** No kernel computes this. */
const SENTINEL = -1.2345678e33
/** Values before and behind, more than any vector write reaches. */
const GUARD = 64

export interface OutputShape {
  readonly rows: number
  readonly width: number
  /** From row to row; what lies between rows is guarded too. */
  readonly stride?: number
  /** Values by which the array starts off a cache line. */
  readonly shift?: number
  /** [rows, width] to start from; NaN if left out. */
  readonly initial?: ArrayLike<number>
}

/** A [rows, width] output within guarded memory. */
export class Output {
  readonly stride: number
  /** What the operation is given. */
  readonly array: Float32Array
  readonly #memory: Float32Array
  readonly #start: number

  constructor(readonly shape: OutputShape) {
    const { rows, width, shift = 3, initial } = shape
    this.stride = shape.stride ?? width
    this.#start = GUARD + shift
    const extent = (rows - 1) * this.stride + width
    this.#memory = new Float32Array(this.#start + extent + GUARD).fill(SENTINEL)
    this.array = this.#memory.subarray(this.#start, this.#start + extent)
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < width; i++) {
        this.array[row * this.stride + i] = initial === undefined ? Number.NaN : initial[row * width + i]!
      }
    }
  }

  /** f32 [rows, width], after checking that nothing around it was touched. */
  values(): Float32Array {
    const { rows, width } = this.shape
    const values = new Float32Array(rows * width)
    for (let row = 0; row < rows; row++) {
      values.set(this.array.subarray(row * this.stride, row * this.stride + width), row * width)
    }
    const touched = this.#memory.findIndex((value, at) => !this.#isInRow(at) && value !== Math.fround(SENTINEL))
    if (touched >= 0) {
      expect.fail(
        `written outside the output: element ${touched - this.#start} of [${rows}, ${width}], stride ${this.stride}`,
      )
    }
    return values
  }

  #isInRow(at: number): boolean {
    const { rows, width } = this.shape
    const offset = at - this.#start
    const row = Math.floor(offset / this.stride)
    return row >= 0 && row < rows && offset - row * this.stride < width
  }
}
