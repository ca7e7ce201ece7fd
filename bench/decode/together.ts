// Runs generations of one engine at once, and says what their streams were like.
import { z } from 'zod'
import type { Engine, GenerateOptions } from '../../src/index.js'

/** One generation among others. */
export const Stream = z.object({
  promptTokens: z.int(),
  tokens: z.int(),
  ttftMs: z.number(),
  tpotMs: z.number(),
  tokensPerStep: z.number(),
})
export type Stream = Readonly<z.infer<typeof Stream>>

/** What a number of generations did at once. */
export const Together = z.object({
  streams: z.array(Stream),
  /** From the first request to the last token. */
  wallMs: z.number(),
  /** While every stream was decoding: from when the last of them began to when the first of them ended. Zero when they never all were. */
  sharedMs: z.number(),
  /** Made in that time, by all. */
  sharedTokens: z.int(),
})
export type Together = Readonly<z.infer<typeof Together>>

/** When tokens came, and how many. */
export interface Arrival {
  readonly atMs: number
  readonly tokens: number
}

export interface Request {
  /** i32 */
  readonly prompt: Int32Array
  readonly options: GenerateOptions
}

/** Starts all requests in one breath and waits for all; what comes with each is what it said. */
export async function runTogether(
  engine: Pick<Engine, 'generate'>,
  requests: readonly Request[],
): Promise<Together & { readonly said: readonly Int32Array[] }> {
  const started = performance.now()
  const done = await Promise.all(
    requests.map(async ({ prompt, options }) => {
      const generation = engine.generate(prompt, options)
      const arrivals: Arrival[] = []
      for await (const chunk of generation) arrivals.push({ atMs: performance.now(), tokens: chunk.tokens.length })
      return { arrivals, result: await generation }
    }),
  )
  const wallMs = performance.now() - started
  return {
    streams: done.map(({ result: { usage, timing, speculation } }) => ({
      promptTokens: usage.prompt,
      tokens: usage.completion,
      ttftMs: timing.ttftMs ?? timing.e2eMs,
      tpotMs: timing.tpotMs ?? timing.decodeMs,
      tokensPerStep: speculation.tokensPerStep,
    })),
    wallMs,
    ...sharedOf(done.map(({ arrivals }) => arrivals)),
    said: done.map(({ result }) => result.tokens),
  }
}

/** The time in which every stream was decoding, and the tokens that came in it. A chunk counts where it ends. */
export function sharedOf(streams: readonly (readonly Arrival[])[]): Pick<Together, 'sharedMs' | 'sharedTokens'> {
  const from = Math.max(...streams.map((arrivals) => arrivals[0]?.atMs ?? Number.POSITIVE_INFINITY))
  const to = Math.min(...streams.map((arrivals) => arrivals.at(-1)?.atMs ?? Number.NEGATIVE_INFINITY))
  if (streams.length === 0 || to <= from) return { sharedMs: 0, sharedTokens: 0 }
  const within = streams.flat().filter(({ atMs }) => atMs > from && atMs <= to)
  return { sharedMs: to - from, sharedTokens: within.reduce((sum, { tokens }) => sum + tokens, 0) }
}

/** Jain's index of the streams' rates: 1 when all are equally fast, 1 / n when one has everything. */
export function fairnessOf(streams: readonly Pick<Stream, 'tpotMs'>[]): number {
  const rates = streams.map((stream) => 1 / stream.tpotMs)
  const sum = rates.reduce((total, rate) => total + rate, 0)
  return sum ** 2 / (rates.length * rates.reduce((total, rate) => total + rate ** 2, 0))
}
