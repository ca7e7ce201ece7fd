// One finished run, and how two of them compare.
import type { Summary } from '../protocol.js'
import type { Points } from './buckets.js'
import { showCount } from './format.js'
import type { Piece } from './provenance.js'

export interface Run {
  /** Counted from 1. */
  readonly number: number
  readonly model: string
  /** What was asked, without options: runs with the same one can be compared. */
  readonly input: string
  readonly pieces: readonly Piece[]
  readonly text: string
  readonly summary: Summary
  readonly rate: Points
  readonly perStep: Points
}

const POLICIES: Readonly<Record<Summary['kv']['policy'], string>> = {
  full: 'full cache',
  snapkv: 'SnapKV',
  h2o: 'H2O',
  streaming: 'StreamingLLM',
}

/** `Medusa tree auto · SnapKV 2,048`. */
export function nameOf({ speculation, kv, seed }: Summary): string {
  const decoding = speculation.used ? `Medusa tree ${speculation.tree}` : 'plain'
  const cache = kv.keptTokens < kv.promptTokens ? `${POLICIES[kv.policy]} ${showCount(kv.keptTokens)}` : 'whole cache'
  return [decoding, cache, ...(seed === null ? [] : [`seed ${seed}`])].join(' · ')
}

/** How the texts of two runs relate: `same`, or from which character on they differ. Null where they were asked different things. */
export function compareTexts(run: Run, other: Run): { readonly same: boolean; readonly from: number } | null {
  if (run.input !== other.input || run.model !== other.model) return null
  const shorter = Math.min(run.text.length, other.text.length)
  let from = 0
  while (from < shorter && run.text[from] === other.text[from]) from += 1
  return { same: from === run.text.length && from === other.text.length, from }
}

/** How many times as fast; null where that says nothing. */
export function speedup(run: Run, baseline: Run): number | null {
  const [speed, base] = [run.summary.timing.tokensPerSecond, baseline.summary.timing.tokensPerSecond]
  return run.input === baseline.input && run.model === baseline.model && speed > 0 && base > 0 ? speed / base : null
}
