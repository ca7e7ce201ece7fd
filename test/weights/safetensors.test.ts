// Safetensors headers: what is written is read back, and whatever does not hold is refused.
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isGorgonError } from '../../src/errors.js'
import {
  DTYPE_BYTES,
  MAX_RANK,
  openSafetensors,
  readTensorBytes,
  type TensorData,
  writeSafetensors,
} from '../../src/weights/safetensors.js'
import { HOSTILE_SAFETENSORS, rawFile } from '../fixtures/hostile/safetensors.js'
import { failure } from '../support/errors.js'
import { temporaryFolder } from '../support/folder.js'

const folder = temporaryFolder()
const file = (name: string) => join(folder, name)

describe('a valid file', () => {
  test('gives back every tensor, its bytes and the metadata', async () => {
    const names = fc.uniqueArray(
      fc.string({ minLength: 1 }).filter((name) => name !== '__metadata__'),
      { maxLength: 8 },
    )
    const shape = fc.array(fc.nat({ max: 5 }), { maxLength: MAX_RANK - 4 })
    const dtype = fc.constantFrom(...Object.keys(DTYPE_BYTES))
    const property = fc.asyncProperty(names, fc.infiniteStream(fc.tuple(shape, dtype)), async (keys, stream) => {
      const tensors = new Map<string, TensorData>()
      for (const [index, key] of keys.entries()) {
        const [dims, type] = stream.next().value as [number[], string]
        const bytes = dims.reduce((product, n) => product * n, DTYPE_BYTES[type]!)
        tensors.set(key, { dtype: type, shape: dims, data: new Uint8Array(bytes).fill(index + 1) })
      }
      const path = file('round-trip.safetensors')
      await writeSafetensors(path, tensors, { origin: 'test' })
      const read = await openSafetensors(path)
      expect(read.metadata).toEqual({ origin: 'test' })
      expect([...read.tensors.keys()].sort()).toEqual([...tensors.keys()].sort())
      for (const [key, { dtype: type, shape: dims, data }] of tensors) {
        const entry = read.tensors.get(key)!
        expect(entry).toMatchObject({ dtype: type, shape: dims })
        expect(await readTensorBytes(path, entry)).toEqual(data)
      }
    })
    await fc.assert(property, { numRuns: 60 })
  })

  test('may have names that mean something to JavaScript', async () => {
    const one = { dtype: 'U8', shape: [1], data: new Uint8Array(1) }
    const names = ['__proto__', 'constructor', 'toString']
    await writeSafetensors(file('names.safetensors'), new Map(names.map((name) => [name, one])))
    expect([...(await openSafetensors(file('names.safetensors'))).tensors.keys()]).toEqual(names)
  })

  test('may have its tensors in any order, at odd offsets, and its header padded', async () => {
    const header =
      '{"b":{"dtype":"F32","shape":[1],"data_offsets":[3,7]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}   '
    writeFileSync(file('odd.safetensors'), rawFile(header, 7))
    const { tensors } = await openSafetensors(file('odd.safetensors'))
    expect(tensors.get('b')!.begin).toBe(8 + header.length + 3)
  })

  test('may hold no tensors, and empty or scalar ones', async () => {
    await writeSafetensors(file('none.safetensors'), {})
    expect((await openSafetensors(file('none.safetensors'))).tensors.size).toBe(0)
    await writeSafetensors(file('small.safetensors'), {
      empty: { dtype: 'F32', shape: [4, 0], data: new Uint8Array(0) },
      scalar: { dtype: 'F32', shape: [], data: new Uint8Array(4) },
    })
    expect((await openSafetensors(file('small.safetensors'))).tensors.get('scalar')!.shape).toEqual([])
  })
})

describe('a hostile file is refused:', () => {
  test.each(HOSTILE_SAFETENSORS)('$name', async ({ name, bytes, code, says }) => {
    const path = file(`hostile ${name.replaceAll('/', '-')}.safetensors`)
    writeFileSync(path, bytes())
    const error = await failure(() => openSafetensors(path), code, says)
    expect(error.message).toContain(path)
    expect(error.details['file']).toBe(path)
  })

  test('any damage to a header is refused or leaves ranges inside the file', async () => {
    const path = file('good.safetensors')
    const data = (n: number) => new Uint8Array(n)
    await writeSafetensors(path, {
      'model.norm.weight': { dtype: 'BF16', shape: [8], data: data(16) },
      '0.0.linear.weight': { dtype: 'F32', shape: [4, 4], data: data(64) },
    })
    const good = readFileSync(path)
    const damaged = file('damaged.safetensors')
    const property = fc.asyncProperty(
      fc.nat({ max: good.length - 1 }),
      fc.nat({ max: 255 }),
      fc.nat({ max: 40 }),
      async (at, byte, cut) => {
        const bytes = Uint8Array.from(good.subarray(0, good.length - cut))
        if (at < bytes.length) bytes[at] = byte
        writeFileSync(damaged, bytes)
        try {
          for (const { begin, end } of (await openSafetensors(damaged)).tensors.values()) {
            expect(begin).toBeGreaterThanOrEqual(8)
            expect(end).toBeGreaterThanOrEqual(begin)
            expect(end).toBeLessThanOrEqual(bytes.length)
          }
        } catch (error) {
          if (!isGorgonError(error)) throw error
          expect(error.code).toBe('ERR_SAFETENSORS')
        }
      },
    )
    await fc.assert(property, { numRuns: 400 })
  })
})

describe('a file that cannot be read', () => {
  test('is ERR_FILE, naming it', async () => {
    await failure(() => openSafetensors(file('absent.safetensors')), 'ERR_FILE', /absent\.safetensors cannot be read/)
    mkdirSync(file('folder.safetensors'))
    await failure(() => openSafetensors(file('folder.safetensors')), 'ERR_FILE', /not a regular file/)
  })

  test('is ERR_FILE and does not wait when it is a pipe', async () => {
    execFileSync('mkfifo', [file('pipe.safetensors')])
    await failure(() => openSafetensors(file('pipe.safetensors')), 'ERR_FILE', /not a regular file/)
  })

  test('is ERR_FILE when it becomes shorter before a tensor is read', async () => {
    const path = file('shrinks.safetensors')
    await writeSafetensors(path, { a: { dtype: 'F32', shape: [4], data: new Uint8Array(16) } })
    const entry = (await openSafetensors(path)).tensors.get('a')!
    writeFileSync(path, readFileSync(path).subarray(0, -8))
    await failure(() => readTensorBytes(path, entry), 'ERR_FILE', /ended at byte/)
  })
})

describe('writing', () => {
  test('takes tensors piece by piece, one after the other', async () => {
    const order: string[] = []
    const streamed = (name: string, pieces: readonly number[][]): TensorData => ({
      dtype: 'U8',
      shape: [pieces.flat().length],
      data: async function* () {
        for (const piece of pieces) {
          order.push(name)
          yield Uint8Array.from(piece)
        }
      },
    })
    const path = file('streamed.safetensors')
    const tensors = new Map([
      ['a', streamed('a', [[1, 2], [], [3]])],
      ['b', { dtype: 'I16', shape: [1], data: Uint8Array.of(4, 5) }],
      ['c', streamed('c', [[6], [7]])],
    ])
    await writeSafetensors(path, tensors)
    const read = await openSafetensors(path)
    const bytes = await Promise.all(['a', 'b', 'c'].map((name) => readTensorBytes(path, read.tensors.get(name)!)))
    expect(bytes.map((one) => [...one])).toEqual([
      [1, 2, 3],
      [4, 5],
      [6, 7],
    ])
    expect(order.join('')).toBe('aaacc')
  })

  test.each([
    ['whose bytes do not fit its shape', { dtype: 'F32', shape: [2], data: new Uint8Array(4) }, /8 bytes; 4 were/],
    ['whose pieces are too few', { dtype: 'F32', shape: [2], data: pieces(4) }, /8 bytes; 4 were/],
    ['whose pieces are too many', { dtype: 'F32', shape: [2], data: pieces(4, 4, 4) }, /8 bytes; 12 were/],
    ['of an unknown dtype', { dtype: 'toString', shape: [], data: new Uint8Array(4) }, /dtype whose size is not known/],
  ])('refuses a tensor %s, and leaves what was there', async (_, tensor, says) => {
    const path = file('kept.safetensors')
    await writeSafetensors(path, { kept: { dtype: 'U8', shape: [1], data: Uint8Array.of(7) } })
    await failure(() => writeSafetensors(path, { kept: tensor }), 'ERR_TENSOR', says)
    expect([...(await readTensorBytes(path, (await openSafetensors(path)).tensors.get('kept')!))]).toEqual([7])
    expect(readdirSync(folder).filter((name) => name.endsWith('.part'))).toEqual([])
  })
})

/** Pieces of as many zeros. */
function pieces(...sizes: readonly number[]): () => AsyncIterable<Uint8Array> {
  return async function* () {
    for (const size of sizes) yield new Uint8Array(size)
  }
}
