// Models on a device: what a step streams, what is asked of the addon, and that sessions do what decoding does.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type DeviceModel,
  openDeviceModel,
  sharedHeadsBytes,
  streamedBytes,
  syntheticSpec,
} from '../../../bench/device/device-model.js'
import { compressionOf } from '../../../bench/device/policies.js'
import { SHAPES } from '../../../bench/support/shapes.js'
import { randomTokens } from '../../../src/bench/prompts.js'
import { parseTree } from '../../../src/decode/index.js'
import { demoModel } from '../../../src/index.js'

describe('bytes of a step', () => {
  it('are those of every product, and not of the embedding', () => {
    // By hand: 32 layers of 218.1 M and an output projection of 131 M or 525 M parameters.
    const layers = 32 * (6144 * 4096 + 4096 * 4096 + 28672 * 4096 + 4096 * 14336)
    expect(streamedBytes(SHAPES['mistral-7b'], 'full')).toBe(2 * (layers + 32000 * 4096))
    expect(streamedBytes(SHAPES['llama-3-8b'], 'full')).toBe(2 * (layers + 128256 * 4096))
  })

  it('are one for a weight and four for a column in int8', () => {
    const bytes = streamedBytes(SHAPES.demo, 'int8')
    const columns = 6 * (640 + 384 + 2048 + 384) + 4096
    expect(bytes).toBe(streamedBytes(SHAPES.demo, 'full') / 2 + 4 * columns)
  })

  it('of the heads are their blocks and the projection once', () => {
    expect(sharedHeadsBytes(SHAPES['mistral-7b'], 4, 'full')).toBe(2 * (4 * 4096 * 4096 + 32000 * 4096))
    expect(sharedHeadsBytes(SHAPES['mistral-7b'], 0, 'full')).toBe(0)
  })
})

describe('random weights', () => {
  const options = {
    backend: 'cuda',
    isa: 'auto',
    weights: 'int8',
    shape: SHAPES['llama-3-8b'],
    medusaHeads: 3,
  } as const

  it('are asked for by shape alone', () => {
    const spec = syntheticSpec(options)
    expect(spec).toMatchObject({ files: [], tensors: {}, weights: 'int8', shape: { vocab: 128256, layers: 32 } })
    expect(spec.heads).toMatchObject({ medusaHeads: 3, files: [], tensors: {} })
    expect(spec.shape.inverseFrequencies).toHaveLength(64)
    expect(spec.shape.inverseFrequencies[0]).toBe(1)
    expect(syntheticSpec({ ...options, medusaHeads: 0 }).heads).toBeNull()
  })
})

describe('a session', () => {
  let model: DeviceModel
  beforeAll(async () => {
    const where = { backend: 'cpu', isa: 'auto', weights: 'full' } as const
    model = await openDeviceModel({ ...where, model: demoModel(), shape: SHAPES.demo, medusaHeads: 4 })
  })
  afterAll(() => model.close())

  it('grows by what is committed, and drafts when asked to', async () => {
    const session = model.session()
    await session.assume(64)
    const tree = parseTree(16, 63)
    const before = session.rows()
    await session.step(tree, { drafts: true })
    expect(session.rows()).toBe(before + 1)
    const leaf = tree.depths.indexOf(2)
    await session.step(tree, { drafts: false, path: Int32Array.of(0, tree.parents[leaf]!, leaf) })
    expect(session.rows()).toBe(before + 4)
    await session.close()
  })

  it('runs a prompt, and keeps as many rows as it may', async () => {
    const tokens = randomTokens(200, model.shape.vocab)
    const session = model.session()
    const { compression, ms } = await session.prefill(tokens, compressionOf('snapkv', 100))
    expect(session.rows()).toBe(100)
    expect(compression?.rowsBefore).toBe(200)
    expect(ms).toBeGreaterThan(0)
    await session.close()
    const full = model.session()
    expect(await full.prefill(tokens, compressionOf('full', 100))).toMatchObject({ compression: null })
    expect(full.rows()).toBe(200)
    await full.close()
  })
})
