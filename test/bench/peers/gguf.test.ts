// GGUF files hold what was put into them, where the format wants it.
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type GgufTensor, type GgufValue, writeGguf } from '../../../bench/peers/gguf.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { floatsOf, readGguf } from './read-gguf.js'

const dir = temporaryFolder()
const path = join(dir, 'file.gguf')

function tensor(name: string, values: readonly number[], shape: readonly number[] = [values.length]): GgufTensor {
  return { name, type: 'f32', shape, read: async () => new Uint8Array(Float32Array.from(values).buffer) }
}

describe('writeGguf', () => {
  it('every type of value comes back', async () => {
    const metadata = new Map<string, GgufValue>([
      ['count', { type: 'u32', value: 2 ** 32 - 1 }],
      ['share', { type: 'f32', value: 1e-5 }],
      ['yes', { type: 'bool', value: true }],
      ['no', { type: 'bool', value: false }],
      ['name', { type: 'string', value: 'ünïcode' }],
      ['words', { type: 'strings', value: ['', 'Ġa', 'b'] }],
      ['none', { type: 'strings', value: [] }],
      ['numbers', { type: 'i32s', value: [-1, 5] }],
    ])
    await writeGguf(path, metadata, [])
    const file = await readGguf(path)
    expect(file.version).toBe(3)
    expect(Object.fromEntries(file.metadata)).toEqual({
      count: 2 ** 32 - 1,
      share: Math.fround(1e-5),
      yes: true,
      no: false,
      name: 'ünïcode',
      words: ['', 'Ġa', 'b'],
      none: [],
      numbers: [-1, 5],
    })
  })

  it('tensors come back, innermost size first, each aligned, the file ending with the last one padded', async () => {
    const bytes = await writeGguf(path, new Map(), [
      tensor('a', [1, 2, 3, 4, 5, 6], [2, 3]),
      tensor('b', [7]),
      tensor('c', [8, 9]),
    ])
    const { tensors, dataBegin } = await readGguf(path)
    expect([...tensors.keys()]).toEqual(['a', 'b', 'c'])
    expect(tensors.get('a')!.sizes).toEqual([3, 2])
    expect(floatsOf(tensors.get('a')!.data)).toEqual([1, 2, 3, 4, 5, 6])
    expect(floatsOf(tensors.get('b')!.data)).toEqual([7])
    expect(floatsOf(tensors.get('c')!.data)).toEqual([8, 9])
    expect(bytes).toBe(dataBegin + 3 * 32)
    expect((await stat(path)).size).toBe(bytes)
  })

  it('refuses data that are not as long as the shape says', async () => {
    const short = { ...tensor('short', [1, 2]), shape: [3] }
    const error = await failure(() => writeGguf(path, new Map(), [short]), 'ERR_TENSOR', /"short"/)
    expect(error.details).toMatchObject({ expected: 12, found: 8 })
  })

  it.each([
    ['an empty name', tensor('', [1])],
    ['a name of 64 bytes', tensor('n'.repeat(64), [1])],
    ['no sizes', tensor('scalar', [1], [])],
    ['five sizes', tensor('five', [1], [1, 1, 1, 1, 1])],
    ['a size of 0', tensor('empty', [], [0])],
  ])('refuses %s', async (_, bad) => {
    await failure(() => writeGguf(path, new Map(), [bad]), 'ERR_TENSOR')
  })

  it('takes a name of 63 bytes', async () => {
    await writeGguf(path, new Map(), [tensor('n'.repeat(63), [1])])
    expect((await readGguf(path)).tensors.size).toBe(1)
  })

  it('says where it cannot write', async () => {
    await failure(() => writeGguf(join(dir, 'missing', 'file.gguf'), new Map(), []), 'ERR_FILE', /missing/)
  })
})
