// What training computes: losses, ranks and gradients against the oracle, updates, and that learning learns.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ModelHandle, native } from '../../src/native.js'
import type { TextScores, TrainerSpec, TrainingText, UpdateSpec } from '../../src/native-training.js'
import { writeSafetensors } from '../../src/weights/safetensors.js'
import { type AdamwStep, adamw } from '../oracle/adamw.js'
import { elementAt, round } from '../oracle/dtype.js'
import { linear } from '../oracle/linear.js'
import { logSoftmax } from '../oracle/model.js'
import { headScores, type OracleText, totalLoss } from '../oracle/training.js'
import { isCpu, itOnCpu, PROMPT_ROWS } from '../support/backend.js'
import { EPSILON, expectClose, expectSame, expectSameBits, tolerance } from '../support/compare.js'
import { temporaryFolder } from '../support/folder.js'
import { prefillTurn, refused } from '../support/native-calls.js'
import { forwardLogits, openModel } from '../support/native-session.js'
import { fastestIsa, isas, referenceIsa } from '../support/ops.js'
import { Random } from '../support/random.js'
import { type TinyDtype, type TinyModel, toBf16, writeTinyModel } from '../support/tiny-model.js'
import { oracleHeads, randomText, TrainedHeads, type TrainedValues, UPDATE } from '../support/training.js'

const dir = temporaryFolder()
const addon = native()
const opened: ModelHandle[] = []
const tinies = new Map<TinyDtype, TinyModel>()
let model: ModelHandle
let tiny: TinyModel

async function open(dtype: TinyDtype, options: Parameters<typeof openModel>[1] = {}): Promise<ModelHandle> {
  const handle = await openModel(tinies.get(dtype)!.dir, options)
  opened.push(handle)
  return handle
}

beforeAll(async () => {
  // Widths that are no multiple of a tile's, nor of a block's; longer texts than a device takes rows at once.
  const maxPositions = 2 ** 13
  const shape = { hidden: 72, vocab: 150, queryHeads: 3, kvHeads: 1, headDim: 24, maxPositions, seed: 3 }
  for (const dtype of ['f32', 'bf16', 'f16'] as const)
    tinies.set(dtype, await writeTinyModel(join(dir, dtype), { ...shape, dtype }))
  tiny = tinies.get('f32')!
  model = await open('f32')
})
afterAll(() => Promise.all(opened.map((handle) => addon.close(handle))))

const lmHeadOf = (of: TinyModel) => of.tensors.get('lm_head.weight')!.values

/** Texts as the oracle takes them: with the hidden rows that the model gives. */
async function oracleTexts(heads: TrainedHeads, dtype: TinyDtype, texts: readonly TrainingText[]) {
  const withRows: OracleText[] = []
  for (const { tokens, from } of texts) {
    const rows = await addon.training.hiddenRows(heads.trainer, tokens)
    const hidden = Float64Array.from({ length: tokens.length * tiny.hidden }, (_, i) => elementAt(dtype, rows, i))
    withRows.push({ tokens, from, hidden })
  }
  return withRows
}

/** Texts of every awkward length and beginning. */
function awkwardTexts(random: Random): TrainingText[] {
  const lengths = [
    [1, 0],
    [2, 0],
    [3, 0],
    [9, 0],
    [4, 3],
    [12, 7],
    [5, 5],
    [0, 0],
    [7, 1],
  ]
  return lengths.map(([count, from]) => randomText(random, count!, tiny.vocab, from))
}

const SPECS: readonly Partial<TrainerSpec>[] = [
  { medusaHeads: 1, blocks: 1 },
  { medusaHeads: 3, blocks: 2 },
  { medusaHeads: 2, blocks: 0, privateProjection: true },
  { medusaHeads: 3, blocks: 1, privateProjection: true },
  { medusaHeads: 1, blocks: 2, privateProjection: true },
]
const nameOf = ({ medusaHeads, blocks, privateProjection }: Partial<TrainerSpec>) =>
  `${medusaHeads} ${privateProjection ? 'private' : 'shared'} of ${blocks} blocks`

/** Sums of products with the gradient: what a step along `directions` changes, if it is small. */
function along(gradient: TrainedValues, directions: TrainedValues): number {
  let sum = 0
  for (const [name, values] of gradient) {
    const direction = directions.get(name)
    if (direction) sum = values.reduce((total, value, i) => total + value * direction[i]!, sum)
  }
  return sum
}

function moved(values: TrainedValues, directions: TrainedValues, step: number): Map<string, Float64Array> {
  return new Map(
    [...values].map(([name, array]) => {
      const direction = directions.get(name)
      return [name, Float64Array.from(array, (value, i) => value + (direction ? step * direction[i]! : 0))]
    }),
  )
}

const norm = (values: Iterable<number>) => Math.sqrt([...values].reduce((sum, value) => sum + value * value, 0))

describe('new heads', () => {
  it('guess what the model itself does', async () => {
    const random = new Random('new heads')
    const text = randomText(random, 30, tiny.vocab)
    const logits = forwardLogits(model, [...text.tokens])
    for (const privateProjection of [false, true]) {
      const heads = await TrainedHeads.open(model, tiny, { medusaHeads: 3, privateProjection })
      const [scores] = await heads.score([text])
      const expected = Array.from({ length: 3 * 30 }, (_, i) => {
        const [head, t] = [Math.floor(i / 30), i % 30]
        if (t + 2 + head >= 30) return 0
        const row = [...logits.subarray(t * tiny.vocab, (t + 1) * tiny.vocab)]
        return -logSoftmax(row)[text.tokens[t + 2 + head]!]!
      })
      expectClose(scores!.losses, expected, 1e-4, { random, axes: { head: 3, t: 30 } })
      await heads.close()
    }
  })

  it('begin with blocks of zeros, and private projections that are the lm_head', async () => {
    const heads = await TrainedHeads.open(model, tiny, { privateProjection: true })
    for (const part of ['weights', 'mean', 'variance', 'gradient'] as const) {
      for (const [name, values] of await heads.read(part)) {
        const isProjection = part === 'weights' && name.endsWith('projection')
        const expected = isProjection ? lmHeadOf(tiny) : new Float32Array(values.length)
        expectSame(values, expected, { random: new Random(`${name} ${part}`), axes: { i: values.length } })
      }
    }
    await heads.close()
  })
})

describe('hidden rows', () => {
  it('are what the lm_head makes logits of', async () => {
    const random = new Random('hidden rows')
    const { tokens } = randomText(random, PROMPT_ROWS + 5, tiny.vocab)
    const heads = await TrainedHeads.open(model, tiny)
    const [text] = await oracleTexts(heads, 'f32', [{ tokens, from: 0, hidden: null }])
    const shape = { rows: tokens.length, depth: tiny.hidden, columns: tiny.vocab }
    const expected = linear(text!.hidden, lmHeadOf(tiny), shape)
    const magnitude = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    const allowed = tolerance({ epsilon: EPSILON.f32, reduction: tiny.hidden, magnitude, factor: 4 })
    expectClose(forwardLogits(model, [...tokens], PROMPT_ROWS), expected, allowed, {
      random,
      axes: { t: shape.rows, v: shape.columns },
    })
    await heads.close()
  })

  it.each(['f32', 'bf16', 'f16'] as const)('given in %s teach what computed ones do', async (dtype) => {
    const random = new Random(`given hidden rows ${dtype}`)
    const heads = await TrainedHeads.open(await open(dtype), tiny, { medusaHeads: 3, privateProjection: true })
    await heads.scatter(random)
    const texts = awkwardTexts(random)
    const computed = await heads.accumulate(texts)
    const gradient = await heads.read('gradient')
    await heads.update({ learningRate: 0, weightDecay: 0 })
    const given: TrainingText[] = []
    for (const text of texts)
      given.push({ ...text, hidden: await addon.training.hiddenRows(heads.trainer, text.tokens) })
    expect(await heads.accumulate(given)).toEqual(computed)
    for (const [name, values] of await heads.read('gradient'))
      expectSameBits(values, gradient.get(name)!, { random, axes: { i: values.length }, what: name })
    await heads.close()
  })
})

describe('scores', () => {
  it.each(SPECS.map((spec) => [nameOf(spec), spec] as const))('of %s are the oracle’s', async (name, spec) => {
    const random = new Random(`scores ${name}`)
    const heads = await TrainedHeads.open(model, tiny, spec)
    await heads.scatter(random)
    const texts = awkwardTexts(random)
    const scores = await heads.score(texts)
    const oracle = oracleHeads(heads.spec, await heads.read('weights'), lmHeadOf(tiny))
    for (const [i, text] of (await oracleTexts(heads, 'f32', texts)).entries()) {
      const expected = oracle.map((head, index) => headScores(text, index, head))
      const axes = { head: oracle.length, t: text.tokens.length }
      const losses = expected.flatMap((head) => head.losses)
      expectClose(scores[i]!.losses, losses, 1e-4, { random, axes, what: `losses of text ${i}` })
      const ranks = expected.flatMap((head) => head.ranks)
      expectSame(scores[i]!.ranks, ranks, { random, axes, what: `ranks of text ${i}` })
    }
    await heads.close()
  })

  it('leave gradients alone', async () => {
    const heads = await TrainedHeads.open(model, tiny)
    await heads.score([randomText(new Random('left alone'), 20, tiny.vocab)])
    for (const values of (await heads.read('gradient')).values())
      expect(values.every((value) => value === 0)).toBe(true)
    await heads.close()
  })
})

describe('gradients', () => {
  const SCALES = Float32Array.of(1, 0.5, 2)

  it.each(SPECS.map((spec) => [nameOf(spec), spec] as const))(
    'of %s are the slopes of the oracle’s loss',
    async (name, spec) => {
      const random = new Random(`gradients ${name}`)
      const heads = await TrainedHeads.open(model, tiny, spec)
      await heads.scatter(random)
      const scales = SCALES.slice(0, heads.spec.medusaHeads)
      const texts = awkwardTexts(random)
      await heads.accumulate(texts, scales)
      const weights = await heads.read('weights')
      const gradient = await heads.read('gradient')
      const oracle = await oracleTexts(heads, 'f32', texts)
      const lossAt = (values: Map<string, Float64Array>) =>
        totalLoss(oracle, oracleHeads(heads.spec, values, lmHeadOf(tiny)), scales)
      const slope = (directions: TrainedValues) =>
        (lossAt(moved(weights, directions, 1e-4)) - lossAt(moved(weights, directions, -1e-4))) / 2e-4
      for (const [tensor, values] of gradient) {
        const everywhere = new Map([[tensor, random.normals(values.length)]])
        const size = norm(values)
        expect(size, tensor).toBeGreaterThan(0)
        expect(
          Math.abs(along(gradient, everywhere) - slope(everywhere)),
          `${tensor}, seed ${random.seed}`,
        ).toBeLessThan(1e-4 * size)
        // Where it is steepest, and somewhere.
        const steepest = values.reduce((best, value, i) => (Math.abs(value) > Math.abs(values[best]!) ? i : best), 0)
        for (const at of [steepest, random.integer(0, values.length - 1)]) {
          const one = new Map([[tensor, new Float32Array(values.length)]])
          one.get(tensor)![at] = 1
          expect(Math.abs(values[at]! - slope(one)), `${tensor}[${at}], seed ${random.seed}`).toBeLessThan(1e-4 * size)
        }
      }
      await heads.close()
    },
  )

  it('are the slopes of what score says', async () => {
    const random = new Random('slopes of score')
    const heads = await TrainedHeads.open(model, tiny, { medusaHeads: 3, blocks: 2, privateProjection: true })
    await heads.scatter(random)
    const texts = [randomText(random, 40, tiny.vocab), randomText(random, 30, tiny.vocab, 11)]
    await heads.accumulate(texts, SCALES)
    const weights = await heads.read('weights')
    const gradient = await heads.read('gradient')
    const size = norm([...gradient.values()].flatMap((values) => [...values]))
    // Along the gradient itself, where the difference stands out from rounding.
    const directions = new Map([...gradient].map(([name, values]) => [name, values.map((value) => value / size)]))
    const lossAt = async (step: number) => {
      await heads.write(new Map([...moved(weights, directions, step)].map(([k, v]) => [k, Float32Array.from(v)])))
      const scores = await heads.score(texts)
      return scores.reduce((sum, { losses }, i) => {
        const count = texts[i]!.tokens.length
        return losses.reduce((total, loss, at) => total + SCALES[Math.floor(at / count)]! * loss, sum)
      }, 0)
    }
    const step = 1e-3
    const slope = ((await lossAt(step)) - (await lossAt(-step))) / (2 * step)
    expect(Math.abs(slope - size) / size, `${slope} and ${size}`).toBeLessThan(0.01)
    await heads.close()
  })

  it('add up over calls, texts and chunks of rows', async () => {
    const random = new Random('adding up')
    const heads = await TrainedHeads.open(model, tiny, { medusaHeads: 2, privateProjection: true })
    await heads.scatter(random)
    const long = randomText(random, PROMPT_ROWS + 77, tiny.vocab, 20)
    const texts = [randomText(random, 130, tiny.vocab), long, randomText(random, 70, tiny.vocab, 9)]
    const together = await heads.accumulate(texts)
    const gradient = await heads.read('gradient')
    await heads.update({ learningRate: 0, weightDecay: 0 })
    const apart: TextScores[] = []
    for (const text of texts) apart.push(...(await heads.accumulate([text])))
    if (isCpu) expect(apart).toEqual(together)
    for (const [i, text] of texts.entries()) {
      const axes = { head: 2, t: text.tokens.length }
      expectClose(apart[i]!.losses, together[i]!.losses, 1e-4, { random, axes, what: `losses of text ${i}` })
    }
    for (const [name, values] of await heads.read('gradient')) {
      const difference = norm(values.map((value, i) => value - gradient.get(name)![i]!))
      expect(difference, name).toBeLessThan(1e-5 * norm(values))
    }
    await heads.close()
  })

  it.each(['bf16', 'f16'] as const)('of a %s model follow those of the same weights in f32', async (dtype) => {
    const random = new Random(`gradients ${dtype}`)
    const spec = { medusaHeads: 2, blocks: 2, privateProjection: true }
    const texts = Array.from({ length: 6 }, () => randomText(random, 60, tiny.vocab))
    const gradients: TrainedValues[] = []
    for (const as of [dtype, 'f32'] as const) {
      const heads = await TrainedHeads.open(await open(dtype, { dtype: as }), tiny, spec)
      await heads.scatter(new Random(`weights ${dtype}`))
      await heads.accumulate(texts)
      gradients.push(await heads.read('gradient'))
      await heads.close()
    }
    const [narrow, wide] = gradients as [TrainedValues, TrainedValues]
    for (const [name, values] of narrow) {
      const exact = wide.get(name)!
      const error = norm(values.map((value, i) => value - exact[i]!)) / norm(exact)
      // Rows, weights and gradients are each rounded a few times.
      expect(error, name).toBeLessThan(8 * EPSILON[dtype])
    }
  })
})

describe('an update', () => {
  const PARTS = ['weights', 'mean', 'variance', 'gradient'] as const

  async function readAll(heads: TrainedHeads): Promise<Map<string, Float32Array[]>> {
    const all = new Map([...heads.sizes().keys()].map((tensor) => [tensor, [] as Float32Array[]]))
    for (const part of PARTS) {
      for (const [tensor, values] of await heads.read(part)) all.get(tensor)!.push(values)
    }
    return all
  }

  function oracleStep(spec: UpdateSpec, gradientScale: number, isBias: boolean): AdamwStep {
    return {
      gradientScale,
      rate: spec.learningRate,
      beta1: spec.beta1,
      beta2: spec.beta2,
      epsilon: spec.epsilon,
      decay: isBias ? 0 : spec.weightDecay,
      correction1: 1 - spec.beta1 ** spec.step,
      correction2: 1 - spec.beta2 ** spec.step,
    }
  }

  it.each([
    ['without a limit', { clip: 0, scale: 0.125 }],
    ['that is clipped', { clip: 0.01, scale: 0.125 }],
    ['that is within its limit', { clip: 1e6, scale: 1 }],
  ] as const)('%s is AdamW’s, and forgets the gradients', async (name, settings) => {
    const random = new Random(`update ${name}`)
    const heads = await TrainedHeads.open(model, tiny, { medusaHeads: 2, privateProjection: true })
    await heads.scatter(random)
    for (let step = 1; step <= 3; step++) {
      const spec = { ...UPDATE, ...settings, step }
      await heads.accumulate([randomText(random, 40, tiny.vocab)])
      const before = await readAll(heads)
      const size = spec.scale * norm([...before.values()].flatMap(([, , , gradient]) => [...gradient!]))
      const { gradientNorm } = await heads.update(spec)
      expect(Math.abs(gradientNorm - size) / size).toBeLessThan(1e-6)
      const gradientScale = spec.scale * (spec.clip > 0 ? Math.min(1, spec.clip / size) : 1)
      for (const [tensor, after] of await readAll(heads)) {
        const [weights, means, variances, gradient] = before.get(tensor)! as [
          Float32Array,
          Float32Array,
          Float32Array,
          Float32Array,
        ]
        const settings = oracleStep(spec, gradientScale, tensor.endsWith('bias'))
        const expected = Array.from(weights, (weight, i) =>
          adamw({ weight, mean: means[i]!, variance: variances[i]! }, gradient[i]!, settings),
        )
        for (const [i, key] of (['weight', 'mean', 'variance'] as const).entries()) {
          const wanted = expected.map((state) => state[key])
          const magnitude = Math.max(...wanted.map(Math.abs))
          const allowed = tolerance({ epsilon: EPSILON.f32, reduction: 1, magnitude, factor: 8 })
          const what = `${key} of ${tensor}, step ${step}`
          expectClose(after[i]!, wanted, allowed, { random, axes: { i: wanted.length }, what })
        }
        expect(after[3]!.every((value) => value === 0)).toBe(true)
      }
    }
    await heads.close()
  })

  it('by gradients that are not finite changes nothing, and forgets them', async () => {
    const random = new Random('not finite')
    const heads = await TrainedHeads.open(model, tiny)
    await heads.scatter(random)
    const text = randomText(random, 20, tiny.vocab)
    await heads.accumulate([text])
    await heads.update()
    const parts = PARTS.slice(0, 3)
    for (const poison of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const before: TrainedValues[] = []
      for (const part of parts) before.push(await heads.read(part))
      const spoilt = new Map([...(await heads.read('gradient'))])
      spoilt.get('1.block.0.bias')![3] = poison
      await heads.write(spoilt, 'gradient')
      const { gradientNorm } = await heads.update({ step: 2, clip: 1 })
      expect(Number.isFinite(gradientNorm)).toBe(false)
      expect(Number.isNaN(gradientNorm)).toBe(Number.isNaN(poison))
      for (const [i, part] of parts.entries()) expect(await heads.read(part)).toEqual(before[i])
      for (const values of (await heads.read('gradient')).values()) expect(values.every((g) => g === 0)).toBe(true)
    }
    await heads.close()
  })

  it('is never made by weights that are NaN', async () => {
    const heads = await TrainedHeads.open(model, tiny)
    const weights = await heads.read('weights')
    const tensor = '0.block.0.weight'
    const nan = Float32Array.of(Number.NaN)
    await addon.training.write(heads.trainer, { tensor, part: 'weights', first: 5 }, nan)
    const text = randomText(new Random('NaN'), 20, tiny.vocab)
    const [scores] = await heads.accumulate([text])
    expect(scores!.losses.subarray(0, 18).every(Number.isNaN)).toBe(true)
    expect(scores!.losses.subarray(20).every(Number.isFinite)).toBe(true)
    expect((await heads.update()).gradientNorm).toBeNaN()
    for (const [name, values] of await heads.read('weights')) {
      const expected = weights.get(name)!.slice()
      if (name === tensor) expected[5] = Number.NaN
      expect(values).toEqual(expected)
    }
    // With a number in its place it is as if nothing had been.
    await heads.write(weights)
    expect((await heads.accumulate([text]))[0]!.losses.every(Number.isFinite)).toBe(true)
    expect((await heads.update()).gradientNorm).toBeGreaterThan(0)
    await heads.close()
  })
})

describe('learning', () => {
  it.each([
    ['shared', 'f32', 'full'],
    ['private', 'f32', 'full'],
    ['shared', 'bf16', 'full'],
    ['private', 'bf16', 'full'],
    ['shared', 'bf16', 'int8'],
    ['private', 'bf16', 'int8'],
  ] as const)('drives the loss of a text down: %s heads of a model in %s, weights %s', async (form, dtype, weights) => {
    const handle = await open(dtype, { weights })
    const heads = await TrainedHeads.open(handle, tiny, { medusaHeads: 2, privateProjection: form === 'private' })
    const text = randomText(new Random('learning'), 30, tiny.vocab)
    const rows = 28 + 27
    const losses: number[] = []
    for (let step = 1; step <= 60; step++) {
      const [scores] = await heads.accumulate([text])
      losses.push(scores!.losses.reduce((sum, loss) => sum + loss, 0) / rows)
      await heads.update({ scale: 1 / rows, learningRate: 0.02, clip: 1, step })
    }
    expect(losses[0]).toBeGreaterThan(4)
    expect(losses.at(-1)).toBeLessThan(0.5)
    const [scores] = await heads.score([text])
    expect(scores!.ranks.filter((rank) => rank === 0).length).toBeGreaterThan(0.9 * rows)
    await heads.close()
  })

  itOnCpu(
    'gives the same bits with any threads and instruction set',
    'their sums have an order of their own',
    async () => {
      const random = new Random('determinism')
      const texts = Array.from({ length: 3 }, (_, i) => randomText(random, 170 + 37 * i, tiny.vocab, 10 * i))
      const runs: [string, number][] = [
        [referenceIsa, 1],
        ...isas.map((isa): [string, number] => [isa, 2]),
        [fastestIsa, 3],
      ]
      for (const dtype of ['f32', 'bf16'] as const) {
        let expected: { scores: TextScores[]; norms: number[]; weights: TrainedValues } | undefined
        for (const [isa, threads] of runs) {
          const handle = await openModel(tinies.get(dtype)!.dir, { isa, threads })
          const heads = await TrainedHeads.open(handle, tiny, { medusaHeads: 3, blocks: 2, privateProjection: true })
          await heads.scatter(new Random('weights'))
          const norms: number[] = []
          for (let step = 1; step <= 3; step++) {
            await heads.accumulate(texts)
            norms.push((await heads.update({ scale: 1e-3, clip: 0.5, step })).gradientNorm)
          }
          const result = { scores: await heads.score(texts), norms, weights: await heads.read('weights') }
          expected ??= result
          expect(result.norms, `${isa} with ${threads} threads`).toEqual(expected.norms)
          expect(result.scores).toEqual(expected.scores)
          for (const [name, values] of result.weights) {
            const what = `${name}, ${dtype}, ${isa} with ${threads} threads`
            expectSameBits(values, expected.weights.get(name)!, { random, axes: { i: values.length }, what })
          }
          await heads.close()
          await addon.close(handle)
        }
      }
    },
  )

  it('twice from the same weights gives the same bits', async () => {
    const random = new Random('twice')
    const texts = [randomText(random, 300, tiny.vocab), randomText(random, 90, tiny.vocab, 30)]
    const runs: TrainedValues[] = []
    for (let run = 0; run < 2; run++) {
      const heads = await TrainedHeads.open(model, tiny, { blocks: 2, privateProjection: true })
      for (let step = 1; step <= 2; step++) {
        await heads.accumulate(texts)
        await heads.update({ scale: 1e-2, step })
      }
      runs.push(await heads.read('weights'))
      await heads.close()
    }
    expect(runs[0]).toEqual(runs[1])
  })
})

describe('trained heads', () => {
  const TOP_K = 64

  it.each(['bf16', 'f16'] as const)('score as a file in %s will hold them, biases too', async (dtype) => {
    const random = new Random(`rounded ${dtype}`)
    const heads = await TrainedHeads.open(await open(dtype), tiny, { blocks: 2, privateProjection: true })
    await heads.scatter(random)
    const texts = [randomText(random, 50, tiny.vocab)]
    const scores = await heads.score(texts)
    const weights = await heads.read('weights')
    const rounded = new Map([...weights].map(([name, values]) => [name, values.map((value) => round(dtype, value))]))
    expect(rounded).not.toEqual(weights)
    await heads.write(rounded)
    expect(await heads.score(texts)).toEqual(scores)
    await heads.close()
  })

  async function writeHeads(path: string, heads: TrainedHeads, dtype: 'f32' | 'bf16'): Promise<void> {
    const { blocks, privateProjection, medusaHeads } = heads.spec
    await mkdir(path)
    await writeFile(
      join(path, 'config.json'),
      JSON.stringify({
        medusa_num_heads: medusaHeads,
        medusa_num_layers: blocks,
        base_model_name_or_path: 'tiny',
        ...(privateProjection ? {} : { version: '2' }),
      }),
    )
    const tensors = new Map(
      [...(await heads.read('weights'))].map(([role, values]) => {
        const [head, , block, what] = role.split('.')
        const name = block === undefined ? `${head}.${blocks}.weight` : `${head}.${block}.linear.${what}`
        const shape = what === 'bias' ? [tiny.hidden] : [values.length / tiny.hidden, tiny.hidden]
        const data = dtype === 'f32' ? values : Uint16Array.from(values, toBf16)
        return [
          name,
          { dtype: dtype === 'f32' ? ('F32' as const) : ('BF16' as const), shape, data: new Uint8Array(data.buffer) },
        ]
      }),
    )
    await writeSafetensors(join(path, 'medusa_lm_head.safetensors'), tensors, { format: 'pt' })
  }

  for (const dtype of ['f32', 'bf16'] as const) {
    for (const privateProjection of [false, true]) {
      itOnCpu(
        `draft what they scored in training: ${privateProjection ? 'private' : 'shared'}, ${dtype}`,
        'inference adds up in another order',
        async () => {
          const random = new Random(`drafts ${dtype} ${privateProjection}`)
          const spec = { medusaHeads: 3, blocks: 2, privateProjection }
          const heads = await TrainedHeads.open(await open(dtype), tiny, spec)
          await heads.scatter(random)
          const text = randomText(random, 24, tiny.vocab)
          for (let step = 1; step <= 4; step++) {
            await heads.accumulate([text])
            await heads.update({ scale: 0.02, step })
          }
          const path = join(dir, `heads-${dtype}-${privateProjection}`)
          await writeHeads(path, heads, dtype)
          const [scores] = await heads.score([text])
          const handle = await open(dtype, { heads: path })
          let drafted = 0
          for (let t = 0; t < 22; t++) {
            const session = addon.openSession(handle)
            const { drafts } = await prefillTurn(session, {
              tokens: text.tokens.slice(0, t + 1),
              medusaHeads: 3,
              topK: TOP_K,
            })
            await addon.close(session)
            for (let head = 0; head < 3 && t + 2 + head < 24; head++) {
              const best = drafts.tokens.subarray(head * TOP_K, (head + 1) * TOP_K)
              const rank = scores!.ranks[head * 24 + t]!
              const found = best.indexOf(text.tokens[t + 2 + head]!)
              expect(found, `head ${head} at ${t}`).toBe(rank < TOP_K ? rank : -1)
              if (found >= 0) drafted++
            }
          }
          expect(drafted).toBeGreaterThan(20)
          await heads.close()
        },
      )
    }
  }
})

describe('memory', () => {
  it('of a trainer is counted', async () => {
    const one = await TrainedHeads.open(model, tiny, { medusaHeads: 1 })
    const two = await TrainedHeads.open(model, tiny, { medusaHeads: 2 })
    const bytes = [one, two].map(({ trainer }) => addon.training.trainerInfo(trainer).bytes)
    // Values, gradient and two moments of a block and its bias, in f32.
    expect(bytes[1]! - bytes[0]!).toBeGreaterThanOrEqual(4 * 4 * (tiny.hidden + 1) * tiny.hidden)
    expect(bytes[0]).toBeGreaterThan(4 * 4 * (tiny.hidden + 1) * tiny.hidden)
    await one.close()
    await two.close()
    await refused(() => addon.training.trainerInfo(one.trainer), 'ERR_CLOSED')
  })
})
