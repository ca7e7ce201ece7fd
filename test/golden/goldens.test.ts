// The engine against references computed by other implementations: logits, greedy tokens, SnapKV selections, tokens per step.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { loadEngine } from '../../src/index.js'
import { type ModelHandle, native, packageRoot } from '../../src/native.js'
import { openSafetensors, readTensorBytes } from '../../src/weights/safetensors.js'
import { decode, forwardLogits, openModel, snapkv } from '../support/native-session.js'
import { orSkipped, sharedPath } from '../support/shared.js'

const demo = join(packageRoot(), 'models', 'demo')
const demoHeads = join(packageRoot(), 'heads', 'demo')
/** The whole set where it lies beside the checkout, else the part that is kept here. */
const goldens = sharedPath('goldens') ?? join(packageRoot(), 'test', 'golden', 'reference')
const stories = sharedPath('models', 'stories260k')

async function readJson<T>(...path: string[]): Promise<T> {
  return JSON.parse(await readFile(join(...path), 'utf8')) as T
}

async function readFloats(file: string, name: string): Promise<Float32Array> {
  const bytes = await readTensor(file, name)
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
}

async function readInts(file: string, name: string): Promise<Int32Array> {
  const bytes = await readTensor(file, name)
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
}

async function readTensor(file: string, name: string): Promise<Uint8Array> {
  const { tensors } = await openSafetensors(file)
  const entry = tensors.get(name)
  if (!entry) throw new Error(`${file} has no ${name}`)
  return Uint8Array.from(await readTensorBytes(file, entry))
}

/** ||actual - expected|| / ||expected||. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  expect(actual.length).toBe(expected.length)
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2
    norm += expected[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

const opened: ModelHandle[] = []
async function open(dir: string, options: Parameters<typeof openModel>[1]): Promise<ModelHandle> {
  const model = await openModel(dir, options)
  opened.push(model)
  return model
}
afterAll(async () => {
  await Promise.all(opened.map((model) => native().close(model)))
})

// The references of the tiny models were cast to bf16 and back as a whole, RoPE frequencies included; a model loaded from a checkpoint
// keeps those in f32 (transformers computes them in f32 whatever the weights' dtype), and so do we. To compare, the test rounds them too.
describe('tiny models', () => {
  for (const name of ['llama_tied', 'llama_untied_mha_bias', 'llama3_rope_scaling', 'mistral_full', 'qwen2']) {
    it(`${name}: logits and greedy tokens`, async () => {
      const dir = join(goldens, name)
      const expected = await readJson<{ ids: number[]; greedy_f32: number[]; greedy_prompt_len: number }>(
        dir,
        'expected.json',
      )
      const model = await open(dir, { dtype: 'f32', bf16Frequencies: true })
      const logits = await readFloats(join(dir, 'expected.safetensors'), 'logits_f32')
      expect(relativeError(forwardLogits(model, expected.ids), logits)).toBeLessThan(1e-4)
      const prompt = expected.ids.slice(0, expected.greedy_prompt_len)
      expect((await decode(model, prompt, expected.greedy_f32.length)).tokens).toEqual(expected.greedy_f32)
    })
  }
})

describe.skipIf(stories === null)(`stories260k${orSkipped(stories)}`, () => {
  it('256 greedy tokens of an independent float64 decode', async () => {
    const expected = await readJson<{ prompt_ids: number[]; greedy_ids: number[] }>(stories!, 'expected.json')
    const model = await open(stories!, {})
    const { tokens } = await decode(model, expected.prompt_ids, expected.greedy_ids.length)
    expect(tokens).toEqual(expected.greedy_ids)
  })
})

interface DemoGoldens {
  ids: number[][]
  greedy_f32: number[][]
  long_ids: number[]
  long_greedy_f32: number[]
  [setting: string]: unknown
}

describe('demo model', () => {
  const file = join(goldens, 'demo', 'expected.safetensors')

  it('f32 logits and greedy tokens of five texts', async () => {
    const meta = await readJson<DemoGoldens>(goldens, 'demo', 'meta.json')
    const model = await open(demo, { dtype: 'f32' })
    const { tensors } = await openSafetensors(file)
    expect(tensors.has('logits_f32_1')).toBe(true)
    for (const [i, ids] of meta.ids.entries()) {
      if (tensors.has(`logits_f32_${i}`)) {
        const logits = await readFloats(file, `logits_f32_${i}`)
        expect(relativeError(forwardLogits(model, ids), logits), `text ${i}`).toBeLessThan(1e-4)
      }
      expect((await decode(model, ids, 96)).tokens, `text ${i}`).toEqual(meta.greedy_f32[i])
    }
  })

  it('bf16 logits, by error: the reference rounds more often than we do', async () => {
    const meta = await readJson<DemoGoldens>(goldens, 'demo', 'meta.json')
    const model = await open(demo, { dtype: 'bf16' })
    const { tensors } = await openSafetensors(file)
    for (const [i, ids] of meta.ids.entries()) {
      if (!tensors.has(`logits_bf16_${i}`)) continue
      const ours = forwardLogits(model, ids)
      const reference = await readFloats(file, `logits_bf16_${i}`)
      const exact = await readFloats(file, `logits_f32_${i}`)
      // As close to the f32 truth as a straightforward bf16 run, with room for chance.
      expect(relativeError(ours, exact), `text ${i}`).toBeLessThan(1.2 * relativeError(reference, exact))
    }
  })

  it('int8 logits, by error: a few times that of bf16', async () => {
    const meta = await readJson<DemoGoldens>(goldens, 'demo', 'meta.json')
    const model = await open(demo, { weights: 'int8' })
    const { tensors } = await openSafetensors(file)
    for (const [i, ids] of meta.ids.entries()) {
      if (!tensors.has(`logits_f32_${i}`)) continue
      const error = relativeError(forwardLogits(model, ids), await readFloats(file, `logits_f32_${i}`))
      expect(error, `text ${i}`).toBeGreaterThan(2e-3)
      expect(error, `text ${i}`).toBeLessThan(2e-2)
    }
  })

  it('a prompt of 3240 tokens: last logits and greedy tokens over the full cache', async () => {
    const meta = await readJson<DemoGoldens>(goldens, 'demo', 'meta.json')
    const model = await open(demo, { dtype: 'f32' })
    const logits = forwardLogits(model, meta.long_ids)
    const last = logits.subarray(logits.length - 4096)
    expect(relativeError(last, await readFloats(file, 'long_last_logits_f32'))).toBeLessThan(1e-4)
    expect((await decode(model, meta.long_ids, 64)).tokens).toEqual(meta.long_greedy_f32)
  })

  for (const [budget, window, poolSize, pool] of [
    [256, 32, 7, 'max'],
    [256, 32, 5, 'avg'],
    [64, 16, 1, 'max'],
  ] as const) {
    const setting = `snap_c${budget}_w${window}_k${poolSize}_${pool}`
    it(`${setting}: kept positions and greedy tokens`, async () => {
      const meta = await readJson<DemoGoldens>(goldens, 'demo', 'meta.json')
      const model = await open(demo, { dtype: 'f32' })
      const compression = snapkv(budget, window, poolSize, pool)
      const { tokens, kept } = await decode(model, meta.long_ids, 64, { compression })
      const expected = await readInts(file, `${setting}_kept_kvhead`)
      const prefix = budget - window
      const lists = kept!.length / budget
      expect(lists).toBe(expected.length / prefix)
      for (let list = 0; list < lists; list++) {
        const ours = Array.from(kept!.subarray(list * budget, list * budget + prefix))
        const theirs = Array.from(expected.subarray(list * prefix, (list + 1) * prefix))
        expect(ours, `layer ${Math.floor(list / 2)}, KV head ${list % 2}`).toEqual(theirs)
      }
      expect(tokens).toEqual(meta[`${setting}_greedy`])
    })
  }

  it('tokens per step of the demo heads for three trees', async () => {
    const cases = await readJson<{ ids: number[]; greedy_f32: number[]; tokens_per_step: Record<string, number> }[]>(
      goldens,
      'acceptance.json',
    )
    const engine = await loadEngine({ model: demo, heads: demoHeads, dtype: 'f32', kv: { policy: 'full' } })
    const trees = { mc_sim_7b_63: 'mc_sim_7b_63', first15: 16, chain4: 'chain:4' } as const
    try {
      for (const [i, expected] of cases.entries()) {
        for (const [name, tree] of Object.entries(trees)) {
          const options = { maxTokens: 100, ignoreEos: true, speculation: { mode: 'medusa', tree } } as const
          const { tokens, speculation } = await engine.generate(expected.ids, options)
          expect([...tokens], `prompt ${i}, ${name}`).toEqual(expected.greedy_f32)
          expect(speculation.tokensPerStep, `prompt ${i}, ${name}`).toBe(expected.tokens_per_step[name])
        }
      }
    } finally {
      await engine.close()
    }
  })
})
