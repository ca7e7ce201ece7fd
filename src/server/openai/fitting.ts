// `truncation: "auto"`: the oldest messages are left out where a context is too long.
import type { Engine, Message } from '../../index.js'

type Measuring = Pick<Engine, 'renderChat' | 'tokenize'> & { readonly info: Pick<Engine['info'], 'context'> }

/** Of the context, at most: what is left for an answer when messages had to go. */
const MOST_ROOM = 1 / 2
const DEFAULT_ROOM = 1 / 4

/**
 * The messages, or as many of the last ones as fit, from one of a user on. The last one stays, whether it fits or not.
 *
 * @param first what comes before them and is never left out.
 * @param maxTokens of the answer; null where the request names no limit.
 */
export async function fitting(
  messages: readonly Message[],
  {
    first,
    maxTokens,
    engine,
  }: { readonly first: readonly Message[]; readonly maxTokens: number | null; readonly engine: Measuring },
): Promise<readonly Message[]> {
  const { context } = engine.info
  const fits = async (left: readonly Message[], room: number): Promise<boolean> => {
    // Each takes a token at least, and rendering them all would hold up everybody else.
    if (first.length + left.length + room > context) return false
    const tokens = await engine.tokenize(engine.renderChat([...first, ...left]))
    return tokens.length + room <= context
  }
  if (await fits(messages, 1)) return messages
  const room = Math.min(maxTokens ?? context * DEFAULT_ROOM, context * MOST_ROOM)
  const cuts = cutsOf(messages)
  // The first cut after which all fits lies between these, both included.
  let [low, high] = [0, cuts.length - 1]
  while (low < high) {
    const middle = (low + high) >> 1
    if (await fits(messages.slice(cuts[middle]), room)) high = middle
    else low = middle + 1
  }
  return messages.slice(cuts[low])
}

/** Where a conversation may be cut: before what a user says, as it began. Templates may refuse one that begins with an answer. */
function cutsOf(messages: readonly Message[]): readonly number[] {
  const last = messages.length - 1
  const cuts = messages.flatMap(({ role }, i) => (i > 0 && i < last && role === 'user' ? [i] : []))
  return [...cuts, last]
}
