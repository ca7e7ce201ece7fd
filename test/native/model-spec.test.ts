// openModel against specs that lie: about files, byte ranges, shapes and sizes. Each is refused with its code, and nothing stays behind.
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { chmod, copyFile, mkdir, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import type { ErrorCode } from '../../src/errors.js'
import { type ModelSpec, native, type TensorSlice } from '../../src/native.js'
import { tensorCount } from '../../src/weights/load.js'
import { hasCuda } from '../support/backend.js'
import { temporaryFolder } from '../support/folder.js'
import { ABSENT, changed, plainTokens, readySession, refused, specOf } from '../support/native-calls.js'
import { writeTinyHeads, writeTinyModel } from '../support/tiny-model.js'

const dir = temporaryFolder()
const addon = native()
const model = join(dir, 'model')
const heads = join(dir, 'heads')
let spec: ModelSpec
let file: string
let fileBytes: number

beforeAll(async () => {
  const tiny = await writeTinyModel(model, { architecture: 'qwen3', seed: 5 })
  await writeTinyHeads(heads, tiny, { blocks: 2 })
  spec = await specOf(model, heads)
  file = spec.files[0]!
  fileBytes = Math.max(...Object.values(spec.tensors).map(({ end }) => end))
})

/** A copy with one tensor's slice changed, or taken away. */
function withSlice(name: string, change: Partial<Record<keyof TensorSlice, unknown>> | null): ModelSpec {
  const [table, key] = name.startsWith('heads:') ? ['heads.tensors', name.slice(6)] : ['tensors', name]
  const tensors = (table === 'tensors' ? spec.tensors : spec.heads!.tensors) as Record<string, TensorSlice>
  const { [key]: slice, ...others } = tensors
  if (!slice) throw new Error(`the model has no ${key}`)
  return changed(spec, table, change === null ? others : { ...others, [key]: { ...slice, ...change } })
}

const withFile = (path: string): ModelSpec => ({ ...spec, files: [path] })

async function refuse(lie: unknown, code: ErrorCode, says?: RegExp): Promise<void> {
  const error = await refused(() => addon.openModel(lie as ModelSpec), code, says?.source)
  if (says) expect(error.message).toMatch(says)
}

/** Greedy tokens of the model of a spec: it is whole. */
async function tokensOf(of: ModelSpec): Promise<number[]> {
  const opened = await addon.openModel(of)
  const { session, drafts } = await readySession(opened)
  const tokens = await plainTokens(session, drafts.root, 8)
  await Promise.all([addon.close(session), addon.close(opened)])
  return tokens
}

describe('fields', () => {
  const notNumbers = [ABSENT, null, '1', 1n, [], Number.NaN, Number.POSITIVE_INFINITY, 0.5, 2 ** 53]
  const notSizes = [...notNumbers, 0, -1, -(2 ** 40), 2 ** 40]

  it('of the wrong type or size', async () => {
    const table: readonly (readonly [field: string, values: readonly unknown[], code?: ErrorCode])[] = [
      ['', [undefined, null, 1, 'spec', Symbol('s'), []]],
      ['backend', [ABSENT, null, 1]],
      ['backend', ['', 'cdua', ...(hasCuda ? [] : ['cuda']), 'cpu\0'], 'ERR_DEVICE'],
      ['isa', [ABSENT, null, 1]],
      ['isa', ['', 'avx1024'], 'ERR_DEVICE'],
      ['threads', [...notNumbers, -1, 1025]],
      ['device', [...notNumbers.filter((value) => value !== ABSENT), -1, 1025]],
      ['memoryBudget', [...notNumbers.filter((value) => value !== ABSENT), -1]],
      ['dtype', [ABSENT, null, 1]],
      ['dtype', ['', 'f64', 'BF16', 'i32', 'int8'], 'ERR_DTYPE'],
      ['weights', [ABSENT, null, 1]],
      ['weights', ['', 'int4', 'INT8', 'auto', 'bf16'], 'ERR_DTYPE'],
      ['files', [ABSENT, null, 'file', { 0: file, length: 1 }, [1], [null], new Array(2)]],
      ['shape', [ABSENT, null, 1, [], {}]],
      ...['layers', 'hidden', 'ffn', 'vocab', 'queryHeads', 'kvHeads', 'headDim', 'maxPositions'].map(
        (size) => [`shape.${size}`, notSizes] as const,
      ),
      ['shape.rmsEps', [ABSENT, null, '1', Number.NaN, Number.POSITIVE_INFINITY, 1e300]],
      ['shape.ropeScale', [ABSENT, null, '1', Number.NaN, Number.POSITIVE_INFINITY]],
      ['shape.inverseFrequencies', [ABSENT, null, [1], new Float64Array(8)]],
      ['shape.inverseFrequencies', [new Float32Array(0), new Float32Array(7), new Float32Array(9)], 'ERR_SHAPE'],
      ['shape.slidingWindows', [ABSENT, null, [0, 0], new Uint32Array(2)]],
      [
        'shape.slidingWindows',
        [new Int32Array(0), new Int32Array(1), new Int32Array(3), Int32Array.of(0, -1)],
        'ERR_SHAPE',
      ],
      ['tensors', [ABSENT, null, 1, 'all']],
      ['tensors', [{}, []], 'ERR_SHAPE'],
      ['tensors.embed', [null, 1, 'bytes', {}]],
      ['heads', [1, 'heads', [], {}]],
      ['heads.medusaHeads', [...notNumbers, 0, -1, 65]],
      ['heads.blocks', [...notNumbers, -1, 2 ** 40]],
      ['heads.files', [ABSENT, null, [1]]],
      ['heads.tensors', [ABSENT, null, 1]],
      ['heads.tensors', [{}], 'ERR_SHAPE'],
      ['heads.tokenMap', [ABSENT, 1, [1, 2], new Float32Array(2)]],
      ['progress', [ABSENT, null, [0, 0], new Int32Array(new SharedArrayBuffer(4)), new Int32Array(2)]],
      ['progress', [new Float32Array(new SharedArrayBuffer(8)), new SharedArrayBuffer(8)]],
    ]
    for (const [field, values, code = 'ERR_ARGUMENT'] of table) {
      for (const value of values) await refuse(changed(spec, field, value), code, undefined)
    }
  })

  it('that contradict each other', async () => {
    await refuse(changed(spec, 'shape.kvHeads', 3), 'ERR_SHAPE')
    await refuse(changed(spec, 'shape.kvHeads', 8), 'ERR_SHAPE')
    await refuse(
      changed(changed(spec, 'shape.headDim', 15), 'shape.inverseFrequencies', new Float32Array(7)),
      'ERR_SHAPE',
    )
    const wide = { ...spec.shape, headDim: 512, inverseFrequencies: new Float32Array(256) }
    await refuse({ ...spec, shape: wide }, 'ERR_SHAPE', /512 wide; at most 256/)
  })

  it('so large that only lies could be behind them cost no memory', async () => {
    const before = process.memoryUsage().rss
    for (const size of ['layers', 'hidden', 'ffn', 'vocab', 'queryHeads', 'maxPositions']) {
      const lie = changed(spec, `shape.${size}`, 2 ** 31 - 2)
      if (size === 'maxPositions') expect(await tokensOf(lie)).toEqual(await tokensOf(spec))
      else await refuse(lie, 'ERR_SHAPE')
    }
    // As many windows as layers, so that only the weights can tell.
    const layers = 2 ** 22
    const deep = { ...spec.shape, layers, slidingWindows: new Int32Array(layers) }
    await refuse({ ...spec, shape: deep }, 'ERR_SHAPE', /"layers\.2\.attn_norm" is missing/)
    await refuse(changed(spec, 'shape.ffn', 2 ** 25), 'ERR_SHAPE')
    expect(process.memoryUsage().rss - before).toBeLessThan(256 * 2 ** 20)
  })
})

describe('tensors', () => {
  it('that are missing', async () => {
    const optional = /_bias$|^lm_head$|[qk]_norm$/
    for (const name of Object.keys(spec.tensors)) {
      if (!optional.test(name)) await refuse(withSlice(name, null), 'ERR_SHAPE', new RegExp(`"${name}" is missing`))
    }
    await refuse(withSlice('heads:1.block.0.weight', null), 'ERR_SHAPE', /"1\.block\.0\.weight" is missing/)
    // A head without a projection of its own uses the base model's, which a token map rules out.
    const reduced = changed(withSlice('heads:0.projection', null), 'heads.tokenMap', Int32Array.of(1, 2))
    await refuse(reduced, 'ERR_SHAPE')
  })

  it('of another shape', async () => {
    const bad = [
      [],
      [128],
      [64, 128],
      [128, 63],
      [128, 64, 1],
      [1, 128, 64],
      [-128, -64],
      [128, 2 ** 52],
      [2 ** 52, 2 ** 52],
    ]
    for (const shape of bad) await refuse(withSlice('embed', { shape }), 'ERR_SHAPE')
    for (const name of [
      'layers.1.q',
      'layers.0.down',
      'final_norm',
      'layers.0.k_norm',
      'heads:0.projection',
      'heads:2.block.1.bias',
    ]) {
      await refuse(withSlice(name, { shape: [3] }), 'ERR_SHAPE', /is \[3\], expected \[/)
    }
    for (const extent of ['128', null, 128.5, Number.NaN, Number.POSITIVE_INFINITY, 1n]) {
      await refuse(withSlice('embed', { shape: [extent, 64] }), 'ERR_ARGUMENT')
    }
    for (const shape of [undefined, null, 128, { 0: 128, 1: 64, length: 2 }]) {
      await refuse(withSlice('embed', { shape }), 'ERR_ARGUMENT')
    }
  })

  it('of a dtype nobody knows, or that takes another number of bytes', async () => {
    for (const dtype of ['i32', 'i64', 'F32', 'f8', '']) await refuse(withSlice('layers.0.q', { dtype }), 'ERR_DTYPE')
    for (const dtype of [undefined, null, 1]) await refuse(withSlice('layers.0.q', { dtype }), 'ERR_ARGUMENT')
    for (const dtype of ['f16', 'bf16']) await refuse(withSlice('layers.0.q', { dtype }), 'ERR_SHAPE')
  })

  it('whose bytes are not theirs', async () => {
    for (const name of ['embed', 'layers.0.attn_norm', 'layers.1.up', 'final_norm', 'heads:1.projection']) {
      const { begin, end } = name.startsWith('heads:') ? spec.heads!.tensors[name.slice(6)]! : spec.tensors[name]!
      const ranges: readonly (readonly [number, number])[] = [
        [begin, end + 1],
        [begin, end - 1],
        [begin + 1, end],
        [end, begin],
        [-1, end - begin - 1],
        [begin - end, 0],
        [0, 0],
        [0, 2 ** 53 - 1],
        [-(2 ** 53) + 1, 2 ** 53 - 1],
        [2 ** 52, 2 ** 52 + end - begin],
        [fileBytes * 2, fileBytes * 2 + end - begin],
      ]
      for (const [from, to] of ranges)
        await refuse(withSlice(name, { begin: from, end: to }), 'ERR_SHAPE', /claims bytes/)
      for (const value of [undefined, null, '0', 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
        await refuse(withSlice(name, { begin: value }), 'ERR_ARGUMENT')
        await refuse(withSlice(name, { end: value }), 'ERR_ARGUMENT')
      }
    }
    const { begin, end } = spec.tensors['embed']!
    await refuse(
      withSlice('embed', { begin: fileBytes - (end - begin) + 1, end: fileBytes + 1 }),
      'ERR_SHAPE',
      /claims bytes/,
    )
    expect(begin).toBeGreaterThan(0)
  })

  it('in a file that is not there', async () => {
    for (const index of [-1, 1, 2 ** 31, 2 ** 53 - 1])
      await refuse(withSlice('layers.0.q', { file: index }), 'ERR_ARGUMENT')
    for (const index of [undefined, null, '0', 0.5, Number.NaN])
      await refuse(withSlice('layers.0.q', { file: index }), 'ERR_ARGUMENT')
    await refuse({ ...spec, files: [] }, 'ERR_ARGUMENT', /names file 0 of 0/)
  })

  it('may lie anywhere in the file and share bytes: other numbers, but whole ones', async () => {
    const { begin, end } = spec.tensors['layers.0.q']!
    const misaligned = withSlice('layers.0.q', { begin: begin - 3, end: end - 3 })
    const shared = withSlice('layers.1.q', { begin, end })
    const odd = withSlice('embed', { begin: spec.tensors['embed']!.begin + 1, end: spec.tensors['embed']!.end + 1 })
    for (const lie of [misaligned, shared, odd]) {
      const tokens = await tokensOf(lie)
      expect(tokens.every((id) => id >= 0 && id < 128)).toBe(true)
    }
  })

  it('with names nobody asked for change nothing', async () => {
    const embed = spec.tensors['embed']!
    const names = ['', '__proto__x', 'constructor', 'layers.99.q', 'layers.-1.q', '\ud800', 'e\0mbed']
    const extra = { ...spec.tensors, ...Object.fromEntries(names.map((name) => [name, embed])) }
    expect(await tokensOf({ ...spec, tensors: extra })).toEqual(await tokensOf(spec))
  })
})

describe('heads', () => {
  it('with a token map that names ids the model does not have', async () => {
    for (const ids of [[-1], [128], [0, 2 ** 31 - 1]]) {
      await refuse(changed(spec, 'heads.tokenMap', Int32Array.from(ids)), 'ERR_SHAPE', /names id/)
    }
  })

  it('with more or fewer than there are', async () => {
    await refuse(changed(spec, 'heads.medusaHeads', 4), 'ERR_SHAPE', /"3\.block\.0\.weight" is missing/)
    await refuse(changed(spec, 'heads.blocks', 3), 'ERR_SHAPE', /"0\.block\.2\.weight" is missing/)
    const opened = await addon.openModel(changed(changed(spec, 'heads.medusaHeads', 1), 'heads.blocks', 0))
    const { session, drafts } = await readySession(opened, { medusaHeads: 1, topK: 64 })
    expect(drafts.tokens).toHaveLength(64)
    await Promise.all([addon.close(session), addon.close(opened)])
  })
})

describe('files', () => {
  it('that cannot be read', async () => {
    const empty = join(dir, 'empty')
    await writeFile(empty, '')
    const loop = join(dir, 'loop')
    await symlink(loop, loop)
    const folder = join(dir, 'folder')
    await mkdir(folder)
    const missing = [
      '',
      join(dir, 'missing'),
      `${file}/x`,
      loop,
      `${file}\0`,
      `${file}\0.safetensors`,
      'x'.repeat(10_000),
    ]
    for (const path of missing) await refuse(withFile(path), 'ERR_IO', /could not be opened/)
    for (const path of [empty, folder, '/dev/null', '/dev/zero'])
      await refuse(withFile(path), 'ERR_IO', /not a file with contents/)
  })

  it.skipIf(process.getuid?.() === 0)('that may not be read', async () => {
    const secret = join(dir, 'secret')
    await copyFile(file, secret)
    await chmod(secret, 0)
    await refuse(withFile(secret), 'ERR_IO', /Permission denied/)
  })

  it('that are pipes: nobody waits for the other end', async () => {
    const pipe = join(dir, 'pipe')
    execFileSync('mkfifo', [pipe])
    await refuse(withFile(pipe), 'ERR_IO', /not a file with contents/)
  })

  it('that are shorter than they were', async () => {
    const short = join(dir, 'short')
    await copyFile(file, short)
    await truncate(short, Math.floor(fileBytes / 2))
    await refuse(withFile(short), 'ERR_SHAPE', /claims bytes/)
  })

  it('are closed again, whatever came of it', async () => {
    if (process.platform !== 'linux') return
    const descriptors = () => readdirSync('/proc/self/fd').length
    const before = descriptors()
    for (let i = 0; i < 50; i++) {
      await refuse(withSlice('final_norm', null), 'ERR_SHAPE')
      await refuse(withFile(dir), 'ERR_IO')
    }
    await tokensOf(spec)
    expect(descriptors()).toBeLessThanOrEqual(before + 1)
  })
})

describe('loading', () => {
  const withProgress = () => ({ ...spec, progress: new Int32Array(new SharedArrayBuffer(8)) })

  it('counts every tensor of the spec', async () => {
    const counted = withProgress()
    const opened = await addon.openModel(counted)
    expect(counted.progress[0]).toBe(tensorCount(counted))
    await addon.close(opened)
  })

  it('counts heads that share a projection, one for each', async () => {
    const shared = join(dir, 'shared-projection')
    await writeTinyHeads(shared, { hidden: 64, vocab: 128 }, { format: 'E', sharedProjection: true })
    const counted = await specOf(model, shared)
    const opened = await addon.openModel(counted)
    expect(counted.progress[0]).toBe(tensorCount(counted))
    await addon.close(opened)
  })

  it('is cancelled before it starts, and in the middle', async () => {
    const early = withProgress()
    early.progress[1] = 1
    await refuse(early, 'ERR_CANCELLED')
    expect(early.progress[0]).toBeLessThan(tensorCount(early))
    let cancelled = 0
    // So small a model is often loaded before it hears of it.
    for (let tries = 0; tries < 1000 && cancelled === 0; tries++) {
      const late = withProgress()
      const loading = addon.openModel(late)
      while (Atomics.load(late.progress, 0) < tries % 20) await undefined
      Atomics.store(late.progress, 1, 1)
      await loading.then(addon.close, (error: { code: string }) => {
        expect(error.code).toBe('ERR_CANCELLED')
        cancelled++
      })
    }
    expect(cancelled).toBeGreaterThan(0)
  })

  it('works again after all of this', async () => {
    expect(await tokensOf(spec)).toEqual(await tokensOf(await specOf(model, heads)))
  })

  it('with any number of threads gives the same tokens', async () => {
    const expected = await tokensOf(spec)
    for (const threads of [1, 3, 64]) expect(await tokensOf({ ...spec, threads })).toEqual(expected)
  })
})
