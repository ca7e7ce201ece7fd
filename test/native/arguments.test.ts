// The native boundary against malformed arguments: each is refused with its code, and nothing has changed.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ErrorCode } from '../../src/errors.js'
import {
  type CommitRequest,
  type ModelHandle,
  native,
  packageRoot,
  type SessionHandle,
  type VerifyRequest,
} from '../../src/native.js'
import { temporaryFolder } from '../support/folder.js'
import {
  ABSENT,
  changed,
  plainTokens,
  prefillRequest,
  prefillTurn,
  readySession,
  refused,
  SNAPKV,
  someTokens,
} from '../support/native-calls.js'
import { openModel } from '../support/native-session.js'
import { writeTinyModel } from '../support/tiny-model.js'

const dir = temporaryFolder()
const addon = native()
let model: ModelHandle
let other: ModelHandle
let session: SessionHandle

beforeAll(async () => {
  await writeTinyModel(join(dir, 'tiny'))
  const demo = join(packageRoot(), 'models', 'demo')
  model = await openModel(demo, { heads: join(packageRoot(), 'heads', 'demo') })
  other = await openModel(join(dir, 'tiny'))
  session = addon.openSession(model)
})
afterAll(async () => {
  await Promise.all([session, model, other].map((handle) => addon.close(handle)))
})

const NOT_OBJECTS = [undefined, null, true, 7, Number.NaN, 'text', 1n, Symbol('s')]
const NOT_HANDLES = [...NOT_OBJECTS, {}, [], () => 0, new Int32Array(4), new Date(), new Proxy({}, {})]
const NOT_WHOLE = [
  ABSENT,
  null,
  '1',
  1n,
  [],
  {},
  true,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -Number.POSITIVE_INFINITY,
  0.5,
  2 ** 53,
]
const NOT_FINITE = [
  ABSENT,
  null,
  '1',
  1n,
  [],
  {},
  true,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -Number.POSITIVE_INFINITY,
  1e300,
]
const NOT_INT32S = [
  ABSENT,
  null,
  7,
  'text',
  [1, 2],
  { 0: 1, length: 1 },
  new ArrayBuffer(8),
  new DataView(new ArrayBuffer(8)),
  new Uint8Array(4),
  new Uint32Array(4),
  new Float32Array(4),
  new BigInt64Array(2),
]
const NOT_FLAGS = [ABSENT, null, 0, 1, 'true', {}]
const BELOW_ZERO = [-1, -(2 ** 31), -(2 ** 53) + 1]
const VOCAB = 4096

/** What a field may not be, and the code it gives: ERR_ARGUMENT where none is named. */
type Bad = readonly [field: string, values: readonly unknown[], code?: ErrorCode]

function show(value: unknown): string {
  if (typeof value === 'symbol' || typeof value === 'function') return String(value)
  if (ArrayBuffer.isView(value)) return `${value.constructor.name} of ${value.byteLength} bytes`
  if (typeof value === 'bigint') return `${value}n`
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value)
}

async function refuseAll<T>(call: (request: T) => unknown, request: T, table: readonly Bad[]): Promise<void> {
  for (const [field, values, code = 'ERR_ARGUMENT'] of table) {
    for (const value of values)
      await refused(() => call(changed(request, field, value)), code, `${field} = ${show(value)}`)
  }
}

/** A greedy turn on a session of its own. */
async function reference(count: number): Promise<number[]> {
  const { session: own, drafts } = await readySession(model)
  const tokens = await plainTokens(own, drafts.root, count)
  await addon.close(own)
  return tokens
}

describe('handles', () => {
  const takesModel: readonly ((handle: never) => unknown)[] = [addon.modelInfo, addon.openSession]
  const takesSession: readonly ((handle: never) => unknown)[] = [
    addon.sessionInfo,
    (handle) => addon.beginPrefill(prefillRequest(handle)),
    (handle) => addon.prefill([handle]),
    (handle) => addon.verify([verifyRequest(handle)]),
    (handle) => addon.commit([commitRequest(handle)]),
  ]

  it('are refused when they are something else', async () => {
    for (const call of [...takesModel, ...takesSession, addon.close]) {
      for (const value of NOT_HANDLES)
        await refused(() => call(value as never), 'ERR_ARGUMENT', `${call} ${show(value)}`)
    }
  })

  it('are refused where the other kind belongs', async () => {
    for (const call of takesModel) await refused(() => call(session as never), 'ERR_ARGUMENT', String(call))
    for (const call of takesSession) await refused(() => call(model as never), 'ERR_ARGUMENT', String(call))
  })

  it('say nothing of what they hold', () => {
    expect(Object.keys(session)).toEqual([])
    expect(JSON.stringify(session)).toBe('{}')
    expect(() => structuredClone(session)).toThrow()
  })
})

function verifyRequest(of: SessionHandle): VerifyRequest {
  return { session: of, tokens: Int32Array.of(5, 6, 7), parents: Int32Array.of(-1, 0, 0), typical: false }
}

function commitRequest(of: SessionHandle): CommitRequest {
  return { session: of, path: Int32Array.of(0, 2), medusaHeads: 2, topK: 3 }
}

describe('backends', () => {
  it('ignores what it is given', () => {
    const listed = (addon.backends as (...args: unknown[]) => unknown)({}, 1n)
    expect(listed).toEqual(addon.backends())
    expect(addon.backends()[0]).toMatchObject({ name: 'cpu', usable: true })
  })
})

describe('assumePrefill', () => {
  it('refuses what is no number of tokens, or more than the model takes', async () => {
    const table: readonly Bad[] = [
      ['', [...NOT_OBJECTS, []]],
      ['tokens', [...NOT_WHOLE, ...BELOW_ZERO, 0, 16385, 2 ** 31]],
    ]
    await refuseAll(addon.assumePrefill, { session, tokens: 32 }, table)
    expect(addon.sessionInfo(session)).toEqual({ position: 0, rows: 0, bytes: 0 })
  })
})

describe('beginPrefill', () => {
  const detached = Int32Array.of(1, 2)
  structuredClone(detached.buffer, { transfer: [detached.buffer] })
  const badIds = [Int32Array.of(-1), Int32Array.of(VOCAB), Int32Array.of(1, 2 ** 31 - 1), Int32Array.of(-(2 ** 31))]

  const table: readonly Bad[] = [
    ['', [...NOT_OBJECTS, []]],
    ['tokens', [...NOT_INT32S, new Int32Array(0), detached, ...badIds, new Int32Array(16385), new Int32Array(2 ** 24)]],
    ['sampling', [...NOT_OBJECTS, ABSENT, {}]],
    ['sampling.temperature', [...NOT_FINITE, -1, -1e-30]],
    ['sampling.topP', [...NOT_FINITE, 0, -1]],
    ['sampling.minP', [...NOT_FINITE, -1]],
    ['sampling.repetitionPenalty', [...NOT_FINITE, 0, -1]],
    ['sampling.frequencyPenalty', NOT_FINITE],
    ['sampling.presencePenalty', NOT_FINITE],
    ['sampling.topK', [...NOT_WHOLE, ...BELOW_ZERO, 2 ** 31]],
    ['sampling.minTokens', NOT_WHOLE],
    ['sampling.seed', [ABSENT, null, 1, '1', {}, -1n, 2n ** 64n]],
    ['sampling.biasIds', [...NOT_INT32S, ...badIds]],
    ['sampling.biasIds', [Int32Array.of(1)], 'ERR_SHAPE'],
    ['sampling.biasValues', [ABSENT, null, [1], new Int32Array(2), new Float64Array(2)]],
    ['sampling.biasValues', [Float32Array.of(1)], 'ERR_SHAPE'],
    ['sampling.suppressedIds', [...NOT_INT32S, ...badIds]],
    ['sampling.logprobs', [...NOT_WHOLE, -2, 65]],
    ['compression', [0, true, 'snapkv', 1n, {}, []]],
    ['compression.policy', [ABSENT, null, 1, '', 'SNAPKV', 'full']],
    ['compression.pool', [ABSENT, null, '', 'sum']],
    ['compression.groupReduce', [ABSENT, null, '', 'min']],
    ['compression.budget', [...NOT_WHOLE, ...BELOW_ZERO, 0, 1, SNAPKV.window, 2 ** 40]],
    ['compression.window', [...NOT_WHOLE, ...BELOW_ZERO, 0, SNAPKV.budget, 2 ** 40]],
    ['compression.poolSize', [...NOT_WHOLE, ...BELOW_ZERO, 0, 2, 2 ** 40]],
    ['compression.sinks', [...NOT_WHOLE, ...BELOW_ZERO, 2 ** 40]],
    ['compression', [{ ...SNAPKV, policy: 'streaming', sinks: SNAPKV.budget }]],
    ['compression.reportKept', NOT_FLAGS],
    ['medusaHeads', [...NOT_WHOLE, ...BELOW_ZERO, 5, 64, 65, 2 ** 52]],
    ['topK', [...NOT_WHOLE, ...BELOW_ZERO, 65, 2 ** 52]],
  ]

  it('refuses each malformed field, and the session goes on as if nothing had been asked', async () => {
    const request = prefillRequest(session, { compression: SNAPKV, medusaHeads: 4, topK: 8 })
    await refuseAll(addon.beginPrefill, request, table)
    expect(addon.sessionInfo(session)).toEqual({ position: 0, rows: 0, bytes: 0 })
    const fresh = addon.openSession(model)
    const { drafts } = await prefillTurn(fresh)
    await refuseAll(addon.beginPrefill, changed(request, 'session', fresh), table)
    expect(await plainTokens(fresh, drafts.root, 12)).toEqual(await reference(12))
    await addon.close(fresh)
  })

  it('takes every limit itself', async () => {
    const sampling = { ...prefillRequest(session).sampling, logprobs: 64, topK: 2 ** 31 - 1, seed: 2n ** 64n - 1n }
    const { drafts } = await readySession(model, {
      sampling,
      medusaHeads: 4,
      topK: 64,
      tokens: Int32Array.of(VOCAB - 1),
    })
    expect(drafts.tokens).toHaveLength(256)
    expect(drafts.logprobs!.topIds).toHaveLength(64)
    const biases = {
      biasIds: Int32Array.of(0, VOCAB - 1),
      biasValues: Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY),
    }
    const biased = await readySession(model, {
      sampling: { ...sampling, ...biases, temperature: 3e38, frequencyPenalty: -3e38 },
    })
    expect(biased.drafts.root).toBeLessThan(VOCAB)
  })
})

describe('verify', () => {
  const nodes = (count: number) => ({
    tokens: new Int32Array(count),
    parents: Int32Array.from({ length: count }, (_, i) => i - 1),
  })
  const table: readonly Bad[] = [
    ['', [...NOT_OBJECTS, []]],
    ['tokens', [...NOT_INT32S, Int32Array.of(5, 6, -1), Int32Array.of(VOCAB, 6, 7), Int32Array.of(5, 2 ** 31 - 1, 7)]],
    ['tokens', [new Int32Array(0), new Int32Array(2), new Int32Array(4)], 'ERR_SHAPE'],
    ['parents', NOT_INT32S],
    ['parents', [new Int32Array(0), Int32Array.of(-1, 0), Int32Array.of(-1, 0, 0, 0)], 'ERR_SHAPE'],
    // The root has no parent, every other node an earlier one.
    [
      'parents',
      [
        [0, 0, 0],
        [-2, 0, 0],
        [1, 0, 0],
      ].map((ids) => Int32Array.from(ids)),
      'ERR_SHAPE',
    ],
    [
      'parents',
      [
        [-1, 1, 0],
        [-1, 2, 0],
        [-1, 0, -1],
        [-1, 0, 3],
        [-1, -(2 ** 31), 0],
      ].map((ids) => Int32Array.from(ids)),
      'ERR_SHAPE',
    ],
    ['typical', NOT_FLAGS],
  ]

  it('refuses each malformed field, and the session goes on', async () => {
    const { session: fresh, drafts } = await readySession(model)
    await refuseAll((request) => addon.verify([request]), verifyRequest(fresh), table)
    await refused(() => addon.verify([{ ...verifyRequest(fresh), ...nodes(65) }]), 'ERR_SHAPE')
    expect(await plainTokens(fresh, drafts.root, 12)).toEqual(await reference(12))
    await addon.close(fresh)
  })

  it('takes 64 nodes, as deep or as wide as can be', async () => {
    const { session: fresh } = await readySession(model)
    const [deep] = await addon.verify([{ ...verifyRequest(fresh), ...nodes(64), typical: true }])
    const wide = { tokens: new Int32Array(64), parents: Int32Array.from({ length: 64 }, (_, i) => (i === 0 ? -1 : 0)) }
    const [flat] = await addon.verify([{ ...verifyRequest(fresh), ...wide, typical: true }])
    for (const posterior of [deep!, flat!]) {
      expect(posterior.chosen).toHaveLength(64)
      expect(posterior.entropy.every((entropy) => entropy >= 0)).toBe(true)
    }
    await addon.close(fresh)
  })

  it('refuses a tree that grows past the last position', async () => {
    const { session: fresh } = await readySession(other, { tokens: someTokens(4090) })
    await refused(() => addon.verify([{ ...verifyRequest(fresh), ...nodes(7) }]), 'ERR_ARGUMENT')
    await addon.verify([{ ...verifyRequest(fresh), ...nodes(6) }])
    await addon.commit([{ ...commitRequest(fresh), path: Int32Array.of(0, 1, 2, 3, 4, 5), medusaHeads: 0, topK: 0 }])
    expect(addon.sessionInfo(fresh).position).toBe(4096)
    await refused(() => addon.verify([{ ...verifyRequest(fresh), ...nodes(1) }]), 'ERR_ARGUMENT')
    await refused(() => addon.beginPrefill(prefillRequest(fresh, { tokens: Int32Array.of(1) })), 'ERR_ARGUMENT')
    await addon.close(fresh)
  })
})

describe('commit', () => {
  const paths = [[], [1], [2, 0], [0, 0], [0, 1, 2], [0, 3], [0, -1], [0, 2 ** 31 - 1], [-1, 0]]
  const table: readonly Bad[] = [
    ['', [...NOT_OBJECTS, []]],
    ['path', NOT_INT32S],
    ['path', paths.map((path) => Int32Array.from(path)), 'ERR_SHAPE'],
    ['medusaHeads', [...NOT_WHOLE, ...BELOW_ZERO, 5, 65]],
    ['topK', [...NOT_WHOLE, ...BELOW_ZERO, 65]],
  ]

  it('refuses each malformed field, and the verified tree is still there', async () => {
    const { session: fresh, drafts } = await readySession(model)
    const root = Int32Array.of(drafts.root)
    await addon.verify([{ ...verifyRequest(fresh), tokens: Int32Array.of(drafts.root, 1, 2) }])
    await refuseAll((request) => addon.commit([request]), commitRequest(fresh), table)
    const [next] = await addon.commit([{ ...commitRequest(fresh), path: Int32Array.of(0) }])
    expect([...root, ...(await plainTokens(fresh, next!.root, 11))]).toEqual(await reference(12))
    await addon.close(fresh)
  })
})

describe('batches', () => {
  it('hold at least one session, each once, and of one model', async () => {
    const { session: a } = await readySession(model)
    const { session: b } = await readySession(other)
    const phases: readonly [(batch: never) => Promise<unknown>, (session: SessionHandle) => unknown][] = [
      [addon.prefill, (of) => of],
      [addon.verify, verifyRequest],
      [addon.commit, commitRequest],
    ]
    for (const [phase, entry] of phases) {
      const call = (batch: unknown, code: ErrorCode) => refused(() => phase(batch as never), code, `${phase.name}`)
      for (const value of [...NOT_OBJECTS, {}, [], { length: 1, 0: entry(a) }, new Proxy([], {})])
        await call(value, 'ERR_ARGUMENT')
      await call([[entry(a)]], 'ERR_ARGUMENT')
      await call(new Array(3), 'ERR_ARGUMENT')
      await call(new Array(2 ** 32 - 1), 'ERR_ARGUMENT')
      // biome-ignore lint/suspicious/noSparseArray: a hole is the point
      await call([entry(a), , entry(b)], 'ERR_ARGUMENT')
      await call([entry(a), entry(b)], 'ERR_ARGUMENT')
      await call([entry(b), entry(a)], 'ERR_ARGUMENT')
      await call([entry(a), entry(a)], 'ERR_BUSY')
    }
    expect(await plainTokens(a, (await reference(1))[0]!, 12)).toEqual(await reference(12))
    await Promise.all([addon.close(a), addon.close(b)])
  })

  it('are refused as a promise, never thrown', async () => {
    for (const phase of [addon.prefill, addon.verify, addon.commit, addon.close, addon.openModel]) {
      const promise = (phase as unknown as () => unknown)()
      expect(promise).toBeInstanceOf(Promise)
      await expect(promise).rejects.toMatchObject({ code: 'ERR_ARGUMENT' })
    }
  })
})

describe('JavaScript that runs while a request is read', () => {
  it('may throw: the call fails with what was thrown', async () => {
    const mine = new Error('mine')
    const throwing = (field: string) =>
      Object.defineProperty(verifyRequest(session), field, {
        get() {
          throw mine
        },
      })
    for (const field of ['session', 'tokens', 'parents', 'typical']) {
      await expect(addon.verify([throwing(field)])).rejects.toBe(mine)
    }
    const proxy = new Proxy(prefillRequest(session), {
      get() {
        throw mine
      },
    })
    expect(() => addon.beginPrefill(proxy)).toThrow(mine)
    await expect(addon.openModel(proxy as never)).rejects.toBe(mine)
  })

  it('may throw what is no error', async () => {
    const request = Object.defineProperty(verifyRequest(session), 'tokens', {
      get() {
        throw 5
      },
    })
    await expect(addon.verify([request])).rejects.toBe(5)
  })

  it('may close the session', async () => {
    for (const entry of [verifyRequest, commitRequest] as const) {
      const phase = (entry === verifyRequest ? addon.verify : addon.commit) as (batch: unknown[]) => Promise<unknown>
      const field = entry === verifyRequest ? 'typical' : 'topK'
      const { session: a } = await readySession(model)
      const { session: b } = await readySession(model)
      const closing = Object.defineProperty({ ...entry(a) }, field, {
        get() {
          void addon.close(a)
          return entry === verifyRequest ? false : 1
        },
      })
      await refused(() => phase([closing, entry(b)]), 'ERR_CLOSED')
      await addon.close(b)
    }
    const fresh = addon.openSession(model)
    const closing = Object.defineProperty(prefillRequest(fresh), 'topK', {
      get() {
        void addon.close(fresh)
        return 0
      },
    })
    await refused(() => addon.beginPrefill(closing), 'ERR_CLOSED')
  })

  it('may start a call with the session', async () => {
    const { session: a, drafts } = await readySession(model)
    let inner: Promise<unknown> | undefined
    const starting = Object.defineProperty({ ...verifyRequest(a) }, 'typical', {
      get() {
        inner ??= addon.verify([{ ...verifyRequest(a), tokens: Int32Array.of(drafts.root, 6, 7) }])
        return false
      },
    })
    await refused(() => addon.verify([starting]), 'ERR_BUSY')
    await inner
    await addon.close(a)
  })

  it('may change the batch', async () => {
    const { session: a } = await readySession(model)
    const { session: b } = await readySession(model)
    const batch: unknown[] = [a, b]
    Object.defineProperty(batch, 1, {
      configurable: true,
      get() {
        batch.length = 1
        return b
      },
    })
    await refused(() => addon.prefill(batch as never), 'ERR_STATE')
    const growing: unknown[] = [verifyRequest(a)]
    Object.defineProperty(growing, 0, {
      get() {
        if (growing.length < 2) growing.push(verifyRequest(b))
        return verifyRequest(a)
      },
    })
    expect(await addon.verify(growing as never)).toHaveLength(2)
    await Promise.all([addon.close(a), addon.close(b)])
  })

  it('may take the array away', async () => {
    const { session: a } = await readySession(model)
    const tokens = Int32Array.of(5, 6, 7)
    const stealing = Object.defineProperty({ ...verifyRequest(a), tokens }, 'parents', {
      get() {
        structuredClone(tokens.buffer, { transfer: [tokens.buffer] })
        return Int32Array.of(-1, 0, 0)
      },
    })
    // It was copied before that.
    expect((await addon.verify([stealing]))[0]!.chosen).toHaveLength(3)
    await addon.close(a)
  })
})
