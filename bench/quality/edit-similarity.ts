// LongBench's measure of a code completion: how much of the first line of code is the expected one.
// Source: THUDM/LongBench:LongBench/metrics.py (code_sim_score), seatgeek/thefuzz (fuzz.ratio), rapidfuzz (Indel similarity).

/** Length of the longest sequence both have, in order but not necessarily together. */
function commonLength(a: readonly string[], b: readonly string[]): number {
  let above = new Uint32Array(b.length + 1)
  for (const character of a) {
    const row = new Uint32Array(b.length + 1)
    for (let j = 1; j <= b.length; j++) {
      row[j] = character === b[j - 1] ? above[j - 1]! + 1 : Math.max(above[j]!, row[j - 1]!)
    }
    above = row
  }
  return above[b.length]!
}

/** To the nearest whole number, halves to the even one, as Python rounds. */
function roundHalfEven(value: number): number {
  const below = Math.floor(value)
  const rest = value - below
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below
}

/**
 * How alike two texts are, as a whole number from 0 to 100: twice the characters they have in common, in order, over all characters of
 * both. 0 when either is empty, unless both are.
 */
export function fuzzRatio(a: string, b: string): number {
  if (a === b) return 100
  const [left, right] = [[...a], [...b]]
  if (left.length === 0 || right.length === 0) return 0
  return roundHalfEven((200 * commonLength(left, right)) / (left.length + right.length))
}

/** Whether LongBench takes a line for code: no comment, no fence. */
export function isCodeLine(line: string): boolean {
  return !line.includes('`') && !line.includes('#') && !line.includes('//')
}

/** The first line of code of an output, empty lines at its start left out; empty when there is none. */
export function completedLine(output: string): string {
  return output.replace(/^\n+/, '').split('\n').find(isCodeLine) ?? ''
}

/** Whether more output could still change `completedLine`. */
export function isLineComplete(output: string): boolean {
  return output.replace(/^\n+/, '').split('\n').slice(0, -1).some(isCodeLine)
}

/** From 0 to 1. */
export function editSimilarity(output: string, expected: string): number {
  return fuzzRatio(completedLine(output), expected) / 100
}
