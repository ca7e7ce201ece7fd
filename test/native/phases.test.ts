// The phases in and out of order, one at a time and in batches: what is refused has changed nothing.

import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ErrorCode } from '../../src/errors.js'
import { type ModelHandle, native, type PrefillRequest, type SessionHandle } from '../../src/native.js'
import { PROMPT_ROWS, ROW_GROUP } from '../support/backend.js'
import { temporaryFolder } from '../support/folder.js'
import {
  plainStep,
  plainTokens,
  prefillRequest,
  prefillTurn,
  readySession,
  refused,
  SNAPKV,
  someTokens,
} from '../support/native-calls.js'
import { openModel, sampled } from '../support/native-session.js'
import { roundUp } from '../support/ops.js'
import { uniform, writeTinyHeads, writeTinyModel } from '../support/tiny-model.js'

const LAYERS = 3
const dir = temporaryFolder()
const addon = native()
let model: ModelHandle

beforeAll(async () => {
  const tiny = await writeTinyModel(join(dir, 'model'), { layers: LAYERS, seed: 9 })
  await writeTinyHeads(join(dir, 'heads'), tiny)
  model = await openModel(join(dir, 'model'), { heads: join(dir, 'heads') })
})
afterAll(() => addon.close(model))

const beginPrefill = (session: SessionHandle, others: Partial<PrefillRequest> = {}) =>
  addon.beginPrefill(prefillRequest(session, others))
const prefill = (session: SessionHandle) => addon.prefill([session])
const verify = (session: SessionHandle) =>
  addon.verify([{ session, tokens: Int32Array.of(3, 4, 5), parents: Int32Array.of(-1, 0, 1), typical: true }])
const commit = (session: SessionHandle) =>
  addon.commit([{ session, path: Int32Array.of(0, 1), medusaHeads: 2, topK: 2 }])

async function tokensOf(session: SessionHandle, others: Partial<PrefillRequest> = {}): Promise<number[]> {
  const { drafts } = await prefillTurn(session, others)
  return plainTokens(session, drafts.root, 10)
}

async function fresh(others: Partial<PrefillRequest> = {}): Promise<number[]> {
  const session = addon.openSession(model)
  const tokens = await tokensOf(session, others)
  await addon.close(session)
  return tokens
}

describe('one session', () => {
  it('begins with beginPrefill', async () => {
    const session = addon.openSession(model)
    for (const phase of [prefill, verify, commit]) await refused(() => phase(session), 'ERR_STATE')
    expect(addon.sessionInfo(session)).toEqual({ position: 0, rows: 0, bytes: 0 })
    expect(await tokensOf(session)).toEqual(await fresh())
    await addon.close(session)
  })

  it('prefills to the end before anything else', async () => {
    const session = addon.openSession(model)
    beginPrefill(session)
    let done = 0
    for (let layer = 1; layer <= LAYERS; layer++) {
      for (const phase of [verify, commit]) await refused(() => phase(session), 'ERR_STATE')
      const [step] = await prefill(session)
      expect(step).toMatchObject({ done: 40 * layer, total: 40 * LAYERS })
      expect(step!.result === null).toBe(layer < LAYERS)
      expect(step!.done).toBeGreaterThan(done)
      done = step!.done
    }
    for (const phase of [prefill, commit]) await refused(() => phase(session), 'ERR_STATE')
    await addon.close(session)
  })

  it('can be given a cache that nobody computed, once, to step on as on any other', async () => {
    const session = addon.openSession(model)
    await addon.assumePrefill({ session, tokens: 70 })
    const { bytes, ...held } = addon.sessionInfo(session)
    const rows = roundUp(70, ROW_GROUP)
    expect(held).toEqual({ position: rows, rows })
    expect(bytes).toBeGreaterThan(0)
    await refused(() => addon.assumePrefill({ session, tokens: 32 }), 'ERR_STATE')
    const tokens = Int32Array.from({ length: 64 }, (_, i) => i)
    const parents = tokens.map((node) => (node === 0 ? -1 : (node - 1) >> 2))
    for (let step = 0; step < 20; step++) {
      const [posterior] = await addon.verify([{ session, tokens, parents, typical: true }])
      expect(posterior!.chosen.every((token) => token >= 0)).toBe(true)
      expect(posterior!.entropy.slice(0, 1).every((entropy) => entropy >= 0)).toBe(true)
      await addon.commit([{ session, path: Int32Array.of(0, 1), medusaHeads: 0, topK: 0 }])
    }
    expect(addon.sessionInfo(session)).toMatchObject({ position: rows + 40, rows: rows + 40 })
    // A turn after it is computed as any other.
    await addon.close(session)
    expect(await tokensOf(addon.openSession(model), {})).toEqual(await fresh({}))
  })

  it('may verify again and again before it commits, each time anew', async () => {
    const { session, drafts } = await readySession(model)
    const [first] = await verify(session)
    await addon.verify([{ session, tokens: Int32Array.of(9), parents: Int32Array.of(-1), typical: false }])
    // The path is one of the last tree, and that has one node.
    await refused(() => commit(session), 'ERR_SHAPE')
    const [again] = await verify(session)
    expect(again).toEqual(first)
    await refused(() => prefill(session), 'ERR_STATE')
    expect(addon.sessionInfo(session)).toMatchObject({ position: 40, rows: 40 })
    await commit(session)
    await refused(() => commit(session), 'ERR_STATE')
    expect(addon.sessionInfo(session)).toMatchObject({ position: 42, rows: 42 })
    expect(drafts.tokens).toHaveLength(0)
    await addon.close(session)
  })

  it('forgets a verify that was not committed when the next turn begins', async () => {
    const { session, drafts } = await readySession(model)
    await plainStep(session, drafts.root)
    await verify(session)
    const rest = someTokens(7, 3)
    const turn = await tokensOf(session, { tokens: rest })
    await refused(() => commit(session), 'ERR_STATE')
    expect(turn).toEqual(await fresh({ tokens: Int32Array.from([...someTokens(40), drafts.root, ...rest]) }))
    await addon.close(session)
  })

  it('begins a prompt anew that was not finished', async () => {
    const { session, drafts } = await readySession(model)
    await plainStep(session, drafts.root)
    const expected = await fresh({ tokens: Int32Array.from([...someTokens(40), drafts.root, ...someTokens(9, 4)]) })
    const chunks = Math.ceil(600 / PROMPT_ROWS)
    // The last call of all would finish it.
    for (let calls = 0; calls < Math.min(LAYERS, LAYERS * chunks - 1); calls++) {
      beginPrefill(session, { tokens: someTokens(600, 5) })
      for (let call = 0; call < calls; call++) await prefill(session)
      expect(addon.sessionInfo(session).position).toBe(41)
      // A refused beginning leaves the unfinished one as it was.
      await refused(() => beginPrefill(session, { tokens: new Int32Array(0) }), 'ERR_ARGUMENT')
      await refused(() => beginPrefill(session, { compression: { ...SNAPKV, poolSize: 4 } }), 'ERR_ARGUMENT')
      const layers = Math.floor(calls / chunks)
      const rows = Math.min(600, ((calls % chunks) + 1) * PROMPT_ROWS)
      expect((await prefill(session))[0]!.done).toBe(layers * 600 + rows)
    }
    expect(await tokensOf(session, { tokens: someTokens(9, 4) })).toEqual(expected)
    await addon.close(session)
  })

  it('cannot begin anew once rows were dropped', async () => {
    const session = addon.openSession(model)
    beginPrefill(session, { compression: SNAPKV })
    // Before the first layer is compressed, it can.
    beginPrefill(session, { compression: SNAPKV })
    await prefill(session)
    await refused(() => beginPrefill(session), 'ERR_STATE')
    for (let layer = 1; layer < LAYERS; layer++) await prefill(session)
    expect(addon.sessionInfo(session)).toMatchObject({ position: 40, rows: SNAPKV.budget })
    await verify(session)
    await commit(session)
    await addon.close(session)
  })

  it('has one call at a time', async () => {
    const { session } = await readySession(model)
    const running = verify(session)
    for (const phase of [prefill, verify, commit]) await refused(() => phase(session), 'ERR_BUSY')
    await refused(() => beginPrefill(session), 'ERR_BUSY')
    await refused(() => addon.sessionInfo(session), 'ERR_BUSY')
    await running
    await commit(session)
    await addon.close(session)
  })

  it('keeps its own tree while another session runs', async () => {
    const { session: a } = await readySession(model)
    const { session: b } = await readySession(model, { tokens: someTokens(23, 8) })
    const [alone] = await verify(a)
    await verify(b)
    await commit(b)
    expect((await verify(a))[0]).toEqual(alone)
    await Promise.all([addon.close(a), addon.close(b)])
  })
})

describe('compression at its edges', () => {
  it.each(['snapkv', 'h2o', 'streaming'] as const)(
    '%s: a turn of one token, a window wider than the turn, a pool wider than all',
    async (policy) => {
      for (const tokens of [1, 2, 23, 24, 25, 700]) {
        for (const poolSize of [1, 2 ** 31 - 1]) {
          const compression = { ...SNAPKV, policy, poolSize, window: 23, sinks: 0, reportKept: true }
          const { session } = await readySession(model, { tokens: someTokens(24) })
          const { compression: report } = await prefillTurn(session, { tokens: someTokens(tokens, 2), compression })
          expect(report).toMatchObject({ rowsBefore: 24 + tokens, rowsKept: 24 })
          expect(report!.kept).toHaveLength(LAYERS * 2 * 24)
          expect(addon.sessionInfo(session)).toMatchObject({ position: 24 + tokens, rows: 24 })
          await verify(session)
          await commit(session)
          await addon.close(session)
        }
      }
    },
  )
})

describe('batches', () => {
  it('that are refused change none of their sessions', async () => {
    const expected = await fresh()
    const { session: ready, drafts } = await readySession(model)
    const idle = addon.openSession(model)
    const filling = addon.openSession(model)
    beginPrefill(filling)
    const item = { tokens: Int32Array.of(drafts.root), parents: Int32Array.of(-1), typical: false }
    const root = { path: Int32Array.of(0), medusaHeads: 0, topK: 0 }
    for (const bad of [idle, filling]) {
      await refused(
        () =>
          addon.verify([
            { session: ready, ...item },
            { session: bad, ...item },
          ]),
        'ERR_STATE',
      )
      await refused(() => addon.commit([{ session: ready, ...root }]), 'ERR_STATE')
    }
    for (const bad of [idle, ready]) await refused(() => addon.prefill([filling, bad]), 'ERR_STATE')
    await addon.verify([{ session: ready, ...item }])
    for (const bad of [idle, filling]) {
      await refused(
        () =>
          addon.commit([
            { session: ready, ...root },
            { session: bad, ...root },
          ]),
        'ERR_STATE',
      )
    }
    // One malformed member is enough.
    await refused(
      () =>
        addon.commit([
          { session: ready, ...root },
          { session: idle, ...root, path: Int32Array.of(1) },
        ]),
      'ERR_STATE',
    )
    expect(addon.sessionInfo(ready)).toMatchObject({ position: 40 })
    const [next] = await addon.commit([{ session: ready, ...root }])
    expect([drafts.root, ...(await plainTokens(ready, next!.root, 9))]).toEqual(expected)
    expect((await prefill(filling))[0]!.done).toBe(40)
    await Promise.all([ready, idle, filling].map((session) => addon.close(session)))
  })

  it('of many sessions, more than one pass takes, answer each as if alone', async () => {
    const parents = Int32Array.from({ length: 64 }, (_, i) => (i === 0 ? -1 : (i - 1) >> 1))
    const tokens = someTokens(64, 6)
    const sessions = await Promise.all(
      Array.from(
        { length: 20 },
        async (_, i) => (await readySession(model, { tokens: someTokens(10 + 3 * i, i) })).session,
      ),
    )
    const requests = sessions.map((session) => ({ session, tokens, parents, typical: true }))
    const together = await addon.verify(requests)
    const alone = []
    for (const request of requests) alone.push((await addon.verify([request]))[0])
    expect(together).toEqual(alone)
    const drafts = await addon.commit(
      sessions.map((session, i) => ({ session, path: Int32Array.of(0, 1, 3), medusaHeads: i % 4, topK: i % 7 })),
    )
    expect(drafts.map((draft) => draft.tokens.length)).toEqual(sessions.map((_, i) => (i % 4) * Math.max(1, i % 7)))
    await Promise.all(sessions.map((session) => addon.close(session)))
  })
})

describe('any sequence of calls', () => {
  /** What a session may be asked for, as native.ts words it. */
  type State = 'idle' | 'prefilling' | 'ready' | 'verified' | 'closed'

  it('is answered by the state alone, and the account of positions stays right', async () => {
    const random = uniform(4)
    const pick = (count: number) => Math.floor(random() * count)
    for (let round = 0; round < 60; round++) {
      const session = addon.openSession(model)
      let state: State = 'idle'
      let position = 0
      let pending = 0
      let steps = 0
      let nodes = 0
      let hasDropped = false
      for (let call = 0; call < 25; call++) {
        const choice = pick(40)
        const count = 1 + pick(60)
        const expected = (allowed: readonly State[]): ErrorCode | null =>
          state === 'closed' ? 'ERR_CLOSED' : allowed.includes(state) ? null : 'ERR_STATE'
        const attempt = async (code: ErrorCode | null, work: () => unknown) => {
          if (code === null) await work()
          else await refused(work, code, `round ${round}, call ${call}, ${state}`)
          return code === null
        }
        if (choice < 8) {
          const compression = random() < 0.5 ? SNAPKV : null
          const code = hasDropped ? 'ERR_STATE' : expected(['idle', 'prefilling', 'ready', 'verified'])
          const sampling = sampled(random() < 0.5 ? 0 : 0.9, BigInt(round), {
            repetitionPenalty: 1 + pick(2) / 10,
            logprobs: pick(3) - 1,
          })
          const request = {
            tokens: someTokens(count, call),
            compression,
            sampling,
            medusaHeads: pick(4),
            topK: pick(9),
          }
          if (await attempt(state === 'closed' ? 'ERR_CLOSED' : code, () => beginPrefill(session, request))) {
            state = 'prefilling'
            pending = count
            steps = 0
          }
        } else if (choice < 22) {
          await attempt(expected(['prefilling']), async () => {
            const before = addon.sessionInfo(session).rows
            const [step] = await prefill(session)
            steps++
            expect(step!.total).toBe(pending * LAYERS)
            expect(step!.result === null).toBe(steps < LAYERS)
            const { rows } = addon.sessionInfo(session)
            // Layer 0 is done with its first chunk, compression included.
            hasDropped = step!.result === null && (hasDropped || rows < before + (steps === 1 ? pending : 0))
            if (step!.result) {
              state = 'ready'
              position += pending
            }
          })
        } else if (choice < 31) {
          nodes = state === 'closed' ? nodes : 1 + pick(20)
          const parents = Int32Array.from({ length: nodes }, (_, i) => (i === 0 ? -1 : pick(i)))
          const typical = random() < 0.5
          if (
            await attempt(expected(['ready', 'verified']), () =>
              addon.verify([{ session, tokens: someTokens(nodes, call), parents, typical }]),
            )
          ) {
            state = 'verified'
          }
        } else if (choice < 39) {
          const done = await attempt(expected(['verified']), () =>
            addon.commit([{ session, path: Int32Array.of(0), medusaHeads: pick(4), topK: pick(9) }]),
          )
          if (done) {
            state = 'ready'
            position++
          }
        } else {
          await addon.close(session)
          state = 'closed'
        }
        if (state !== 'closed') expect(addon.sessionInfo(session).position).toBe(position)
      }
      await addon.close(session)
    }
  })
})
