// What lives how long: closing, what keeps what alive, collected handles, threads and processes that end in the middle.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type ModelHandle, native, packageRoot, type SessionHandle } from '../../src/native.js'
import { isCpu } from '../support/backend.js'
import { temporaryFolder } from '../support/folder.js'
import { plainTokens, prefillRequest, readySession, refused, someTokens } from '../support/native-calls.js'
import { decode, openModel } from '../support/native-session.js'
import { referenceIsa } from '../support/ops.js'
import { isSanitized, programResult, runProgram } from '../support/program.js'
import { writeTinyModel } from '../support/tiny-model.js'

const dir = temporaryFolder()
const addon = native()
const demo = join(packageRoot(), 'models', 'demo')
const isLinux = process.platform === 'linux'
/** A device has copies of its own. */
const isMapping = isLinux && isCpu
/** Drivers of a device reserve more addresses than there is memory. */
const canLimit = isLinux && isCpu && !isSanitized && spawnSync('prlimit', ['--version']).status === 0

/** Whether the weights of a folder are mapped: the model is alive. Linux tells. */
function isMapped(folder: string): boolean {
  return readFileSync('/proc/self/maps', 'utf8').includes(folder)
}

async function tinyModel(name: string, seed = 1): Promise<ModelHandle> {
  await writeTinyModel(join(dir, name), { seed })
  return openModel(join(dir, name))
}

const verifyOne = (session: SessionHandle) =>
  addon.verify([{ session, tokens: Int32Array.of(1), parents: Int32Array.of(-1), typical: false }])

describe('close', () => {
  it('may be called again, at any time', async () => {
    const model = await tinyModel('again')
    const session = addon.openSession(model)
    for (const handle of [session, model]) {
      const closing = [addon.close(handle), addon.close(handle)]
      expect(await Promise.all(closing)).toEqual([undefined, undefined])
      expect(await addon.close(handle)).toBeUndefined()
    }
  })

  it('makes every other call ERR_CLOSED', async () => {
    const model = await tinyModel('calls')
    const { session } = await readySession(model)
    await verifyOne(session)
    await addon.close(session)
    const calls: readonly (() => unknown)[] = [
      () => addon.sessionInfo(session),
      () => addon.beginPrefill(prefillRequest(session)),
      () => addon.assumePrefill({ session, tokens: 32 }),
      () => addon.prefill([session]),
      () => verifyOne(session),
      () => addon.commit([{ session, path: Int32Array.of(0), medusaHeads: 0, topK: 0 }]),
    ]
    for (const call of calls) await refused(call, 'ERR_CLOSED', String(call))
    await addon.close(model)
    for (const call of [addon.modelInfo, addon.openSession])
      await refused(() => call(model), 'ERR_CLOSED', String(call))
  })

  it('counts from the call on, not from when it is done', async () => {
    const model = await tinyModel('at-once')
    const session = addon.openSession(model)
    const closing = addon.close(session)
    await refused(() => addon.sessionInfo(session), 'ERR_CLOSED')
    await closing
    const closingModel = addon.close(model)
    await refused(() => addon.openSession(model), 'ERR_CLOSED')
    await closingModel
  })

  it('waits for a running call, whose answer still comes', async () => {
    const model = await openModel(demo)
    const { session, drafts } = await readySession(model)
    const expected = (await decode(model, [...someTokens(40)], 2)).tokens[1]
    const order: string[] = []
    const request = { session, tokens: Int32Array.of(drafts.root), parents: Int32Array.of(-1), typical: false }
    const running = addon.verify([request]).then(([posterior]) => {
      order.push('answered')
      return posterior!.chosen[0]
    })
    const closing = [1, 2].map((n) => addon.close(session).then(() => order.push(`closed ${n}`)))
    await refused(() => addon.verify([request]), 'ERR_CLOSED')
    await addon.close(model)
    expect(await running).toBe(expected)
    await Promise.all(closing)
    expect(order).toEqual(['answered', 'closed 1', 'closed 2'])
  })

  it('of one session of a running batch leaves the others alone', async () => {
    const model = await tinyModel('batch')
    const { session: a } = await readySession(model)
    const { session: b, drafts } = await readySession(model)
    const item = { tokens: Int32Array.of(drafts.root), parents: Int32Array.of(-1), typical: false }
    const running = addon.verify([
      { session: a, ...item },
      { session: b, ...item },
    ])
    await addon.close(a)
    expect(await running).toHaveLength(2)
    await addon.commit([{ session: b, path: Int32Array.of(0), medusaHeads: 0, topK: 0 }])
    await Promise.all([addon.close(b), addon.close(model)])
  })

  it.skipIf(!isMapping)('of a model leaves its sessions running; the last of them takes it along', async () => {
    const model = await tinyModel('outlived')
    const { session: a, drafts } = await readySession(model)
    const { session: b } = await readySession(model)
    const expected = await plainTokens(b, drafts.root, 6)
    await addon.close(model)
    expect(await plainTokens(a, drafts.root, 6)).toEqual(expected)
    await addon.close(a)
    expect(isMapped(join(dir, 'outlived'))).toBe(true)
    const running = verifyOne(b)
    const closing = addon.close(b)
    expect(isMapped(join(dir, 'outlived'))).toBe(true)
    await closing
    expect(isMapped(join(dir, 'outlived'))).toBe(false)
    await running
  })

  it.skipIf(!isMapping)('frees a model that has no sessions', async () => {
    const model = await tinyModel('childless')
    expect(isMapped(join(dir, 'childless'))).toBe(true)
    await addon.close(model)
    expect(isMapped(join(dir, 'childless'))).toBe(false)
  })
})

describe('two models in one process', () => {
  it('interleave without noticing each other', async () => {
    const first = await tinyModel('first', 21)
    const second = await tinyModel('second', 22)
    const third = await openModel(join(dir, 'first'), { threads: 1, isa: referenceIsa })
    const prompt = [...someTokens(50)]
    const alone = [(await decode(first, prompt, 20)).tokens, (await decode(second, prompt, 20)).tokens]
    expect(alone[0]).not.toEqual(alone[1])
    const models = [first, second, third, second, first, third]
    const together = await Promise.all(models.map((model) => decode(model, prompt, 20)))
    expect(together.map(({ tokens }) => tokens)).toEqual(models.map((model) => alone[model === second ? 1 : 0]))
    await Promise.all([first, second, third].map((model) => addon.close(model)))
  })
})

describe('in a process of its own', () => {
  it.skipIf(!isMapping)('handles that are collected free what they held', async () => {
    const seen = await programResult('native/programs/collect.ts', [demo], { flags: ['--expose-gc'] })
    expect(seen).toEqual({
      answered: true,
      aliveWithSession: true,
      aliveInCall: true,
      aliveAfterwards: false,
      threadsLeft: 0,
    })
  })

  it('worker threads work beside each other, and may be terminated in the middle of a call', async () => {
    const { tokens, terminated, after } = await programResult<{
      tokens: number[][]
      terminated: number
      after: number[]
    }>('native/programs/threads.ts', [demo])
    expect(after).toHaveLength(20)
    expect(tokens).toEqual(Array.from({ length: 4 }, () => after))
    expect(terminated).toBe(50)
  })

  it.skipIf(!canLimit)('calls that find no memory are refused, and change nothing', async () => {
    await writeTinyModel(join(dir, 'small'), { vocab: 160_000, maxPositions: 20_000, dtype: 'bf16' })
    // One arena, and large blocks that come from the system one by one and go back to it: no memory to spare behind the limit.
    const env = { MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: '65536' }
    const seen = await programResult('native/programs/memory-limit.ts', [demo, join(dir, 'small')], { env })
    expect(seen).toEqual({
      beginPrefill: 'done',
      'first chunk': 'ERR_OUT_OF_MEMORY',
      'beginPrefill, copying': 'ERR_OUT_OF_MEMORY',
      prefill: 'ERR_OUT_OF_MEMORY',
      verify: 'ERR_OUT_OF_MEMORY',
      openTrainer: 'ERR_OUT_OF_MEMORY',
      accumulate: 'ERR_OUT_OF_MEMORY',
      'score, copying': 'ERR_OUT_OF_MEMORY',
      gradients: [false, true],
      'openModel, mapping': 'ERR_IO',
      'openModel, packing': 'ERR_OUT_OF_MEMORY',
      'openModel, threads': 'ERR_IO',
      roots: true,
      posteriors: true,
    })
  })

  it('it may end in the middle of a call', async () => {
    const ends = [
      ['load', 7],
      ['prefill', 7],
      ['verify', 7],
      ['training', 7],
      ['throw', 1],
    ] as const
    const ended = await Promise.all(ends.map(([when]) => runProgram('native/programs/exit.ts', [demo, when])))
    for (const [i, [when, code]] of ends.entries()) {
      const { exitCode, signal, stderr } = ended[i]!
      expect({ when, exitCode, signal }).toEqual({ when, exitCode: code, signal: null })
      if (when === 'throw') expect(stderr).toMatch(/nobody catches this/)
      else expect(stderr).toBe('')
    }
  })
})
