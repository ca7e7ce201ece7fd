// Sums of the attention study, per layer and per what was varied.
import { z } from 'zod'
import { ARM_KINDS } from './arms.js'

const place = {
  /** Tokens of the prompt. */
  length: z.number(),
  /** Generated tokens before the ones looked at. */
  depth: z.number(),
}

const hitRate = {
  ...place,
  measure: z.literal('hit rate'),
  window: z.number(),
  threshold: z.number(),
}

const recall = {
  ...place,
  measure: z.literal('recall'),
  arm: z.string(),
  kind: z.enum(ARM_KINDS),
  /** Rows kept; null keeps all. */
  budget: z.number().nullable(),
}

/** Per layer, between spaces. */
const sums = { parts: z.string(), wholes: z.string() }

/** What is summed: of the important rows, those among a window's favourites; of the attention paid to the prompt, that to kept rows. */
export type Measured = z.infer<z.ZodObject<typeof hitRate>> | z.infer<z.ZodObject<typeof recall>>

export const StudyMeasurement = z.discriminatedUnion('measure', [
  z.object({ ...hitRate, ...sums }),
  z.object({ ...recall, ...sums }),
])
export type StudyMeasurement = z.infer<typeof StudyMeasurement>

export class LayerSums {
  readonly #layers: number
  readonly #sums = new Map<
    string,
    { readonly of: Measured; readonly parts: Float64Array; readonly wholes: Float64Array }
  >()

  constructor(layers: number) {
    this.#layers = layers
  }

  add(of: Measured, layer: number, part: number, whole: number): void {
    const key = JSON.stringify(of)
    let sum = this.#sums.get(key)
    if (!sum) {
      sum = { of, parts: new Float64Array(this.#layers), wholes: new Float64Array(this.#layers) }
      this.#sums.set(key, sum)
    }
    sum.parts[layer]! += part
    sum.wholes[layer]! += whole
  }

  measurements(): StudyMeasurement[] {
    return [...this.#sums.values()].map(({ of, parts, wholes }) => ({
      ...of,
      parts: encode(parts),
      wholes: encode(wholes),
    }))
  }
}

const encode = (sums: Float64Array): string => [...sums].map((sum) => Number(sum.toPrecision(7))).join(' ')
const decode = (text: string): number[] => text.split(' ').map(Number)

/** Per layer, the share that the parts of some measurements are of their wholes; NaN where there is nothing. */
export function sharesByLayer(measurements: readonly StudyMeasurement[]): number[] {
  const [first] = measurements
  if (!first) return []
  const layers = decode(first.parts).length
  return Array.from({ length: layers }, (_, layer) => {
    const sum = (key: 'parts' | 'wholes') => measurements.reduce((total, one) => total + decode(one[key])[layer]!, 0)
    return sum('parts') / sum('wholes')
  })
}

/** The share over all layers. */
export function shareOfAll(measurements: readonly StudyMeasurement[]): number {
  const sum = (key: 'parts' | 'wholes') => measurements.flatMap((one) => decode(one[key])).reduce((a, b) => a + b, 0)
  return sum('parts') / sum('wholes')
}
