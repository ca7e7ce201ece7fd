// Medusa heads: every layout is read against its base model, and what does not belong together is refused.
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../src/native.js'
import {
  findHeads,
  type ModelFolder,
  modelSpecOf,
  readHeads,
  readModelFolder,
  tensorCount,
} from '../../src/weights/load.js'
import { writeSafetensors } from '../../src/weights/safetensors.js'
import { failure } from '../support/errors.js'
import { temporaryFolder } from '../support/folder.js'
import { type TinyHeadsOptions, type TinyModel, writeTinyHeads, writeTinyModel } from '../support/tiny-model.js'

const folder = temporaryFolder()
let folders = 0
const next = () => join(folder, String(folders++))

let model: TinyModel
let base: ModelFolder
beforeAll(async () => {
  model = await writeTinyModel(next())
  base = await readModelFolder(model.dir)
})

type Options = TinyHeadsOptions & { readonly format?: 'A' | 'B' | 'E' }
/** Writes heads for the base model and reads them. */
const heads = async (options: Options = {}) => readHeads((await writeTinyHeads(next(), model, options)).dir, base)

describe('layouts', () => {
  test.each([
    ['A', { format: 'A' }, { format: 'A', medusaHeads: 3, blocks: 1, bias: 'all', projection: 'per-head' }],
    ['A, R = 0', { format: 'A', blocks: 0 }, { format: 'A', blocks: 0, bias: 'none' }],
    ['A, R = 2, tied', { format: 'A', blocks: 2, tiedBlocks: true }, { format: 'A', blocks: 2, bias: 'all' }],
    ['A without biases', { format: 'A', bias: false }, { format: 'A', bias: 'none' }],
    ['B', { format: 'B', medusaHeads: 4 }, { format: 'B', medusaHeads: 4, projection: 'base' }],
    ['B, R = 3', { format: 'B', blocks: 3 }, { format: 'B', blocks: 3 }],
    ['E', { format: 'E' }, { format: 'E', projection: 'per-head', bias: 'all' }],
    [
      'E, one projection',
      { format: 'E', sharedProjection: true, bias: false },
      { format: 'E', projection: 'shared', bias: 'none' },
    ],
  ] as const)('%s', async (_, options, expected) => {
    const read = await heads(options)
    expect(read).toMatchObject({ ...expected, vocab: 128, tokenMap: null, warnings: [] })
    for (let head = 0; head < read.medusaHeads; head++) {
      for (let block = 0; block < read.blocks; block++) {
        expect(read.tensors[`${head}.block.${block}.weight`]!.shape).toEqual([64, 64])
        if (read.bias === 'all') expect(read.tensors[`${head}.block.${block}.bias`]!.shape).toEqual([64])
      }
      if (read.projection === 'base') expect(read.tensors).not.toHaveProperty([`${head}.projection`])
      else expect(read.tensors[`${head}.projection`]!.shape).toEqual([128, 64])
    }
    if (read.projection === 'shared') expect(read.tensors['2.projection']).toEqual(read.tensors['0.projection'])
  })

  test.each([
    [
      { medusaHeads: 2, blocks: 2 },
      { format: 'C', medusaHeads: 2, blocks: 2, projection: 'per-head' },
    ],
    [{ projection: false }, { format: 'C', medusaHeads: 3, blocks: 1, projection: 'base' }],
  ])('C, fused into the model: %j', async (fusedHeads, expected) => {
    for (const shards of [1, 3]) {
      const fused = await readModelFolder((await writeTinyModel(next(), { fusedHeads, shards })).dir)
      expect(fused.warnings).toEqual([])
      const found = await findHeads(fused)
      expect(found).toMatchObject({ ...expected, warnings: [] })
      expect(await readHeads(fused.dir, fused)).toEqual(found)
    }
  })

  test('the demo heads', async () => {
    const demo = await readModelFolder(join(packageRoot(), 'models', 'demo'))
    const found = await findHeads(demo)
    expect(found).toMatchObject({
      format: 'B',
      medusaHeads: 4,
      blocks: 1,
      bias: 'all',
      projection: 'base',
      vocab: 4096,
      warnings: [],
    })
    expect(found!.baseModel).toBe('../../models/demo')
  })
})

describe('where heads are found', () => {
  test('a folder, a file, beside the model, or nowhere', async () => {
    const { dir } = await writeTinyHeads(next(), model)
    const file = join(dir, 'medusa_lm_head.safetensors')
    expect((await readHeads(file, base)).tensors).toEqual((await readHeads(dir, base)).tensors)
    expect(await findHeads(base)).toBeNull()
    const own = await writeTinyModel(next())
    copyFileSync(file, join(own.dir, 'medusa_lm_head.safetensors'))
    const read = await readModelFolder(own.dir)
    expect((await findHeads(read))!.medusaHeads).toBe(3)
    expect((await readHeads(own.dir, read)).medusaHeads).toBe(3)
  })

  test('a file without a configuration', async () => {
    const { dir } = await writeTinyHeads(next(), model)
    const alone = next()
    mkdirSync(alone)
    copyFileSync(join(dir, 'medusa_lm_head.safetensors'), join(alone, 'any.safetensors'))
    expect(await readHeads(join(alone, 'any.safetensors'), base)).toMatchObject({
      medusaHeads: 3,
      baseModel: null,
      warnings: [],
    })
  })

  test('a pickle is refused with the way out', async () => {
    const dir = next()
    mkdirSync(dir)
    await failure(() => readHeads(dir, base), 'ERR_HEADS_FORMAT', /has no Medusa heads/)
    writeFileSync(join(dir, 'medusa_lm_head.pt'), '')
    for (const path of [dir, join(dir, 'medusa_lm_head.pt')]) {
      await failure(
        () => readHeads(path, base),
        'ERR_HEADS_FORMAT',
        /pickle.*gorgon heads convert ".*\/medusa_lm_head\.pt" --to A --out DIR/,
      )
    }
    writeFileSync(join(dir, 'heads.gguf'), '')
    await failure(() => readHeads(join(dir, 'heads.gguf'), base), 'ERR_HEADS_FORMAT', /not a safetensors file/)
    await failure(() => readHeads(join(dir, 'absent'), base), 'ERR_FILE', /No heads at/)
  })

  test('a plain model is no heads, and a fused one belongs to itself', async () => {
    await failure(() => readHeads(model.dir, base), 'ERR_HEADS_FORMAT', /a model without Medusa heads/)
    const fused = await writeTinyModel(next(), { fusedHeads: {} })
    await failure(() => readHeads(fused.dir, base), 'ERR_HEADS_MISMATCH', /as the model instead/)
  })
})

describe('tensors win over the configuration, and a warning says so', () => {
  test.each([
    ['number of heads', { config: { medusa_num_heads: 2 } }, /heads: 2, the tensors say 3/],
    ['number of blocks', { config: { medusa_num_layers: 4 } }, /blocks per head: 4, the tensors say 1/],
    ['number of heads (E)', { format: 'E', config: { num_heads: 5 } }, /heads: 5, the tensors say 3/],
    ['hidden width (E)', { format: 'E', config: { hidden_size: 4096 } }, /hidden_size 4096, the tensors say 64/],
    ['biases that were lost', { format: 'E', bias: false, config: { medusa_fc_bias: true } }, /lost in a conversion/],
    ['biases nobody mentions', { format: 'E', config: { medusa_fc_bias: undefined } }, /they are used/],
  ] as const)('%s', async (_, options, says) => {
    const read = await heads(options)
    expect(read.medusaHeads).toBe(3)
    expect(read.blocks).toBe(1)
    expect(read.warnings).toEqual([expect.stringMatching(says)])
  })

  test('fused heads', async () => {
    const { dir } = await writeTinyModel(next(), { fusedHeads: {}, config: { medusa_num_heads: 5 } })
    expect((await findHeads(await readModelFolder(dir)))!.warnings).toEqual([expect.stringMatching(/heads: 5/)])
  })

  test('a bias on some blocks only', async () => {
    const dir = next()
    mkdirSync(dir)
    const zeros = (shape: number[]) => ({
      dtype: 'F32',
      shape,
      data: new Uint8Array(4 * shape.reduce((a, b) => a * b)),
    })
    await writeSafetensors(join(dir, 'medusa_lm_head.safetensors'), {
      '0.0.linear.weight': zeros([64, 64]),
      '0.0.linear.bias': zeros([64]),
      '1.0.linear.weight': zeros([64, 64]),
    })
    expect(await readHeads(dir, base)).toMatchObject({
      bias: 'some',
      warnings: [expect.stringMatching(/some have none/)],
    })
  })
})

describe('vocabularies', () => {
  const tokenMap = [5, 0, 127, 64]

  test.each(['A', 'E'] as const)('layout %s: a reduced one with its token map, i32 or i64', async (format) => {
    for (const tokenMapDtype of ['I32', 'I64'] as const) {
      const read = await heads({ format, rows: 4, tokenMap, tokenMapDtype })
      expect(read).toMatchObject({ vocab: 4, warnings: [] })
      expect(read.tokenMap).toEqual(Int32Array.from(tokenMap))
      expect(read.tensors['1.projection']!.shape).toEqual([4, 64])
    }
  })

  test('a larger one is cut to the model, since rows are contiguous', async () => {
    const exact = await heads({ format: 'A', dtype: 'bf16' })
    const read = await heads({ format: 'A', rows: 130, dtype: 'bf16' })
    expect(read).toMatchObject({ vocab: 128, warnings: [expect.stringMatching(/last 2 rows are not used/)] })
    const slice = read.tensors['2.projection']!
    expect(slice.shape).toEqual([128, 64])
    expect(slice.end - slice.begin).toBe(128 * 64 * 2)
    expect(exact.tensors['2.projection']!.end - exact.tensors['2.projection']!.begin).toBe(128 * 64 * 2)
  })

  test.each([
    ['a smaller one without a map', { rows: 127 }, 'ERR_HEADS_MISMATCH', /127 tokens.*128.*no token_map/],
    ['a map that selects rows', { rows: 128, tokenMap }, 'ERR_UNSUPPORTED', /select 4 rows of a projection of 128/],
    [
      "a map that selects rows of the model's lm_head",
      { format: 'B', tokenMap },
      'ERR_UNSUPPORTED',
      /select 4 rows of the model's lm_head/,
    ],
    [
      'a map longer than the projection',
      { rows: 3, tokenMap },
      'ERR_TENSOR',
      /"token_map" is \[4\], but the projection has \[3\]/,
    ],
    [
      'a map to a token the model lacks',
      { rows: 2, tokenMap: [1, 128] },
      'ERR_HEADS_MISMATCH',
      /token_map\[1\] is 128/,
    ],
    ['a map to a negative token', { rows: 2, tokenMap: [1, -1] }, 'ERR_HEADS_MISMATCH', /token_map\[1\] is -1/],
    ['a map to one token twice', { rows: 3, tokenMap: [4, 7, 4] }, 'ERR_HEADS_FORMAT', /token_map\[2\] is 4/],
    ['an empty map', { rows: 1, tokenMap: [] }, 'ERR_TENSOR', /"token_map" is \[0\]/],
    [
      'a map longer than the vocabulary',
      { rows: 129, tokenMap: Array(129).fill(0) },
      'ERR_TENSOR',
      /"token_map" is \[129\]/,
    ],
    ['a scale that turns the order round', { config: { logit_scale: -1 } }, 'ERR_UNSUPPORTED', /logit_scale is -1/],
  ] as const)('%s is refused', async (_, options, code, says) => {
    await failure(() => heads({ format: 'A', ...options }), code, says)
  })

  test('an i64 token far out of range is refused, not wrapped', async () => {
    const dir = next()
    mkdirSync(dir)
    const data = new Uint8Array(new BigInt64Array([2n ** 32n + 1n]).buffer)
    await writeSafetensors(join(dir, 'medusa_lm_head.safetensors'), {
      '0.0.weight': { dtype: 'F32', shape: [1, 64], data: new Uint8Array(256) },
      token_map: { dtype: 'I64', shape: [1], data },
    })
    await failure(() => readHeads(dir, base), 'ERR_HEADS_MISMATCH', /4294967297/)
  })
})

describe('heads of another model', () => {
  test.each(['A', 'B', 'E'] as const)('layout %s: both are named', async (format) => {
    const other = await writeTinyHeads(
      next(),
      { hidden: 32, vocab: 128 },
      { format, config: { base_model_name_or_path: 'other-7b' } },
    )
    const error = await failure(
      () => readHeads(other.dir, base),
      'ERR_HEADS_MISMATCH',
      /hidden width 32.*has 64.*"other-7b"/,
    )
    expect(error.message).toContain(other.dir)
    expect(error.message).toContain(model.dir)
    expect(error.details).toMatchObject({ headsHidden: 32, modelHidden: 64 })
  })

  test('R = 0: the projection shows it', async () => {
    const other = await writeTinyHeads(next(), { hidden: 32, vocab: 128 }, { format: 'A', blocks: 0 })
    await failure(() => readHeads(other.dir, base), 'ERR_HEADS_MISMATCH', /hidden width 32/)
  })
})

describe('broken heads', () => {
  const write = async (tensors: Record<string, [dtype: string, shape: number[]]>) => {
    const dir = next()
    mkdirSync(dir)
    const bytes = { F32: 4, F64: 8, I8: 1 } as Record<string, number>
    const data = Object.entries(tensors).map(([name, [dtype, shape]]) => {
      return [name, { dtype, shape, data: new Uint8Array(shape.reduce((a, b) => a * b, bytes[dtype]!)) }] as const
    })
    await writeSafetensors(join(dir, 'medusa_lm_head.safetensors'), Object.fromEntries(data))
    return dir
  }

  test.each([
    [
      'a name without a place',
      { '0.0.linear.weight': ['F32', [64, 64]], 'lm_head.bias': ['F32', [128]] },
      'ERR_HEADS_FORMAT',
      /"lm_head\.bias"/,
    ],
    [
      'a block that is not square',
      { '0.0.linear.weight': ['F32', [32, 64]] },
      'ERR_TENSOR',
      /is \[32, 64\], but its layout asks for \[64, 64\]/,
    ],
    ['a block that is a vector', { '0.0.linear.weight': ['F32', [64]] }, 'ERR_TENSOR', /a matrix belongs there/],
    [
      'a bias that is a matrix',
      { '0.0.linear.weight': ['F32', [64, 64]], '0.0.linear.bias': ['F32', [1, 64]] },
      'ERR_TENSOR',
      /asks for \[64\]/,
    ],
    [
      'projections of two sizes',
      { '0.0.weight': ['F32', [128, 64]], '1.0.weight': ['F32', [129, 64]] },
      'ERR_TENSOR',
      /"1\.0\.weight" is \[129, 64\]/,
    ],
    ['weights in f64', { '0.0.linear.weight': ['F64', [64, 64]] }, 'ERR_UNSUPPORTED', /is F64/],
    [
      'a token map of bytes',
      { '0.0.weight': ['F32', [2, 64]], token_map: ['I8', [2]] },
      'ERR_TENSOR',
      /a token map is I32 or I64/,
    ],
  ] as const)('%s', async (_, tensors, code, says) => {
    const dir = await write(tensors as unknown as Record<string, [string, number[]]>)
    await failure(() => readHeads(dir, base), code, says)
  })

  test('a configuration that is none', async () => {
    const { dir } = await writeTinyHeads(next(), model)
    writeFileSync(join(dir, 'config.json'), '{"medusa_num_heads": "three"}')
    await failure(() => readHeads(dir, base), 'ERR_MODEL_CONFIG', /medusa_num_heads is "three"/)
    writeFileSync(join(dir, 'config.json'), '[')
    await failure(() => readHeads(dir, base), 'ERR_MODEL_CONFIG', /not JSON/)
  })
})

test('the spec for C++ carries the heads', async () => {
  const read = await heads({ format: 'E', rows: 2, tokenMap: [3, 1], medusaHeads: 2 })
  const progress = new Int32Array(new SharedArrayBuffer(8))
  const spec = modelSpecOf(base, read, { backend: 'cpu', isa: 'auto', threads: 0, dtype: 'auto', progress })
  expect(spec.heads).toMatchObject({ medusaHeads: 2, blocks: 1, tokenMap: Int32Array.of(3, 1) })
  expect(spec.heads!.files).toEqual([join(read.path, 'model.safetensors')])
  expect(tensorCount(spec)).toBe(21 + 6)
})

/** accuracy.json of heads that were calibrated; every share of a path is the same. */
const withPaths = (paths: readonly (readonly number[])[], share = 0.1) =>
  JSON.stringify({ rank_accuracy: [[0.5]], paths: paths.map((ranks) => ({ ranks, share })) })

describe('accuracy.json', () => {
  const write = async (text: string | null) => {
    const { dir } = await writeTinyHeads(next(), model)
    if (text !== null) writeFileSync(join(dir, 'accuracy.json'), text)
    return readHeads(dir, base)
  }

  test('says how often drafts are right', async () => {
    const table = [[0.5, 0.2], [0.4, 0.1, 0.3], [0.2]]
    expect((await write(JSON.stringify({ rank_accuracy: table, steps: 7 }))).accuracy).toEqual(table)
    expect((await write(null)).accuracy).toBeNull()
    const demo = await findHeads(await readModelFolder(join(packageRoot(), 'models', 'demo')))
    expect(demo!.accuracy).toHaveLength(4)
    expect(demo!.accuracy![0]).toHaveLength(10)
  })

  test('may say which tree was grown for the heads', async () => {
    const { accuracy, grown, warnings } = await write(withPaths([[1], [1, 0], [0]], 0.25))
    expect(accuracy).toEqual([[0.5]])
    expect(grown).toEqual([
      { ranks: [1], share: 0.25 },
      { ranks: [1, 0], share: 0.25 },
      { ranks: [0], share: 0.25 },
    ])
    expect(warnings).toEqual([])
    expect((await write('{"rank_accuracy": [[0.5]]}')).grown).toBeNull()
  })

  test('of more heads than there are is read for those there are', async () => {
    const read = await write(JSON.stringify({ rank_accuracy: new Array(9).fill([0.5]) }))
    expect(read.accuracy).toHaveLength(read.medusaHeads)
  })

  test.each([
    ['empty', ''],
    ['no JSON', '{"rank_accuracy": [[0.5'],
    ['an array', '[[0.5]]'],
    ['without the table', '{}'],
    ['without rows', '{"rank_accuracy": []}'],
    ['with an empty row', '{"rank_accuracy": [[]]}'],
    ['with a share above 1', '{"rank_accuracy": [[1.5]]}'],
    ['with a negative share', '{"rank_accuracy": [[-0.1]]}'],
    ['with text for a share', '{"rank_accuracy": [["0.5"]]}'],
    ['with null for a share', '{"rank_accuracy": [[null]]}'],
    ['with 1e999', '{"rank_accuracy": [[1e999]]}'],
    ['with shares of more than all', '{"rank_accuracy": [[0.6, 0.6]]}'],
    ['with a path that repeats', withPaths([[0], [0]])],
    ['with a path before its parent', withPaths([[0, 0], [0]])],
    ['with a path to nowhere', withPaths([[]])],
    ['with a rank that no tree has', withPaths([[10]])],
    ['with half a rank', withPaths([[0.5]])],
    ['with siblings right more often than there are tokens', withPaths([[0], [1], [2]], 0.4)],
    ['with more paths than a tree', withPaths(Array.from({ length: 64 }, (_, depth) => new Array(depth + 1).fill(0)))],
    ['with a path without a share', JSON.stringify({ rank_accuracy: [[0.5]], paths: [{ ranks: [0] }] })],
    ['with counts of nothing', JSON.stringify({ rank_accuracy: [[0.5]], counts: [-1] })],
    ['of a thousand heads', JSON.stringify({ rank_accuracy: new Array(1000).fill([0.1]) })],
    ['of endless nesting', '['.repeat(10_000)],
  ])('%s is a warning, and no more', async (_, text) => {
    const { accuracy, warnings } = await write(text)
    expect(accuracy).toBeNull()
    expect(warnings).toHaveLength(1)
    expect(warnings[0]).toMatch(/accuracy\.json.*Trees are chosen without it\.$/s)
  })
})
