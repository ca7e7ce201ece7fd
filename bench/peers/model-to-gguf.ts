// A model folder as llama.cpp wants it: its names for tensors and settings, its order of rotated rows, its vocabulary.
import { basename, join } from 'node:path'
import { GorgonError } from '../../src/errors.js'
import { isJsonObject, readJsonObject } from '../../src/json.js'
import type { TensorSlice, WeightDtype } from '../../src/native.js'
import { type ModelFolder, readModelFolder, readTensorBytes } from '../../src/weights/index.js'
import type { Architecture } from '../../src/weights/model-config.js'
import { ropeFrequencies } from '../../src/weights/rope.js'
import { GGUF_ALIGNMENT, type GgufTensor, type GgufValue, writeGguf } from './gguf.js'

/** What became of an export. */
export interface GgufExport {
  readonly path: string
  readonly bytes: number
  readonly tensors: number
  readonly dtype: WeightDtype
  /** Whether the vocabulary is the model's own; else numbered placeholders, and only token ids can be fed. */
  readonly hasVocabulary: boolean
}

/**
 * What llama.cpp calls an architecture, and how it pairs the halves of a head when it rotates: `interleaved` rotates rows 2i and 2i + 1
 * together, `halves` rows i and i + D/2, as checkpoints of transformers do.
 */
const TARGETS: Readonly<Record<Architecture, { readonly name: string; readonly pairs: 'interleaved' | 'halves' }>> = {
  llama: { name: 'llama', pairs: 'interleaved' },
  // The same graph; llama.cpp has no other name for it.
  mistral: { name: 'llama', pairs: 'interleaved' },
  qwen2: { name: 'qwen2', pairs: 'halves' },
  qwen3: { name: 'qwen3', pairs: 'halves' },
}

/** Our roles of a layer's tensors, and llama.cpp's names. Biases are called after their matrices. */
const LAYER_NAMES: Readonly<Record<string, string>> = {
  attn_norm: 'attn_norm',
  q: 'attn_q',
  k: 'attn_k',
  v: 'attn_v',
  o: 'attn_output',
  q_norm: 'attn_q_norm',
  k_norm: 'attn_k_norm',
  ffn_norm: 'ffn_norm',
  gate: 'ffn_gate',
  up: 'ffn_up',
  down: 'ffn_down',
}

const MODEL_NAMES: Readonly<Record<string, string>> = {
  embed: 'token_embd.weight',
  final_norm: 'output_norm.weight',
  lm_head: 'output.weight',
}

/** `general.file_type`: of most tensors. */
const FILE_TYPES: Readonly<Record<WeightDtype, number>> = { f32: 0, f16: 1, bf16: 32 }

/** `tokenizer.ggml.token_type`. */
const TOKEN_TYPES = { normal: 1, control: 3, userDefined: 4, unused: 5 } as const

/**
 * llama.cpp's names for the splitting patterns we know. The first group of either may be spelled with an inline flag or with both cases;
 * what differs between them is how digits are grouped.
 */
const PRE_TOKENIZERS: readonly { readonly pattern: RegExp; readonly name: string }[] = [
  { pattern: /\|\[\^\\r\\n\\p\{L\}\\p\{N\}\]\?\\p\{L\}\+\|\\p\{N\}\|/, name: 'qwen2' },
  { pattern: /\|\[\^\\r\\n\\p\{L\}\\p\{N\}\]\?\\p\{L\}\+\|\\p\{N\}\{1,3\}\|/, name: 'llama-bpe' },
]

/**
 * Writes the model of a folder as one GGUF file: matrices as stored, vectors as f32.
 *
 * @throws {GorgonError} ERR_UNSUPPORTED for what llama.cpp would compute in another way; what reading a model folder may raise; ERR_FILE.
 */
export async function exportGguf(dir: string, path: string): Promise<GgufExport> {
  const folder = await readModelFolder(dir)
  const vocabulary = await readVocabulary(folder)
  const tensors = tensorsOf(folder)
  const metadata = new Map([...settingsOf(folder), ...vocabularyEntries(folder, vocabulary)])
  const bytes = await writeGguf(path, metadata, tensors)
  return { path, bytes, tensors: tensors.length, dtype: folder.dtype, hasVocabulary: vocabulary !== null }
}

const u32 = (value: number): GgufValue => ({ type: 'u32', value })
const f32 = (value: number): GgufValue => ({ type: 'f32', value })
const string = (value: string): GgufValue => ({ type: 'string', value })

function refuse(dir: string, what: string): GorgonError {
  return new GorgonError('ERR_UNSUPPORTED', `${dir}: ${what} is not exported to GGUF. Compare with another model.`, {
    dir,
  })
}

function settingsOf({ dir, config, dtype }: ModelFolder): [string, GgufValue][] {
  const { shape, rope, architecture } = config
  const { name } = TARGETS[architecture]
  // llama.cpp has no window for these architectures: it would attend to everything.
  if (shape.slidingWindows.some((window) => window > 0)) throw refuse(dir, 'a sliding window')
  if (rope.type === 'yarn') throw refuse(dir, 'yarn')
  if (rope.type === 'llama3' && name !== 'llama') throw refuse(dir, `llama3 frequencies of a ${name} model`)
  const settings: [string, GgufValue][] = [
    ['general.architecture', string(name)],
    ['general.name', string(basename(dir))],
    ['general.file_type', u32(FILE_TYPES[dtype])],
    ['general.alignment', u32(GGUF_ALIGNMENT)],
  ]
  const own: [string, GgufValue][] = [
    ['vocab_size', u32(shape.vocab)],
    ['context_length', u32(shape.maxPositions)],
    ['embedding_length', u32(shape.hidden)],
    ['block_count', u32(shape.layers)],
    ['feed_forward_length', u32(shape.ffn)],
    ['attention.head_count', u32(shape.queryHeads)],
    ['attention.head_count_kv', u32(shape.kvHeads)],
    ['attention.key_length', u32(shape.headDim)],
    ['attention.value_length', u32(shape.headDim)],
    ['attention.layer_norm_rms_epsilon', f32(shape.rmsEps)],
    ['rope.dimension_count', u32(shape.headDim)],
    ['rope.freq_base', f32(rope.theta)],
  ]
  if (rope.type === 'linear')
    own.push(['rope.scaling.type', string('linear')], ['rope.scaling.factor', f32(rope.factor)])
  return [...settings, ...own.map(([key, value]): [string, GgufValue] => [`${name}.${key}`, value])]
}

function tensorsOf(folder: ModelFolder): GgufTensor[] {
  const { config, table, tensors } = folder
  const { queryHeads, kvHeads, headDim } = config.shape
  const { pairs } = TARGETS[config.architecture]
  const interleavedHeads: Readonly<Record<string, number>> =
    pairs === 'interleaved' ? { q: queryHeads, k: kvHeads } : {}
  const written = Object.entries(tensors).map(([role, slice]): GgufTensor => {
    const { name, of } = ggufName(role)
    const isVector = slice.shape.length === 1
    return {
      name,
      type: isVector ? 'f32' : slice.dtype,
      shape: slice.shape,
      read: async () => {
        const stored = await readTensorBytes(table.files[slice.file]!, slice)
        const data = isVector ? widened(stored, slice) : stored
        const heads = interleavedHeads[of]
        return heads === undefined ? data : interleaved(data, heads, headDim)
      },
    }
  })
  const factors = frequencyFactors(folder)
  if (factors) {
    written.push({
      name: 'rope_freqs.weight',
      type: 'f32',
      shape: [factors.length],
      read: async () => new Uint8Array(factors.buffer),
    })
  }
  return written
}

/** llama.cpp's name of a tensor, and the role of the matrix it is, or is a bias of. */
function ggufName(role: string): { name: string; of: string } {
  const ofModel = MODEL_NAMES[role]
  if (ofModel !== undefined) return { name: ofModel, of: role }
  const [, layer, of, bias] = /^layers\.(\d+)\.(\w+?)(_bias)?$/.exec(role) ?? []
  const name = of === undefined ? undefined : LAYER_NAMES[of]
  if (of === undefined || name === undefined) throw new Error(`the role ${role} has no name: a bug, please report it`)
  return { name: `blk.${layer}.${name}.${bias ? 'bias' : 'weight'}`, of }
}

/**
 * The rows of each head, those that are rotated together brought side by side: row i of the first half to 2i, of the second to 2i + 1.
 *
 * @param data [heads, D, …]
 */
export function interleaved(data: Uint8Array, heads: number, headDim: number): Uint8Array {
  const rowBytes = data.byteLength / (heads * headDim)
  const result = new Uint8Array(data.byteLength)
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < headDim; row++) {
      const to = row < headDim / 2 ? 2 * row : 2 * (row - headDim / 2) + 1
      const from = (head * headDim + row) * rowBytes
      result.set(data.subarray(from, from + rowBytes), (head * headDim + to) * rowBytes)
    }
  }
  return result
}

/** A vector's values as f32. */
function widened(stored: Uint8Array, { dtype, shape }: TensorSlice): Uint8Array {
  if (dtype === 'f32') return stored
  const bits = new DataView(stored.buffer, stored.byteOffset, stored.byteLength)
  const values = Float32Array.from({ length: shape[0]! }, (_, i) => {
    const half = bits.getUint16(2 * i, true)
    return dtype === 'bf16' ? fromBf16(half) : fromF16(half)
  })
  return new Uint8Array(values.buffer)
}

const word = new DataView(new ArrayBuffer(4))

function fromBf16(bits: number): number {
  word.setUint32(0, bits * 2 ** 16)
  return word.getFloat32(0)
}

function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = (bits & 1023) / 1024
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15))
}

/** f32 [D / 2]: what llama.cpp divides each frequency of `rope.freq_base` by; null where by nothing. */
function frequencyFactors({ config }: ModelFolder): Float32Array | null {
  const { rope, shape } = config
  if (rope.type !== 'llama3') return null
  const plain = ropeFrequencies({ type: 'default', theta: rope.theta }, shape.headDim).inverseFrequencies
  return plain.map((frequency, i) => frequency / shape.inverseFrequencies[i]!)
}

interface Vocabulary {
  /** By id; null where the model has a row and no token. */
  readonly tokens: readonly (string | null)[]
  readonly types: readonly number[]
  readonly merges: readonly string[]
  readonly pre: string
}

/** Of tokenizer.json; null without one, and for kinds llama.cpp would need other tables for. */
async function readVocabulary({ dir, config }: ModelFolder): Promise<Vocabulary | null> {
  const json = await readJsonObject(join(dir, 'tokenizer.json'), 'ERR_TOKENIZER')
  const model = json?.['model']
  if (!isJsonObject(model) || model['type'] !== 'BPE' || model['byte_fallback'] === true) return null
  const { vocab, merges } = model
  const added = json!['added_tokens'] ?? []
  if (!isJsonObject(vocab) || !Array.isArray(merges) || !Array.isArray(added)) return null
  const pattern = JSON.stringify(json!['pre_tokenizer'] ?? null).replaceAll('\\\\', '\\')
  const pre = PRE_TOKENIZERS.find((known) => known.pattern.test(pattern))
  if (!pre) return null
  const tokens: (string | null)[] = Array.from({ length: config.shape.vocab }, () => null)
  const types: number[] = tokens.map(() => TOKEN_TYPES.unused)
  const put = (token: unknown, id: unknown, type: number): void => {
    if (typeof token !== 'string' || !Number.isInteger(id) || !((id as number) in tokens)) return
    tokens[id as number] = token
    types[id as number] = type
  }
  for (const [token, id] of Object.entries(vocab)) put(token, id, TOKEN_TYPES.normal)
  for (const token of added) {
    if (!isJsonObject(token)) continue
    put(token['content'], token['id'], token['special'] === true ? TOKEN_TYPES.control : TOKEN_TYPES.userDefined)
  }
  return {
    tokens,
    types,
    merges: merges.map((pair) => (Array.isArray(pair) ? pair.join(' ') : String(pair))),
    pre: pre.name,
  }
}

function vocabularyEntries({ config }: ModelFolder, vocabulary: Vocabulary | null): [string, GgufValue][] {
  const { shape, bosId, eosIds } = config
  const tokens = vocabulary?.tokens ?? Array.from({ length: shape.vocab }, () => null)
  // A model without a byte-level vocabulary still needs one that loads: as many tokens as rows, all different, never merged.
  const entries: [string, GgufValue][] = [
    ['model', string('gpt2')],
    ['pre', string(vocabulary?.pre ?? 'gpt-2')],
    ['tokens', { type: 'strings', value: tokens.map((token, id) => token ?? `<|${id}|>`) }],
    ['token_type', { type: 'i32s', value: vocabulary?.types ?? tokens.map(() => TOKEN_TYPES.normal) }],
    ['merges', { type: 'strings', value: vocabulary?.merges ?? [] }],
    ['add_bos_token', { type: 'bool', value: bosId !== null }],
  ]
  if (bosId !== null) entries.push(['bos_token_id', u32(bosId)])
  if (eosIds[0] !== undefined) entries.push(['eos_token_id', u32(eosIds[0])])
  return entries.map(([key, value]) => [`tokenizer.ggml.${key}`, value])
}
