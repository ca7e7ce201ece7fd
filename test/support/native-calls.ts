// Requests for the native boundary, and calls that it must refuse.
import { expect } from 'vitest'
import { type ErrorCode, type GorgonError, isGorgonError } from '../../src/errors.js'
import {
  type CompressionSpec,
  type ModelHandle,
  type ModelSpec,
  native,
  type PrefillRequest,
  type PrefillStep,
  type SessionHandle,
} from '../../src/native.js'
import { modelSpecOf, readHeads, readModelFolder } from '../../src/weights/load.js'
import { testBackend } from './backend.js'
import { GREEDY } from './native-session.js'

/** The GorgonError of a call that must be refused with `code`, thrown or rejected. */
export async function refused(call: () => unknown, code: ErrorCode, where = ''): Promise<GorgonError> {
  let error: unknown
  try {
    await call()
  } catch (thrown) {
    error = thrown
  }
  if (error === undefined) expect.fail(`${where}: expected ${code}, but it was not refused`)
  if (!isGorgonError(error)) throw error
  expect(error.code, `${where}: ${error.message}`).toBe(code)
  expect(error.message).not.toBe('')
  return error
}

/** In place of a value: the field is not there. */
export const ABSENT = Symbol('absent')

/** A copy of nested plain objects with one field, named `a.b.c`, given another value. */
export function changed<T>(object: T, path: string, value: unknown): T {
  const [key = '', ...rest] = path.split('.')
  if (key === '') return value as T
  const copy = { ...object } as Record<string, unknown>
  if (rest.length > 0) copy[key] = changed(copy[key], rest.join('.'), value)
  else if (value === ABSENT) delete copy[key]
  else copy[key] = value
  return copy as T
}

/** What openModel takes for a folder. */
export async function specOf(dir: string, headsDir?: string): Promise<ModelSpec> {
  const folder = await readModelFolder(dir)
  const heads = headsDir === undefined ? null : await readHeads(headsDir, folder)
  const progress = new Int32Array(new SharedArrayBuffer(8))
  return modelSpecOf(folder, heads, {
    ...testBackend,
    threads: 2,
    dtype: 'auto',
    progress,
  })
}

export const SNAPKV: CompressionSpec = {
  policy: 'snapkv',
  budget: 24,
  window: 8,
  poolSize: 3,
  pool: 'max',
  groupReduce: 'mean',
  sinks: 4,
  reportKept: false,
}

/** `count` tokens of any vocabulary of at least 128. */
export function someTokens(count: number, seed = 1): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => (i * 37 + seed * 11) % 128)
}

export function prefillRequest(session: SessionHandle, others: Partial<PrefillRequest> = {}): PrefillRequest {
  return { session, tokens: someTokens(40), sampling: GREEDY, compression: null, medusaHeads: 0, topK: 0, ...others }
}

/** Prefills a turn to its end. */
export async function prefillTurn(session: SessionHandle, others: Partial<PrefillRequest> = {}) {
  native().beginPrefill(prefillRequest(session, others))
  for (;;) {
    const [step] = (await native().prefill([session])) as [PrefillStep]
    if (step.result) return step.result
  }
}

/** A session at the end of a turn's prefill: it can verify. */
export async function readySession(model: ModelHandle, others: Partial<PrefillRequest> = {}) {
  const session = native().openSession(model)
  const { drafts } = await prefillTurn(session, others)
  return { session, drafts }
}

/** Verifies the root alone, and commits it. */
export async function plainStep(session: SessionHandle, root: number): Promise<number> {
  await native().verify([{ session, tokens: Int32Array.of(root), parents: Int32Array.of(-1), typical: false }])
  const [drafts] = await native().commit([{ session, path: Int32Array.of(0), medusaHeads: 0, topK: 0 }])
  return drafts!.root
}

/** `count` greedy tokens of a session that can verify, its root the first of them. */
export async function plainTokens(session: SessionHandle, root: number, count: number): Promise<number[]> {
  const tokens = [root]
  while (tokens.length < count) tokens.push(await plainStep(session, tokens.at(-1)!))
  return tokens
}
