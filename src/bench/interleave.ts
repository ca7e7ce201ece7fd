// Runs the arms of a comparison in turns, so that a drift of the machine's speed falls on all of them alike.

/** What an arm does once; `round` counts from 0, and is -1 and below while warming up. */
export type Arms<Sample> = Readonly<Record<string, (round: number) => Sample | Promise<Sample>>>

export interface InterleaveOptions<Sample> {
  /** Times each arm is run. */
  readonly rounds: number
  /** Times before that, not counted. Default 0. */
  readonly warmup?: number
  /** Called after each counted run: what was done when the signal fires is not lost. */
  readonly onSample?: (arm: string, sample: Sample, round: number) => void
  /** Seen between runs. */
  readonly signal?: AbortSignal | undefined
}

/**
 * A B, B A, A B…: every other round goes backwards.
 *
 * @returns each arm's samples; those at the same index are of the same round, and can be paired.
 * @throws the signal's reason when it fires.
 */
export async function interleave<A extends Arms<unknown>>(
  arms: A,
  { rounds, warmup = 0, onSample, signal }: InterleaveOptions<Awaited<ReturnType<A[keyof A]>>>,
): Promise<{ [Name in keyof A]: Awaited<ReturnType<A[Name]>>[] }> {
  const names = Object.keys(arms)
  const samples = Object.fromEntries(names.map((name) => [name, [] as unknown[]]))
  for (let round = 0 - warmup; round < rounds; round++) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      signal?.throwIfAborted()
      const sample = await arms[name]!(round)
      if (round < 0) continue
      samples[name]!.push(sample)
      onSample?.(name, sample as Awaited<ReturnType<A[keyof A]>>, round)
    }
  }
  return samples as { [Name in keyof A]: Awaited<ReturnType<A[Name]>>[] }
}
