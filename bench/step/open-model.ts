// A model on the native boundary, and sessions of it whose steps are timed one by one: what the engine does, without text around it.
import { performance } from 'node:perf_hooks'
import { randomTokens } from '../../src/bench/prompts.js'
import { draft } from '../../src/decode/draft.js'
import { GREEDY_SAMPLING } from '../../src/decode/sampling.js'
import type { Tree } from '../../src/decode/tree.js'
import { type Drafts, type ModelInfo, native, type PrefillStep, type WeightForm } from '../../src/native.js'
import { headsOf, modelSpecOf, readModelFolder } from '../../src/weights/load.js'
import { wrongResult } from '../support/command.js'
import { type StepTime, timedStep } from '../support/timed-step.js'

export interface OpenOptions {
  readonly model: string
  /** A folder, `false` for none; left out, those that belong to the model. */
  readonly heads?: string | false | undefined
  readonly isa: string
  readonly threads: number
  /** Default `full`. */
  readonly weights?: WeightForm
}

export interface OpenModel {
  readonly info: ModelInfo
  readonly vocab: number
  readonly maxPositions: number
  readonly medusaHeads: number
  /** Read by one pass over some nodes with `rows` rows in the cache. */
  verifyBytes(rows: number): number
  /** Read by the Medusa heads of a step: their blocks, and a projection once more. */
  headsBytes(): number
  session(): OpenSession
  close(): Promise<void>
}

export interface OpenSession {
  /** Runs a prompt and returns its milliseconds. */
  prefill(tokens: Int32Array): Promise<number>
  /** A step that commits its root alone, so that steps of every tree grow the cache alike. */
  step(tree: Tree): Promise<StepTime>
  /**
   * Asks each tree for the token after the root, and commits nothing.
   *
   * @throws {GorgonError} ERR_INTERNAL when trees disagree on the token after the root.
   */
  checkRoots(trees: readonly Tree[]): Promise<void>
  /** In the cache. */
  rows(): number
  /** The next token, already certain. */
  root(): number
  close(): Promise<void>
}

/** Loads a folder; the caller closes the model after its sessions. */
export async function openModel({ model: dir, heads: headsDir, ...options }: OpenOptions): Promise<OpenModel> {
  const addon = native()
  const folder = await readModelFolder(dir)
  const heads = await headsOf(folder, headsDir)
  const progress = new Int32Array(new SharedArrayBuffer(8))
  const spec = modelSpecOf(folder, heads, { ...options, backend: 'cpu', dtype: 'auto', progress })
  const model = await addon.openModel(spec)
  const info = addon.modelInfo(model)
  const { vocab, hidden, maxPositions } = spec.shape
  const ownProjection = Object.keys(spec.heads?.tensors ?? {}).some((name) => name.endsWith('.projection'))
  const projectionBytes = vocab * hidden * (info.weights === 'int8' ? 1 : info.dtype === 'f32' ? 4 : 2)
  const medusaHeads = heads?.medusaHeads ?? 0
  return {
    info,
    vocab,
    maxPositions,
    medusaHeads,
    verifyBytes: (rows) => info.weightBytes + rows * info.kvBytesPerToken,
    headsBytes: () => (medusaHeads === 0 ? 0 : info.headsBytes + (ownProjection ? 0 : projectionBytes)),
    session() {
      const session = addon.openSession(model)
      let drafts: Drafts | undefined
      // Any tokens cost the same: a model with too few heads, or none, can still be asked what a tree would cost.
      const tokensOf = (tree: Tree): Int32Array => {
        if (tree.depth <= medusaHeads) return draft(tree, drafts!, DRAFTS_PER_HEAD)
        return randomTokens(tree.nodeCount, vocab).fill(drafts!.root, 0, 1)
      }
      return {
        async prefill(tokens) {
          const start = performance.now()
          const topK = medusaHeads === 0 ? 0 : DRAFTS_PER_HEAD
          addon.beginPrefill({ session, tokens, sampling: GREEDY_SAMPLING, compression: null, medusaHeads, topK })
          let step: PrefillStep | undefined
          do {
            ;[step] = await addon.prefill([session])
          } while (step!.result === null)
          drafts = step!.result.drafts
          return performance.now() - start
        },
        async step(tree) {
          const plain = tree.nodeCount === 1
          const heads =
            plain || medusaHeads === 0 ? { medusaHeads: 0, topK: 0 } : { medusaHeads, topK: DRAFTS_PER_HEAD }
          const { time, next } = await timedStep(tree, tokensOf, { session, path: Int32Array.of(0), ...heads })
          // A plain step drafts nothing: the drafts of an older root cost a tree the same to verify.
          drafts = plain ? { ...drafts!, root: next.root } : next
          return time
        },
        async checkRoots(trees) {
          const answers: number[] = []
          for (const tree of trees) {
            const tokens = tokensOf(tree)
            const [posterior] = await addon.verify([{ session, tokens, parents: tree.parents, typical: false }])
            answers.push(posterior!.chosen[0]!)
          }
          const other = answers.findIndex((answer) => answer !== answers[0])
          if (other < 0) return
          const nodes = `${trees[0]!.nodeCount} and ${trees[other]!.nodeCount} nodes`
          throw wrongResult(
            `Trees of ${nodes} choose tokens ${answers[0]} and ${answers[other]} after one root on ${info.isa}`,
          )
        },
        rows: () => addon.sessionInfo(session).rows,
        root: () => drafts!.root,
        close: () => addon.close(session),
      }
    },
    close: () => addon.close(model),
  }
}

/** As many as any tree takes. */
const DRAFTS_PER_HEAD = 10
