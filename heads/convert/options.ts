// The options of a conversion, checked.
import type { z } from 'zod'
import { abortSignal, callback, flag, oneOf, parse, strict, text } from '../../src/schema.js'
import { TARGETS } from './published.js'

export interface ConvertProgress {
  /** Bytes read or written so far, and in all. */
  readonly done: number
  readonly total: number
}

// Apart from the object, which would make any text of its type.
const TargetOption = oneOf(TARGETS)

const ConvertOptions = strict({
  /** Heads: a folder, a safetensors file, or a `.pt`, `.pth` or `.bin` of torch.save, of which nothing is run. */
  source: text('the path of heads'),
  /** The layout to write: A has a projection for each head, B uses the model's lm_head, E is vLLM's. */
  to: TargetOption,
  /** Folder to write to; made when it is not there. */
  out: text('the path of a folder'),
  /** The heads' model: B asks for it when they have projections, A and E when they have none. */
  model: text('the folder of a model').optional(),
  /** Of the weights written; auto is as stored. Default auto. */
  dtype: oneOf(['auto', 'f32', 'bf16', 'f16']).default('auto'),
  /** Replace heads that are in `out` already. Default false. */
  force: flag().default(false),
  signal: abortSignal().optional(),
  onProgress: callback<ConvertProgress>().optional(),
})
export type ConvertOptionsInput = z.input<typeof ConvertOptions>
export type ConvertOptions = z.output<typeof ConvertOptions>

/** @throws {GorgonError} ERR_OPTION naming option, value and what is allowed. */
export function parseConvertOptions(options: ConvertOptionsInput): ConvertOptions {
  return parse(ConvertOptions, options)
}
