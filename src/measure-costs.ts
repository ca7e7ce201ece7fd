// Measures what decode steps cost on this machine, with the very calls that decoding makes.
import { accept } from './decode/accept.js'
import { CHOICES, firstPaths } from './decode/choices.js'
import type { StepCosts } from './decode/step-costs.js'
import { buildTree, type Tree } from './decode/tree.js'
import type { ModelHandle, Native, SessionHandle } from './native.js'
import { Scheduler } from './scheduler.js'

/**
 * What a small model's measurement takes, in milliseconds; up to twice that where something else keeps the machine busy. A large one's takes
 * about thirty of its plain steps.
 */
export const MEASURE_MS = 150

/** Tree rows measured in any case; the lines between them are enough where a step is long. */
const COARSE_ROWS = [1, 4, 16, 64]
/** Measured too, the first ones first, as long as a round of all points takes no more than this. */
const FINER_ROWS = [2, 3, 8, 6, 12, 32, 24, 48]
const ROUND_MS = MEASURE_MS / 3
/** Sequences of 64 rows each: passes beyond one tree. */
const BATCHES = [2, 4]
/** Trees whose attention to a long cache is measured. */
const ATTENDING_ROWS = [1, 16, 64]
const SHORT_CACHE = 32
const LONG_CACHE = { most: 4096, least: 256, bytes: 48 * 2 ** 20 }
const LEAST_ROUNDS = 3
const MOST_ROUNDS = 8
/** The longest round that is repeated although time is up: a sample may have been disturbed. */
const REPEATED_MS = 1500
/** The second shortest plain step over the shortest: beyond this the machine is busy with something else. */
const UNSTEADY = 1.25
/** Drafts of each Medusa head. */
const TOP_K = 5

export interface Measured {
  readonly native: Native
  readonly model: ModelHandle
  readonly vocab: number
  readonly medusaHeads: number
  readonly context: number
  readonly kvBytesPerToken: number
  /** Stops it between two steps. */
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((done: number, total: number) => void) | undefined
  readonly now?: () => number
}

/** The best of several: what disturbs a measurement only ever adds. */
class Shortest {
  ms = Number.POSITIVE_INFINITY
  next = Number.POSITIVE_INFINITY

  see(ms: number): void {
    this.next = Math.max(this.ms, Math.min(this.next, ms))
    this.ms = Math.min(this.ms, ms)
  }

  /** Whether it was seen twice, nearly alike. */
  get isSteady(): boolean {
    return this.next < this.ms * UNSTEADY
  }
}

export interface MeasuredCosts {
  readonly costs: StepCosts
  /** False where something else kept the machine busy: good enough for now, and not worth keeping. */
  readonly isSteady: boolean
}

interface Point {
  readonly rows: number
  readonly sessions: readonly SessionHandle[]
  readonly tree: Tree
  verify: Shortest
}

/**
 * Points take turns, so that a machine that grows slower meanwhile is slower for all of them.
 *
 * @throws what a native call raises, and the signal's reason.
 */
export async function measureStepCosts(of: Measured): Promise<MeasuredCosts> {
  const sessions: SessionHandle[] = []
  try {
    return await new Measurement(of, sessions).run()
  } finally {
    await Promise.all(sessions.map((session) => of.native.close(session)))
  }
}

class Measurement {
  readonly #of: Measured
  readonly #sessions: SessionHandle[]
  readonly #scheduler: Scheduler
  readonly #now: () => number
  readonly #begun: number
  readonly #trees = new Map<number, Tree>()
  /** Of a commit with drafts of so many Medusa heads. */
  readonly #commits: readonly Shortest[]
  #steps = 0

  constructor(of: Measured, sessions: SessionHandle[]) {
    this.#of = of
    this.#sessions = sessions
    this.#scheduler = new Scheduler(of.native)
    this.#now = of.now ?? (() => performance.now())
    this.#begun = this.#now()
    this.#commits = Array.from({ length: of.medusaHeads + 1 }, () => new Shortest())
  }

  async run(): Promise<MeasuredCosts> {
    const short = await this.#open(SHORT_CACHE)
    const plain = this.#point(1, [short])
    // Memory is touched for the first time, and code compiled.
    await this.#sample(plain)
    plain.verify = new Shortest()
    for (let heads = 0; heads <= this.#of.medusaHeads; heads++) await this.#sample(plain)
    const body = [plain]
    for (const rows of COARSE_ROWS.slice(1)) {
      if (!this.#mayPay(body, rows)) break
      body.push(this.#point(rows, [short]))
      await this.#sample(body.at(-1)!)
    }
    const most = body.at(-1)!.rows
    const long = await this.#longCache()
    const attending = long ? body.filter(({ rows }) => ATTENDING_ROWS.includes(rows)) : []
    const longPoints = attending.map(({ rows }) => this.#point(rows, [long!.session]))
    let roundMs = [...body, ...attending].reduce((sum, { verify }) => sum + verify.ms, 0)
    const affords = (ms: number): boolean => {
      if (roundMs + ms > ROUND_MS) return false
      roundMs += ms
      return true
    }
    for (const rows of FINER_ROWS) {
      const expected = body.find((point) => point.rows > rows)?.verify.ms
      if (expected !== undefined && affords(expected)) body.push(this.#point(rows, [short]))
    }
    body.sort((a, b) => a.rows - b.rows)
    const ofMost = body.at(-1)!.verify.ms
    const batches = most === 64 && affords((BATCHES[0]! + BATCHES[1]!) * ofMost) ? await this.#batches(short) : []
    const crowd = batches.length > 0 ? this.#point(16, batches.at(-1)!.sessions, 4) : null
    await this.#rounds([...body, ...longPoints, ...batches, ...(crowd ? [crowd] : [])])
    const costs = this.#table(body, batches, attending, longPoints, long?.rows ?? 0, crowd)
    return { costs, isSteady: body.every(({ verify }) => verify.isSteady) }
  }

  /** Whether a tree of so many rows is measured: it is quick, or could be worth its time, with a token for each Medusa head and one. */
  #mayPay(body: readonly Point[], rows: number): boolean {
    const [last, before] = [body.at(-1)!, body.at(-2)]
    if (!before) return true
    const slope = Math.max(0, (last.verify.ms - before.verify.ms) / (last.rows - before.rows))
    const expected = last.verify.ms + slope * (rows - last.rows)
    return expected <= ROUND_MS / 2 || expected <= (this.#of.medusaHeads + 1) * body[0]!.verify.ms
  }

  async #batches(short: SessionHandle): Promise<Point[]> {
    const sessions = [short]
    while (sessions.length < BATCHES.at(-1)!) sessions.push(await this.#open(SHORT_CACHE))
    return BATCHES.map((count) => this.#point(count * 64, sessions.slice(0, count), 64))
  }

  /** A cache long enough to see attention grow; null where there is no memory or no context for one. */
  async #longCache(): Promise<{ session: SessionHandle; rows: number } | null> {
    const { context, kvBytesPerToken } = this.#of
    const affordable = Math.floor(LONG_CACHE.bytes / Math.max(1, kvBytesPerToken))
    const rows = Math.floor(Math.min(LONG_CACHE.most, affordable, context / 2) / SHORT_CACHE) * SHORT_CACHE
    if (rows < LONG_CACHE.least) return null
    try {
      return { session: await this.#open(rows), rows }
    } catch (error) {
      if ((error as { code?: unknown }).code === 'ERR_OUT_OF_MEMORY') return null
      throw error
    }
  }

  async #rounds(points: readonly Point[]): Promise<void> {
    for (let round = 0; round < MOST_ROUNDS; round++) {
      const begun = this.#elapsed()
      for (const point of round % 2 === 0 ? points : points.toReversed()) await this.#sample(point)
      const now = this.#elapsed()
      const isSteady = points.every(({ verify }) => verify.isSteady)
      const enough = round + 1 >= LEAST_ROUNDS ? (isSteady ? MEASURE_MS : 2 * MEASURE_MS) : REPEATED_MS
      if (now + (now - begun) > enough) return
    }
  }

  #table(
    body: readonly Point[],
    batches: readonly Point[],
    attending: readonly Point[],
    longPoints: readonly Point[],
    longRows: number,
    crowd: Point | null,
  ): StepCosts {
    const commit = this.#commits[0]!.ms
    const points = [...body, ...batches]
    const of = (rows: number): number => points.find((point) => point.rows === rows)!.verify.ms
    const slopes = longPoints.map((point, i) =>
      Math.max(0, (point.verify.ms - attending[i]!.verify.ms) / (longRows - SHORT_CACHE)),
    )
    return {
      rows: points.map(({ rows }) => rows),
      ms: rising(points.map(({ verify }) => verify.ms + commit)),
      cacheRows: SHORT_CACHE,
      attention:
        slopes.length > 0
          ? { rows: attending.map(({ rows }) => rows), msPerCacheRow: rising(slopes) }
          : { rows: [1], msPerCacheRow: [0] },
      draftMs: rising(this.#commits.map(({ ms }) => Math.max(0, ms - commit))),
      sequenceMs: crowd ? Math.max(0, (crowd.verify.ms - of(16)) / (crowd.sessions.length - 1)) : 0,
    }
  }

  #point(rows: number, sessions: readonly SessionHandle[], nodes = rows): Point {
    let tree = this.#trees.get(nodes)
    if (!tree) {
      tree = buildTree(firstPaths(CHOICES.mc_sim_7b_63, nodes - 1), `${nodes}`)
      this.#trees.set(nodes, tree)
    }
    return { rows, sessions, tree, verify: new Shortest() }
  }

  async #open(rows: number): Promise<SessionHandle> {
    const { native, model } = this.#of
    const session = native.openSession(model)
    this.#sessions.push(session)
    await native.assumePrefill({ session, tokens: rows })
    return session
  }

  /** One decode step. How many heads draft afterwards takes turns of its own. */
  async #sample({ sessions, tree, verify }: Point): Promise<void> {
    const { signal, vocab, onProgress } = this.#of
    signal?.throwIfAborted()
    const medusaHeads = this.#steps++ % this.#commits.length
    const tokens = Int32Array.from({ length: tree.nodeCount }, (_, node) => (node * 31) % vocab)
    const begun = this.#now()
    await Promise.all(
      sessions.map(async (session) => {
        const posterior = await this.#scheduler.verify({ session, tokens, parents: tree.parents, typical: false })
        accept(tree, tokens, posterior, { rule: 'exact' })
      }),
    )
    const verified = this.#now()
    verify.see(verified - begun)
    const topK = medusaHeads > 0 ? Math.min(TOP_K, vocab) : 0
    await Promise.all(
      sessions.map((session) => this.#scheduler.commit({ session, path: Int32Array.of(0), medusaHeads, topK })),
    )
    if (sessions.length === 1) this.#commits[medusaHeads]!.see(this.#now() - verified)
    onProgress?.(Math.min(this.#elapsed(), MEASURE_MS), MEASURE_MS)
  }

  #elapsed(): number {
    return this.#now() - this.#begun
  }
}

/** More never takes less: a value above a later one was disturbed. */
function rising(values: readonly number[]): number[] {
  const result = [...values]
  for (let i = result.length - 2; i >= 0; i--) result[i] = Math.min(result[i]!, result[i + 1]!)
  return result
}
