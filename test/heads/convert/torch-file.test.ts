// Files of torch.save: tensors are found where they lie, and whatever else a file is, it is refused without running anything.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MAX_ENTRIES, openTorchFile } from '../../../heads/convert/torch-file.js'
import { isGorgonError } from '../../../src/errors.js'
import { readTensorBytes } from '../../../src/weights/safetensors.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import {
  Called,
  Named,
  Persistent,
  pickle,
  type TorchTensor,
  torchFile,
  torchTensor,
  zip,
} from '../../support/torch-file.js'

const folder = temporaryFolder()
let files = 0
function written(bytes: Uint8Array): string {
  const path = join(folder, `${files++}.pt`)
  writeFileSync(path, bytes)
  return path
}

interface Expected {
  /** PyTorch's version; null where stand-ins were written. */
  readonly torch: string | null
  readonly files: Readonly<
    Record<
      string,
      {
        readonly tensors?: Readonly<Record<string, { dtype: string; shape: number[]; data: string }>>
        refused?: string
      }
    >
  >
}

/** Reads every file of a folder that torch-files.py wrote, and holds it against what is in it. */
async function checkFiles(dir: string): Promise<void> {
  const expected = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as Expected
  for (const [name, { tensors, refused }] of Object.entries(expected.files)) {
    const path = join(dir, name)
    if (refused !== undefined) {
      await failure(
        () => openTorchFile(path),
        'ERR_HEADS_FORMAT',
        new RegExp(refused.replace('posix', '(posix|nt|os)')),
      )
      continue
    }
    const read = await openTorchFile(path)
    const found: Record<string, unknown> = {}
    for (const [key, entry] of read.tensors) {
      const data = Buffer.from(await readTensorBytes(path, entry)).toString('hex')
      found[key] = { dtype: entry.dtype, shape: entry.shape, data }
    }
    expect(found, name).toEqual(tensors)
  }
  expect(Object.keys(expected.files).length).toBeGreaterThan(12)
}

describe('what is read', () => {
  const hasPython = spawnSync('python3', ['--version']).status === 0
  test.skipIf(!hasPython)(`what Python's pickler writes${hasPython ? '' : ' (skipped: no python3)'}`, async () => {
    const dir = join(folder, 'python')
    execFileSync('python3', ['test/heads/convert/torch-files.py', dir])
    await checkFiles(dir)
    expect(existsSync('was-run')).toBe(false)
  })

  test('what torch.save writes', async () => {
    const { torch } = JSON.parse(readFileSync('test/golden/torch/expected.json', 'utf8')) as Expected
    expect(torch).toMatch(/^2\./)
    await checkFiles('test/golden/torch')
  })

  const matrix: TorchTensor = { storage: 'FloatStorage', size: 6, shape: [2, 3] }
  const six = new Uint8Array(24).map((_, i) => i)

  test('bytes where they lie, in an ordinary archive and in one of the size that needs ZIP64', async () => {
    for (const isLarge of [false, true]) {
      const path = written(torchFile({ '0.0.weight': torchTensor(matrix) }, { 0: six }, isLarge))
      const { tensors } = await openTorchFile(path)
      const entry = tensors.get('0.0.weight')!
      expect(entry).toMatchObject({ dtype: 'F32', shape: [2, 3] })
      expect(entry.begin % 64).toBe(0)
      expect(await readTensorBytes(path, entry)).toEqual(six)
    }
  })

  test('a part of a storage', async () => {
    const path = written(
      torchFile({ a: torchTensor({ ...matrix, offset: 2, shape: [1, 3], strides: [99, 1] }) }, { 0: six }),
    )
    expect(await readTensorBytes(path, (await openTorchFile(path)).tensors.get('a')!)).toEqual(six.subarray(8, 20))
  })

  test('only the tensors asked for', async () => {
    const other = torchTensor({ ...matrix, key: 'absent' })
    const path = written(torchFile({ 'medusa_head.0.0.weight': torchTensor(matrix), other }, { 0: six }))
    const { tensors } = await openTorchFile(path, (names) => {
      expect(names).toEqual(['medusa_head.0.0.weight', 'other'])
      return names.slice(0, 1)
    })
    expect([...tensors.keys()]).toEqual(['medusa_head.0.0.weight'])
  })

  test('state dicts in what training scripts save, with a word on what is left', async () => {
    const heads = { '0.0.weight': torchTensor(matrix) }
    const named = async (value: unknown) => [
      ...(await openTorchFile(written(torchFile(value, { 0: six })))).tensors.keys(),
    ]
    expect(await named({ model: { state_dict: heads }, step: 3 })).toEqual(['0.0.weight'])
    expect(await named({ medusa_head: heads })).toEqual(['medusa_head.0.0.weight'])
    expect(await named({ state_dict: { 'module.medusa_heads.0.0.weight': torchTensor(matrix) } })).toEqual([
      'medusa_heads.0.0.weight',
    ])
    const path = written(torchFile({ model: heads, optimizer: { state: {} } }, { 0: six }))
    expect((await openTorchFile(path)).warnings).toEqual([`of ${path}, "optimizer" is not read: it is no state dict`])
  })
})

describe('what is refused:', () => {
  const tensor = (change: Partial<TorchTensor> = {}) =>
    torchTensor({ storage: 'FloatStorage', size: 4, shape: [2, 2], ...change })
  const four = { 0: new Uint8Array(16) }
  const one = (change: Partial<TorchTensor>) => torchFile({ a: tensor(change) }, four)
  const data = (name: string, bytes: Uint8Array | string) => ({ name, data: Buffer.from(bytes) })
  const entries = (...more: Parameters<typeof zip>[0]) => zip([data('x/data.pkl', pickle({ a: tensor() })), ...more])
  const stored = data('x/data/0', new Uint8Array(16))
  const damaged = (at: number, byte: number) => {
    const file = torchFile({ a: tensor() }, four)
    file[file.length + at] = byte
    return file
  }

  test.each<[string, Uint8Array, RegExp]>([
    ['an empty file', new Uint8Array(0), /no zip archive/],
    ['another file', Buffer.from('safetensors, perhaps'), /no zip archive/],
    ['a pointer of Git LFS', Buffer.from('version https://git-lfs.github.com/spec/v1\noid'), /git lfs pull/],
    ['a file of an old PyTorch', Buffer.concat([pickle(0x1950a86a20f9469cfc6cn), pickle(1001)]), /before 1\.6/],
    ['half an archive', torchFile({ a: tensor() }, four).subarray(0, 300), /not a whole zip archive/],
    ['an archive without end', damaged(-22, 0), /not a whole zip archive/],
    ['more entries than there are', damaged(-12, 200), /not a whole zip archive/],
    ['a directory somewhere else', damaged(-6, 0x55), /not a whole zip archive/],
    ['another archive', zip([data('readme.txt', 'hello')]), /0 files FOLDER\/data\.pkl/],
    ['two pickles', zip([data('x/data.pkl', pickle({})), data('y/data.pkl', pickle({}))]), /2 files FOLDER\/data\.pkl/],
    ['one entry twice', entries(stored, stored), /"x\/data\/0" twice/],
    [
      'a path out of the archive',
      entries(stored, data('../../etc/passwd', 'x')),
      /not a whole zip archive.*relative path/,
    ],
    ['a program', entries(stored, data('x/constants.pkl', '')), /TorchScript/],
    ['the other byte order', entries(stored, data('x/byteorder', 'big')), /byte order "big"/],
    ['a long byte order', entries(stored, data('x/byteorder', 'little'.repeat(9))), /reads at most 16/],
    ['a compressed storage', entries({ ...stored, method: 8 }), /compressed or encrypted/],
    ['an encrypted storage', entries({ ...stored, flags: 1 }), /not a whole zip archive/],
    ['a storage past the end', entries({ ...stored, size: 1 << 20 }), /not a whole zip archive/],
    ['no storage', entries(), /lacks x\/data\/0/],
    ['a storage of another size', one({ size: 5 }), /5 times F32, but 16 bytes long/],
    ['a storage of another dtype', one({ storage: 'DoubleStorage' }), /4 times F64, but 16 bytes long/],
    ['an unknown storage', one({ storage: 'QInt8Storage' }), /asks for torch\.QInt8Storage/],
    ['a shape past the storage', one({ shape: [3, 2] }), /storage of 4 does not hold/],
    ['an offset past the storage', one({ offset: 1 }), /storage of 4 does not hold/],
    ['a shape that overflows', one({ shape: [2 ** 30, 2 ** 30], strides: [0, 0] }), /storage of 4 does not hold/],
    ['a shape past any number', one({ shape: Array(8).fill(2 ** 52), strides: Array(8).fill(0) }), /does not hold/],
    ['a negative size', one({ shape: [-2, 2], strides: [2, 1] }), /no proper offset, shape and strides/],
    ['a size that is no number', one({ shape: ['2', 2], strides: [2, 1] }), /no proper offset, shape and strides/],
    ['a negative offset', one({ offset: -1 }), /no proper offset, shape and strides/],
    ['a half offset', one({ offset: 0.5 }), /no proper offset, shape and strides/],
    ['fewer strides than sizes', one({ strides: [1] }), /no proper offset, shape and strides/],
    [
      'more dimensions than any tensor of ours',
      one({ shape: Array(9).fill(1) }),
      /no proper offset, shape and strides/,
    ],
    ['a transposed view', one({ strides: [1, 2] }), /not contiguous \(strides 1, 2\)/],
    ['an expanded view', one({ shape: [4, 4], size: 4, strides: [0, 1] }), /does not hold/],
    ['one row again and again', one({ strides: [0, 1] }), /not contiguous/],
    ['a key that is a path', one({ key: '../data.pkl' }), /the storage key "\.\.\/data\.pkl"/],
    [
      'a persistent id of something else',
      torchFile({ a: new Persistent('module') }),
      /persistent id that is not a storage/,
    ],
    [
      'a tensor of no storage',
      torchFile(new Called('torch._utils', '_rebuild_tensor_v2', [])),
      /tensor without a storage/,
    ],
    ['a parameter of no tensor', torchFile(new Called('torch._utils', '_rebuild_parameter', [1])), /without a tensor/],
    [
      'an OrderedDict of numbers',
      torchFile(new Called('collections', 'OrderedDict', [[1]])),
      /something else than pairs/,
    ],
    [
      'an OrderedDict of a number',
      torchFile(new Called('collections', 'OrderedDict', [1])),
      /something else than pairs/,
    ],
    [
      'a class of a storage, called',
      torchFile(new Called('torch', 'FloatStorage', [4])),
      /calls what is not a function/,
    ],
    [
      'a model, not its state dict',
      torchFile(new Called('medusa.model', 'MedusaHead', [])),
      /asks for medusa\.model\.MedusaHead/,
    ],
    ['a list', torchFile([tensor()], four), /no tensors by name/],
    ['no tensors', torchFile({ epoch: 3 }), /no tensors by name/],
    [
      'tensors too deep',
      torchFile({ model: { model: { model: { model: { a: tensor() } } } } }, four),
      /no tensors by name/,
    ],
    ['one name twice', torchFile({ a: tensor(), 'module.a': tensor() }, four), /tensor "a" twice/],
    ['a name of a megabyte', torchFile({ ['a'.repeat(1 << 20)]: tensor() }, four), /a name of 1048576 characters/],
    ['a dtype of ours, called', torchFile(new Called('torch', 'float16', [])), /calls what is not a function/],
    ['a tuple of sizes that is none', torchFile({ a: new Named('torch', 'Size') }, four), /no tensors by name/],
  ])('%s', async (_, bytes, says) => {
    const path = written(bytes)
    const error = await failure(() => openTorchFile(path), 'ERR_HEADS_FORMAT', says)
    expect(error.message.length).toBeLessThan(1000)
    expect(error.message).toContain(path)
  })

  test('more files in an archive than the limit', async () => {
    const empty = (count: number) => Array.from({ length: count }, (_, i) => data(`x/${i}`, ''))
    await openTorchFile(written(entries(stored, ...empty(MAX_ENTRIES - 2))))
    const path = written(entries(stored, ...empty(MAX_ENTRIES - 1)))
    await failure(() => openTorchFile(path), 'ERR_HEADS_FORMAT', new RegExp(`more than ${MAX_ENTRIES} files`))
  })

  test('what is not a file', async () => {
    await failure(() => openTorchFile(join(folder, 'absent.pt')), 'ERR_FILE', /absent\.pt cannot be read/)
    mkdirSync(join(folder, 'folder.pt'))
    await failure(() => openTorchFile(join(folder, 'folder.pt')), 'ERR_FILE', /not a regular file/)
    execFileSync('mkfifo', [join(folder, 'pipe.pt')])
    await failure(() => openTorchFile(join(folder, 'pipe.pt')), 'ERR_FILE', /not a regular file/)
  })

  test('any damage to a file, or its tensors lie inside of it', async () => {
    const heads = { '0.0.weight': tensor(), '1.0.weight': tensor({ key: '1' }) }
    const good = torchFile(heads, { 0: new Uint8Array(16), 1: new Uint8Array(16) })
    const path = join(folder, 'damaged.pt')
    const property = fc.asyncProperty(
      fc.array(fc.tuple(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 })), { minLength: 1, maxLength: 3 }),
      fc.nat({ max: 20 }),
      async (changes, cut) => {
        const bytes = Uint8Array.from(good.subarray(0, good.length - (cut > 10 ? 0 : cut)))
        for (const [at, byte] of changes) if (at < bytes.length) bytes[at] = byte
        writeFileSync(path, bytes)
        try {
          for (const { begin, end } of (await openTorchFile(path)).tensors.values()) {
            expect(end).toBeGreaterThanOrEqual(begin)
            expect(end).toBeLessThanOrEqual(bytes.length)
          }
        } catch (error) {
          if (!isGorgonError(error)) throw error
          expect(['ERR_HEADS_FORMAT', 'ERR_FILE']).toContain(error.code)
        }
      },
    )
    await fc.assert(property, { numRuns: 1000 })
  })
})
