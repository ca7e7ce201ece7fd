// Puts every case to every arm, several at once, in rounds that each stand for the whole: whoever runs out of time has fewer rounds, not
// fewer lengths.

export interface Costed {
  /** What a case costs, about. */
  readonly promptTokens: number
}

export interface RoundOptions {
  /** Questions asked at once. */
  readonly concurrency: number
  /** No round begins that would end later than this, going by the longest so far; the first always runs. Infinity for no limit. */
  readonly limitMs: number
  /** Told after each answer: how many there are. */
  readonly onAnswer?: (answered: number) => void
  readonly now?: () => number
}

/**
 * Asks all arms about all cases of a round, then of the next. Within a round the longest prompts go first, so that none is left to run
 * alone at the end; all arms of a case are neighbours.
 *
 * @param rounds made as they are needed.
 * @param ask what an arm makes of a case. The first failure stops everything.
 * @returns per case of the rounds that ran, in their order, what the arms made of it, in theirs.
 */
export async function runRounds<Case extends Costed, Arm, Answer>(
  rounds: AsyncIterable<readonly Case[]> | Iterable<readonly Case[]>,
  arms: readonly Arm[],
  ask: (one: Case, arm: Arm) => Promise<Answer>,
  { concurrency, limitMs, onAnswer, now = () => performance.now() }: RoundOptions,
): Promise<{ readonly case: Case; readonly answers: Answer[] }[]> {
  const asked: { readonly case: Case; readonly answers: Answer[] }[] = []
  let answered = 0
  let failed = false

  async function* questions(): AsyncGenerator<() => Promise<void>> {
    const start = now()
    let longestMs = 0
    let begun = start
    for await (const round of rounds) {
      if (failed || (asked.length > 0 && now() - start + longestMs > limitMs)) return
      begun = now()
      const places = round.map((one) => ({ case: one, answers: new Array<Answer>(arms.length) }))
      asked.push(...places)
      for (const place of places.toSorted((a, b) => b.case.promptTokens - a.case.promptTokens)) {
        for (const [i, arm] of arms.entries()) {
          if (failed) return
          yield async () => {
            place.answers[i] = await ask(place.case, arm)
            onAnswer?.(++answered)
          }
        }
      }
      longestMs = Math.max(longestMs, now() - begun)
    }
  }

  const all = questions()
  const worker = async (): Promise<void> => {
    try {
      for await (const question of all) await question()
    } catch (error) {
      failed = true
      throw error
    }
  }
  // Everybody stops before the failure is told: what they use may be closed then.
  const ends = await Promise.allSettled(Array.from({ length: concurrency }, worker))
  const failure = ends.find((end) => end.status === 'rejected')
  if (failure) throw failure.reason
  return asked
}
