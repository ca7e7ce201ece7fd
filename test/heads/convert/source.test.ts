// Where heads to convert come from: folders, files, whole models, what torch.save wrote; and what is no heads.
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { convertHeads } from '../../../heads/convert/convert.js'
import { readHeads, readModelFolder } from '../../../src/weights/load.js'
import { type TensorData, writeSafetensors } from '../../../src/weights/safetensors.js'
import { failure } from '../../support/errors.js'
import { writeTinyModel } from '../../support/tiny-model.js'
import { torchFile, torchTensor } from '../../support/torch-file.js'
import { configOf, contentOf, conversions } from './conversions.js'

const of = conversions()

describe('what is read', () => {
  test('heads fused into a model, which is then their model', async () => {
    for (const projection of [true, false]) {
      const fused = await writeTinyModel(of.next(), { fusedHeads: { projection }, shards: 3, dtype: 'bf16' })
      const read = await readModelFolder(fused.dir)
      const e = await of.converted(fused.dir, 'E')
      expect(configOf(e)).toMatchObject({ base_model_name_or_path: fused.dir, original_lm_head: !projection })
      if (projection) expect(await of.rolesOf(e, read)).toEqual(await of.rolesOf(fused.dir, read))
      else expect(await of.rolesOf(await of.converted(fused.dir, 'B'), read)).toEqual(await of.rolesOf(fused.dir, read))
    }
    await failure(() => of.converted(of.model, 'A'), 'ERR_HEADS_FORMAT', /a model without Medusa heads/)
  })

  /** The same heads as torch.save would write them. */
  async function asPickle(source: string, prefix = ''): Promise<Buffer> {
    const storages: Record<string, Uint8Array> = {}
    const tensors: Record<string, unknown> = {}
    for (const [name, value] of Object.entries(await contentOf(source))) {
      const { shape, data } = value
      const key = String(Object.keys(storages).length)
      storages[key] = Buffer.from(data, 'hex')
      tensors[prefix + name] = torchTensor({ storage: 'BFloat16Storage', key, size: data.length / 4, shape })
    }
    return torchFile(tensors, storages)
  }

  test('what torch.save wrote, as a file or in a folder', async () => {
    const source = await of.tinyHeads('A')
    const dir = of.next()
    mkdirSync(dir)
    writeFileSync(join(dir, 'medusa_lm_head.pt'), await asPickle(source))
    copyFileSync(join(source, 'config.json'), join(dir, 'config.json'))
    for (const path of [dir, join(dir, 'medusa_lm_head.pt')]) {
      expect(await contentOf(await of.converted(path, 'A'))).toEqual(await contentOf(source))
    }
    await failure(() => readHeads(dir, of.base), 'ERR_HEADS_FORMAT', /gorgon heads convert ".*\.pt" --to A --out DIR/)
    // What a training script leaves beside them.
    for (const name of ['optimizer.pt', 'training_args.bin']) writeFileSync(join(dir, name), '')
    expect(await contentOf(await of.converted(dir, 'A'))).toEqual(await contentOf(source))
  })

  test('but not one of several files that torch.save wrote, where none or more than one has the name of heads', async () => {
    const dir = of.next()
    mkdirSync(dir)
    for (const name of ['heads.pt', 'optimizer.pt']) writeFileSync(join(dir, name), '')
    const says = /"heads\.pt", "optimizer\.pt".*the one with the heads/
    await failure(() => of.converted(dir, 'A'), 'ERR_HEADS_FORMAT', says)
    for (const name of ['medusa_lm_head.pt', 'medusa_lm_head.bin']) writeFileSync(join(dir, name), '')
    const both = /"medusa_lm_head\.bin", "medusa_lm_head\.pt"\. Give/
    await failure(() => of.converted(dir, 'A'), 'ERR_HEADS_FORMAT', both)
  })

  test('heads fused into the shards of a model that torch.save wrote', async () => {
    const source = await of.tinyHeads('A')
    const dir = of.next()
    mkdirSync(dir)
    const layer = torchTensor({ storage: 'QuantisedBeyondUs', size: 1, shape: [1] })
    const shard = (n: number) => join(dir, `pytorch_model-0000${n}-of-00002.bin`)
    writeFileSync(
      shard(1),
      torchFile({ 'model.layers.0.x': torchTensor({ storage: 'CharStorage', size: 1, shape: [1] }) }),
    )
    writeFileSync(shard(2), await asPickle(source, 'medusa_head.'))
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ model_type: 'llama', num_attention_heads: 32 }))
    const out = of.next()
    expect(await convertHeads({ source: dir, to: 'A', out })).toMatchObject({ from: 'C', warnings: [] })
    expect(await contentOf(out)).toEqual(await contentOf(source))
    writeFileSync(shard(1), torchFile({ 'model.layers.0.x': layer }))
    await failure(() => of.converted(dir, 'A'), 'ERR_HEADS_FORMAT', /QuantisedBeyondUs/)
    writeFileSync(shard(1), await asPickle(source, 'medusa_head.'))
    await failure(() => of.converted(dir, 'A'), 'ERR_HEADS_FORMAT', /so has another shard/)
  })

  test('heads of another model', async () => {
    const other = await writeTinyModel(of.next(), { hidden: 32 })
    const source = await of.tinyHeads('A')
    await failure(() => of.converted(source, 'E', { model: other.dir }), 'ERR_HEADS_MISMATCH', /width 64; .* has 32/)
    const larger = await writeTinyModel(of.next(), { vocab: 130 })
    await failure(() => of.converted(source, 'E', { model: larger.dir }), 'ERR_HEADS_MISMATCH', /knows 128 tokens.*130/)
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
    const dir = of.next()
    mkdirSync(dir)
    await writeSafetensors(join(dir, 'model.safetensors'), tensors)
    await failure(() => of.converted(dir, 'A'), code, says)
  })
})

function zeros(shape: readonly number[], dtype = 'F32'): TensorData {
  const bytes = { F32: 4, I32: 4, I8: 1 }[dtype]!
  return { dtype, shape, data: new Uint8Array(shape.reduce((product, n) => product * n, bytes)) }
}
