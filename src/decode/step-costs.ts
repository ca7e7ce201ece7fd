// What a decode step costs on this machine: a table of measurements, and every other step read off between them.
import { NODE_LIMIT } from './choices.js'

/** Wall times of decode steps, in milliseconds. Plain data, fit for JSON. */
export interface StepCosts {
  /** Tree rows of one pass over the weights, all sequences together: ascending, 1 first. */
  readonly rows: readonly number[]
  /** Of `rows`: verify and commit without drafts, one sequence, or the fewest that hold so many rows. */
  readonly ms: readonly number[]
  /** Rows each sequence's cache had. */
  readonly cacheRows: number
  /** Per tree of so many rows and per row of the cache it attends to: ascending, 1 first. */
  readonly attention: { readonly rows: readonly number[]; readonly msPerCacheRow: readonly number[] }
  /** Drafts of h Medusa heads for one sequence, at h; 0 at 0. */
  readonly draftMs: readonly number[]
  /** Of each sequence in the pass beyond the first. */
  readonly sequenceMs: number
}

export interface StepShape {
  /** Tree rows of each sequence, the root included. */
  readonly nodes: number
  /** Medusa heads that draft for the step. */
  readonly medusaHeads: number
  /** Of each sequence. */
  readonly cacheRows: number
  readonly sequences: number
}

/** On straight lines between the points; beyond the last, along the last line. */
function interpolate(xs: readonly number[], ys: readonly number[], x: number): number {
  const { length } = xs
  if (length === 1 || x <= xs[0]!) return ys[0]!
  let right = 1
  while (right < length - 1 && xs[right]! < x) right++
  const [x0, x1, y0, y1] = [xs[right - 1]!, xs[right]!, ys[right - 1]!, ys[right]!]
  return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0)
}

/** Milliseconds of a pass in which every sequence steps alike. */
export function stepMs(costs: StepCosts, { nodes, medusaHeads, cacheRows, sequences }: StepShape): number {
  const body = interpolate(costs.rows, costs.ms, nodes * sequences)
  const { rows, msPerCacheRow } = costs.attention
  const attention = interpolate(rows, msPerCacheRow, nodes) * (cacheRows - costs.cacheRows)
  // Heads read their weights once for all sequences, as the body does.
  const share = sequences === 1 ? 1 : interpolate(costs.rows, costs.ms, sequences) / costs.ms[0]!
  const drafts = (costs.draftMs[medusaHeads] ?? 0) * share
  return Math.max(body + sequences * attention + drafts + (sequences - 1) * costs.sequenceMs, costs.ms[0]! / 100)
}

/** How far one observed ratio moves an estimate, once there were several. */
const LEARNING_RATE = 0.15
/** The most that one counts for, as a logarithm. */
const LARGEST_SURPRISE = Math.log(2)
/** As much as the first few may: a table may have been made on a machine busy with something else. */
const LARGEST_FIRST_SURPRISE = Math.log(8)
const FIRST = 4
/** Comparisons in a row that bear a table out: it is tested then. */
const TESTED = 3
const BORNE_OUT = Math.log(1.3)

/**
 * The table, corrected by what steps really take. Speed drifts with temperature and neighbours, and all steps drift alike; so only a step with
 * a tree beside a plain one says anything about their ratio, which is what decisions depend on.
 */
export class LiveCosts {
  readonly table: StepCosts
  /** f64 [rows of the table]: logarithm of observed over expected, plain steps being the measure. */
  readonly #surprise: Float64Array
  /** i32 [rows of the table]: times compared. */
  readonly #compared: Int32Array
  #tests = 0
  #lastSurprise = 0

  constructor(table: StepCosts) {
    this.table = table
    this.#surprise = new Float64Array(table.rows.length)
    this.#compared = new Int32Array(table.rows.length)
  }

  stepMs(shape: StepShape): number {
    return stepMs(this.table, shape) * Math.exp(this.#surpriseAt(shape))
  }

  /** Nodes of the largest tree that was measured. */
  get largestTree(): number {
    return this.table.rows.findLast((rows) => rows <= NODE_LIMIT)!
  }

  /** Whether steps took what was expected, the last few times that was compared. */
  get isTested(): boolean {
    return this.#tests >= TESTED
  }

  /** Two neighbouring steps of one sequence, without anybody else's. */
  compare(tree: StepShape & { readonly ms: number }, plain: StepShape & { readonly ms: number }): void {
    if (!(tree.ms > 0 && plain.ms > 0) || tree.nodes === 1) return
    const surprise = Math.log(tree.ms / plain.ms) - Math.log(this.stepMs(tree) / this.stepMs(plain))
    const at = this.#nearest(tree.nodes)
    const count = ++this.#compared[at]!
    const bound = count <= FIRST ? LARGEST_FIRST_SURPRISE : LARGEST_SURPRISE
    // Of two in a row the smaller, and nothing where they disagree: a step that something disturbed is in one comparison only.
    const agreed =
      Math.sign(surprise) === Math.sign(this.#lastSurprise)
        ? Math.min(Math.abs(surprise), Math.abs(this.#lastSurprise))
        : 0
    this.#lastSurprise = surprise
    const bounded = Math.sign(surprise) * Math.min(bound, agreed)
    this.#tests = Math.abs(surprise) < BORNE_OUT ? this.#tests + 1 : 0
    const rate = Math.max(LEARNING_RATE, 1 / (count + 1))
    for (let i = 1; i < this.#surprise.length; i++) {
      this.#surprise[i]! += rate * bounded * 0.5 ** Math.abs(i - at)
    }
  }

  #surpriseAt({ nodes, sequences }: StepShape): number {
    return nodes === 1 ? 0 : this.#surprise[this.#nearest(nodes * sequences)]!
  }

  #nearest(rows: number): number {
    let nearest = 0
    this.table.rows.forEach((at, i) => {
      if (Math.abs(at - rows) < Math.abs(this.table.rows[nearest]! - rows)) nearest = i
    })
    return nearest
  }
}
