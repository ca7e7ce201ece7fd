// Heads in each layout: nothing they hold is lost or changed, and readers find what they expect.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { convertHeads } from '../../../heads/convert/convert.js'
import { readHeads, readModelFolder } from '../../../src/weights/load.js'
import {
  openSafetensors,
  readTensorBytes,
  type TensorData,
  writeSafetensors,
} from '../../../src/weights/safetensors.js'
import { failure } from '../../support/errors.js'
import { type TinyHeadsOptions, writeTinyModel } from '../../support/tiny-model.js'
import { configOf, contentOf, conversions, fileOf, type Layout } from './conversions.js'

const of = conversions()

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
    const source = await of.tinyHeads(from, options)
    const between = await of.converted(source, by, { model: of.model })
    const back = await of.converted(between, from, { model: of.model })
    expect(await contentOf(back)).toEqual(await contentOf(source))
    for (const dir of [between, back]) {
      expect(await readHeads(dir, of.base)).toMatchObject({ medusaHeads: 3, warnings: [] })
    }
    if (from !== 'B') expect(await of.rolesOf(between)).toEqual(await of.rolesOf(source))
  })
})

describe('what becomes of projections', () => {
  test('one for all is stored once in E, and once for each head in A', async () => {
    const source = await of.tinyHeads('E', { sharedProjection: true })
    const a = await of.converted(source, 'A')
    expect(await of.rolesOf(a)).toEqual(await of.rolesOf(source))
    expect(Object.keys(await contentOf(a)).filter((name) => /^\d\.1\.weight$/.test(name))).toHaveLength(3)
    expect(await contentOf(await of.converted(source, 'E'))).toEqual(await contentOf(source))
  })

  test('lm_heads.0 that serves all, as some configurations say', async () => {
    const source = await of.tinyHeads('E', { medusaHeads: 1 })
    const three = of.next()
    mkdirSync(three)
    const data = await contentOf(source)
    const tensors = new Map<string, TensorData>()
    for (const [name, value] of Object.entries(data)) {
      const { dtype, shape, data: hex } = value
      for (const head of name.startsWith('blocks.') ? [0, 1, 2] : [0]) {
        tensors.set(name.replace('blocks.0', `blocks.${head}`), { dtype, shape, data: Buffer.from(hex, 'hex') })
      }
    }
    await writeSafetensors(join(three, 'model.safetensors'), tensors)
    writeFileSync(
      join(three, 'config.json'),
      JSON.stringify({ model_type: 'medusa', original_lm_head: true, medusa_fc_bias: true }),
    )
    const out = await of.converted(three, 'E')
    expect(await readHeads(out, of.base)).toMatchObject({ medusaHeads: 3, projection: 'shared', warnings: [] })
    expect(await of.rolesOf(out)).toEqual(await of.rolesOf(three))
  })

  test("B takes the model's lm_head, or its embedding where they are tied", async () => {
    for (const tied of [false, true]) {
      const own = await writeTinyModel(of.next(), { tied, dtype: 'bf16' })
      const source = await of.tinyHeads('B')
      const a = await of.converted(source, 'A', { model: own.dir })
      const folder = await readModelFolder(own.dir)
      const { file, begin, end } = (folder.tensors['lm_head'] ?? folder.tensors['embed'])!
      const lmHead = await readTensorBytes(folder.table.files[file]!, { begin, end })
      const roles = await of.rolesOf(a, folder)
      for (const head of [0, 1, 2]) {
        expect(roles[`${head}.projection`]).toMatchObject({ data: Buffer.from(lmHead).toString('hex') })
      }
    }
    const source = await of.tinyHeads('B')
    await failure(() => of.converted(source, 'A'), 'ERR_OPTION', /no projections of its own.*--model/)
  })

  test('B leaves them out only where they are the lm_head, in whatever dtype', async () => {
    const a = await of.converted(await of.tinyHeads('B'), 'A', { model: of.model })
    await failure(() => of.converted(a, 'B'), 'ERR_OPTION', /projections of its own.*--model/)
    const wide = await of.converted(a, 'A', { dtype: 'f32' })
    expect(await readHeads(await of.converted(wide, 'B', { model: of.model }), of.base)).toMatchObject({ format: 'B' })

    for (const dir of [a, wide]) {
      const path = fileOf(dir)
      const bytes = readFileSync(path)
      bytes[(await openSafetensors(path)).tensors.get('2.1.weight')!.end - 1]! ^= 1
      writeFileSync(path, bytes)
      const refused = () => of.converted(dir, 'B', { model: of.model })
      await failure(refused, 'ERR_HEADS_FORMAT', /other values than that of.*layout A or E/)
    }
    const few = await of.tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127] })
    await failure(() => of.converted(few, 'B', { model: of.model }), 'ERR_HEADS_FORMAT', /know fewer tokens/)
    const padded = await of.tinyHeads('A', { rows: 160 })
    await failure(() => of.converted(padded, 'B', { model: of.model }), 'ERR_HEADS_FORMAT', /another number of rows/)
  })

  test('rows beyond the vocabulary stay', async () => {
    const out = await of.converted(await of.tinyHeads('A', { rows: 160 }), 'E', { model: of.model })
    expect(configOf(out)).toMatchObject({ vocab_size: 160, truncated_vocab_size: 160 })
  })
})

describe('what its readers find in config.json', () => {
  test('vLLM: the class, sizes, biases, and one projection or several', async () => {
    const source = await of.tinyHeads('A', { config: { max_paths: 7, decoding_strategy: 'tree', num_things: 2 } })
    expect(configOf(await of.converted(source, 'E'))).toEqual({
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
    const few = await of.tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127], bias: false })
    await failure(() => of.converted(few, 'E'), 'ERR_OPTION', /nothing says how many tokens its model has.*--model/)
    expect(configOf(await of.converted(few, 'E', { model: of.model }))).toMatchObject({
      vocab_size: 128,
      truncated_vocab_size: 3,
      medusa_fc_bias: false,
    })
    const shared = await of.converted(await of.tinyHeads('B'), 'E', { model: of.model })
    expect(configOf(shared)).toMatchObject({ original_lm_head: true, vocab_size: 128 })
  })

  test('TGI: its three fields, and the version where the lm_head projects', async () => {
    expect(
      configOf(await of.converted(await of.tinyHeads('E', { config: { base_model_name_or_path: 'of/hub' } }), 'A')),
    ).toEqual({
      medusa_num_heads: 3,
      medusa_num_layers: 1,
      base_model_name_or_path: 'of/hub',
    })
    const b = await of.converted(await of.tinyHeads('B', { config: { medusa_num_heads: 2 } }), 'B')
    expect(configOf(b)).toMatchObject({ medusa_num_heads: 3, version: '2' })
  })

  test('a path to the model that leads there from the new folder', async () => {
    const source = await of.tinyHeads('B', { config: { base_model_name_or_path: '../elsewhere' } })
    expect(configOf(await of.converted(source, 'B'))['base_model_name_or_path']).toBe(join(of.folder, 'elsewhere'))
    const silent = await of.tinyHeads('B', { config: { base_model_name_or_path: null } })
    expect(configOf(await of.converted(silent, 'B', { model: of.model }))['base_model_name_or_path']).toBe(of.model)
    const { warnings } = await convertHeads({ source: silent, to: 'B', out: of.next() })
    expect(warnings).toEqual([expect.stringMatching(/which TGI asks for/)])
  })

  test('a warning of each thing that readers of the layout do not read', async () => {
    const warningsOf = async (source: string, to: Layout) =>
      (await convertHeads({ source, to, out: of.next() })).warnings
    const scaled = await of.tinyHeads('E', { config: { logit_scale: 0.5, base_model_name_or_path: 'x' } })
    expect(await warningsOf(scaled, 'A')).toEqual([expect.stringMatching(/logit_scale 0\.5 is kept/)])
    const mapped = await of.tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127] })
    expect(await warningsOf(mapped, 'A')).toEqual([expect.stringMatching(/token map in layout A/)])
    expect(await warningsOf(await of.tinyHeads('B', { blocks: 2 }), 'B')).toEqual([
      expect.stringMatching(/one block per/),
    ])
    const wrong = await of.tinyHeads('A', { config: { medusa_num_heads: 2 } })
    expect(await warningsOf(wrong, 'A')).toEqual([expect.stringMatching(/says heads: 2, the tensors say 3/)])
    const lost = await of.tinyHeads('E', {
      bias: false,
      config: { medusa_fc_bias: true, base_model_name_or_path: 'x' },
    })
    expect(await warningsOf(lost, 'E')).toEqual([expect.stringMatching(/were they lost in a conversion/)])
    const reversed = await of.tinyHeads('E', { config: { logit_scale: -1 } })
    await failure(() => warningsOf(reversed, 'A'), 'ERR_UNSUPPORTED', /reverses the order/)
  })
})

describe('biases that are not stored', () => {
  test('are zeros for readers that expect them, and left out for vLLM, which can be told', async () => {
    const source = await of.tinyHeads('A', { bias: false })
    const out = of.next()
    const report = await convertHeads({ source, to: 'A', out })
    expect(report).toMatchObject({
      bias: true,
      warnings: [expect.stringMatching(/not stored \(3\) are written as zeros/)],
    })
    expect((await contentOf(out))['1.0.linear.bias']).toEqual({ dtype: 'BF16', shape: [64], data: '0'.repeat(256) })
    const e = await of.converted(source, 'E')
    expect(await readHeads(e, of.base)).toMatchObject({ bias: 'none', warnings: [] })
  })

  test('of some blocks are zeros for vLLM too, which expects all or none', async () => {
    const source = await of.tinyHeads('A')
    const path = fileOf(source)
    const { tensors } = await openSafetensors(path)
    const kept = new Map<string, TensorData>()
    for (const [name, entry] of tensors) {
      if (name !== '1.0.linear.bias') kept.set(name, { ...entry, data: await readTensorBytes(path, entry) })
    }
    await writeSafetensors(path, kept)
    const out = of.next()
    const { warnings } = await convertHeads({ source, to: 'E', out })
    expect(warnings).toContainEqual(expect.stringMatching(/not stored \(1\) are written as zeros/))
    expect(await readHeads(out, of.base)).toMatchObject({ bias: 'all', warnings: [] })
  })
})
