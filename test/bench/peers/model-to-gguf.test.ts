// A model exported for llama.cpp is the same model: values, their order, and the settings they are used with.
import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { exportGguf, interleaved } from '../../../bench/peers/model-to-gguf.js'
import { demoModel } from '../../../src/index.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { type TinyModel, type TinyModelOptions, toBf16, writeTinyModel } from '../../support/tiny-model.js'
import { floatsOf, type GgufFile, readGguf } from './read-gguf.js'

const root = temporaryFolder()

async function exported(options: TinyModelOptions): Promise<{ model: TinyModel; file: GgufFile }> {
  const model = await writeTinyModel(await mkdtemp(join(root, 'model-')), options)
  const path = join(model.dir, 'model.gguf')
  await exportGguf(model.dir, path)
  return { model, file: await readGguf(path) }
}

/** Values of a tensor of a tiny model. */
function valuesOf(model: TinyModel, name: string): number[] {
  return [...model.tensors.get(name)!.values]
}

function floatsIn(file: GgufFile, name: string): number[] {
  return floatsOf(file.tensors.get(name)!.data)
}

/** Row 2i of a head is its row i, row 2i + 1 its row i + D/2. */
function pairedRows(values: readonly number[], heads: number, headDim: number): number[] {
  const width = values.length / (heads * headDim)
  const rows: number[] = []
  for (let head = 0; head < heads; head++) {
    for (let pair = 0; pair < headDim / 2; pair++) {
      for (const row of [pair, pair + headDim / 2]) {
        const begin = (head * headDim + row) * width
        rows.push(...values.slice(begin, begin + width))
      }
    }
  }
  return rows
}

describe('exportGguf', () => {
  it('llama: all tensors under their names, rotated rows of queries and keys side by side, biases with them', async () => {
    const { model, file } = await exported({ attentionBias: true, mlpBias: true, layers: 2 })
    const { queryHeads, kvHeads, headDim } = model
    expect(file.tensors.size).toBe(model.tensors.size)
    for (const layer of [0, 1]) {
      const at = `model.layers.${layer}`
      for (const kind of ['weight', 'bias']) {
        const q = valuesOf(model, `${at}.self_attn.q_proj.${kind}`)
        const k = valuesOf(model, `${at}.self_attn.k_proj.${kind}`)
        expect(floatsIn(file, `blk.${layer}.attn_q.${kind}`)).toEqual(pairedRows(q, queryHeads, headDim))
        expect(floatsIn(file, `blk.${layer}.attn_k.${kind}`)).toEqual(pairedRows(k, kvHeads, headDim))
        for (const [theirs, ours] of [
          ['attn_v', 'self_attn.v_proj'],
          ['attn_output', 'self_attn.o_proj'],
          ['ffn_gate', 'mlp.gate_proj'],
          ['ffn_up', 'mlp.up_proj'],
          ['ffn_down', 'mlp.down_proj'],
        ]) {
          expect(floatsIn(file, `blk.${layer}.${theirs}.${kind}`), theirs).toEqual(
            valuesOf(model, `${at}.${ours}.${kind}`),
          )
        }
      }
      expect(floatsIn(file, `blk.${layer}.attn_norm.weight`)).toEqual(valuesOf(model, `${at}.input_layernorm.weight`))
      expect(floatsIn(file, `blk.${layer}.ffn_norm.weight`)).toEqual(
        valuesOf(model, `${at}.post_attention_layernorm.weight`),
      )
    }
    expect(floatsIn(file, 'token_embd.weight')).toEqual(valuesOf(model, 'model.embed_tokens.weight'))
    expect(floatsIn(file, 'output_norm.weight')).toEqual(valuesOf(model, 'model.norm.weight'))
    expect(floatsIn(file, 'output.weight')).toEqual(valuesOf(model, 'lm_head.weight'))
    expect(file.tensors.get('blk.0.ffn_down.weight')!.sizes).toEqual([model.ffn, model.hidden])
  })

  it('llama: the settings', async () => {
    const { model, file } = await exported({ rmsEps: 1e-5, maxPositions: 512, bos: 3, eos: [4, 5] })
    expect(Object.fromEntries(file.metadata)).toMatchObject({
      'general.architecture': 'llama',
      'general.file_type': 0,
      'llama.vocab_size': model.vocab,
      'llama.context_length': 512,
      'llama.embedding_length': model.hidden,
      'llama.block_count': model.layers,
      'llama.feed_forward_length': model.ffn,
      'llama.attention.head_count': model.queryHeads,
      'llama.attention.head_count_kv': model.kvHeads,
      'llama.attention.key_length': model.headDim,
      'llama.attention.value_length': model.headDim,
      'llama.attention.layer_norm_rms_epsilon': Math.fround(1e-5),
      'llama.rope.dimension_count': model.headDim,
      'tokenizer.ggml.bos_token_id': 3,
      'tokenizer.ggml.eos_token_id': 4,
    })
    const tokens = file.metadata.get('tokenizer.ggml.tokens') as string[]
    expect(new Set(tokens).size).toBe(model.vocab)
  })

  it('bf16: matrices as stored, vectors as f32, tied embeddings once', async () => {
    const { model, file } = await exported({ dtype: 'bf16', tied: true })
    expect(file.tensors.has('output.weight')).toBe(false)
    const embed = file.tensors.get('token_embd.weight')!
    expect(embed.type).toBe(30)
    const bits = Array.from({ length: embed.data.length / 2 }, (_, i) => embed.data.readUInt16LE(2 * i))
    expect(bits).toEqual(valuesOf(model, 'model.embed_tokens.weight').map(toBf16))
    expect(file.tensors.get('output_norm.weight')!.type).toBe(0)
    expect(floatsIn(file, 'output_norm.weight')).toEqual(valuesOf(model, 'model.norm.weight'))
    expect(file.metadata.get('general.file_type')).toBe(32)
  })

  it('f16: vectors widened', async () => {
    const { model, file } = await exported({ dtype: 'f16' })
    expect(file.tensors.get('token_embd.weight')!.type).toBe(1)
    expect(floatsIn(file, 'blk.1.ffn_norm.weight')).toEqual(
      valuesOf(model, 'model.layers.1.post_attention_layernorm.weight'),
    )
  })

  it.each(['qwen2', 'qwen3'] as const)(
    '%s: rows stay where they are, since llama.cpp rotates halves there too',
    async (architecture) => {
      const { model, file } = await exported({ architecture })
      expect(file.metadata.get('general.architecture')).toBe(architecture)
      expect(floatsIn(file, 'blk.0.attn_q.weight')).toEqual(valuesOf(model, 'model.layers.0.self_attn.q_proj.weight'))
      if (architecture === 'qwen2') {
        expect(floatsIn(file, 'blk.0.attn_k.bias')).toEqual(valuesOf(model, 'model.layers.0.self_attn.k_proj.bias'))
      } else {
        expect(floatsIn(file, 'blk.0.attn_k_norm.weight')).toEqual(
          valuesOf(model, 'model.layers.0.self_attn.k_norm.weight'),
        )
      }
    },
  )

  it('llama3 frequencies: what each is divided by, 1 where wavelengths are short and the factor where they are long', async () => {
    const { file } = await exported({
      rope: {
        rope_type: 'llama3',
        rope_theta: 1e6,
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 64,
      },
    })
    const factors = floatsIn(file, 'rope_freqs.weight')
    expect(factors).toHaveLength(8)
    expect(factors[0]).toBeCloseTo(1, 6)
    expect(factors.at(-1)).toBeCloseTo(8, 5)
    expect(file.metadata.get('llama.rope.freq_base')).toBe(1e6)
  })

  it('linear scaling', async () => {
    const { file } = await exported({ rope: { rope_type: 'linear', rope_theta: 10_000, factor: 4 } })
    expect(file.metadata.get('llama.rope.scaling.type')).toBe('linear')
    expect(file.metadata.get('llama.rope.scaling.factor')).toBe(4)
    expect(file.tensors.has('rope_freqs.weight')).toBe(false)
  })

  it.each([
    ['a sliding window', { architecture: 'mistral', slidingWindow: 16, maxPositions: 64 }],
    ['yarn', { rope: { rope_type: 'yarn', rope_theta: 10_000, factor: 2, original_max_position_embeddings: 32 } }],
  ] as const)('refuses %s, which llama.cpp would compute otherwise', async (_, options) => {
    await failure(() => exported(options), 'ERR_UNSUPPORTED')
  })

  it("the demo model's vocabulary, special tokens marked", async () => {
    const path = join(root, 'demo.gguf')
    const made = await exportGguf(demoModel(), path)
    expect(made).toMatchObject({ dtype: 'bf16', hasVocabulary: true })
    const { metadata } = await readGguf(path)
    const tokens = metadata.get('tokenizer.ggml.tokens') as string[]
    const types = metadata.get('tokenizer.ggml.token_type') as number[]
    expect(tokens).toHaveLength(4096)
    expect(tokens.slice(0, 3)).toEqual(['<|begin_of_text|>', '<|end_of_text|>', '<|pad|>'])
    expect([types[0], types[20]]).toEqual([3, 1])
    expect((metadata.get('tokenizer.ggml.merges') as string[])[0]).toBe('Ġ Ġ')
    expect(metadata.get('tokenizer.ggml.pre')).toBe('qwen2')
  })

  it('a tokenizer of another kind leaves numbered placeholders', async () => {
    const model = await writeTinyModel(await mkdtemp(join(root, 'unigram-')))
    await writeFile(join(model.dir, 'tokenizer.json'), JSON.stringify({ model: { type: 'Unigram', vocab: [] } }))
    const made = await exportGguf(model.dir, join(model.dir, 'model.gguf'))
    expect(made.hasVocabulary).toBe(false)
  })
})

describe('interleaved', () => {
  it('keeps heads apart', () => {
    const rows = Uint8Array.from([0, 1, 2, 3, 10, 11, 12, 13])
    expect([...interleaved(rows, 2, 4)]).toEqual([0, 2, 1, 3, 10, 12, 11, 13])
  })
})
