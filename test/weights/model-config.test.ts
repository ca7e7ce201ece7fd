// config.json: every family and spelling we read, and the refusal by name of everything else.
import { describe, expect, test } from 'vitest'
import { parseGenerationConfig } from '../../src/weights/generation-config.js'
import {
  MAX_EOS_IDS,
  MAX_HEAD_DIM,
  MAX_HIDDEN,
  MAX_LAYERS,
  MAX_VOCAB,
  type ModelConfig,
  parseModelConfig,
} from '../../src/weights/model-config.js'
import { MAX_POSITIONS } from '../../src/weights/rope-config.js'
import { failure } from '../support/errors.js'

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 1000,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 4,
  num_attention_heads: 4,
}
const QWEN = { ...LLAMA, model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'], num_key_value_heads: 2 }
const MISTRAL = { ...LLAMA, model_type: 'mistral', architectures: ['MistralForCausalLM'], num_key_value_heads: 2 }

const parse = (json: unknown): ModelConfig => parseModelConfig(json, 'config.json')
const refuse = (json: unknown, code: 'ERR_UNSUPPORTED' | 'ERR_MODEL_CONFIG', says: RegExp) =>
  failure(() => parse(json), code, says)

describe('defaults are those of transformers', () => {
  test('llama', () => {
    const config = parse(LLAMA)
    expect(config.shape).toMatchObject({
      layers: 4,
      hidden: 64,
      ffn: 160,
      vocab: 1000,
      queryHeads: 4,
      kvHeads: 4,
      headDim: 16,
      rmsEps: 1e-6,
      maxPositions: 2048,
      ropeScale: 1,
    })
    expect(config).toMatchObject({
      rope: { type: 'default', theta: 10000 },
      tied: false,
      biases: { qkv: false, o: false, mlp: false },
      qkNorm: false,
      bosId: null,
      eosIds: [],
      warnings: [],
    })
  })

  test('qwen2 has q, k and v biases whatever attention_bias says', () => {
    expect(parse({ ...QWEN, attention_bias: false }).biases).toEqual({ qkv: true, o: false, mlp: false })
  })

  test('qwen3 has normalised heads of width 128', () => {
    const config = parse({ ...QWEN, model_type: 'qwen3', architectures: ['Qwen3ForCausalLM'] })
    expect(config.qkNorm).toBe(true)
    expect(config.shape.headDim).toBe(128)
  })

  test('mistral has a sliding window of 4096 unless it says null, and we say so', () => {
    const silent = parse({ ...MISTRAL, max_position_embeddings: 32768 })
    expect([...silent.shape.slidingWindows]).toEqual([4096, 4096, 4096, 4096])
    expect(silent.warnings).toEqual([expect.stringContaining('4096')])
    expect([...parse({ ...MISTRAL, sliding_window: null }).shape.slidingWindows]).toEqual([0, 0, 0, 0])
  })

  test('null means the default', () => {
    const nulls = {
      num_key_value_heads: null,
      head_dim: null,
      rope_scaling: null,
      rope_theta: null,
      hidden_act: null,
      eos_token_id: null,
    }
    expect(parse({ ...LLAMA, ...nulls })).toEqual(parse(LLAMA))
  })
})

test('explicit heads: MHA, GQA, MQA, and a width that hidden_size does not give', () => {
  const shape = (change: object) => parse({ ...LLAMA, ...change }).shape
  expect(shape({ num_key_value_heads: 2 })).toMatchObject({ queryHeads: 4, kvHeads: 2 })
  expect(shape({ num_key_value_heads: 1 })).toMatchObject({ kvHeads: 1 })
  expect(shape({ head_dim: 32 })).toMatchObject({ headDim: 32, hidden: 64 })
  expect(shape({ hidden_size: 66, head_dim: 16 })).toMatchObject({ headDim: 16, hidden: 66 })
})

test('biases and ties', () => {
  expect(parse({ ...LLAMA, attention_bias: true }).biases).toEqual({ qkv: true, o: true, mlp: false })
  expect(parse({ ...LLAMA, mlp_bias: true }).biases).toEqual({ qkv: false, o: false, mlp: true })
  expect(parse({ ...LLAMA, tie_word_embeddings: true }).tied).toBe(true)
})

describe('rotary embedding', () => {
  const scaled = {
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 64,
  }

  test('both spellings mean the same', () => {
    const legacy = parse({ ...LLAMA, rope_theta: 500000, rope_scaling: scaled })
    expect(parse({ ...LLAMA, rope_parameters: { ...scaled, rope_theta: 500000 } })).toEqual(legacy)
    expect(legacy.rope).toEqual({
      type: 'llama3',
      theta: 500000,
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositions: 64,
    })
    expect(
      parse({ ...LLAMA, rope_theta: 7, rope_parameters: { rope_type: 'default', rope_theta: 7 } }).rope.theta,
    ).toBe(7)
    expect(parse({ ...LLAMA, rope_scaling: { type: 'linear', factor: 2 } }).rope).toEqual({
      type: 'linear',
      theta: 10000,
      factor: 2,
    })
  })

  test('yarn: the factor it states, the context it came from, and positions up to their product', () => {
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32768 }
    const config = parse({ ...QWEN, max_position_embeddings: 32768, rope_theta: 1e6, rope_scaling: yarn })
    expect(config.rope).toEqual({
      type: 'yarn',
      theta: 1e6,
      factor: 4,
      originalMaxPositions: 32768,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: null,
      mscale: null,
      mscaleAllDim: null,
      truncate: true,
    })
    expect(config.shape.maxPositions).toBe(131072)
    const silent = parse({ ...QWEN, max_position_embeddings: 131072, rope_scaling: { ...yarn, factor: null } })
    expect(silent.rope).toMatchObject({ factor: 4 })
    const alone = parse({ ...QWEN, max_position_embeddings: 2048, rope_scaling: { type: 'yarn', factor: 2 } })
    expect(alone.rope).toMatchObject({ originalMaxPositions: 2048 })
    const beside = parse({ ...QWEN, original_max_position_embeddings: 512, rope_scaling: { ...yarn, type: 'yarn' } })
    expect(beside.rope).toMatchObject({ originalMaxPositions: 512 })
  })

  test('linear: positions up to max_sequence_length', () => {
    const linear = { rope_scaling: { type: 'linear', factor: 4 }, max_position_embeddings: 4096 }
    expect(parse({ ...LLAMA, ...linear }).shape.maxPositions).toBe(4096)
    expect(parse({ ...LLAMA, ...linear, max_sequence_length: 16384 }).shape.maxPositions).toBe(16384)
  })

  test('fields a type does not use are named in a warning', () => {
    const config = parse({ ...LLAMA, rope_scaling: { type: 'linear', factor: 4, beta_fast: 32 } })
    expect(config.warnings).toEqual([expect.stringContaining('rope_scaling.beta_fast')])
    expect(parse({ ...LLAMA, rope_scaling: { type: 'yarn', factor: 4, finetuned: true } }).warnings).toEqual([])
  })

  test.each(['dynamic', 'longrope', 'su', 'mrope', 'ntk'])('the type %s is refused by name', async (type) => {
    await refuse({ ...LLAMA, rope_scaling: { type, factor: 2 } }, 'ERR_UNSUPPORTED', new RegExp(`"${type}"`))
    await refuse(
      { ...LLAMA, rope_parameters: { rope_type: type, rope_theta: 1e4 } },
      'ERR_UNSUPPORTED',
      new RegExp(`"${type}"`),
    )
  })

  test.each([
    ['a factor without a type', { rope_scaling: { factor: 2 } }, 'ERR_MODEL_CONFIG', /without rope_type/],
    ['no factor', { rope_scaling: { type: 'linear' } }, 'ERR_MODEL_CONFIG', /without rope_scaling\.factor/],
    [
      'a factor of zero',
      { rope_scaling: { type: 'linear', factor: 0 } },
      'ERR_MODEL_CONFIG',
      /rope_scaling\.factor is 0/,
    ],
    [
      'a factor as text',
      { rope_parameters: { rope_type: 'linear', factor: '2' } },
      'ERR_MODEL_CONFIG',
      /factor is "2"/,
    ],
    ['a theta of 1', { rope_theta: 1 }, 'ERR_MODEL_CONFIG', /rope_theta is 1/],
    [
      'a band of no width',
      { rope_scaling: { ...scaled, high_freq_factor: 1 } },
      'ERR_MODEL_CONFIG',
      /high_freq_factor/,
    ],
    [
      'two thetas',
      { rope_theta: 5, rope_parameters: { rope_type: 'default', rope_theta: 7 } },
      'ERR_MODEL_CONFIG',
      /two values for rope_theta/,
    ],
    [
      'two factors',
      { rope_scaling: { rope_type: 'linear', factor: 2 }, rope_parameters: { rope_type: 'linear', factor: 4 } },
      'ERR_MODEL_CONFIG',
      /two values for factor/,
    ],
    [
      'a rotation of half a head',
      { rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.5 } },
      'ERR_UNSUPPORTED',
      /partial_rotary_factor/,
    ],
    ['sections', { rope_scaling: { type: 'default', mrope_section: [8, 4, 4] } }, 'ERR_UNSUPPORTED', /mrope_section/],
    [
      'one rotation per layer type',
      { rope_parameters: { full_attention: { rope_type: 'default' } } },
      'ERR_UNSUPPORTED',
      /differs between layers/,
    ],
    ['a list', { rope_scaling: [] }, 'ERR_MODEL_CONFIG', /rope_scaling/],
  ] as const)('%s is refused', async (_, change, code, says) => {
    await refuse({ ...LLAMA, ...change }, code, says)
  })
})

describe('sliding window', () => {
  const windows = (json: object) => [...parse(json).shape.slidingWindows]
  const sliding = { ...QWEN, use_sliding_window: true, sliding_window: 100, max_window_layers: 2 }
  const mixed = ['full_attention', 'sliding_attention', 'full_attention', 'sliding_attention']

  test('mistral: every layer', () => {
    expect(windows({ ...MISTRAL, sliding_window: 100 })).toEqual([100, 100, 100, 100])
  })

  test('qwen: only when switched on, and only above max_window_layers', () => {
    expect(windows(sliding)).toEqual([0, 0, 100, 100])
    expect(windows({ ...sliding, use_sliding_window: false })).toEqual([0, 0, 0, 0])
    expect(windows({ ...sliding, max_window_layers: undefined })).toEqual([0, 0, 0, 0])
    expect(windows({ ...sliding, sliding_window: null })).toEqual([0, 0, 0, 0])
  })

  test('qwen: layer_types decide when they are there', () => {
    expect(windows({ ...sliding, layer_types: mixed })).toEqual([0, 100, 0, 100])
  })

  test('a window no shorter than the context hides nothing', () => {
    expect(windows({ ...MISTRAL, sliding_window: 512, max_position_embeddings: 512 })).toEqual([0, 0, 0, 0])
    expect(windows({ ...MISTRAL, sliding_window: 511, max_position_embeddings: 512 })).toEqual([511, 511, 511, 511])
  })

  test.each([
    [
      'in llama, where transformers ignores it',
      { ...LLAMA, sliding_window: 100 },
      'ERR_UNSUPPORTED',
      /100 in a llama model/,
    ],
    ['of nothing', { ...MISTRAL, sliding_window: 0 }, 'ERR_MODEL_CONFIG', /sliding_window is 0/],
    [
      'that mistral and its layer_types disagree on',
      { ...MISTRAL, sliding_window: 100, layer_types: mixed },
      'ERR_UNSUPPORTED',
      /layer_types/,
    ],
    ['that is missing', { ...QWEN, layer_types: mixed }, 'ERR_MODEL_CONFIG', /no sliding window/],
    [
      'for too few layers',
      { ...sliding, layer_types: ['full_attention'] },
      'ERR_MODEL_CONFIG',
      /4 layers and 1 layer_types/,
    ],
    [
      'of an unknown type',
      { ...sliding, layer_types: [...mixed.slice(1), 'chunked_attention'] },
      'ERR_UNSUPPORTED',
      /"chunked_attention"/,
    ],
  ] as const)('a window %s is refused', async (_, json, code, says) => {
    await refuse(json, code, says)
  })
})

test('custom code is not run, and a warning says so', () => {
  expect(parse({ ...LLAMA, auto_map: { AutoModel: 'modeling.Model' } }).warnings).toEqual([
    expect.stringContaining('auto_map'),
  ])
})

describe('ends of a text', () => {
  test('one id, several, or none', () => {
    expect(parse({ ...LLAMA, bos_token_id: 0, eos_token_id: 5 })).toMatchObject({ bosId: 0, eosIds: [5] })
    expect(parse({ ...LLAMA, eos_token_id: [5, 6, 5] }).eosIds).toEqual([5, 6])
  })

  test('ids outside the vocabulary are dropped with a warning, -1 without', () => {
    const config = parse({ ...LLAMA, bos_token_id: -1, eos_token_id: [999, 1000] })
    expect(config).toMatchObject({ bosId: null, eosIds: [999] })
    expect(config.warnings).toEqual([expect.stringContaining('1000')])
  })

  test('generation_config.json comes first, config.json fills in', async () => {
    const config = parse({ ...LLAMA, bos_token_id: 0, eos_token_id: 5 })
    expect(parseGenerationConfig(undefined, config)).toMatchObject({ bosId: 0, eosIds: [5] })
    expect(parseGenerationConfig({ temperature: 0.6 }, config)).toMatchObject({ bosId: 0, eosIds: [5] })
    expect(parseGenerationConfig({ eos_token_id: [7, 8] }, config)).toMatchObject({ bosId: 0, eosIds: [7, 8] })
    expect(parseGenerationConfig({ eos_token_id: 2000 }, config)).toMatchObject({
      eosIds: [5],
      warnings: [expect.stringContaining('2000')],
    })
    await failure(() => parseGenerationConfig({ eos_token_id: 'x' }, config), 'ERR_MODEL_CONFIG', /eos_token_id is "x"/)
  })
})

describe('what is not implemented is refused by name:', () => {
  test.each([
    ['another architecture', { model_type: 'gemma2' }, /"gemma2"/],
    ['a classifier', { architectures: ['LlamaForSequenceClassification'] }, /"LlamaForSequenceClassification"/],
    ['a headless model', { architectures: ['LlamaModel'] }, /"LlamaModel"/],
    ['another activation', { hidden_act: 'gelu' }, /"gelu"/],
    ['quantised weights', { quantization_config: { bits: 4 } }, /quantization_config/],
    ['a partial rotation', { partial_rotary_factor: 0.5 }, /partial_rotary_factor is 0.5/],
    ['soft-capped attention', { attn_logit_softcapping: 50 }, /attn_logit_softcapping/],
    ['soft-capped logits', { final_logit_softcapping: 30 }, /final_logit_softcapping/],
    ['a mixture of experts', { num_local_experts: 8 }, /num_local_experts/],
    ['scaled logits', { logit_scale: 0.0625 }, /logit_scale/],
  ])('%s', async (_, change, says) => {
    await refuse({ ...LLAMA, ...change }, 'ERR_UNSUPPORTED', says)
  })

  test('and the same features switched off are not', () => {
    const off = {
      quantization_config: null,
      partial_rotary_factor: 1,
      attn_logit_softcapping: null,
      num_local_experts: 0,
      logit_scale: 1,
    }
    expect(parse({ ...LLAMA, ...off, hidden_act: 'swish' })).toEqual(parse(LLAMA))
  })
})

describe('hostile numbers are refused:', () => {
  test.each([
    ['no model_type', { model_type: undefined }, /no model_type/],
    ['a model_type of the object prototype', { model_type: {} }, /no model_type/],
    ['no layers', { num_hidden_layers: 0 }, /num_hidden_layers is 0/],
    ['too many layers', { num_hidden_layers: MAX_LAYERS + 1 }, /num_hidden_layers is 1025/],
    ['half a layer', { num_hidden_layers: 1.5 }, /num_hidden_layers is 1.5/],
    ['layers as text', { num_hidden_layers: '4' }, /num_hidden_layers is "4"/],
    ['heads per layer', { num_attention_heads: [4, 8] }, /num_attention_heads is \[4,8\]/],
    ['missing vocabulary', { vocab_size: undefined }, /vocab_size is missing/],
    ['too large a vocabulary', { vocab_size: MAX_VOCAB + 1 }, /vocab_size/],
    ['too wide', { hidden_size: MAX_HIDDEN + 4 }, /hidden_size/],
    ['negative width', { hidden_size: -64 }, /hidden_size is -64/],
    ['a width of 1e308', { hidden_size: 1e308 }, /hidden_size/],
    ['a width the heads do not share', { hidden_size: 65 }, /65, not a multiple of its 4 heads/],
    ['too wide a head', { head_dim: MAX_HEAD_DIM + 2 }, /head_dim is 258/],
    ['too wide a head, from the width', { hidden_size: 4 * MAX_HEAD_DIM + 8 }, /width 258; at most 256/],
    ['an odd head width', { head_dim: 15 }, /width 15/],
    ['KV heads that do not divide', { num_key_value_heads: 3 }, /4 query heads, which 3 KV heads/],
    ['more KV heads than query heads', { num_key_value_heads: 8 }, /4 query heads, which 8 KV heads/],
    ['too many positions', { max_position_embeddings: MAX_POSITIONS + 1 }, /max_position_embeddings/],
    ['a negative epsilon', { rms_norm_eps: -1e-5 }, /rms_norm_eps is -0.00001/],
    ['too many ends of a text', { eos_token_id: Array(MAX_EOS_IDS + 1).fill(1) }, /eos_token_id/],
    [
      'heads described as a model',
      { model_type: undefined, medusa_num_heads: 3 },
      /describes Medusa heads, not a model/,
    ],
  ])('%s', async (_, change, says) => {
    await refuse({ ...LLAMA, ...change }, 'ERR_MODEL_CONFIG', says)
  })

  test('something that is no object', async () => {
    for (const json of [null, [], 'llama', 1]) await refuse(json, 'ERR_MODEL_CONFIG', /not a JSON object/)
  })
})
