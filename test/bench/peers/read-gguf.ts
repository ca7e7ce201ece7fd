// Reads a whole GGUF file, from the format's description and not from our writer.
import { readFile } from 'node:fs/promises'

export interface GgufFile {
  readonly version: number
  readonly metadata: ReadonlyMap<string, unknown>
  readonly tensors: ReadonlyMap<string, { readonly sizes: number[]; readonly type: number; readonly data: Buffer }>
  /** Where the data begin. */
  readonly dataBegin: number
}

/** Bytes per element of the types our files have. */
const ELEMENT_BYTES: Readonly<Record<number, number>> = { 0: 4, 1: 2, 30: 2 }

export async function readGguf(path: string): Promise<GgufFile> {
  const bytes = await readFile(path)
  let at = 0
  const take = (count: number): number => {
    at += count
    return at - count
  }
  const u32 = (): number => bytes.readUInt32LE(take(4))
  const u64 = (): number => Number(bytes.readBigUInt64LE(take(8)))
  const string = (): string => {
    const length = u64()
    return bytes.toString('utf8', take(length), at)
  }
  const value = (type: number): unknown => {
    if (type === 4) return u32()
    if (type === 5) return bytes.readInt32LE(take(4))
    if (type === 6) return bytes.readFloatLE(take(4))
    if (type === 7) return bytes.readUInt8(take(1)) === 1
    if (type === 8) return string()
    if (type !== 9) throw new Error(`value type ${type}`)
    const of = u32()
    return Array.from({ length: u64() }, () => value(of))
  }

  const magic = bytes.toString('latin1', take(4), at)
  if (magic !== 'GGUF') throw new Error(`magic ${magic}`)
  const version = u32()
  const tensorCount = u64()
  const entries = u64()
  const metadata = new Map<string, unknown>()
  for (let i = 0; i < entries; i++) {
    const key = string()
    metadata.set(key, value(u32()))
  }
  const described = Array.from({ length: tensorCount }, () => ({
    name: string(),
    sizes: Array.from({ length: u32() }, u64),
    type: u32(),
    offset: u64(),
  }))
  const alignment = Number(metadata.get('general.alignment') ?? 32)
  const dataBegin = Math.ceil(at / alignment) * alignment
  const tensors = described.map(({ name, sizes, type, offset }) => {
    if (offset % alignment !== 0) throw new Error(`${name} begins at ${offset}`)
    const length = sizes.reduce((product, size) => product * size, ELEMENT_BYTES[type]!)
    if (dataBegin + offset + length > bytes.length) throw new Error(`${name} ends outside of the file`)
    return [name, { sizes, type, data: bytes.subarray(dataBegin + offset, dataBegin + offset + length) }] as const
  })
  return { version, metadata, tensors: new Map(tensors), dataBegin }
}

/** The values of f32 data. */
export function floatsOf(data: Buffer): number[] {
  return Array.from({ length: data.length / 4 }, (_, i) => data.readFloatLE(4 * i))
}
