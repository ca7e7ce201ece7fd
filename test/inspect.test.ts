// inspect(): what a folder holds and whether it would load, without loading it.
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { inspect } from '../src/inspect.js'
import { packageRoot } from '../src/native.js'
import { failure } from './support/errors.js'
import { temporaryFolder } from './support/folder.js'
import { orSkipped, sharedPath } from './support/shared.js'
import { writeTinyHeads, writeTinyModel } from './support/tiny-model.js'

const folder = temporaryFolder()
let folders = 0
const next = () => join(folder, String(folders++))

test('the demo model, with the heads it brings along', async () => {
  const dir = join(packageRoot(), 'models', 'demo')
  expect(await inspect(dir)).toEqual({
    path: dir,
    loads: true,
    problems: [],
    warnings: [],
    model: {
      architecture: 'llama',
      layers: 6,
      hidden: 384,
      ffn: 1024,
      vocab: 4096,
      queryHeads: 6,
      kvHeads: 2,
      headDim: 64,
      attention: 'gqa',
      tiedEmbeddings: true,
      biases: [],
      qkNorm: false,
      maxPositions: 16384,
      rope: { type: 'default', theta: 500000, scale: 1 },
      slidingWindow: null,
      bosId: 0,
      eosIds: [1],
    },
    weights: {
      files: 1,
      tensors: 56,
      parameters: 11015040,
      bytes: 22030080,
      // Of these, 11010048 in the 24832 rows of matrices and 4992 in norms.
      int8Bytes: 11010048 + 4 * 24832 + 4 * 4992,
      dtype: 'bf16',
      kvBytesPerToken: 3072,
    },
    tokenizer: true,
    heads: {
      path: join(packageRoot(), 'heads', 'demo'),
      format: 'B',
      medusaHeads: 4,
      blocks: 1,
      bias: 'all',
      projection: 'base',
      vocab: 4096,
      tokenMap: false,
      parameters: 591360,
      bytes: 1182720,
      int8Bytes: 4 * (384 * 384 + 4 * 384 + 4 * 384),
      dtype: 'bf16',
      accuracy: expect.any(Array),
      grownNodes: 64,
      baseModel: '../../models/demo',
      warnings: [],
    },
  })
})

test('the report is plain JSON', async () => {
  const report = await inspect(join(packageRoot(), 'models', 'demo'))
  expect(JSON.parse(JSON.stringify(report))).toEqual(report)
})

describe('what it says of', () => {
  test('attention, biases, rotation and windows', async () => {
    const { dir } = await writeTinyModel(next(), {
      architecture: 'qwen2',
      kvHeads: 1,
      slidingWindow: 100,
      maxWindowLayers: 1,
      rope: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 1024, rope_theta: 1e6 },
      eos: [2, 3],
      generation: { eos_token_id: [4, 5] },
      dtype: 'f16',
    })
    const { model, weights, tokenizer, heads, loads } = await inspect(dir)
    expect(model).toMatchObject({
      attention: 'mqa',
      biases: ['q', 'k', 'v'],
      rope: { type: 'yarn', theta: 1e6, factor: 4, originalMaxPositions: 1024 },
      slidingWindow: { positions: 100, layers: 1 },
      eosIds: [4, 5],
      tiedEmbeddings: false,
    })
    expect(model!.rope.scale).toBeCloseTo(1.1386, 4)
    expect(weights).toMatchObject({ dtype: 'f16', kvBytesPerToken: 2 * 2 * 16 * 2 })
    expect({ tokenizer, heads, loads }).toEqual({ tokenizer: false, heads: null, loads: true })
  })

  test('int8 weights: an embedding table that is only gathered stays as it is', async () => {
    const { dir } = await writeTinyModel(next(), { layers: 1, hidden: 64, ffn: 96, vocab: 128, dtype: 'f32' })
    const { weights } = await inspect(dir)
    const [matrices, rows] = [30720 + 128 * 64, 448 + 128]
    expect(weights!.int8Bytes).toBe(matrices + 4 * rows + 4 * (3 * 64) + 4 * (128 * 64))
  })

  test('fused heads, whose weights are not counted as the model’s', async () => {
    const plain = await inspect((await writeTinyModel(next(), {})).dir)
    const fused = await inspect((await writeTinyModel(next(), { fusedHeads: { medusaHeads: 2 } })).dir)
    expect(fused.heads).toMatchObject({ format: 'C', medusaHeads: 2, parameters: 2 * (64 * 64 + 64 + 128 * 64) })
    expect(fused.weights).toEqual(plain.weights)
  })

  test('a shared projection: it counts once', async () => {
    const model = await writeTinyModel(next())
    const { dir } = await writeTinyHeads(next(), model, { format: 'E', sharedProjection: true, bias: false })
    const { heads } = await inspect(model.dir, { heads: dir })
    expect(heads).toMatchObject({ projection: 'shared', parameters: 3 * 64 * 64 + 128 * 64 })
  })

  test('heads that are not wanted', async () => {
    expect((await inspect(join(packageRoot(), 'models', 'demo'), { heads: false })).heads).toBeNull()
  })

  test('a disagreement between heads and their configuration', async () => {
    const model = await writeTinyModel(next())
    const { dir } = await writeTinyHeads(next(), model, { config: { medusa_num_heads: 2 } })
    const { heads, loads } = await inspect(model.dir, { heads: dir })
    expect(heads!.warnings).toEqual([expect.stringMatching(/heads: 2, the tensors say 3/)])
    expect(loads).toBe(true)
  })
})

describe('problems are collected, and the rest still reported:', () => {
  test('an unknown architecture, and weights that are no safetensors', async () => {
    const { dir } = await writeTinyModel(next(), { config: { model_type: 'gpt2' } })
    writeFileSync(join(dir, 'model.safetensors'), 'nonsense')
    const report = await inspect(dir)
    expect(report.problems.map(({ code }) => code)).toEqual(['ERR_UNSUPPORTED', 'ERR_SAFETENSORS'])
    expect(report).toMatchObject({ loads: false, model: null, weights: null, heads: null })
  })

  test('weights that do not fit the configuration', async () => {
    const { dir } = await writeTinyModel(next(), { config: { num_hidden_layers: 3 } })
    const { problems, model, weights } = await inspect(dir)
    expect(problems).toEqual([{ code: 'ERR_TENSOR', message: expect.stringMatching(/lacks 9 of the 30/) }])
    expect(model).toMatchObject({ layers: 3 })
    expect(weights).toBeNull()
  })

  test('no weights at all', async () => {
    const { dir } = await writeTinyModel(next())
    rmSync(join(dir, 'model.safetensors'))
    const { problems, loads, model } = await inspect(dir)
    expect(problems.map(({ code }) => code)).toEqual(['ERR_MODEL_NOT_FOUND'])
    expect(loads).toBe(false)
    expect(model).not.toBeNull()
  })

  test('heads of another model', async () => {
    const model = await writeTinyModel(next())
    const { dir } = await writeTinyHeads(next(), { hidden: 32, vocab: 128 })
    const { problems, weights, heads, loads } = await inspect(model.dir, { heads: dir })
    expect(problems.map(({ code }) => code)).toEqual(['ERR_HEADS_MISMATCH'])
    expect(weights).not.toBeNull()
    expect(heads).toBeNull()
    expect(loads).toBe(false)
  })
})

test('a folder that is no model is an error, not a report', async () => {
  await failure(() => inspect(next()), 'ERR_MODEL_NOT_FOUND', /No model at/)
})

for (const name of [
  'goldens/llama_tied',
  'goldens/llama_untied_mha_bias',
  'goldens/llama3_rope_scaling',
  'goldens/mistral_full',
  'goldens/qwen2',
  'models/stories260k',
]) {
  const path = sharedPath(...name.split('/'))
  test.skipIf(path === null)(`${name} loads${orSkipped(path)}`, async () => {
    expect(await inspect(path!)).toMatchObject({
      loads: true,
      problems: [],
      warnings: [],
      tokenizer: false,
      heads: null,
    })
  })
}
