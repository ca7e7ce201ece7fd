// Trainers that are closed, busy, outlive their model, run beside sessions, find no memory.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ModelHandle, native } from '../../src/native.js'
import type { TrainingText } from '../../src/native-training.js'
import { describeOnGpu, isCpu } from '../support/backend.js'
import { temporaryFolder } from '../support/folder.js'
import { plainTokens, readySession, refused, someTokens, specOf } from '../support/native-calls.js'
import { openModel } from '../support/native-session.js'
import { type TinyModel, writeTinyModel } from '../support/tiny-model.js'
import { TrainedHeads, UPDATE } from '../support/training.js'

const dir = temporaryFolder()
const addon = native()
const training = addon.training
const scales = Float32Array.of(1, 1)
const text: TrainingText = { tokens: someTokens(1000), from: 0, hidden: null }
const slice = { tensor: '0.block.0.bias', part: 'weights', first: 0 } as const
let tiny: TinyModel
let model: ModelHandle

beforeAll(async () => {
  tiny = await writeTinyModel(join(dir, 'tiny'))
  model = await openModel(tiny.dir)
})
afterAll(() => addon.close(model))

describe('closeTrainer', () => {
  it('may be called again, at any time', async () => {
    const { trainer } = await TrainedHeads.open(model, tiny)
    const closing = [training.closeTrainer(trainer), training.closeTrainer(trainer)]
    expect(await Promise.all(closing)).toEqual([undefined, undefined])
    expect(await training.closeTrainer(trainer)).toBeUndefined()
  })

  it('makes every other call ERR_CLOSED, from the call on', async () => {
    const { trainer } = await TrainedHeads.open(model, tiny)
    const closing = training.closeTrainer(trainer)
    const calls: readonly (() => unknown)[] = [
      () => training.trainerInfo(trainer),
      () => training.hiddenRows(trainer, text.tokens),
      () => training.score(trainer, [text]),
      () => training.accumulate(trainer, [text], scales),
      () => training.update(trainer, UPDATE),
      () => training.read(trainer, slice, 1),
      () => training.write(trainer, slice, new Float32Array(1)),
    ]
    for (const call of calls) await refused(call, 'ERR_CLOSED', String(call))
    await closing
    for (const call of calls) await refused(call, 'ERR_CLOSED', String(call))
  })

  it('waits for a running call, whose answer still comes', async () => {
    const { trainer } = await TrainedHeads.open(model, tiny)
    const order: string[] = []
    const running = training.accumulate(trainer, [text], scales).then((scores) => {
      order.push('answered')
      return scores
    })
    const closing = [1, 2].map((n) => training.closeTrainer(trainer).then(() => order.push(`closed ${n}`)))
    expect((await running)[0]!.ranks).toHaveLength(2000)
    await Promise.all(closing)
    expect(order).toEqual(['answered', 'closed 1', 'closed 2'])
  })
})

describe('a trainer', () => {
  it('takes one call at a time', async () => {
    const heads = await TrainedHeads.open(model, tiny)
    const running = heads.accumulate([text])
    const calls: readonly (() => unknown)[] = [
      () => training.trainerInfo(heads.trainer),
      () => training.hiddenRows(heads.trainer, text.tokens),
      () => heads.score([text]),
      () => heads.accumulate([text]),
      () => heads.update(),
      () => training.read(heads.trainer, slice, 1),
      () => training.write(heads.trainer, slice, new Float32Array(1)),
    ]
    for (const call of calls) await refused(call, 'ERR_BUSY', String(call))
    const [scores] = await running
    // Those that were refused have changed nothing.
    expect((await heads.score([text]))[0]).toEqual(scores)
    await heads.close()
  })

  it('shares its model with sessions and other trainers, and nobody notices', async () => {
    const alone = await TrainedHeads.open(model, tiny)
    const { session: first, drafts } = await readySession(model)
    const expected = { tokens: await plainTokens(first, drafts.root, 20), scores: await alone.accumulate([text]) }
    const gradient = await alone.read('gradient')
    await alone.close()

    const trainers = [await TrainedHeads.open(model, tiny), await TrainedHeads.open(model, tiny)]
    const { session } = await readySession(model)
    const [tokens, ...scores] = await Promise.all([
      plainTokens(session, drafts.root, 20),
      ...trainers.map((heads) => heads.accumulate([text])),
    ])
    expect(tokens).toEqual(expected.tokens)
    for (const [i, heads] of trainers.entries()) {
      expect(scores[i]).toEqual(expected.scores)
      expect(await heads.read('gradient')).toEqual(gradient)
    }
    await Promise.all([addon.close(first), addon.close(session), ...trainers.map((heads) => heads.close())])
  })

  it('keeps its model, however much is closed around it', async () => {
    const own = await writeTinyModel(join(dir, 'outlived'), { seed: 4 })
    const isMapped = () => readFileSync('/proc/self/maps', 'utf8').includes(own.dir)
    // Linux tells, and a device has copies of its own.
    const tells = isCpu && process.platform === 'linux'
    const handle = await openModel(own.dir)
    const heads = await TrainedHeads.open(handle, own)
    await addon.close(handle)
    await refused(() => training.openTrainer(handle, heads.spec), 'ERR_CLOSED')
    const [scores] = await heads.accumulate([text])
    expect(scores!.losses.every(Number.isFinite)).toBe(true)
    if (tells) expect(isMapped()).toBe(true)
    await heads.close()
    if (tells) expect(isMapped()).toBe(false)
  })
})

describe('hidden rows', () => {
  const array = addon.ops['memoryArray'] as (bytes: Uint8Array, isSandboxed: boolean) => Uint8Array

  it.each([
    ['are memory handed over', false],
    ['are copied where V8 allows no memory but its own', true],
  ])('%s', (_, isSandboxed) => {
    for (const count of [0, 1, 100_001]) {
      const bytes = Uint8Array.from({ length: count }, (__, i) => i % 251)
      const rows = array(bytes, isSandboxed)
      expect(rows).toEqual(bytes)
      // As a worker is given them, and as any array is: whole.
      expect([rows.byteOffset, rows.buffer.byteLength]).toEqual([0, count])
    }
  })
})

describeOnGpu('a trainer on a device', () => {
  it('that does not fit into its memory is refused, and leaves nothing behind', async () => {
    const { dir: folder } = await writeTinyModel(join(dir, 'tight'), { vocab: 8000 })
    const spec = await specOf(folder)
    const free = await addon.openModel(spec)
    const { memoryUsed } = addon.modelInfo(free)
    await addon.close(free)
    const progress = new Int32Array(new SharedArrayBuffer(8))
    const handle = await addon.openModel({ ...spec, memoryBudget: memoryUsed + 2 ** 20, progress })
    const private64 = { medusaHeads: 64, blocks: 1, privateProjection: true }
    await refused(() => training.openTrainer(handle, private64), 'ERR_OUT_OF_MEMORY')
    expect(addon.modelInfo(handle).memoryUsed).toBeLessThanOrEqual(memoryUsed + 2 ** 20)
    const { session, drafts } = await readySession(handle)
    expect(await plainTokens(session, drafts.root, 5)).toHaveLength(5)
    await addon.close(session)
    await addon.close(handle)
  })
})
