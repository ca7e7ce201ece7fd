// Chooses the tree of each decode step, plain decoding among them, and never goes on with one that does not pay.
import type { Drafts } from '../native.js'
import { Acceptance } from './acceptance.js'
import type { LiveCosts, StepShape } from './step-costs.js'
import { limitDepth, PLAIN_TREE, type Tree } from './tree.js'
import type { TreeFamily } from './tree-family.js'

export interface GateOptions {
  /** How much faster than plain decoding speculation must promise to be before it begins. */
  readonly margin: number
  /** Plain steps from one look at the drafts to the next. */
  readonly probeEvery: number
  /** Sequences decoding at once above which none speculates. */
  readonly maxBatch: number
}

/** What the gate did in one generation. */
export interface GateDecision {
  /** `off`: there was nothing to decide. */
  readonly decision: 'speculated' | 'plain' | 'mixed' | 'off'
  /** One sentence. */
  readonly reason: string
  /** Tokens per second over those of plain decoding, as expected at the end; null where step costs are not known. */
  readonly expectedSpeedup: number | null
  /** Steps without a tree. A token that nothing follows takes no step. */
  readonly plainSteps: number
  /** Steps that were not the better choice by what was known, made to learn; and drafts made for no tree to hold. */
  readonly probes: number
}

/** Where a step will happen. */
export interface Surroundings {
  /** Rows its sequence attends to. */
  readonly cacheRows: number
  /** Sequences in the pass, this one included. */
  readonly sequences: number
  /** How deep a tree may be: positions end. */
  readonly maxDepth: number
}

/** A step to come: its tree, and the drafts to ask of the phase before it. */
export interface StepPlan {
  readonly tree: Tree
  /** At least those of the tree. */
  readonly medusaHeads: number
  readonly topK: number
}

/** Of all time spent decoding, the most that probes may take. */
const PROBE_SHARE = 0.02
/** Looks at all drafts that may be saved up: as many as it takes to see that drafts have become good. */
const PROBE_SAVINGS = 8
/** Looks a generation begins with. */
const PROBE_START = 4
/** While speculating: steps from one look at drafts that the tree does not use to the next. */
const WIDEN_EVERY = 16
/** While speculating: steps from one plain step to the next, made to time it, until the table was tested. */
const UNTESTED_EVERY = 4
/** From then on one in `probeEvery`; where speculation promises this much, the table would have to be very wrong: fewer by a factor. */
const TRUSTED_SPEEDUP = 1.6
const TRUSTED_EVERY = 8
/** From this promise on, a tree is tried now and then although plain steps seem to be faster. */
const WORTH_TIMING = 0.85
/** Older outcomes count for less: a text changes. */
const KEEP = 0.97
/** An outcome after many plain steps lets what came before count this much less, and no more. */
const MOST_STEPS_FORGOTTEN = 8
/** Outcomes that what is expected at the beginning counts for. */
const START_WEIGHT = 2
/** While speculating: a promise of less ends it. A tree that is nearly free by the table always promises a little. */
const LEAST_SPEEDUP = 1.02
/** Of a step with a tree, in plain steps. */
const CHEAPEST_TREE = 1.04
/** Over generations. */
const EXPERIENCE_KEEP = 0.995
const EXPERIENCE_WEIGHT = 12

/** What an engine's generations leave for those after them: where to begin. It changes how soon a choice is right, and no token. */
export class Experience {
  readonly #learnt = new Map<string, WeakMap<TreeFamily, Acceptance>>()

  /** @param kind generations that are drafted equally well: greedy ones, sampled ones. */
  of(family: TreeFamily, kind: string): Acceptance {
    return remembered(this.#learnt, family, kind, () => {
      return new Acceptance(family, family.shares, EXPERIENCE_WEIGHT, EXPERIENCE_KEEP)
    })
  }
}

/** What one text teaches, through all its turns; it begins where other texts have led. */
export class TextExperience {
  readonly #experience: Experience
  readonly #learnt = new Map<string, WeakMap<TreeFamily, Acceptance>>()

  constructor(experience: Experience) {
    this.#experience = experience
  }

  of(family: TreeFamily, kind: string): Acceptance {
    return remembered(this.#learnt, family, kind, () => {
      return new Acceptance(family, this.#experience.of(family, kind).shares(), START_WEIGHT, KEEP)
    })
  }
}

function remembered(
  learnt: Map<string, WeakMap<TreeFamily, Acceptance>>,
  family: TreeFamily,
  kind: string,
  begin: () => Acceptance,
): Acceptance {
  const families = learnt.get(kind) ?? new WeakMap<TreeFamily, Acceptance>()
  learnt.set(kind, families)
  const known = families.get(family) ?? begin()
  families.set(family, known)
  return known
}

interface Pending {
  /** Index of the drafts' root in the text. */
  readonly at: number
  readonly tokens: Int32Array
  readonly medusaHeads: number
  readonly topK: number
  /** Made for no tree. */
  readonly isProbe: boolean
}

export interface PilotOptions {
  readonly family: TreeFamily
  /** Null: not measured. Then there is nothing to choose by, and with a gate every step is plain. */
  readonly costs: LiveCosts | null
  /** Null: every step speculates. */
  readonly gate: GateOptions | null
  /** Why there is none; empty where there is one. */
  readonly gateless: string
  /** Of this text. */
  readonly acceptance: Acceptance
  /** Of all texts. */
  readonly experience?: Acceptance
  /** The first choice holds to the end, and nothing is learnt: where the text depends on the tree. */
  readonly isFixed?: boolean
}

/** Tree size where costs are not known: a few rows are cheap everywhere. */
const UNMEASURED_SIZE = 4
const UNMEASURED =
  'Step costs were not measured, so steps are plain. Load the engine with speculation.mode "auto" to have them measured, or speculate all the same with mode "medusa".'

/**
 * One generation's course. Before each phase that drafts, `next` plans the step after it; `drafted` is told what came, `stepped` what was
 * committed and how long it took.
 *
 * Drafts are judged by the text that follows, not by the tree that held them: one set of drafts tells what each tree would have accepted.
 * So while steps are plain, it takes a set of drafts now and then, and no tree, to know whether speculation would pay again.
 */
export class Pilot {
  readonly #options: PilotOptions
  #plan: StepPlan = { tree: PLAIN_TREE, medusaHeads: 0, topK: 0 }
  /** What the last choice was made for. */
  #at: Surroundings | null = null
  #speedup: number | null = null
  #isSpeculating = false
  #fixed: number | null = null
  /** Milliseconds that may go into probes. */
  #purse: number
  #sinceProbe = Number.POSITIVE_INFINITY
  #sinceTimed = 0
  /** The last drafts judged would have paid: look at the next ones at once. */
  #isPromising = false
  #plainSteps = 0
  #speculatedSteps = 0
  #treeProbes = 0
  #plainProbes = 0
  #draftProbes = 0
  #isOvercrowded = false
  #lastStep: (StepShape & { readonly ms: number }) | null = null
  /** The text from token `#textBegin` on, as far as drafts wait for it. */
  #text: number[] = []
  #textBegin = 0
  #pending: Pending[] = []
  #stepsSinceOutcome = 0

  constructor(options: PilotOptions) {
    this.#options = options
    this.#purse = PROBE_START * this.#lookMs()
  }

  next(at: Surroundings): StepPlan {
    this.#at = at
    const { family } = this.#options
    const nodes = at.maxDepth < 1 || family.nodeCount === 1 ? 1 : this.#choose(at)
    const tree = limitDepth(family.tree(nodes), at.maxDepth)
    this.#plan = { tree, ...this.#draftsFor(tree, at) }
    return this.#plan
  }

  /** The drafts that the last plan asked for. */
  drafted({ root, tokens }: Drafts): void {
    const { medusaHeads, topK, tree } = this.#plan
    const { isFixed, gate, costs } = this.#options
    if (isFixed || !costs) return
    const at = this.#textBegin + this.#text.length
    this.#settle(at, root)
    if (medusaHeads === 0) return
    this.#pending.push({ at, tokens, medusaHeads, topK, isProbe: tree.nodeCount === 1 && gate !== null })
  }

  /**
   * @param tokens accepted: the root, then drafts.
   * @param ms of its verify and of the commit that drafted for it; null where there was none.
   */
  stepped(tree: Tree, tokens: Int32Array, ms: number | null): void {
    if (tree.nodeCount === 1) this.#plainSteps++
    else this.#speculatedSteps++
    this.#stepsSinceOutcome++
    this.#sinceProbe++
    this.#sinceTimed++
    const { costs } = this.#options
    if (!costs || !this.#at) return
    if (this.#pending.length > 0) this.#text.push(...tokens)
    else this.#textBegin += tokens.length
    const shape = { nodes: tree.nodeCount, medusaHeads: this.#plan.medusaHeads, ...this.#at }
    // Sequences that share a pass share what may be lost in it.
    const saved = this.#purse + (costs.stepMs(shape) * PROBE_SHARE) / this.#at.sequences
    this.#purse = Math.min(saved, PROBE_SAVINGS * this.#lookMs())
    this.#time(ms === null || this.#at.sequences > 1 ? null : { ...shape, ms })
  }

  decision(): GateDecision {
    const { gate, gateless, costs, family } = this.#options
    const counts = {
      expectedSpeedup: this.#speedup,
      plainSteps: this.#plainSteps,
      probes: this.#treeProbes + this.#plainProbes + this.#draftProbes,
    }
    if (!gate || family.nodeCount === 1) {
      return { decision: 'off', reason: `${gateless || 'There is no tree to speculate with'}.`, ...counts }
    }
    if (!costs) return { decision: 'plain', reason: UNMEASURED, ...counts }
    const trees = this.#speculatedSteps - this.#treeProbes
    const plain = this.#plainSteps - this.#plainProbes
    return {
      decision: trees > 0 && plain > 0 ? 'mixed' : trees > 0 ? 'speculated' : 'plain',
      reason: this.#reason(gate),
      ...counts,
    }
  }

  /** Nodes of the step's tree: 1 is a plain step. */
  #choose(around: Surroundings): number {
    const { family, costs, gate, isFixed } = this.#options
    // What never slows anybody down cannot be chosen blindly.
    if (!costs && gate) return 1
    if (!costs) return family.sizes.findLast((size) => size <= UNMEASURED_SIZE) ?? family.sizes[0]!
    if (isFixed && this.#fixed !== null) return this.#fixed
    // A choice that the text depends on is made as if nobody else were running.
    const at = isFixed ? { ...around, sequences: 1 } : around
    const best = this.#bestTree(at, costs)
    const speedup = best.rate * this.#plainMs(at, costs)
    this.#speedup = speedup
    if (!gate) {
      this.#fixed = best.nodes
      return best.nodes
    }
    this.#isOvercrowded = at.sequences > gate.maxBatch
    const begin = 1 + gate.margin
    this.#isSpeculating =
      !this.#isOvercrowded && speedup >= (this.#isSpeculating ? Math.min(LEAST_SPEEDUP, begin) : begin)
    const nodes = this.#isSpeculating ? best.nodes : 1
    if (isFixed) {
      this.#fixed = nodes
      return nodes
    }
    return this.#isTimingDue(at, costs, gate, speedup, best.nodes) ? (nodes === 1 ? best.nodes : 1) : nodes
  }

  /** The tree of most tokens per millisecond. */
  #bestTree(at: Surroundings, costs: LiveCosts): { nodes: number; rate: number } {
    const { family, acceptance } = this.#options
    let best = { nodes: family.sizes[0]!, rate: 0 }
    const most = Math.max(family.sizes[0]!, costs.largestTree)
    for (const nodes of family.sizes) {
      // Larger ones were not even worth measuring.
      if (nodes > most) break
      // A tree cut short where positions end commits no more than fit.
      const tokens = Math.min(acceptance.tokens(nodes), at.maxDepth + 1)
      const rate = tokens / this.#treeMs(nodes, at, costs)
      if (rate > best.rate) best = { nodes, rate }
    }
    return best
  }

  #plainMs(at: Surroundings, costs: LiveCosts): number {
    return costs.stepMs({ nodes: 1, medusaHeads: 0, ...at })
  }

  /** Whatever a table says, a tree is dearer than the plain step it contains: else one that accepts nothing might seem to pay. */
  #treeMs(nodes: number, at: Surroundings, costs: LiveCosts): number {
    const { depth } = this.#options.family.tree(nodes)
    return Math.max(costs.stepMs({ nodes, medusaHeads: depth, ...at }), CHEAPEST_TREE * this.#plainMs(at, costs))
  }

  /** Whether this step is given to the other side, so that what both cost is compared. */
  #isTimingDue(at: Surroundings, costs: LiveCosts, gate: GateOptions, speedup: number, nodes: number): boolean {
    const tokens = this.#options.acceptance.tokens(nodes)
    // However cheap a tree is, it is no cheaper than the plain step it contains.
    const isCloseBelow = speedup > WORTH_TIMING * (1 + gate.margin) && tokens > 1 + gate.margin
    const every = this.#isSpeculating
      ? costs.isTested
        ? gate.probeEvery * (speedup < TRUSTED_SPEEDUP ? 1 : TRUSTED_EVERY)
        : UNTESTED_EVERY
      : isCloseBelow
        ? gate.probeEvery
        : Number.POSITIVE_INFINITY
    if (at.sequences > 1 || this.#isOvercrowded || this.#sinceTimed < every) return false
    if (!this.#lastStep) return false
    const plainMs = this.#plainMs(at, costs)
    const treeMs = this.#treeMs(nodes, at, costs)
    const loss = this.#isSpeculating ? plainMs - treeMs / tokens : treeMs - plainMs * tokens
    if (!this.#pay(Math.max(0, loss))) return false
    this.#sinceTimed = 0
    if (this.#isSpeculating) this.#plainProbes++
    else this.#treeProbes++
    return true
  }

  #draftsFor(tree: Tree, at: Surroundings): { medusaHeads: number; topK: number } {
    const own = { medusaHeads: tree.depth, topK: tree.maxRank + 1 }
    const { family, costs, gate, isFixed } = this.#options
    if (!costs || isFixed || at.maxDepth < family.depth) return own
    const all = { medusaHeads: family.depth, topK: family.maxRank + 1 }
    if (own.medusaHeads >= all.medusaHeads && own.topK >= all.topK) return own
    // Forced to speculate, there is nothing to learn but which tree: the size may change all the same.
    const isPlain = tree.nodeCount === 1
    const every = !isPlain ? WIDEN_EVERY : this.#isPromising ? 1 : (gate?.probeEvery ?? WIDEN_EVERY)
    if (this.#sinceProbe < every) return own
    if (!this.#pay(this.#lookMs() - (costs.table.draftMs[own.medusaHeads] ?? 0))) return own
    this.#sinceProbe = 0
    if (isPlain) this.#draftProbes++
    return all
  }

  #pay(ms: number): boolean {
    if (this.#purse < ms) return false
    this.#purse -= ms
    return true
  }

  /** Of all drafts of the family for one sequence. */
  #lookMs(): number {
    const { costs, family } = this.#options
    return costs?.table.draftMs[family.depth] ?? 0
  }

  /** A step beside its neighbour: when one had a tree and the other had none, they tell what a tree costs. */
  #time(step: (StepShape & { readonly ms: number }) | null): void {
    const before = this.#lastStep
    this.#lastStep = step
    const { costs } = this.#options
    if (!costs || !step || !before || step.nodes === before.nodes) return
    if (before.nodes === 1) costs.compare(step, before)
    else if (step.nodes === 1) costs.compare(before, step)
  }

  /** Drafts are judged as soon as one of them was wrong, or all were right: by the text up to here, and the root that follows. */
  #settle(end: number, root: number): void {
    const { acceptance, experience } = this.#options
    this.#pending = this.#pending.filter((pending) => {
      const hits = this.#judge(pending, end, root)
      if (hits === null) return true
      const outcome = { hits, medusaHeads: pending.medusaHeads, topK: pending.topK }
      acceptance.learn(outcome, Math.max(1, Math.min(this.#stepsSinceOutcome, MOST_STEPS_FORGOTTEN)))
      experience?.learn(outcome)
      this.#stepsSinceOutcome = 0
      if (pending.isProbe) this.#isPromising = this.#wouldPay(hits)
      return false
    })
    const begin = this.#pending[0]?.at ?? end
    this.#text.splice(0, begin - this.#textBegin)
    this.#textBegin = begin
  }

  /** Nodes of the family on the path the text took; null where it is still on it. */
  #judge({ at, tokens, medusaHeads, topK }: Pending, end: number, root: number): number[] | null {
    const { family } = this.#options
    const hits: number[] = []
    let node = 0
    for (let head = 0; head < medusaHeads; head++) {
      const index = at + 1 + head
      if (index > end) return null
      const token = index === end ? root : this.#text[index - this.#textBegin]!
      const first = head * topK
      let rank = 0
      while (rank < topK && tokens[first + rank] !== token) rank++
      node = rank === topK ? -1 : family.childOf(node, rank)
      if (node < 0) break
      hits.push(node)
    }
    return hits
  }

  /** Whether a step with some tree of the family would have beaten plain steps, given what it would have accepted. */
  #wouldPay(hits: readonly number[]): boolean {
    const { family, costs } = this.#options
    const at = this.#at!
    const plainMs = this.#plainMs(at, costs!)
    return family.sizes.some((nodes) => {
      const tokens = 1 + hits.filter((node) => node < nodes).length
      return tokens * plainMs > this.#treeMs(nodes, at, costs!)
    })
  }

  #reason({ margin, maxBatch }: GateOptions): string {
    if (this.#isOvercrowded)
      return `${this.#at!.sequences} sequences decode at once, more than gate.maxBatch (${maxBatch}).`
    const times = (this.#speedup ?? 1).toFixed(2)
    return this.#isSpeculating
      ? `Speculation is expected to be ${times} times as fast as plain decoding.`
      : `Speculation is expected to be ${times} times as fast as plain decoding; it begins at ${(1 + margin).toFixed(2)}.`
  }
}
