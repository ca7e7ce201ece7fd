// Weights as int8: which tensors, what they give, what they weigh, and what is refused.
import { copyFile, open } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CHOICES } from '../../src/decode/choices.js'
import { buildTree } from '../../src/decode/tree.js'
import { type ModelHandle, type ModelSpec, native, type TensorSlice } from '../../src/native.js'
import { tensorCount } from '../../src/weights/load.js'
import { int8Bytes } from '../oracle/int8.js'
import { describeOnCpu, itOnCpu } from '../support/backend.js'
import { temporaryFolder } from '../support/folder.js'
import { refused, specOf } from '../support/native-calls.js'
import { decode, forwardLogits, openModel, sampled, snapkv } from '../support/native-session.js'
import { isas } from '../support/ops.js'
import { type TinyHeadsOptions, type TinyModelOptions, writeTinyHeads, writeTinyModel } from '../support/tiny-model.js'

const dir = temporaryFolder()
const addon = native()
const tokens = Array.from({ length: 90 }, (_, i) => (i * 7919 + 13) % 128)
const opened: ModelHandle[] = []
afterAll(() => Promise.all(opened.map((model) => addon.close(model))))

async function keep(model: Promise<ModelHandle>): Promise<ModelHandle> {
  opened.push(await model)
  return model
}

const sameBytes = (a: Float32Array, b: Float32Array): boolean =>
  Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0

/** The spec of a folder with int8 weights. */
async function int8SpecOf(model: string, heads?: string): Promise<ModelSpec> {
  return { ...(await specOf(model, heads)), weights: 'int8', dtype: 'bf16' }
}

describeOnCpu('a checkpoint that int8 holds as it is', 'its products are sums of another order', () => {
  // Widths that fill no tile and no block: scales of the right columns, side by side in one product.
  const SIZE = { hidden: 72, ffn: 100, headDim: 12, queryHeads: 5, kvHeads: 1, vocab: 128, int8Steps: true } as const
  const MODELS: Record<string, TinyModelOptions> = {
    'llama with biases, bf16': { ...SIZE, architecture: 'llama', dtype: 'bf16', attentionBias: true, mlpBias: true },
    'qwen2, tied, bf16': { ...SIZE, architecture: 'qwen2', dtype: 'bf16', tied: true },
    'qwen3, f16': { ...SIZE, architecture: 'qwen3', dtype: 'f16' },
    'mistral, f32, in shards': { ...SIZE, architecture: 'mistral', dtype: 'f32', shards: 3 },
  }
  const HEADS: Record<string, TinyHeadsOptions & { format?: 'A' | 'B' | 'E' }> = {
    'with projections': { format: 'A', medusaHeads: 3, blocks: 2 },
    'through the lm_head': { format: 'B', medusaHeads: 2 },
    'through one projection': { format: 'E', medusaHeads: 2, sharedProjection: true },
  }

  for (const [name, options] of Object.entries(MODELS)) {
    it(`${name}: the logits of bf16, bit for bit, on every instruction set and with any threads`, async () => {
      const folder = join(dir, name)
      await writeTinyModel(folder, options)
      const expected = forwardLogits(await keep(openModel(folder, { dtype: 'bf16', isa: 'portable' })), tokens)
      expect(expected.every(Number.isFinite)).toBe(true)
      for (const isa of isas) {
        for (const threads of [1, 3]) {
          const model = await keep(openModel(folder, { weights: 'int8', isa, threads }))
          expect(addon.modelInfo(model)).toMatchObject({ weights: 'int8', dtype: 'bf16' })
          expect(sameBytes(forwardLogits(model, tokens, 37), expected), `${isa}, ${threads} threads`).toBe(true)
        }
      }
    })
  }

  for (const [name, options] of Object.entries(HEADS)) {
    it(`heads ${name}: the drafts of bf16`, async () => {
      const folder = join(dir, `heads ${name}`)
      const tiny = await writeTinyModel(folder, { ...SIZE, dtype: 'bf16' })
      const heads = join(dir, `heads of ${name}`)
      await writeTinyHeads(heads, tiny, { ...options, dtype: 'bf16', int8Steps: true })
      const tree = buildTree(
        CHOICES.mc_sim_7b_63.filter((path) => path.length <= 2),
        'two deep',
      )
      const turn = { tree, sampling: sampled(0.9, 3n), compression: snapkv(40, 16, 7, 'max') }
      const full = await decode(await keep(openModel(folder, { heads })), tokens, 60, turn)
      const int8 = await decode(await keep(openModel(folder, { heads, weights: 'int8' })), tokens, 60, turn)
      // Steps, too: they count what the heads drafted.
      expect(int8).toEqual(full)
    })
  }
})

describe('a checkpoint that int8 rounds', () => {
  const folder = join(dir, 'rounded')
  const heads = join(dir, 'rounded heads')
  let spec: ModelSpec
  beforeAll(async () => {
    const tiny = await writeTinyModel(folder, { architecture: 'qwen3', hidden: 72, ffn: 100, dtype: 'bf16' })
    await writeTinyHeads(heads, tiny, { blocks: 2, dtype: 'bf16' })
    spec = await int8SpecOf(folder, heads)
  })

  it('is another model, near the full one', async () => {
    const full = forwardLogits(await keep(openModel(folder)), tokens)
    const int8 = forwardLogits(await keep(openModel(folder, { weights: 'int8' })), tokens)
    const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
    const error = norm(int8.map((value, i) => value - full[i]!)) / norm(full)
    expect(error).toBeGreaterThan(1e-3)
    expect(error).toBeLessThan(5e-2)
  })

  itOnCpu(
    'weighs a byte for each weight that is multiplied and four for each column, in whole tiles',
    'blocks are larger',
    async () => {
      const info = addon.modelInfo(await keep(addon.openModel(spec)))
      const full = addon.modelInfo(await keep(addon.openModel({ ...spec, weights: 'full' })))
      const weigh = (tensors: ModelSpec['tensors'], names: RegExp) => {
        const slices = Object.entries(tensors).filter(([name]) => names.test(name))
        return slices.map(([, { shape }]) => shape as [number, number])
      }
      const vectors = weigh(spec.tensors, /norm$|_bias$/).reduce((sum, [size]) => sum + 4 * size, 0)
      // Weights of one input are packed side by side.
      const matrices = [0, 1].flatMap((layer) =>
        ['[qkv]', 'o', '(gate|up)', 'down'].map((names) =>
          weigh(spec.tensors, new RegExp(`^layers\\.${layer}\\.${names}$`)),
        ),
      )
      matrices.push(weigh(spec.tensors, /^lm_head$/))
      const packed = matrices.reduce(
        (sum, parts) =>
          sum +
          int8Bytes(
            parts.reduce((n, [columns]) => n + columns, 0),
            parts[0]![1],
          ),
        0,
      )
      expect(info.weightBytes).toBe(packed + vectors)
      const headMatrices = weigh(spec.heads!.tensors, /weight$|projection$/)
      const headVectors = weigh(spec.heads!.tensors, /bias$/).reduce((sum, [size]) => sum + 4 * size, 0)
      expect(info.headsBytes).toBe(
        headMatrices.reduce((sum, [columns, depth]) => sum + int8Bytes(columns, depth), headVectors),
      )
      expect(info.weightBytes).toBeLessThan(0.6 * full.weightBytes)
      expect(info.kvBytesPerToken).toBe(full.kvBytesPerToken)
    },
  )

  it('counts every tensor, and is cancelled in the middle', async () => {
    const counted = { ...spec, progress: new Int32Array(new SharedArrayBuffer(8)) }
    await keep(addon.openModel(counted))
    expect(counted.progress[0]).toBe(tensorCount(counted))
    const cancelled = { ...spec, progress: new Int32Array(new SharedArrayBuffer(8)) }
    cancelled.progress[1] = 1
    await refused(() => addon.openModel(cancelled), 'ERR_CANCELLED')
  })

  it('takes no other dtype than bf16', async () => {
    for (const dtype of ['f32', 'f16'] as const) {
      const { message } = await refused(() => addon.openModel({ ...spec, dtype }), 'ERR_DTYPE')
      expect(message).toMatch(new RegExp(`multiplied with bf16.*${dtype}`))
    }
    expect(addon.modelInfo(await keep(addon.openModel({ ...spec, dtype: 'auto' })))).toMatchObject({ dtype: 'bf16' })
  })

  it('is refused where a weight is NaN or infinite, by tensor and row; norms and biases are not weights', async () => {
    /** The spec of a copy with one element of a tensor overwritten. */
    const spoiled = async (name: string, bits: number, row: number): Promise<ModelSpec> => {
      const inHeads = name.startsWith('heads:')
      const { files, tensors } = inHeads ? spec.heads! : spec
      const slice: TensorSlice = tensors[inHeads ? name.slice(6) : name]!
      const copy = join(dir, `spoiled ${name}`)
      await copyFile(files[slice.file]!, copy)
      const file = await open(copy, 'r+')
      const at = slice.begin + 2 * (row * (slice.shape[1] ?? 1) + 1)
      await file.write(Uint8Array.of(bits & 0xff, bits >> 8), 0, 2, at)
      await file.close()
      return inHeads ? { ...spec, heads: { ...spec.heads!, files: [copy] } } : { ...spec, files: [copy] }
    }
    const [nan, infinity] = [0x7fc0, 0xff80]
    for (const [name, bits, row] of [
      ['layers.0.q', nan, 3],
      ['layers.0.v', infinity, 31],
      ['layers.1.up', nan, 99],
      ['lm_head', infinity, 127],
      ['heads:1.block.1.weight', nan, 0],
      ['heads:2.projection', infinity, 5],
    ] as const) {
      const { message } = await refused(async () => addon.openModel(await spoiled(name, bits, row)), 'ERR_DTYPE', name)
      expect(message).toContain(`row ${row} of tensor "${name.replace('heads:', '')}"`)
    }
    for (const name of ['layers.0.attn_norm', 'heads:0.block.0.bias']) {
      await keep(addon.openModel(await spoiled(name, nan, 0)))
    }
    await keep(addon.openModel({ ...(await spoiled('layers.0.q', nan, 3)), weights: 'full' }))
  })
})
