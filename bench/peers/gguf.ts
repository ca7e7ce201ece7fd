// GGUF files, version 3: a header of typed metadata and tensor descriptions, then the tensors, each aligned.
//
// All numbers little-endian; a string is its u64 length and its UTF-8 bytes. The header is "GGUF", u32 version, u64 tensors, u64 metadata
// entries; an entry is its key, u32 type, value; a tensor is its name, u32 rank, u64 sizes with the innermost first, u32 type, and the u64
// offset of its data from the end of the header, which is padded to the alignment. Source: ggml-org/ggml:docs/gguf.md.
import { open } from 'node:fs/promises'
import { GorgonError } from '../../src/errors.js'

const GGUF_VERSION = 3
/** What a file without `general.alignment` has. */
export const GGUF_ALIGNMENT = 32
/** ggml keeps names in 64 bytes, a zero at the end. */
const MAX_NAME_BYTES = 63
const MAX_RANK = 4

/** Types of metadata, by the number they have in a file. */
const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const

/** Types of tensors: their number in a file, and bytes per element. */
const TENSOR_TYPES = {
  f32: { id: 0, bytes: 4 },
  f16: { id: 1, bytes: 2 },
  bf16: { id: 30, bytes: 2 },
} as const

export type GgufValue =
  | { readonly type: 'u32' | 'f32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'i32s'; readonly value: readonly number[] }

export interface GgufTensor {
  readonly name: string
  readonly type: keyof typeof TENSOR_TYPES
  /** Outermost first, as everywhere in this project; the file has it the other way round. */
  readonly shape: readonly number[]
  /** Called once, when its turn to be written comes, so that no model has to fit into memory. */
  readonly read: () => Promise<Uint8Array>
}

/**
 * Writes a file, tensors in the order given.
 *
 * @returns its bytes.
 * @throws {GorgonError} ERR_TENSOR for a name, a shape, or data the format has no room for; ERR_FILE when it cannot be written.
 */
export async function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensor[],
): Promise<number> {
  const sizes = tensors.map((tensor) => sizeOf(path, tensor))
  const header = headerOf(metadata, tensors, sizes)
  const handle = await open(path, 'w').catch((error: Error) => {
    throw new GorgonError('ERR_FILE', `${path} cannot be written: ${error.message}.`, { file: path }, error)
  })
  try {
    await handle.writeFile(header)
    let written = header.length
    for (const [i, tensor] of tensors.entries()) {
      const data = await tensor.read()
      if (data.byteLength !== sizes[i]) throw sizeError(path, tensor, sizes[i]!, data.byteLength)
      await handle.writeFile(data)
      await handle.writeFile(new Uint8Array(padded(data.byteLength) - data.byteLength))
      written += padded(data.byteLength)
    }
    const { size } = await handle.stat()
    if (size !== written) {
      throw new GorgonError('ERR_FILE', `${path} has ${size} bytes after ${written} were written. Is the disk full?`, {
        file: path,
        size,
        written,
      })
    }
    return size
  } finally {
    await handle.close()
  }
}

function sizeOf(path: string, { name, type, shape }: GgufTensor): number {
  const nameBytes = Buffer.byteLength(name)
  if (nameBytes === 0 || nameBytes > MAX_NAME_BYTES) {
    throw new GorgonError(
      'ERR_TENSOR',
      `${path}: tensor name "${name}" has ${nameBytes} bytes; GGUF takes 1 to ${MAX_NAME_BYTES}. Shorten it.`,
      { file: path, tensor: name },
    )
  }
  const bytes = shape.reduce((product, size) => product * size, TENSOR_TYPES[type].bytes)
  if (shape.length < 1 || shape.length > MAX_RANK || !Number.isSafeInteger(bytes) || bytes < 1) {
    throw new GorgonError(
      'ERR_TENSOR',
      `${path}: tensor "${name}" is [${shape.join(', ')}]; GGUF takes 1 to ${MAX_RANK} sizes, none of them 0.`,
      { file: path, tensor: name, shape },
    )
  }
  return bytes
}

function sizeError(path: string, { name, type, shape }: GgufTensor, expected: number, found: number): GorgonError {
  return new GorgonError(
    'ERR_TENSOR',
    `${path}: tensor "${name}", ${type} [${shape.join(', ')}], needs ${expected} bytes; ${found} were given.`,
    { file: path, tensor: name, expected, found },
  )
}

const padded = (bytes: number): number => Math.ceil(bytes / GGUF_ALIGNMENT) * GGUF_ALIGNMENT

function headerOf(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensor[],
  sizes: readonly number[],
): Buffer {
  const parts: Buffer[] = [Buffer.from('GGUF'), u32(GGUF_VERSION), u64(tensors.length), u64(metadata.size)]
  for (const [key, value] of metadata) parts.push(string(key), ...entryOf(value))
  let offset = 0
  for (const [i, { name, type, shape }] of tensors.entries()) {
    parts.push(string(name), u32(shape.length), ...shape.toReversed().map(u64), u32(TENSOR_TYPES[type].id), u64(offset))
    offset += padded(sizes[i]!)
  }
  const bytes = parts.reduce((sum, part) => sum + part.length, 0)
  return Buffer.concat(parts, padded(bytes))
}

/** A value's type, then the value. */
function entryOf(entry: GgufValue): Buffer[] {
  switch (entry.type) {
    case 'u32':
      return [u32(VALUE_TYPES.u32), u32(entry.value)]
    case 'f32':
      return [u32(VALUE_TYPES.f32), f32(entry.value)]
    case 'bool':
      return [u32(VALUE_TYPES.bool), Buffer.from([entry.value ? 1 : 0])]
    case 'string':
      return [u32(VALUE_TYPES.string), string(entry.value)]
    case 'strings':
      return [...arrayOf(VALUE_TYPES.string, entry.value.length), ...entry.value.map(string)]
    case 'i32s':
      return [...arrayOf(VALUE_TYPES.i32, entry.value.length), ...entry.value.map(i32)]
  }
}

const arrayOf = (type: number, length: number): Buffer[] => [u32(VALUE_TYPES.array), u32(type), u64(length)]

function number(bytes: number, write: (into: Buffer) => void): Buffer {
  const into = Buffer.alloc(bytes)
  write(into)
  return into
}

const u32 = (value: number): Buffer => number(4, (into) => into.writeUInt32LE(value))
const i32 = (value: number): Buffer => number(4, (into) => into.writeInt32LE(value))
const f32 = (value: number): Buffer => number(4, (into) => into.writeFloatLE(value))
const u64 = (value: number): Buffer => number(8, (into) => into.writeBigUInt64LE(BigInt(value)))

function string(text: string): Buffer {
  const bytes = Buffer.from(text)
  return Buffer.concat([u64(bytes.length), bytes])
}
