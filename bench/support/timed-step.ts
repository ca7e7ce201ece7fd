// A decode step on the native boundary, timed call by call.
import { performance } from 'node:perf_hooks'
import { accept } from '../../src/decode/accept.js'
import type { Tree } from '../../src/decode/tree.js'
import { type CommitRequest, type Drafts, native } from '../../src/native.js'

/** Milliseconds of a step, and of its two calls; drafting and accepting, in JavaScript, are in neither and in the sum. */
export interface StepTime {
  readonly ms: number
  readonly verifyMs: number
  readonly commitMs: number
}

/** Drafts by `tokensOf`, verifies, accepts and commits. What is committed does not depend on what was accepted. */
export async function timedStep(
  tree: Tree,
  tokensOf: (tree: Tree) => Int32Array,
  commit: CommitRequest,
): Promise<{ readonly time: StepTime; readonly next: Drafts }> {
  const addon = native()
  const start = performance.now()
  const tokens = tokensOf(tree)
  const beforeVerify = performance.now()
  const [posterior] = await addon.verify([{ session: commit.session, tokens, parents: tree.parents, typical: false }])
  const afterVerify = performance.now()
  accept(tree, tokens, posterior!, { rule: 'exact' })
  const beforeCommit = performance.now()
  const [next] = await addon.commit([commit])
  const end = performance.now()
  return { time: { ms: end - start, verifyMs: afterVerify - beforeVerify, commitMs: end - beforeCommit }, next: next! }
}
