// The whole algorithm, top to bottom, one screen.
import { planCompression } from './cache/budget.js'
import { accept } from './decode/accept.js'
import { draft } from './decode/draft.js'
import type { Pilot } from './decode/gate.js'
import { PLAIN_TREE } from './decode/tree.js'
import type { Plan } from './plan.js'
import { type Chunk, type Finish, type Result, stepLogprobs, Transcript } from './result.js'
import type { Sequence } from './sequence.js'
import { Stats } from './stats.js'
import { TextStream } from './text/text-stream.js'
import type { Tokenizer } from './text/tokenizer.js'

/** The reason a signal carries when time ran out, rather than anybody asking. */
export const TIME_IS_UP = Symbol('gorgon.time-is-up')

/** Where a generation happens: in a sequence of its own, or in a session that goes on. */
export interface Turn {
  /**
   * Waits until it may run.
   *
   * @returns the sequence, the tokens to prefill, checked, and the positions left for new ones, at least 1.
   */
  begin(signal: AbortSignal): Promise<{ sequence: Sequence; prompt: Int32Array; room: number }>
  /** The turn is over, however it ended: also when it never began. */
  end(made: Pick<Transcript, 'isPrefilled' | 'tokens' | 'text'>): Promise<void>
}

export interface Request {
  readonly plan: Plan
  readonly turn: Turn
  /** Chooses the tree of each step. */
  readonly pilot: Pilot
  /** Seen between phases. Its reason says whether the generation was aborted or its time was up. */
  readonly signal: AbortSignal
  readonly tokenizer: Tokenizer | null
  /** The text goes on from the prompt's, rather than answering it. */
  readonly continuation: boolean
  readonly kvBytesPerToken: number
  readonly layers: number
}

/** The path accepted when nothing was verified. */
const ROOT_ALONE = new Int32Array(1)

/**
 * Plain decoding is the tree of one node. A step's tree is planned before the phase that drafts for it, and cut where the context ends. A
 * text that ends earlier ends in the middle of a step like any other, so tokens per step measure the heads and not where texts happen to
 * end; only what nothing can follow is never verified: a stop token, or the last token without drafts.
 *
 * A generation cut short by its signal returns what there is, without throwing.
 */
export async function* generate(request: Request): AsyncGenerator<Chunk, Result, void> {
  const { plan, turn, pilot, signal, tokenizer, continuation } = request
  const stats = new Stats(plan.family)
  const transcript = new Transcript({ ...request, stats })
  let text: TextStream | undefined
  let finish: Finish
  try {
    const { sequence, prompt, room } = await turn.begin(signal)
    const maxTokens = Math.min(plan.maxTokens, room)
    text = new TextStream({ ...plan, detokenizer: tokenizer?.detokenizer({ continuation }) ?? null, maxTokens })

    stats.started()
    const { rows } = sequence.info
    const spec = planCompression({ rows, newTokens: prompt.length, kv: plan.kv })
    const planStep = (cacheRows: number) =>
      pilot.next({
        cacheRows,
        sequences: sequence.peers,
        // A single token leaves nothing to speculate on.
        maxDepth: maxTokens === 1 ? 0 : room - transcript.tokens.length - 1,
      })
    let step = planStep(spec?.budget ?? rows + prompt.length)
    const prefilled = await sequence.prefill({ ...plan, tokens: prompt, compression: spec, drafts: step }, signal)
    let drafts = prefilled.drafts
    stats.prefilled()
    transcript.prefilled({
      tokenCount: prompt.length,
      cachedRows: rows,
      spec,
      report: prefilled.compression,
      info: sequence.info,
    })
    let cacheRows = sequence.info.rows

    for (;;) {
      pilot.drafted(drafts)
      let { tree } = step
      const isLast = tree.nodeCount === 1 && transcript.tokens.length + 1 === maxTokens
      const isAlone = isLast || plan.stopIds.has(drafts.root)
      if (isAlone) tree = PLAIN_TREE
      const tokens = draft(tree, drafts, step.topK)
      const posterior = isAlone ? null : await sequence.verify(tree, tokens, plan.accept.rule === 'typical', signal)
      const accepted = posterior ? accept(tree, tokens, posterior, plan.accept) : { path: ROOT_ALONE, tokens }
      stats.step(tree, accepted.path)
      if (posterior) pilot.stepped(tree, accepted.tokens, sequence.stepMs)

      const pieces = text.push(accepted.tokens)
      const emitted = accepted.tokens.slice(0, pieces.length)
      const path = accepted.path.subarray(0, pieces.length)
      sequence.emit(emitted, posterior && path)
      const logprobs = stepLogprobs({ tree, path, drafts, posterior, tokens }, (id) => tokenizer?.tokenText(id) ?? '')
      yield transcript.chunk(pieces, emitted, logprobs)
      if (text.finished) break

      cacheRows += path.length
      step = planStep(cacheRows)
      drafts = await sequence.commit(step, signal)
    }
    finish = text.finish!
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error
    finish = error === TIME_IS_UP ? 'timeout' : 'aborted'
    const heldBack = text?.flush()
    if (heldBack) yield transcript.chunk([heldBack], new Int32Array(0), null)
  } finally {
    await turn.end(transcript)
  }
  return transcript.result(finish, text?.stopString ?? null, pilot.decision())
}
