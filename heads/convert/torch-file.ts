// Tensors of a file that torch.save wrote, found without running anything: a zip archive of one pickle and a file per storage.
import { open, stat } from 'node:fs/promises'
import { type Entry, openPromise, type ZipFile } from 'yauzl'
import { GorgonError } from '../../src/errors.js'
import { DTYPE_BYTES, MAX_RANK, readTensorBytes, type TensorEntry } from '../../src/weights/safetensors.js'
import { listed } from '../../src/weights/tensor-table.js'
import { MAX_PICKLE_BYTES, PickleFunction, PickleTuple, type PickleWorld, pickleError, readPickle } from './pickle.js'

/** Most files in one archive: one per storage, and a few more. */
export const MAX_ENTRIES = 1 << 14
/** Where training scripts put what they save, from the outside in. */
const WRAPPERS: readonly string[] = ['state_dict', 'model_state_dict', 'model', 'module']
/** The same, where it tells what is inside. */
const HEADS_WRAPPERS: readonly string[] = ['medusa_head', 'medusa_heads']
/** Longest name read; those of heads have thirty characters. */
const MAX_NAME = 256
/** How many of them are looked into, one in another. */
const MAX_WRAPPERS = 3
/** What data-parallel training puts before each name. */
const PARALLEL_PREFIX = /^module\./

/** PyTorch's names of storages, and the dtypes of safetensors. */
const STORAGES: Readonly<Record<string, string>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
}
/** Constants that checkpoints hold beside tensors. */
const CONSTANTS = ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool']

class StorageType {
  constructor(readonly dtype: string) {}
}

/** Bytes that tensors are views of, several perhaps. */
class Storage {
  constructor(
    readonly key: string,
    readonly dtype: string,
    /** In elements. */
    readonly size: number,
  ) {}
}

class Tensor {
  constructor(
    readonly storage: Storage,
    /** In elements, like the strides. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/** The tensors of a file: bytes of it, as they lie there. */
export interface TorchFile {
  readonly path: string
  readonly tensors: ReadonlyMap<string, TensorEntry>
  readonly warnings: readonly string[]
}

/**
 * The tensors of a `.pt`, `.pth` or `.bin` file. Nothing in it is run, and no tensor bytes are read.
 *
 * @param select Of all names those wanted: the others may be anything.
 * @throws {GorgonError} ERR_HEADS_FORMAT when it asks for more than tensors by name, or is not what torch.save writes; ERR_FILE.
 */
export async function openTorchFile(
  path: string,
  select: (names: readonly string[]) => readonly string[] = (names) => names,
): Promise<TorchFile> {
  await checkBeginning(path)
  const zip = await openPromise(path, { autoClose: false }).catch((error: Error) => {
    throw notWhole(path, error)
  })
  try {
    const archive = await readArchive(path, zip)
    const root = readPickle(await archive.bytesOf('data.pkl', MAX_PICKLE_BYTES), torchWorld(path), path)
    const { tensors: all, skipped } = stateDictOf(root, path)
    const tensors = new Map<string, TensorEntry>()
    for (const name of select([...all.keys()])) tensors.set(name, await locate(name, all.get(name)!, archive))
    const warnings = skipped.length > 0 ? [`of ${path}, ${listed(skipped)} is not read: it is no state dict`] : []
    return { path, tensors, warnings }
  } finally {
    zip.close()
  }
}

/** Says what a file is that is no zip archive. */
async function checkBeginning(path: string): Promise<void> {
  const unreadable = (error: Error) => {
    throw new GorgonError('ERR_FILE', `${path} cannot be read: ${error.message}.`, { file: path }, error)
  }
  // Opening a pipe would wait for a writer for ever.
  if (!(await stat(path).catch(unreadable)).isFile()) unreadable(new Error('it is not a regular file'))
  const handle = await open(path, 'r').catch(unreadable)
  try {
    const { buffer } = await handle.read(Buffer.alloc(64), 0, 64, 0)
    if (buffer.readUInt32LE(0) === 0x04034b50) return
    if (buffer.toString('latin1').startsWith('version https://git-lfs')) {
      throw pickleError(path, 'is a pointer of Git LFS, not the file itself. Fetch it with "git lfs pull"')
    }
    if (buffer[0] === 0x80) {
      throw pickleError(
        path,
        'is in the format that PyTorch wrote before 1.6, which is not read. Load it in Python with torch.load(…, weights_only=True) and ' +
          'torch.save it again, or save it as safetensors',
      )
    }
    throw pickleError(path, 'is not a file of torch.save: it is no zip archive. Download or export it again')
  } finally {
    await handle.close()
  }
}

function notWhole(path: string, error: Error): GorgonError {
  return new GorgonError(
    'ERR_HEADS_FORMAT',
    `${path} is not a whole zip archive, as torch.save writes them: ${error.message}. Download or export it again.`,
    { file: path },
    error,
  )
}

/** The stored files of an archive, by their names below its one folder. */
interface Archive {
  readonly path: string
  readonly has: (name: string) => boolean
  /** Where in the archive a file's bytes are. */
  readonly rangeOf: (name: string) => Promise<{ begin: number; end: number }>
  readonly bytesOf: (name: string, most: number) => Promise<Uint8Array>
}

async function readArchive(path: string, zip: ZipFile): Promise<Archive> {
  const entries = new Map<string, Entry>()
  try {
    for await (const entry of zip.eachEntry()) {
      if (entries.has(entry.fileName)) throw pickleError(path, `holds ${JSON.stringify(entry.fileName)} twice`)
      if (entries.size >= MAX_ENTRIES) throw pickleError(path, `holds more than ${MAX_ENTRIES} files`)
      entries.set(entry.fileName, entry)
    }
  } catch (error) {
    throw error instanceof GorgonError ? error : notWhole(path, error as Error)
  }
  const roots = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name))
  const [pickle] = roots
  if (roots.length !== 1 || pickle === undefined) {
    throw pickleError(path, `is a zip archive, but not one of torch.save: it has ${roots.length} files FOLDER/data.pkl`)
  }
  const root = pickle.slice(0, -'data.pkl'.length)
  if (entries.has(`${root}constants.pkl`)) {
    throw pickleError(path, 'is a TorchScript program, not tensors. Save the state_dict() of the heads instead')
  }

  const rangeOf = async (name: string) => {
    const entry = entries.get(root + name)
    if (!entry) throw pickleError(path, `lacks ${root}${name}, which its pickle speaks of. Download or export it again`)
    if (entry.compressionMethod !== 0 || entry.isEncrypted()) {
      throw pickleError(path, `has ${root}${name} compressed or encrypted, which torch.save never does. Zip it without`)
    }
    const { fileDataStart: begin } = await zip
      .readLocalFileHeaderPromise(entry, { minimal: true })
      .catch((error: Error) => {
        throw notWhole(path, error)
      })
    return { begin, end: begin + entry.uncompressedSize }
  }
  const bytesOf = async (name: string, most: number) => {
    const range = await rangeOf(name)
    const bytes = range.end - range.begin
    if (bytes > most) {
      throw pickleError(path, `has a ${name} of ${bytes} bytes; gorgon reads at most ${most}`, { bytes, limit: most })
    }
    return readTensorBytes(path, range)
  }
  const archive = { path, has: (name: string) => entries.has(root + name), rangeOf, bytesOf }
  // Files of before the entry are as little-endian as the machines they came from.
  if (archive.has('byteorder')) {
    const order = new TextDecoder().decode(await bytesOf('byteorder', 16))
    if (order !== 'little') {
      throw pickleError(
        path,
        `has the byte order ${JSON.stringify(order)}; only little is read. Save it on another machine`,
      )
    }
  }
  return archive
}

/** What the pickle of a state dict may ask for. */
function torchWorld(path: string): PickleWorld {
  const bad = (what: string) =>
    pickleError(path, `is not a state dict that gorgon reads: ${what}. Save the heads again`)
  const rebuildTensor = ([storage, offset, shape, strides, , , views]: readonly unknown[]): Tensor => {
    if (!(storage instanceof Storage)) throw bad('it has a tensor without a storage')
    if (views instanceof Map && views.size > 0)
      throw bad('it has a tensor that is a conjugate or a negative of its storage')
    if (!isCount(offset) || !isCounts(shape) || !isCounts(strides) || shape.items.length !== strides.items.length) {
      throw bad('it has a tensor with no proper offset, shape and strides')
    }
    return new Tensor(storage, offset, shape.items as number[], strides.items as number[])
  }
  const orderedDict = ([pairs]: readonly unknown[]): Map<unknown, unknown> => {
    const dict = new Map<unknown, unknown>()
    if (pairs !== undefined && !Array.isArray(pairs)) throw bad('it has an OrderedDict of something else than pairs')
    for (const pair of pairs ?? []) {
      const [key, value, ...more] = pair instanceof PickleTuple ? pair.items : Array.isArray(pair) ? pair : []
      if (value === undefined || more.length > 0) throw bad('it has an OrderedDict of something else than pairs')
      dict.set(key, value)
    }
    return dict
  }
  const rebuildParameter = ([tensor]: readonly unknown[]): Tensor => {
    if (!(tensor instanceof Tensor)) throw bad('it has a parameter without a tensor')
    return tensor
  }
  return {
    globals: new Map<string, unknown>([
      ['collections.OrderedDict', new PickleFunction(orderedDict)],
      ['torch._utils._rebuild_tensor_v2', new PickleFunction(rebuildTensor)],
      ['torch._utils._rebuild_parameter', new PickleFunction(rebuildParameter)],
      ['torch.Size', new PickleFunction(([sizes]) => sizes)],
      // How Python 3 writes bytes for readers of protocol 2.
      ['_codecs.encode', new PickleFunction(([text]) => text)],
      ...Object.entries(STORAGES).map(([name, dtype]) => [`torch.${name}`, new StorageType(dtype)] as const),
      ...CONSTANTS.map((name) => [`torch.${name}`, `torch.${name}`] as const),
    ]),
    persistent(id) {
      const [kind, type, key, , size] = id instanceof PickleTuple ? id.items : []
      if (kind !== 'storage' || !(type instanceof StorageType) || typeof key !== 'string' || !isCount(size)) {
        throw bad('it has a persistent id that is not a storage')
      }
      // A key is a file's name in the archive, and nothing more.
      if (!/^[\w.-]{1,64}$/.test(key)) throw bad(`it has the storage key ${JSON.stringify(key.slice(0, 80))}`)
      return new Storage(key, type.dtype, size)
    },
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isCounts(value: unknown): value is PickleTuple {
  return value instanceof PickleTuple && value.items.length <= MAX_RANK && value.items.every(isCount)
}

/** The tensors of a state dict by name, whatever it is wrapped in. */
function stateDictOf(root: unknown, path: string): { tensors: Map<string, Tensor>; skipped: string[] } {
  const tensors = new Map<string, Tensor>()
  const skipped: string[] = []
  const collect = (dict: Map<unknown, unknown>, prefix: string, depth: number): void => {
    for (const [key, value] of dict) {
      if (typeof key !== 'string') continue
      if (key.length > MAX_NAME)
        throw pickleError(path, `has a name of ${key.length} characters; at most ${MAX_NAME} are read`)
      if (value instanceof Tensor) {
        const name = prefix + key.replace(PARALLEL_PREFIX, '')
        if (tensors.has(name)) throw pickleError(path, `has the tensor ${JSON.stringify(name)} twice`)
        tensors.set(name, value)
      } else if (value instanceof Map) {
        const isHeads = HEADS_WRAPPERS.includes(key)
        if (depth < MAX_WRAPPERS && isHeads) collect(value, `${key}.`, depth + 1)
        else if (depth < MAX_WRAPPERS && WRAPPERS.includes(key)) collect(value, prefix, depth + 1)
        else skipped.push(key)
      }
    }
  }
  if (root instanceof Map) collect(root, '', 0)
  if (tensors.size === 0) {
    throw pickleError(path, 'holds no tensors by name. Save the state_dict() of the heads')
  }
  return { tensors, skipped }
}

/** Where the bytes of a tensor are in the file. */
async function locate(name: string, tensor: Tensor, archive: Archive): Promise<TensorEntry> {
  const { storage, offset, shape, strides } = tensor
  const bad = (what: string) =>
    pickleError(archive.path, `has the tensor ${JSON.stringify(name.slice(0, 80))}, ${what}`, { tensor: name })
  const { begin, end } = await archive.rangeOf(`data/${storage.key}`)
  const width = DTYPE_BYTES[storage.dtype]!
  if (storage.size * width !== end - begin) {
    throw bad(`whose storage is ${storage.size} times ${storage.dtype}, but ${end - begin} bytes long`)
  }
  const count = shape.reduce((product, size) => product * size, 1)
  if (offset + count > storage.size) {
    throw bad(`[${shape.join(', ')}] from element ${offset}, which its storage of ${storage.size} does not hold`)
  }
  let expected = 1
  for (let axis = shape.length - 1; axis >= 0 && count > 0; axis--) {
    if (shape[axis]! > 1 && strides[axis] !== expected) {
      throw bad(`[${shape.join(', ')}], which is not contiguous (strides ${strides.join(', ')}). Save it .contiguous()`)
    }
    expected *= shape[axis]!
  }
  const first = begin + offset * width
  return { dtype: storage.dtype, shape, begin: first, end: first + count * width }
}
