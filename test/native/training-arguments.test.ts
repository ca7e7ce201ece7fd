// Calls of training with malformed arguments: each is refused with its code, and nothing has changed.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ErrorCode } from '../../src/errors.js'
import { type ModelHandle, native } from '../../src/native.js'
import type { TrainerHandle, TrainerSpec, TrainingText } from '../../src/native-training.js'
import { temporaryFolder } from '../support/folder.js'
import { ABSENT, changed, refused, someTokens } from '../support/native-calls.js'
import { openModel } from '../support/native-session.js'
import { type TinyModel, writeTinyModel } from '../support/tiny-model.js'
import { TrainedHeads, UPDATE } from '../support/training.js'

const MAX_POSITIONS = 100
const dir = temporaryFolder()
const addon = native()
const training = addon.training
let model: ModelHandle
let tiny: TinyModel
let heads: TrainedHeads
let trainer: TrainerHandle

beforeAll(async () => {
  tiny = await writeTinyModel(join(dir, 'tiny'), { maxPositions: MAX_POSITIONS })
  model = await openModel(tiny.dir)
  heads = await TrainedHeads.open(model, tiny)
  trainer = heads.trainer
})
afterAll(async () => {
  await heads.close()
  await addon.close(model)
})

const NOT_OBJECTS = [undefined, null, true, 7, 'text', 1n, Symbol('s')]
const NOT_WHOLE = [ABSENT, null, '1', 1n, [], {}, true, Number.NaN, Number.POSITIVE_INFINITY, 0.5, 2 ** 53]
const NOT_FINITE = [ABSENT, null, '1', 1n, [], {}, true, Number.NaN, Number.POSITIVE_INFINITY, -Infinity, 1e300]
const NOT_INT32S = [ABSENT, null, 7, 'text', [1, 2], new ArrayBuffer(8), new Uint8Array(4), new Float32Array(4)]
const NOT_FLOATS = [undefined, null, 7, 'text', [1, 2], new ArrayBuffer(8), new Uint8Array(4), new Float64Array(4)]

const text: TrainingText = { tokens: someTokens(20), from: 0, hidden: null }
const scales = Float32Array.of(1, 1)
const SPEC: TrainerSpec = { medusaHeads: 2, blocks: 1, privateProjection: false }

/** What a field may not be, and the code it gives: ERR_ARGUMENT where none is named. */
type Bad = readonly [field: string, values: readonly unknown[], code?: ErrorCode]

async function refuseAll<T>(call: (request: T) => unknown, request: T, table: readonly Bad[]): Promise<void> {
  for (const [field, values, code = 'ERR_ARGUMENT'] of table) {
    for (const value of values) {
      const error = await refused(() => call(changed(request, field, value)), code, `${field} = ${String(value)}`)
      expect(error.message.length).toBeGreaterThan(10)
    }
  }
}

/** Everything a trainer holds. */
async function everything() {
  const held = []
  for (const part of ['weights', 'mean', 'variance', 'gradient'] as const) held.push(await heads.read(part))
  return held
}

describe('openTrainer', () => {
  it('refuses heads that cannot be trained', async () => {
    await refuseAll((spec) => training.openTrainer(model, spec), SPEC, [
      ['medusaHeads', [...NOT_WHOLE, 0, -1, 65, 2 ** 40]],
      ['blocks', [...NOT_WHOLE, -1, 1025, 2 ** 40]],
      ['privateProjection', [ABSENT, null, 0, 1, 'true', {}]],
      ['', NOT_OBJECTS],
    ])
    const error = await refused(() => training.openTrainer(model, { ...SPEC, blocks: 0 }), 'ERR_ARGUMENT')
    expect(error.message).toMatch(/nothing to learn/)
  })

  it('refuses what is not a model', async () => {
    for (const value of [...NOT_OBJECTS, {}, trainer]) {
      await refused(() => training.openTrainer(value as never, SPEC), 'ERR_ARGUMENT')
    }
  })
})

describe('a trainer handle', () => {
  const calls: readonly ((handle: never) => unknown)[] = [
    training.trainerInfo,
    (handle) => training.hiddenRows(handle, someTokens(4)),
    (handle) => training.score(handle, [text]),
    (handle) => training.accumulate(handle, [text], scales),
    (handle) => training.update(handle, UPDATE),
    (handle) => training.read(handle, { tensor: '0.block.0.bias', part: 'weights', first: 0 }, 1),
    (handle) => training.write(handle, { tensor: '0.block.0.bias', part: 'weights', first: 0 }, new Float32Array(1)),
    training.closeTrainer,
  ]

  it('is the only thing these calls take', async () => {
    for (const value of [...NOT_OBJECTS, {}, [], new Proxy({}, {}), model]) {
      for (const call of calls) await refused(() => call(value as never), 'ERR_ARGUMENT', String(call))
    }
  })

  it('is none of a session’s or a model’s', async () => {
    for (const call of [addon.modelInfo, addon.openSession, addon.sessionInfo, addon.close])
      await refused(() => call(trainer as never), 'ERR_ARGUMENT', String(call))
  })
})

describe('texts', () => {
  it.each([
    ['score', (texts: readonly TrainingText[]) => training.score(trainer, texts)],
    ['accumulate', (texts: readonly TrainingText[]) => training.accumulate(trainer, texts, scales)],
  ] as const)('that %s cannot take are refused, and nothing has changed', async (_, call) => {
    const before = await everything()
    await refuseAll((texts) => call(texts as never), [text], [['', [...NOT_OBJECTS, {}, text]]])
    const bytes = 20 * tiny.hidden * 4
    // The good text before it has taught nothing.
    await refuseAll((bad) => call([text, bad]), text, [
      ['', NOT_OBJECTS],
      ['tokens', NOT_INT32S],
      ['tokens', [Int32Array.of(1, -1), Int32Array.of(1, tiny.vocab), Int32Array.of(2 ** 31 - 1)]],
      ['tokens', [someTokens(MAX_POSITIONS + 1)]],
      ['from', [...NOT_WHOLE, -1, 21, 2 ** 40]],
      ['hidden', [undefined, 7, 'text', [1], new ArrayBuffer(8), new Float32Array(20 * tiny.hidden)]],
      ['hidden', [0, 1, bytes - 4, bytes - 1, bytes + 4].map((n) => new Uint8Array(n)), 'ERR_SHAPE'],
    ])
    expect(await everything()).toEqual(before)
    expect(await call([])).toEqual([])
    expect(await call([{ ...text, tokens: someTokens(MAX_POSITIONS) }])).toHaveLength(1)
    await heads.update({ learningRate: 0, weightDecay: 0, beta1: 0, beta2: 0 })
  })

  it('name the token that is out of range, and where', async () => {
    const tokens = someTokens(20)
    tokens[13] = 128
    const error = await refused(() => training.score(trainer, [{ ...text, tokens }]), 'ERR_ARGUMENT')
    expect(error.message).toMatch(/128.*13/)
  })

  it('are refused by hiddenRows alike', async () => {
    for (const value of NOT_INT32S) await refused(() => training.hiddenRows(trainer, value as never), 'ERR_ARGUMENT')
    for (const tokens of [Int32Array.of(-1), Int32Array.of(tiny.vocab), someTokens(MAX_POSITIONS + 1)])
      await refused(() => training.hiddenRows(trainer, tokens), 'ERR_ARGUMENT')
    expect(await training.hiddenRows(trainer, new Int32Array(0))).toHaveLength(0)
    expect(await training.hiddenRows(trainer, someTokens(3))).toHaveLength(3 * tiny.hidden * 4)
  })

  it('are copied before the call returns', async () => {
    const expected = await training.score(trainer, [text])
    const changing = { ...text, tokens: text.tokens.slice() }
    const scored = training.score(trainer, [changing])
    changing.tokens.fill(-1)
    expect(await scored).toEqual(expected)
  })
})

describe('scales', () => {
  it('are one finite number for each head', async () => {
    const before = await everything()
    for (const value of NOT_FLOATS)
      await refused(() => training.accumulate(trainer, [text], value as never), 'ERR_ARGUMENT')
    for (const count of [0, 1, 3])
      await refused(() => training.accumulate(trainer, [text], new Float32Array(count)), 'ERR_SHAPE')
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY])
      await refused(() => training.accumulate(trainer, [text], Float32Array.of(1, bad)), 'ERR_ARGUMENT')
    expect(await everything()).toEqual(before)
  })
})

describe('update', () => {
  it('refuses settings that would spoil the weights', async () => {
    await heads.accumulate([text])
    const before = await everything()
    await refuseAll((spec) => training.update(trainer, spec), UPDATE, [
      ['', NOT_OBJECTS],
      ['scale', [...NOT_FINITE, 0, -1]],
      ['clip', [...NOT_FINITE, -1]],
      ['learningRate', [...NOT_FINITE, -1e-3]],
      ['beta1', [...NOT_FINITE, -0.1, 1, 2]],
      ['beta2', [...NOT_FINITE, -0.1, 1, 2]],
      ['epsilon', [...NOT_FINITE, 0, -1e-8]],
      ['weightDecay', [...NOT_FINITE, -0.1]],
      ['step', [...NOT_WHOLE, 0, -1]],
    ])
    expect(await everything()).toEqual(before)
  })
})

describe('read and write', () => {
  const slice = { tensor: '1.block.0.bias', part: 'weights', first: 0 } as const

  it('refuse slices that do not exist', async () => {
    const calls = [
      (wrong: typeof slice) => training.read(trainer, wrong, 64),
      (wrong: typeof slice) => training.write(trainer, wrong, new Float32Array(64)),
    ]
    for (const call of calls) {
      await refuseAll(call, slice, [
        ['', NOT_OBJECTS],
        ['tensor', [ABSENT, null, 7, '', '2.block.0.bias', '1.block.1.bias', '1.projection', '1.block.0.weight\0']],
        ['part', [ABSENT, null, 7, 'weight', '', 'constructor']],
        ['first', NOT_WHOLE],
        ['first', [-1, 1, 2 ** 40], 'ERR_SHAPE'],
      ])
    }
    for (const value of NOT_WHOLE.filter((v) => v !== ABSENT))
      await refused(() => training.read(trainer, slice, value as never), 'ERR_ARGUMENT')
    for (const count of [-1, 65, 2 ** 40, 2 ** 53 - 1])
      await refused(() => training.read(trainer, slice, count), 'ERR_SHAPE')
    for (const value of NOT_FLOATS) await refused(() => training.write(trainer, slice, value as never), 'ERR_ARGUMENT')
    await refused(() => training.write(trainer, slice, new Float32Array(65)), 'ERR_SHAPE')
  })

  it('move any part of a tensor, down to nothing', async () => {
    for (const part of ['weights', 'mean', 'variance', 'gradient'] as const) {
      const before = await training.read(trainer, { ...slice, part }, 64)
      await training.write(trainer, { ...slice, part, first: 3 }, Float32Array.of(5, 6, 7))
      const expected = before.slice()
      expected.set([5, 6, 7], 3)
      expect(await training.read(trainer, { ...slice, part }, 64)).toEqual(expected)
      expect(await training.read(trainer, { ...slice, part, first: 4 }, 2)).toEqual(Float32Array.of(6, 7))
      expect(await training.read(trainer, { ...slice, part, first: 64 }, 0)).toHaveLength(0)
      await training.write(trainer, { ...slice, part, first: 64 }, new Float32Array(0))
      await training.write(trainer, { ...slice, part }, before)
    }
  })
})
