// What a benchmark writes: one JSON object per run, checked when it is read again.
import { z } from 'zod'
import { MachineRecord } from './machine.js'

export interface BenchResult<Options = unknown, Measurement = unknown> {
  readonly schema: 1
  /** Area and name: `decode/decode`. */
  readonly bench: string
  /** What was run, as a user would type it. */
  readonly command: string
  readonly machine: MachineRecord
  readonly options: Options
  readonly measurements: readonly Measurement[]
}

const Envelope = z.strictObject({
  schema: z.literal(1),
  bench: z.string().regex(/^[a-z0-9-]+(\/[a-z0-9-]+)*$/),
  command: z.string().min(1),
  machine: MachineRecord,
  options: z.unknown(),
  measurements: z.array(z.unknown()),
})

/** The text of a result file. */
export function encodeResult(result: BenchResult): string {
  return `${JSON.stringify(result, null, 1)}\n`
}

/** The result a text holds, or what is wrong with it. */
export function decodeResult(text: string): BenchResult | { readonly problem: string } {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    return { problem: `is not JSON: ${(error as Error).message}` }
  }
  const parsed = Envelope.safeParse(json)
  if (parsed.success) return parsed.data as BenchResult
  const issue = parsed.error.issues[0]!
  return { problem: `is not a result of schema 1: ${issue.path.join('.') || 'it'}: ${issue.message}` }
}
