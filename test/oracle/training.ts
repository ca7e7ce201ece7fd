// Oracle of training: what Medusa heads lose on a text, as a function of their weights.
import { crossEntropy } from './cross-entropy.js'
import { type MedusaHead, medusaHead } from './medusa-heads.js'

export interface OracleText {
  tokens: ArrayLike<number>
  /** Tokens before this index are not learnt. */
  from: number
  /** [T, C] after the final norm. */
  hidden: ArrayLike<number>
}

export interface OracleScores {
  /** [T]: nats; 0 where the head has no loss. */
  losses: number[]
  /** [T]: tokens likelier than the right one; -1 where the head has no loss. */
  ranks: number[]
}

/** Of one head: number `index` stands for the token at t + 2 + index. */
export function headScores({ tokens, from, hidden }: OracleText, index: number, head: MedusaHead): OracleScores {
  const width = hidden.length / tokens.length
  const losses: number[] = []
  const ranks: number[] = []
  for (let t = 0; t < tokens.length; t++) {
    const position = t + 2 + index
    const target = position < tokens.length && position >= from ? tokens[position]! : -1
    const row = Array.from({ length: width }, (_, i) => hidden[t * width + i]!)
    const logits = medusaHead(row, head)
    const surprise = crossEntropy(logits, logits.length, [target])
    losses.push(...surprise.losses)
    ranks.push(...surprise.ranks)
  }
  return { losses, ranks }
}

/** What all heads lose on all texts, head h times scales[h]. */
export function totalLoss(
  texts: readonly OracleText[],
  heads: readonly MedusaHead[],
  scales: ArrayLike<number>,
): number {
  let total = 0
  for (const text of texts) {
    heads.forEach((head, index) => {
      for (const loss of headScores(text, index, head).losses) total += scales[index]! * loss
    })
  }
  return total
}
