// Heads from layout to layout: nothing they hold is lost or changed, readers find what they expect, and what was there survives a failure.
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { convertHeads } from '../../../heads/convert/convert.js'
import type { ConvertOptionsInput } from '../../../heads/convert/options.js'
import { native, packageRoot } from '../../../src/native.js'
import { type ModelFolder, readHeads, readModelFolder } from '../../../src/weights/load.js'
import {
  openSafetensors,
  PIECE_BYTES,
  readTensorBytes,
  type TensorData,
  writeSafetensors,
} from '../../../src/weights/safetensors.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { readySession } from '../../support/native-calls.js'
import { openModel } from '../../support/native-session.js'
import { isSanitized, TYPESCRIPT } from '../../support/program.js'
import {
  fromBf16,
  fromF16,
  type TinyHeadsOptions,
  type TinyModel,
  toBf16,
  toF16,
  writeTinyHeads,
  writeTinyModel,
} from '../../support/tiny-model.js'
import { torchFile, torchTensor } from '../../support/torch-file.js'

const folder = temporaryFolder()
let folders = 0
const next = () => join(folder, String(folders++))

let model: TinyModel
let base: ModelFolder
beforeAll(async () => {
  model = await writeTinyModel(next(), { dtype: 'bf16' })
  base = await readModelFolder(model.dir)
})

type Layout = 'A' | 'B' | 'E'
const tinyHeads = async (format: Layout, options: TinyHeadsOptions = {}) =>
  (await writeTinyHeads(next(), model, { format, dtype: 'bf16', ...options })).dir

/** Converts to a new folder and gives its path. */
async function converted(source: string, to: Layout, options: Partial<ConvertOptionsInput> = {}): Promise<string> {
  const out = next()
  await convertHeads({ source, to, out, ...options })
  return out
}

const fileOf = (dir: string) => join(dir, readdirSync(dir).find((name) => name.endsWith('.safetensors'))!)
const configOf = (dir: string) => JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>

/** Every tensor of a folder: dtype, shape, bytes in hex. */
async function contentOf(dir: string): Promise<Record<string, unknown>> {
  const path = fileOf(dir)
  const content: Record<string, unknown> = {}
  for (const [name, entry] of (await openSafetensors(path)).tensors) {
    const data = Buffer.from(await readTensorBytes(path, entry)).toString('hex')
    content[name] = { dtype: entry.dtype, shape: entry.shape, data }
  }
  return content
}

/** The same tensors under the roles that the engine gives them, so that layouts compare. */
async function rolesOf(dir: string, of = base): Promise<Record<string, unknown>> {
  const heads = await readHeads(dir, of)
  const content: Record<string, unknown> = { tokenMap: heads.tokenMap }
  for (const [role, { dtype, shape, file, begin, end }] of Object.entries(heads.tensors)) {
    const data = Buffer.from(await readTensorBytes(heads.files[file]!, { begin, end })).toString('hex')
    content[role] = { dtype, shape, data }
  }
  return content
}

describe('there and back again, every bit is as it was:', () => {
  test.each<[string, Layout, Layout, TinyHeadsOptions]>([
    ['A by E', 'A', 'E', {}],
    ['A by E, two blocks', 'A', 'E', { blocks: 2 }],
    ['A by E, no blocks', 'A', 'E', { blocks: 0 }],
    ['A by E, f32', 'A', 'E', { dtype: 'f32' }],
    ['A by E, reduced vocabulary', 'A', 'E', { rows: 3, tokenMap: [5, 0, 127], config: { vocab_size: 128 } }],
    ['E by A', 'E', 'A', {}],
    ['E by A, i32 token map', 'E', 'A', { rows: 3, tokenMap: [5, 0, 127], tokenMapDtype: 'I32' }],
    ['B by E', 'B', 'E', {}],
    ['B by A', 'B', 'A', { blocks: 3 }],
  ])('%s', async (_, from, by, options) => {
    const source = await tinyHeads(from, options)
    const between = await converted(source, by, { model: model.dir })
    const back = await converted(between, from, { model: model.dir })
    expect(await contentOf(back)).toEqual(await contentOf(source))
    for (const dir of [between, back]) {
      expect(await readHeads(dir, base)).toMatchObject({ medusaHeads: 3, warnings: [] })
    }
    if (from !== 'B') expect(await rolesOf(between)).toEqual(await rolesOf(source))
  })
})

describe('what becomes of projections', () => {
  test('one for all is stored once in E, and once for each head in A', async () => {
    const source = await tinyHeads('E', { sharedProjection: true })
    const a = await converted(source, 'A')
    expect(await rolesOf(a)).toEqual(await rolesOf(source))
    expect(Object.keys(await contentOf(a)).filter((name) => /^\d\.1\.weight$/.test(name))).toHaveLength(3)
    expect(await contentOf(await converted(source, 'E'))).toEqual(await contentOf(source))
  })

  test('lm_heads.0 that serves all, as some configurations say', async () => {
    const source = await tinyHeads('E', { medusaHeads: 1 })
    const three = next()
    mkdirSync(three)
    const data = await contentOf(source)
    const tensors = new Map<string, TensorData>()
    for (const [name, value] of Object.entries(data)) {
      const { dtype, shape, data: hex } = value as { dtype: string; shape: number[]; data: string }
      for (const head of name.startsWith('blocks.') ? [0, 1, 2] : [0]) {
        tensors.set(name.replace('blocks.0', `blocks.${head}`), { dtype, shape, data: Buffer.from(hex, 'hex') })
      }
    }
    await writeSafetensors(join(three, 'model.safetensors'), tensors)
    writeFileSync(
      join(three, 'config.json'),
      JSON.stringify({ model_type: 'medusa', original_lm_head: true, medusa_fc_bias: true }),
    )
    const out = await converted(three, 'E')
    expect(await readHeads(out, base)).toMatchObject({ medusaHeads: 3, projection: 'shared', warnings: [] })
    expect(await rolesOf(out)).toEqual(await rolesOf(three))
  })

  test("B takes the model's lm_head, or its embedding where they are tied", async () => {
    for (const tied of [false, true]) {
      const own = await writeTinyModel(next(), { tied, dtype: 'bf16' })
      const source = await tinyHeads('B')
      const a = await converted(source, 'A', { model: own.dir })
      const folder = await readModelFolder(own.dir)
      const { file, begin, end } = (folder.tensors['lm_head'] ?? folder.tensors['embed'])!
      const lmHead = await readTensorBytes(folder.table.files[file]!, { begin, end })
      const roles = await rolesOf(a, folder)
      for (const head of [0, 1, 2]) {
        expect(roles[`${head}.projection`]).toMatchObject({ data: Buffer.from(lmHead).toString('hex') })
      }
    }
    const source = await tinyHeads('B')
    await failure(() => converted(source, 'A'), 'ERR_OPTION', /no projections of its own.*--model/)
  })

  test('B leaves them out only where they are the lm_head, in whatever dtype', async () => {
    const a = await converted(await tinyHeads('B'), 'A', { model: model.dir })
    await failure(() => converted(a, 'B'), 'ERR_OPTION', /projections of its own.*--model/)
    const wide = await converted(a, 'A', { dtype: 'f32' })
    expect(await readHeads(await converted(wide, 'B', { model: model.dir }), base)).toMatchObject({ format: 'B' })

    const path = fileOf(a)
    const bytes = readFileSync(path)
    const { begin, end } = (await openSafetensors(path)).tensors.get('2.1.weight')!
    bytes[end - 1]! ^= 1
    writeFileSync(path, bytes)
    expect(end - begin).toBeGreaterThan(1)
    const refused = () => converted(a, 'B', { model: model.dir })
    await failure(refused, 'ERR_HEADS_FORMAT', /other values than that of.*layout A or E/)
    const few = await tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127] })
    await failure(() => converted(few, 'B', { model: model.dir }), 'ERR_HEADS_FORMAT', /know fewer tokens/)
    const padded = await tinyHeads('A', { rows: 160 })
    await failure(() => converted(padded, 'B', { model: model.dir }), 'ERR_HEADS_FORMAT', /another number of rows/)
  })

  test('rows beyond the vocabulary stay', async () => {
    const out = await converted(await tinyHeads('A', { rows: 160 }), 'E', { model: model.dir })
    expect(configOf(out)).toMatchObject({ vocab_size: 160, truncated_vocab_size: 160 })
  })
})

describe('what its readers find in config.json', () => {
  test('vLLM: the class, sizes, biases, and one projection or several', async () => {
    const source = await tinyHeads('A', { config: { max_paths: 7, decoding_strategy: 'tree', num_things: 2 } })
    expect(configOf(await converted(source, 'E'))).toEqual({
      architectures: ['MedusaModel'],
      model_type: 'medusa',
      base_model_name_or_path: 'tiny',
      hidden_size: 64,
      vocab_size: 128,
      truncated_vocab_size: 128,
      num_heads: 3,
      num_hidden_layers: 1,
      max_paths: 7,
      topk: 10,
      medusa_fc_bias: true,
      original_lm_head: false,
      decoding_strategy: 'tree',
    })
    const few = await tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127], bias: false })
    await failure(() => converted(few, 'E'), 'ERR_OPTION', /nothing says how many tokens its model has.*--model/)
    expect(configOf(await converted(few, 'E', { model: model.dir }))).toMatchObject({
      vocab_size: 128,
      truncated_vocab_size: 3,
      medusa_fc_bias: false,
    })
    const shared = await converted(await tinyHeads('B'), 'E', { model: model.dir })
    expect(configOf(shared)).toMatchObject({ original_lm_head: true, vocab_size: 128 })
  })

  test('TGI: its three fields, and the version where the lm_head projects', async () => {
    expect(
      configOf(await converted(await tinyHeads('E', { config: { base_model_name_or_path: 'of/hub' } }), 'A')),
    ).toEqual({
      medusa_num_heads: 3,
      medusa_num_layers: 1,
      base_model_name_or_path: 'of/hub',
    })
    const b = await converted(await tinyHeads('B', { config: { medusa_num_heads: 2 } }), 'B')
    expect(configOf(b)).toMatchObject({ medusa_num_heads: 3, version: '2' })
  })

  test('a path to the model that leads there from the new folder', async () => {
    const source = await tinyHeads('B', { config: { base_model_name_or_path: '../elsewhere' } })
    expect(configOf(await converted(source, 'B'))['base_model_name_or_path']).toBe(join(folder, 'elsewhere'))
    const silent = await tinyHeads('B', { config: { base_model_name_or_path: null } })
    expect(configOf(await converted(silent, 'B', { model: model.dir }))['base_model_name_or_path']).toBe(model.dir)
    const { warnings } = await convertHeads({ source: silent, to: 'B', out: next() })
    expect(warnings).toEqual([expect.stringMatching(/which TGI asks for/)])
  })

  test('a warning of each thing that readers of the layout do not read', async () => {
    const warningsOf = async (source: string, to: Layout) => (await convertHeads({ source, to, out: next() })).warnings
    const scaled = await tinyHeads('E', { config: { logit_scale: 0.5, base_model_name_or_path: 'x' } })
    expect(await warningsOf(scaled, 'A')).toEqual([expect.stringMatching(/logit_scale 0\.5 is kept/)])
    const mapped = await tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127] })
    expect(await warningsOf(mapped, 'A')).toEqual([expect.stringMatching(/token map in layout A/)])
    expect(await warningsOf(await tinyHeads('B', { blocks: 2 }), 'B')).toEqual([expect.stringMatching(/one block per/)])
    const wrong = await tinyHeads('A', { config: { medusa_num_heads: 2 } })
    expect(await warningsOf(wrong, 'A')).toEqual([expect.stringMatching(/says heads: 2, the tensors say 3/)])
    const lost = await tinyHeads('E', { bias: false, config: { medusa_fc_bias: true, base_model_name_or_path: 'x' } })
    expect(await warningsOf(lost, 'E')).toEqual([expect.stringMatching(/were they lost in a conversion/)])
    const reversed = await tinyHeads('E', { config: { logit_scale: -1 } })
    await failure(() => warningsOf(reversed, 'A'), 'ERR_UNSUPPORTED', /reverses the order/)
  })
})

describe('biases that are not stored', () => {
  test('are zeros for readers that expect them, and left out for vLLM, which can be told', async () => {
    const source = await tinyHeads('A', { bias: false })
    const out = next()
    const report = await convertHeads({ source, to: 'A', out })
    expect(report).toMatchObject({
      bias: true,
      warnings: [expect.stringMatching(/not stored \(3\) are written as zeros/)],
    })
    expect((await contentOf(out))['1.0.linear.bias']).toEqual({ dtype: 'BF16', shape: [64], data: '0'.repeat(256) })
    const e = await converted(source, 'E')
    expect(await readHeads(e, base)).toMatchObject({ bias: 'none', warnings: [] })
  })

  test('of some blocks are zeros for vLLM too, which expects all or none', async () => {
    const source = await tinyHeads('A')
    const path = fileOf(source)
    const { tensors } = await openSafetensors(path)
    const kept = new Map<string, TensorData>()
    for (const [name, entry] of tensors) {
      if (name !== '1.0.linear.bias') kept.set(name, { ...entry, data: await readTensorBytes(path, entry) })
    }
    await writeSafetensors(path, kept)
    const out = next()
    const { warnings } = await convertHeads({ source, to: 'E', out })
    expect(warnings).toContainEqual(expect.stringMatching(/not stored \(1\) are written as zeros/))
    expect(await readHeads(out, base)).toMatchObject({ bias: 'all', warnings: [] })
  })
})

describe('other sources', () => {
  test('heads fused into a model, which is then their model', async () => {
    for (const projection of [true, false]) {
      const fused = await writeTinyModel(next(), { fusedHeads: { projection }, shards: 3, dtype: 'bf16' })
      const read = await readModelFolder(fused.dir)
      const e = await converted(fused.dir, 'E')
      expect(configOf(e)).toMatchObject({ base_model_name_or_path: fused.dir, original_lm_head: !projection })
      if (projection) expect(await rolesOf(e, read)).toEqual(await rolesOf(fused.dir, read))
      else expect(await rolesOf(await converted(fused.dir, 'B'), read)).toEqual(await rolesOf(fused.dir, read))
    }
    await failure(() => converted(model.dir, 'A'), 'ERR_HEADS_FORMAT', /a model without Medusa heads/)
  })

  /** The same heads as torch.save would write them. */
  async function asPickle(source: string, prefix = ''): Promise<Buffer> {
    const storages: Record<string, Uint8Array> = {}
    const tensors: Record<string, unknown> = {}
    for (const [name, value] of Object.entries(await contentOf(source))) {
      const { shape, data } = value as { shape: number[]; data: string }
      const key = String(Object.keys(storages).length)
      storages[key] = Buffer.from(data, 'hex')
      tensors[prefix + name] = torchTensor({ storage: 'BFloat16Storage', key, size: data.length / 4, shape })
    }
    return torchFile(tensors, storages)
  }

  test('what torch.save wrote, as a file or in a folder', async () => {
    const source = await tinyHeads('A')
    const dir = next()
    mkdirSync(dir)
    writeFileSync(join(dir, 'medusa_lm_head.pt'), await asPickle(source))
    copyFileSync(join(source, 'config.json'), join(dir, 'config.json'))
    for (const path of [dir, join(dir, 'medusa_lm_head.pt')]) {
      expect(await contentOf(await converted(path, 'A'))).toEqual(await contentOf(source))
    }
    await failure(() => readHeads(dir, base), 'ERR_HEADS_FORMAT', /gorgon heads convert ".*\.pt" --to A --out DIR/)
    writeFileSync(join(dir, 'other.pt'), '')
    await failure(
      () => converted(dir, 'A'),
      'ERR_HEADS_FORMAT',
      /"medusa_lm_head\.pt", "other\.pt".*the one with the heads/,
    )
  })

  test('heads fused into the shards of a model that torch.save wrote', async () => {
    const source = await tinyHeads('A')
    const dir = next()
    mkdirSync(dir)
    const layer = torchTensor({ storage: 'QuantisedBeyondUs', size: 1, shape: [1] })
    const shard = (n: number) => join(dir, `pytorch_model-0000${n}-of-00002.bin`)
    writeFileSync(
      shard(1),
      torchFile({ 'model.layers.0.x': torchTensor({ storage: 'CharStorage', size: 1, shape: [1] }) }),
    )
    writeFileSync(shard(2), await asPickle(source, 'medusa_head.'))
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ model_type: 'llama', num_attention_heads: 32 }))
    const out = next()
    expect(await convertHeads({ source: dir, to: 'A', out })).toMatchObject({ from: 'C', warnings: [] })
    expect(await contentOf(out)).toEqual(await contentOf(source))
    writeFileSync(shard(1), torchFile({ 'model.layers.0.x': layer }))
    await failure(() => converted(dir, 'A'), 'ERR_HEADS_FORMAT', /QuantisedBeyondUs/)
    writeFileSync(shard(1), await asPickle(source, 'medusa_head.'))
    await failure(() => converted(dir, 'A'), 'ERR_HEADS_FORMAT', /so has another shard/)
  })

  test('heads of another model', async () => {
    const other = await writeTinyModel(next(), { hidden: 32 })
    const source = await tinyHeads('A')
    await failure(() => converted(source, 'E', { model: other.dir }), 'ERR_HEADS_MISMATCH', /width 64; .* has 32/)
    const larger = await writeTinyModel(next(), { vocab: 130 })
    await failure(() => converted(source, 'E', { model: larger.dir }), 'ERR_HEADS_MISMATCH', /knows 128 tokens.*130/)
  })

  test.each<[string, Record<string, TensorData>, RegExp, 'ERR_TENSOR' | 'ERR_UNSUPPORTED' | 'ERR_HEADS_FORMAT']>([
    ['a matrix that is not square', { '0.0.linear.weight': zeros([4, 5]) }, /must be \[5, 5\]/, 'ERR_TENSOR'],
    [
      'a bias of another width',
      { '0.0.linear.weight': zeros([4, 4]), '0.0.linear.bias': zeros([5]) },
      /must be \[4\]/,
      'ERR_TENSOR',
    ],
    [
      'projections of two sizes',
      { '0.0.weight': zeros([4, 2]), '1.0.weight': zeros([5, 2]) },
      /must be \[4, 2\]/,
      'ERR_TENSOR',
    ],
    ['a projection of nothing', { '0.0.weight': zeros([0, 2]) }, /is \[0, 2\]/, 'ERR_TENSOR'],
    ['a scalar', { '0.0.weight': zeros([]) }, /is \[\]/, 'ERR_TENSOR'],
    [
      'bytes for weights',
      { '0.0.weight': zeros([4, 2], 'I8') },
      /is I8\. Weights are F32, F16 or BF16/,
      'ERR_UNSUPPORTED',
    ],
    [
      'a token map of nothing',
      { '0.0.linear.weight': zeros([4, 4]), token_map: zeros([2], 'I32') },
      /no projections/,
      'ERR_UNSUPPORTED',
    ],
    [
      'a shorter token map',
      { '0.0.weight': zeros([4, 2]), token_map: zeros([2], 'I32') },
      /have 4 rows/,
      'ERR_UNSUPPORTED',
    ],
    ['names of nobody', { 'model.weight': zeros([4, 2]) }, /belong to no known layout/, 'ERR_HEADS_FORMAT'],
  ])('%s', async (_, tensors, says, code) => {
    const dir = next()
    mkdirSync(dir)
    await writeSafetensors(join(dir, 'model.safetensors'), tensors)
    await failure(() => converted(dir, 'A'), code, says)
  })
})

function zeros(shape: readonly number[], dtype = 'F32'): TensorData {
  const bytes = { F32: 4, I32: 4, I8: 1 }[dtype]!
  return { dtype, shape, data: new Uint8Array(shape.reduce((product, n) => product * n, bytes)) }
}

describe('another dtype', () => {
  const numbers = [0, -0, 1, -1.5, 1 / 3, 6e-8, 65504, -65504, 1e-3, 12345.678]
  async function single(values: readonly number[]): Promise<string> {
    const dir = next()
    mkdirSync(dir)
    const data = new Uint8Array(Float32Array.from(values).buffer)
    await writeSafetensors(join(dir, 'h.safetensors'), {
      '0.0.weight': { dtype: 'F32', shape: [values.length, 1], data },
    })
    return join(dir, 'h.safetensors')
  }
  const halvesOf = async (dir: string) => {
    const path = fileOf(dir)
    const bytes = await readTensorBytes(path, (await openSafetensors(path)).tensors.get('0.0.weight')!)
    return [...new Uint16Array(bytes.buffer)]
  }

  test('is the nearest value, and wider ones are exact', async () => {
    const source = await single(numbers)
    const bf16 = await converted(source, 'A', { dtype: 'bf16' })
    expect(await halvesOf(bf16)).toEqual(numbers.map((value) => toBf16(Math.fround(value))))
    const f16 = await converted(source, 'A', { dtype: 'f16' })
    expect(await halvesOf(f16)).toEqual(numbers.map((value) => toF16(Math.fround(value))))
    for (const [dir, value] of [
      [bf16, fromBf16],
      [f16, fromF16],
    ] as const) {
      const path = fileOf(await converted(dir, 'A', { dtype: 'f32' }))
      const bytes = await readTensorBytes(path, (await openSafetensors(path)).tensors.get('0.0.weight')!)
      expect([...new Float32Array(bytes.buffer)]).toEqual((await halvesOf(dir)).map(value))
    }
  })

  test('that cannot hold a value is refused', async () => {
    const large = await single([1, 65520])
    await failure(
      () => converted(large, 'A', { dtype: 'f16' }),
      'ERR_TENSOR',
      /holds 65520, which is too large for f16/,
    )
    expect(await halvesOf(await converted(large, 'A', { dtype: 'bf16' }))).toEqual([1, 65520].map(toBf16))
    const larger = await single([-3.4e38])
    await failure(() => converted(larger, 'A', { dtype: 'bf16' }), 'ERR_TENSOR', /too large for bf16/)
    const infinite = await single([Number.POSITIVE_INFINITY])
    expect(await halvesOf(await converted(infinite, 'A', { dtype: 'f16' }))).toEqual([0x7c00])
  })

  test('leaves a token map alone', async () => {
    const source = await tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127] })
    const out = await converted(source, 'A', { dtype: 'f32' })
    expect(await readHeads(out, base)).toMatchObject({ dtype: 'f32', tokenMap: Int32Array.of(5, 0, 127) })
  })
})

describe('where it is written', () => {
  test('a new folder, with what was measured of the heads beside them', async () => {
    const demo = join(packageRoot(), 'heads', 'demo')
    const out = join(next(), 'inner')
    await convertHeads({ source: demo, to: 'B', out })
    expect(readdirSync(out).sort()).toEqual(['accuracy.json', 'config.json', 'medusa_lm_head.safetensors'])
    const read = (dir: string) => JSON.parse(readFileSync(join(dir, 'accuracy.json'), 'utf8')) as unknown
    expect(read(out)).toEqual(read(demo))
    const source = await tinyHeads('B')
    writeFileSync(join(source, 'accuracy.json'), '{"rank_accuracy": [[2]]}')
    const plain = next()
    const { warnings } = await convertHeads({ source, to: 'B', out: plain })
    expect(warnings).toEqual([expect.stringMatching(/rank_accuracy.*It is left out/)])
    expect(readdirSync(plain).sort()).toEqual(['config.json', 'medusa_lm_head.safetensors'])
  })

  test('nothing that is there is replaced unasked, and nothing but heads when asked', async () => {
    const source = await tinyHeads('A')
    const out = await converted(source, 'A')
    writeFileSync(join(out, 'notes.txt'), 'mine')
    const before = readFileSync(fileOf(out))
    await failure(
      () => convertHeads({ source, to: 'E', out }),
      'ERR_FILE',
      /medusa_lm_head\.safetensors, config\.json already/,
    )
    expect(readFileSync(fileOf(out)).equals(before)).toBe(true)
    await convertHeads({ source, to: 'E', out, force: true })
    expect(readdirSync(out).sort()).toEqual(['config.json', 'model.safetensors', 'notes.txt'])
    expect(await rolesOf(out)).toEqual(await rolesOf(source))

    const own = await writeTinyModel(next())
    await failure(
      () => convertHeads({ source, to: 'A', out: own.dir, force: true }),
      'ERR_FILE',
      /is not of Medusa heads/,
    )
    await failure(() => convertHeads({ source, to: 'A', out: fileOf(out) }), 'ERR_FILE', /is a file/)
    const blocked = { source, to: 'A', out: join(fileOf(out), 'inner') } as const
    await failure(() => convertHeads(blocked), 'ERR_WRITE', /a part of its path is a file/)
  })

  test('in place of the source itself', async () => {
    const source = await tinyHeads('A')
    const copy = await converted(source, 'A')
    await convertHeads({ source: copy, to: 'A', out: copy, force: true })
    expect(await contentOf(copy)).toEqual(await contentOf(source))
    await convertHeads({ source: copy, to: 'E', out: copy, force: true })
    expect(await rolesOf(copy)).toEqual(await rolesOf(source))
  })

  test('nothing is left of what was cancelled or failed', async () => {
    const source = await tinyHeads('A')
    const abort = new AbortController()
    const out = next()
    const cancelled = convertHeads({
      source,
      to: 'E',
      out,
      signal: abort.signal,
      onProgress: () => abort.abort(),
    })
    await expect(cancelled).rejects.toMatchObject({ name: 'AbortError' })
    expect(existsSync(out)).toBe(false)
    const wide = await tinyHeads('A', { dtype: 'f32', config: {} })
    const path = fileOf(wide)
    truncateSync(path, readFileSync(path).length - 4)
    await failure(() => convertHeads({ source: wide, to: 'E', out }), 'ERR_SAFETENSORS')
    expect(existsSync(out)).toBe(false)
  })

  test('a disk that is full leaves what was there', async () => {
    const source = await tinyHeads('A', { rows: 4096 })
    const out = await converted(source, 'A')
    const before = readFileSync(fileOf(out))
    const script = `
      import { convertHeads } from ${JSON.stringify(join(packageRoot(), 'heads', 'convert', 'convert.ts'))}
      const options = ${JSON.stringify({ source, to: 'A', out, force: true, dtype: 'f32' })}
      await convertHeads(options).catch((error) => process.stdout.write(error.code + ' ' + error.message))`
    const limited = ['-c', 'ulimit -f 2048 && exec "$@"', 'sh', process.execPath, ...TYPESCRIPT]
    const said = execFileSync('sh', [...limited, '--input-type=module', '-e', script], { encoding: 'utf8' })
    expect(said).toMatch(/^ERR_WRITE .*files may not become that large here/)
    expect(readFileSync(fileOf(out)).equals(before)).toBe(true)
    expect(readdirSync(out).sort()).toEqual(['config.json', 'medusa_lm_head.safetensors'])
  })

  test('progress goes to its end, comparisons included', async () => {
    const a = await converted(await tinyHeads('B'), 'A', { model: model.dir })
    const told: { done: number; total: number }[] = []
    const onProgress = (progress: { done: number; total: number }) => told.push(progress)
    const report = await convertHeads({ source: a, to: 'B', out: next(), model: model.dir, onProgress })
    expect(told.at(-1)).toEqual({ done: told[0]!.total, total: told[0]!.total })
    expect(told[0]!.total).toBe(report.bytes + 3 * 128 * 64 * 2)
    expect(told.every(({ done }, i) => i === 0 || done > told[i - 1]!.done)).toBe(true)
  })

  test('an option that is not known', async () => {
    await failure(() => convertHeads({ source: 'x', to: 'D' as 'A', out: 'y' }), 'ERR_OPTION', /to is "D": use one of/)
  })
})

test('drafts are the same before and after', async () => {
  const prompt = Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % 128)
  const draftsOf = async (heads: string) => {
    const handle = await openModel(model.dir, { heads, threads: 1 })
    try {
      const { session, drafts } = await readySession(handle, {
        tokens: Int32Array.from(prompt),
        medusaHeads: 3,
        topK: 8,
      })
      await native().close(session)
      return { root: drafts.root, tokens: [...drafts.tokens] }
    } finally {
      await native().close(handle)
    }
  }
  for (const [from, targets] of [
    ['A', ['A', 'E']],
    ['B', ['A', 'B', 'E']],
    ['E', ['A', 'E']],
  ] as const) {
    const source = await tinyHeads(from)
    const expected = await draftsOf(source)
    expect(new Set(expected.tokens).size).toBeGreaterThan(3)
    for (const to of targets) {
      expect(await draftsOf(await converted(source, to, { model: model.dir })), `${from} to ${to}`).toEqual(expected)
    }
  }
})

test.skipIf(isSanitized)('heads larger than what may be held pass through', async () => {
  const dir = next()
  mkdirSync(dir)
  // Holes, which are zeros: 8 heads of 64 MiB.
  const hidden = 1024
  const shape = [(64 * 1024 * 1024) / 2 / hidden, hidden]
  const header: Record<string, unknown> = {}
  for (let head = 0; head < 8; head++) {
    const offsets = [head, head + 1].map((n) => n * 64 * 1024 * 1024)
    header[`${head}.0.weight`] = { dtype: 'BF16', shape, data_offsets: offsets }
  }
  const json = Buffer.from(JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  const path = join(dir, 'large.safetensors')
  writeFileSync(path, Buffer.concat([prefix, json]))
  truncateSync(path, 8 + json.length + 8 * 64 * 1024 * 1024)
  let most = 0
  const held = () => process.memoryUsage().arrayBuffers
  const before = held()
  const onProgress = () => {
    most = Math.max(most, held() - before)
  }
  const { bytes } = await convertHeads({ source: path, to: 'E', out: next(), onProgress })
  expect(bytes).toBe(512 * 1024 * 1024)
  // Buffers of finished tensors may wait for the collector.
  expect(most).toBeLessThan(16 * PIECE_BYTES)
})
