// Model folders: every family and file layout is read, and what does not fit together is refused.
import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../../src/native.js'
import { modelSpecOf, readModelFolder, tensorCount } from '../../src/weights/load.js'
import { openSafetensors, readTensorBytes, type TensorData, writeSafetensors } from '../../src/weights/safetensors.js'
import { failure } from '../support/errors.js'
import { temporaryFolder } from '../support/folder.js'
import { orSkipped, sharedPath } from '../support/shared.js'
import {
  fromBf16,
  fromF16,
  type TinyModel,
  type TinyModelOptions,
  toBf16,
  toF16,
  writeTinyModel,
} from '../support/tiny-model.js'

const folder = temporaryFolder()
let folders = 0
const tiny = (options: TinyModelOptions = {}): Promise<TinyModel> =>
  writeTinyModel(join(folder, String(folders++)), options)

/** Rewrites the weights of a folder. */
async function rewrite(dir: string, change: (tensors: Map<string, TensorData>) => void): Promise<void> {
  const path = join(dir, 'model.safetensors')
  const tensors = new Map<string, TensorData>()
  for (const [name, entry] of (await openSafetensors(path)).tensors) {
    tensors.set(name, { dtype: entry.dtype, shape: entry.shape, data: await readTensorBytes(path, entry) })
  }
  change(tensors)
  await writeSafetensors(path, tensors)
}
const zeros = (shape: number[], dtype = 'F32'): TensorData => ({
  dtype,
  shape,
  data: new Uint8Array(shape.reduce((product, n) => product * n, { F32: 4, BF16: 2, I8: 1 }[dtype]!)),
})

describe('every family is read', () => {
  const options: readonly (readonly [string, TinyModelOptions, string[]])[] = [
    ['llama', {}, ['lm_head']],
    ['llama, tied, GQA', { tied: true }, []],
    [
      'llama, MHA, biases',
      { kvHeads: 4, attentionBias: true, mlpBias: true },
      ['layers.0.o_bias', 'layers.1.down_bias', 'layers.1.gate_bias'],
    ],
    ['mistral, MQA, wide heads', { architecture: 'mistral', kvHeads: 1, headDim: 32, slidingWindow: 64 }, ['lm_head']],
    ['qwen2', { architecture: 'qwen2' }, ['layers.0.q_bias', 'layers.0.k_bias', 'layers.1.v_bias']],
    [
      'qwen3',
      { architecture: 'qwen3', attentionBias: true },
      ['layers.0.q_norm', 'layers.1.k_norm', 'layers.0.o_bias'],
    ],
  ]

  test.each(options)('%s', async (_, option, roles) => {
    const model = await tiny(option)
    const read = await readModelFolder(model.dir)
    const { layers, hidden, ffn, vocab, queryHeads, kvHeads, headDim } = model
    expect(read.config.shape).toMatchObject({ layers, hidden, ffn, vocab, queryHeads, kvHeads, headDim })
    // Every tensor of the file has a role.
    expect(Object.keys(read.tensors).length).toBe(model.tensors.size)
    for (const role of roles) expect(read.tensors).toHaveProperty([role])
    if (option.tied) expect(read.tensors).not.toHaveProperty('lm_head')
    expect(read.warnings).toEqual([])
  })

  test.each(['f32', 'f16', 'bf16'] as const)('in %s, every role at its own bytes', async (dtype) => {
    const model = await tiny({ dtype, seed: 5 })
    const read = await readModelFolder(model.dir)
    const bytes = readFileSync(read.table.files[0]!)
    const names = {
      embed: 'model.embed_tokens.weight',
      final_norm: 'model.norm.weight',
      lm_head: 'lm_head.weight',
      'layers.0.attn_norm': 'model.layers.0.input_layernorm.weight',
      'layers.0.ffn_norm': 'model.layers.0.post_attention_layernorm.weight',
      'layers.1.q': 'model.layers.1.self_attn.q_proj.weight',
      'layers.1.k': 'model.layers.1.self_attn.k_proj.weight',
      'layers.1.v': 'model.layers.1.self_attn.v_proj.weight',
      'layers.1.o': 'model.layers.1.self_attn.o_proj.weight',
      'layers.0.gate': 'model.layers.0.mlp.gate_proj.weight',
      'layers.0.up': 'model.layers.0.mlp.up_proj.weight',
      'layers.0.down': 'model.layers.0.mlp.down_proj.weight',
    }
    for (const [role, name] of Object.entries(names)) {
      const slice = read.tensors[role]!
      const { shape, values } = model.tensors.get(name)!
      expect(slice).toMatchObject({ dtype, shape, file: 0 })
      const data = new DataView(bytes.buffer, bytes.byteOffset + slice.begin, slice.end - slice.begin)
      const width = dtype === 'f32' ? 4 : 2
      const first =
        dtype === 'f32' ? data.getFloat32(0, true) : (dtype === 'bf16' ? fromBf16 : fromF16)(data.getUint16(0, true))
      expect(first).toBe(values[0])
      expect(data.byteLength).toBe(values.length * width)
    }
  })
})

describe('the demo model and the reference models beside the package', () => {
  test('models/demo', async () => {
    const read = await readModelFolder(join(packageRoot(), 'models', 'demo'))
    expect(read.config.shape).toMatchObject({
      layers: 6,
      hidden: 384,
      vocab: 4096,
      queryHeads: 6,
      kvHeads: 2,
      headDim: 64,
    })
    expect(read).toMatchObject({ generation: { bosId: 0, eosIds: [1] }, warnings: [], hasFusedHeads: false })
    expect(read.config.rope).toEqual({ type: 'default', theta: 500000 })
  })

  const golden = {
    llama_tied: { tied: true, kvHeads: 2, biases: { qkv: false, o: false, mlp: false }, rope: 'default', eosIds: [2] },
    llama_untied_mha_bias: {
      tied: false,
      kvHeads: 4,
      biases: { qkv: true, o: true, mlp: true },
      rope: 'default',
      eosIds: [2],
    },
    llama3_rope_scaling: {
      tied: false,
      kvHeads: 2,
      biases: { qkv: false, o: false, mlp: false },
      rope: 'llama3',
      eosIds: [2],
    },
    mistral_full: {
      tied: false,
      kvHeads: 2,
      biases: { qkv: false, o: false, mlp: false },
      rope: 'default',
      eosIds: [2],
    },
    qwen2: { tied: false, kvHeads: 2, biases: { qkv: true, o: false, mlp: false }, rope: 'default', eosIds: [] },
  }
  for (const [name, expected] of Object.entries(golden)) {
    const path = sharedPath('goldens', name)
    test.skipIf(path === null)(`goldens/${name}${orSkipped(path)}`, async () => {
      const { config, generation, warnings } = await readModelFolder(path!)
      const found = {
        tied: config.tied,
        kvHeads: config.shape.kvHeads,
        biases: config.biases,
        rope: config.rope.type,
        eosIds: generation.eosIds,
      }
      expect(found).toEqual(expected)
      expect(warnings).toEqual([])
      expect([...config.shape.slidingWindows]).toEqual([0, 0, 0])
    })
  }
  const stories = sharedPath('models', 'stories260k')
  test.skipIf(stories === null)(`stories260k${orSkipped(stories)}`, async () => {
    const { config, tensors } = await readModelFolder(stories!)
    expect(config.shape).toMatchObject({ headDim: 8, kvHeads: 4, queryHeads: 8 })
    expect(tensors['embed']!.dtype).toBe('f32')
  })
})

describe('files', () => {
  test('shards make the same tables as one file', async () => {
    const one = await tiny({ seed: 9 })
    const many = await tiny({ seed: 9, shards: 3 })
    const read = await readModelFolder(many.dir)
    expect(read.table.files.length).toBe(3)
    const whole = await readModelFolder(one.dir)
    expect(Object.keys(read.tensors).sort()).toEqual(Object.keys(whole.tensors).sort())
    for (const [role, slice] of Object.entries(read.tensors)) {
      const bytes = readFileSync(read.table.files[slice.file]!).subarray(slice.begin, slice.end)
      const other = whole.tensors[role]!
      expect(bytes.equals(readFileSync(whole.table.files[0]!).subarray(other.begin, other.end)), role).toBe(true)
    }
  })

  test('a shard may be a symbolic link, as in a download cache', async () => {
    const { dir } = await tiny({ shards: 2 })
    renameSync(join(dir, 'model-00001-of-00002.safetensors'), join(folder, 'blob'))
    symlinkSync(join(folder, 'blob'), join(dir, 'model-00001-of-00002.safetensors'))
    await readModelFolder(dir)
  })

  test('a single file comes before an index', async () => {
    const { dir } = await tiny()
    writeFileSync(join(dir, 'model.safetensors.index.json'), '{')
    await readModelFolder(dir)
  })

  const index = (dir: string) => join(dir, 'model.safetensors.index.json')
  const editIndex = (dir: string, edit: (map: Record<string, unknown>) => void) => {
    const json = JSON.parse(readFileSync(index(dir), 'utf8')) as { weight_map: Record<string, unknown> }
    edit(json.weight_map)
    writeFileSync(index(dir), JSON.stringify(json))
  }

  test.each([
    '../1/model.safetensors',
    '/etc/passwd',
    'a/b.safetensors',
    '..\\x.safetensors',
    '..',
    '',
    'weights.bin',
    'a\0.safetensors',
    5,
    null,
  ])('a shard called %j is refused', async (shard) => {
    const { dir } = await tiny({ shards: 2 })
    editIndex(dir, (map) => {
      map['model.norm.weight'] = shard
    })
    await failure(() => readModelFolder(dir), 'ERR_SAFETENSORS', /not the name of a safetensors file/)
  })

  test('a shard that is missing, or lacks what the index says, is refused', async () => {
    const absent = await tiny({ shards: 2 })
    rmSync(join(absent.dir, 'model-00002-of-00002.safetensors'))
    await failure(() => readModelFolder(absent.dir), 'ERR_FILE', /model-00002-of-00002/)
    const moved = await tiny({ shards: 2 })
    editIndex(moved.dir, (map) => {
      map['model.norm.weight'] = 'model-00001-of-00002.safetensors'
    })
    await failure(() => readModelFolder(moved.dir), 'ERR_SAFETENSORS', /which does not have it/)
    const twice = await tiny({ shards: 2 })
    await writeSafetensors(join(twice.dir, 'model-00001-of-00002.safetensors'), { 'model.norm.weight': zeros([64]) })
    await failure(() => readModelFolder(twice.dir), 'ERR_SAFETENSORS', /in both/)
  })

  test('tensors that the index does not list are left out and named', async () => {
    const { dir } = await tiny({ shards: 2, tied: true })
    const path = join(dir, 'extra.safetensors')
    await writeSafetensors(path, { extra: zeros([4]), more: zeros([4]) })
    editIndex(dir, (map) => {
      map['extra'] = 'extra.safetensors'
    })
    expect((await readModelFolder(dir)).warnings.join()).toMatch(/does not list "more"/)
  })

  test.each([
    ['{', 'ERR_SAFETENSORS', /not JSON/],
    ['[]', 'ERR_SAFETENSORS', /an array/],
    ['{}', 'ERR_SAFETENSORS', /no weight_map/],
    ['{"weight_map":{}}', 'ERR_SAFETENSORS', /lists no tensors/],
  ] as const)('an index of %s is refused', async (text, code, says) => {
    const { dir } = await tiny({ shards: 2 })
    writeFileSync(index(dir), text)
    await failure(() => readModelFolder(dir), code, says)
  })

  test('a folder that is none, or holds no model, or only a pickle', async () => {
    await failure(() => readModelFolder(join(folder, 'nowhere')), 'ERR_MODEL_NOT_FOUND', /is not a folder/)
    mkdirSync(join(folder, 'bare'))
    await failure(() => readModelFolder(join(folder, 'bare')), 'ERR_MODEL_NOT_FOUND', /no config\.json/)
    const { dir } = await tiny()
    rmSync(join(dir, 'model.safetensors'))
    await failure(() => readModelFolder(dir), 'ERR_MODEL_NOT_FOUND', /neither/)
    writeFileSync(join(dir, 'pytorch_model.bin'), '')
    await failure(() => readModelFolder(dir), 'ERR_MODEL_NOT_FOUND', /pytorch_model\.bin, a pickle/)
  })

  test.each([
    ['{', /not JSON/],
    ['[]', /an array/],
    ['null', /null/],
    [`{"a":${'['.repeat(100_000)}`, /nested deeper/],
  ])('a config.json of %.8s is refused', async (text, says) => {
    const { dir } = await tiny()
    writeFileSync(join(dir, 'config.json'), text)
    await failure(() => readModelFolder(dir), 'ERR_MODEL_CONFIG', says)
  })
})

describe('tensors', () => {
  test('missing ones are counted and named', async () => {
    const { dir } = await tiny()
    await rewrite(dir, (tensors) => {
      for (const name of [...tensors.keys()]) if (name.startsWith('model.layers.1.')) tensors.delete(name)
    })
    const error = await failure(
      () => readModelFolder(dir),
      'ERR_TENSOR',
      /lacks 9 of the 21.*model\.layers\.1\.input_layernorm\.weight.*and 3 more/,
    )
    expect(error.details['missing']).toHaveLength(9)
  })

  test('a missing lm_head asks about tie_word_embeddings', async () => {
    const { dir } = await tiny()
    await rewrite(dir, (tensors) => tensors.delete('lm_head.weight'))
    await failure(() => readModelFolder(dir), 'ERR_TENSOR', /tie_word_embeddings/)
  })

  test('a wrong shape names file, tensor, found and expected', async () => {
    const { dir } = await tiny()
    const name = 'model.layers.0.self_attn.k_proj.weight'
    for (const shape of [[64, 32], [32 * 64], [32, 64, 1], [16, 64]]) {
      await rewrite(dir, (tensors) => tensors.set(name, zeros(shape)))
      const error = await failure(
        () => readModelFolder(dir),
        'ERR_TENSOR',
        /model\.safetensors: tensor "model\.layers\.0\.self_attn\.k_proj\.weight"/,
      )
      expect(error.message).toContain(`[${shape.join(', ')}]`)
      expect(error.message).toContain('[32, 64]')
      expect(error.details).toMatchObject({ tensor: name, found: shape, expected: [32, 64] })
    }
  })

  test('weights of another dtype are refused by name', async () => {
    const { dir } = await tiny()
    await rewrite(dir, (tensors) => tensors.set('model.norm.weight', zeros([64], 'I8')))
    await failure(() => readModelFolder(dir), 'ERR_UNSUPPORTED', /"model\.norm\.weight" is I8/)
  })

  test('a checkpoint may mix dtypes: norms as they like, matrices held as f32', async () => {
    const options = { backend: 'cpu', isa: 'auto', threads: 0, progress: new Int32Array(2) }
    const { dir } = await tiny({ dtype: 'bf16' })
    await rewrite(dir, (tensors) => tensors.set('model.norm.weight', zeros([64])))
    const norms = await readModelFolder(dir)
    expect(norms).toMatchObject({ dtype: 'bf16', warnings: [] })
    expect(norms.tensors['final_norm']!.dtype).toBe('f32')
    expect(modelSpecOf(norms, null, { ...options, dtype: 'auto' }).dtype).toBe('bf16')

    await rewrite(dir, (tensors) => tensors.set('lm_head.weight', zeros([128, 64])))
    const mixed = await readModelFolder(dir)
    expect(mixed).toMatchObject({ dtype: 'f32', warnings: [expect.stringMatching(/mix bf16 and f32/)] })
    expect(modelSpecOf(mixed, null, { ...options, dtype: 'auto' }).dtype).toBe('f32')
    expect(modelSpecOf(mixed, null, { ...options, dtype: 'f16' }).dtype).toBe('f16')
  })

  test.each([
    'model.layers.0.self_attn.q_proj.bias',
    'model.layers.1.self_attn.q_norm.weight',
    'model.layers.0.mlp.experts.0.gate_proj.weight',
  ])('%s, which config.json does not ask for, would change the numbers: refused', async (name) => {
    const { dir } = await tiny()
    await rewrite(dir, (tensors) => tensors.set(name, zeros([64])))
    await failure(() => readModelFolder(dir), 'ERR_UNSUPPORTED', new RegExp(name.replaceAll('.', '\\.')))
  })

  test('tensors outside the layers are left out and named; stored frequencies are computed anyway', async () => {
    const { dir } = await tiny({ tied: true })
    await rewrite(dir, (tensors) => {
      tensors.set('model.layers.0.self_attn.rotary_emb.inv_freq', zeros([8]))
      tensors.set('lm_head.weight', zeros([128, 64]))
      tensors.set('model.layers.2.input_layernorm.weight', zeros([64]))
      tensors.set('score.weight', zeros([1]))
    })
    const { warnings, tensors } = await readModelFolder(dir)
    expect(warnings).toEqual([
      expect.stringMatching(/lm_head\.weight is not used/),
      expect.stringMatching(/2 tensors are not used: "model\.layers\.2\.input_layernorm\.weight", "score\.weight"/),
    ])
    expect(tensors).not.toHaveProperty('lm_head')
  })
})

test('the spec for C++ carries files, shape, tensors and options', async () => {
  const { dir } = await tiny({
    shards: 2,
    rope: { rope_type: 'linear', factor: 2, rope_theta: 10000 },
    ropeSpelling: 'legacy',
  })
  const read = await readModelFolder(dir)
  const progress = new Int32Array(new SharedArrayBuffer(8))
  const spec = modelSpecOf(read, null, { backend: 'cpu', isa: 'auto', threads: 0, dtype: 'f32', progress })
  expect(spec).toMatchObject({ backend: 'cpu', isa: 'auto', threads: 0, dtype: 'f32', heads: null })
  expect(spec.progress).toBe(progress)
  expect(spec.files).toHaveLength(2)
  expect(spec.shape.inverseFrequencies).toHaveLength(8)
  expect(spec.shape.inverseFrequencies[0]).toBe(0.5)
  expect(tensorCount(spec)).toBe(21)
})

describe('the tiny model rounds as hardware does', () => {
  test('bf16', () => {
    const cases: [number, number][] = [
      [1, 0x3f80],
      [-2, 0xc000],
      [1 + 2 ** -8, 0x3f80],
      [1 + 3 * 2 ** -8, 0x3f82],
      [1 + 2 ** -8 + 2 ** -20, 0x3f81],
    ]
    for (const [value, bits] of cases) expect(toBf16(value), String(value)).toBe(bits)
    expect(fromBf16(0x3f81)).toBe(1 + 2 ** -7)
  })

  test('f16', () => {
    const cases: [number, number][] = [
      [1, 0x3c00],
      [-2, 0xc000],
      [65504, 0x7bff],
      [2 ** -14, 0x0400],
      [2 ** -24, 0x0001],
      [2 ** -25, 0x0000],
      [1 + 2 ** -11, 0x3c00],
      [1 + 3 * 2 ** -11, 0x3c02],
      [2 - 2 ** -12, 0x4000],
    ]
    for (const [value, bits] of cases) expect(toF16(value), String(value)).toBe(bits)
    for (const bits of [0x3555, 0x0001, 0x8400, 0x7bff]) expect(toF16(fromF16(bits))).toBe(bits)
  })
})
