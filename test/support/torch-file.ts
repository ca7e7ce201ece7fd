// Files as torch.save writes them, for tests that need one with something wrong in it: a pickle writer and a zip writer.
import { crc32 } from 'node:zlib'

/** Called with arguments when it is read. */
export class Called {
  constructor(
    readonly module: string,
    readonly name: string,
    readonly args: readonly unknown[],
  ) {}
}

/** A class or function that is only named. */
export class Named {
  constructor(
    readonly module: string,
    readonly name: string,
  ) {}
}

/** Bytes outside of the pickle. */
export class Persistent {
  constructor(readonly id: unknown) {}
}

/** As opposed to an array, which is a list. */
export class Tuple {
  constructor(readonly items: readonly unknown[]) {}
}

/** Opcodes as they are. */
export class Raw {
  constructor(readonly bytes: Uint8Array) {}
}

const ascii = (text: string): Buffer => Buffer.from(text, 'latin1')
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

/** Protocol 2, without remembering anything. */
export function pickle(value: unknown): Buffer {
  return Buffer.concat([ascii('\x80\x02'), encode(value), ascii('.')])
}

function encode(value: unknown): Buffer {
  if (value === null) return ascii('N')
  if (typeof value === 'boolean') return ascii(value ? '\x88' : '\x89')
  if (typeof value === 'number') return Number.isInteger(value) ? long(BigInt(value)) : float(value)
  if (typeof value === 'bigint') return long(value)
  if (typeof value === 'string') return text(value)
  if (value instanceof Raw) return Buffer.from(value.bytes)
  if (value instanceof Named) return ascii(`c${value.module}\n${value.name}\n`)
  if (value instanceof Tuple) return Buffer.concat([ascii('('), ...value.items.map(encode), ascii('t')])
  if (value instanceof Persistent) return Buffer.concat([encode(value.id), ascii('Q')])
  if (Array.isArray(value)) return Buffer.concat([ascii(']('), ...value.map(encode), ascii('e')])
  if (value instanceof Called) {
    return Buffer.concat([encode(new Named(value.module, value.name)), encode(new Tuple(value.args)), ascii('R')])
  }
  const entries = value instanceof Map ? [...value] : Object.entries(value as object)
  return Buffer.concat([ascii('}('), ...entries.flat().map(encode), ascii('u')])
}

function long(value: bigint): Buffer {
  const bytes = Buffer.alloc(16)
  bytes.writeBigInt64LE(BigInt.asIntN(64, value))
  bytes.writeBigInt64LE(BigInt.asIntN(64, value >> 64n), 8)
  return Buffer.concat([Buffer.from([0x8a, bytes.length]), bytes])
}

function float(value: number): Buffer {
  const bytes = Buffer.alloc(9)
  bytes.write('G', 'latin1')
  bytes.writeDoubleBE(value, 1)
  return bytes
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([ascii('X'), u32(bytes.length), bytes])
}

export interface TorchTensor {
  /** `FloatStorage` and the like. */
  readonly storage: string
  readonly key?: string
  /** Elements of the storage. */
  readonly size: number
  readonly offset?: unknown
  readonly shape: readonly unknown[]
  readonly strides?: readonly unknown[]
}

/** A tensor in a pickle; its bytes are `data/KEY` of the archive. */
export function torchTensor({ storage, key = '0', size, offset = 0, shape, strides }: TorchTensor): Called {
  const type = new Named('torch', storage)
  const bytes = new Persistent(new Tuple(['storage', type, key, 'cpu', size]))
  const contiguous = shape.map((_, axis) =>
    shape.slice(axis + 1).reduce<number>((product, n) => product * Number(n), 1),
  )
  const hooks = new Called('collections', 'OrderedDict', [])
  const args = [bytes, offset, new Tuple(shape), new Tuple(strides ?? contiguous), false, hooks]
  return new Called('torch._utils', '_rebuild_tensor_v2', args)
}

export interface ZipEntry {
  readonly name: string
  readonly data: Uint8Array
  /** 0 is stored. */
  readonly method?: number
  /** What the archive says; the truth when left out. */
  readonly size?: number
  readonly flags?: number
}

/** @param isLarge writes sizes and offsets in the ZIP64 fields, as archives over 4 GiB must. */
export function zip(entries: readonly ZipEntry[], isLarge = false): Buffer {
  const files: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  for (const { name, data, method = 0, size = data.length, flags = 0 } of entries) {
    const fileName = Buffer.from(name)
    // PyTorch's own field, which moves the data to a multiple of 64.
    const padding = (64 - ((at + 30 + fileName.length + 4) % 64)) % 64
    const extra = Buffer.concat([ascii('FB'), Buffer.from([padding, 0]), Buffer.alloc(padding, 'Z')])
    const zip64 = Buffer.alloc(isLarge ? 28 : 0)
    if (isLarge) {
      zip64.writeUInt16LE(1)
      zip64.writeUInt16LE(24, 2)
      for (const [i, value] of [size, size, at].entries()) zip64.writeBigUInt64LE(BigInt(value), 4 + 8 * i)
    }
    const said = isLarge ? 0xffffffff : size
    const common = Buffer.alloc(26)
    common.writeUInt16LE(20)
    common.writeUInt16LE(flags, 2)
    common.writeUInt16LE(method, 4)
    common.writeUInt32LE(crc32(data), 10)
    common.writeUInt32LE(said, 14)
    common.writeUInt32LE(said, 18)
    common.writeUInt16LE(fileName.length, 22)
    common.writeUInt16LE(extra.length, 24)
    files.push(ascii('PK\x03\x04'), common, fileName, extra, Buffer.from(data))
    const inDirectory = Buffer.from(common)
    inDirectory.writeUInt16LE(zip64.length, 24)
    const rest = Buffer.alloc(14)
    rest.writeUInt32LE(isLarge ? 0xffffffff : at, 10)
    directory.push(ascii('PK\x01\x02'), Buffer.from([20, 0]), inDirectory, rest, fileName, zip64)
    at += 30 + fileName.length + extra.length + data.length
  }
  const central = Buffer.concat(directory)
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06', 'latin1')
  end.writeUInt16LE(entries.length, 8)
  end.writeUInt16LE(entries.length, 10)
  end.writeUInt32LE(central.length, 12)
  end.writeUInt32LE(isLarge ? 0xffffffff : at, 16)
  const large = Buffer.alloc(isLarge ? 76 : 0)
  if (isLarge) {
    large.write('PK\x06\x06', 'latin1')
    large.writeBigUInt64LE(44n, 4)
    for (const field of [24, 32]) large.writeBigUInt64LE(BigInt(entries.length), field)
    large.writeBigUInt64LE(BigInt(central.length), 40)
    large.writeBigUInt64LE(BigInt(at), 48)
    large.write('PK\x06\x07', 56, 'latin1')
    large.writeBigUInt64LE(BigInt(at + central.length), 64)
    large.writeUInt32LE(1, 72)
  }
  return Buffer.concat([...files, central, large, end])
}

/** An archive of a pickle and the bytes of its storages. */
export function torchFile(
  value: unknown,
  storages: Readonly<Record<string, Uint8Array>> = {},
  isLarge = false,
): Buffer {
  return zip(
    [
      { name: 'archive/data.pkl', data: pickle(value) },
      { name: 'archive/byteorder', data: ascii('little') },
      ...Object.entries(storages).map(([key, data]) => ({ name: `archive/data/${key}`, data })),
      { name: 'archive/version', data: ascii('3\n') },
    ],
    isLarge,
  )
}
