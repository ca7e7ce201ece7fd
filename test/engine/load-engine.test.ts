// From load options to an engine, over the demo model's files and a fake native side.
import { availableParallelism, tmpdir } from 'node:os'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { GorgonError } from '../../src/errors.js'
import { demoModel, loadEngineWith } from '../../src/load-engine.js'
import type { ModelSpec } from '../../src/native.js'
import { type LoadOptionsInput, type LoadProgress, parseLoadOptions } from '../../src/options.js'
import { tensorCount } from '../../src/weights/load.js'
import { FakeNative, nativeError } from '../support/fake-native.js'

const DEMO = { vocab: 4096, layers: 6, maxPositions: 16384 }

class LoadingNative extends FakeNative {
  spec: ModelSpec | null = null
  onOpen: (spec: ModelSpec) => void | Promise<void> = () => undefined

  override async openModel(spec: ModelSpec) {
    this.spec = spec
    await this.onOpen(spec)
    return super.openModel(spec)
  }
}

const load = (native: FakeNative, options: Partial<LoadOptionsInput> = {}) =>
  loadEngineWith(parseLoadOptions({ model: 'demo', ...options }), native)

beforeEach(() => {
  vi.stubEnv('GORGON_BACKEND', '')
})
afterEach(() => {
  vi.unstubAllEnvs()
})

describe('the demo model', () => {
  it('loads by its name, with its heads, tokenizer and limits', async () => {
    const native = new LoadingNative(DEMO)
    const engine = await load(native)
    expect(engine.info).toMatchObject({
      model: demoModel(),
      architecture: 'llama',
      backend: 'cpu',
      backendReason: 'cuda cannot be used: no device',
      vocab: 4096,
      context: 16384,
      heads: { medusaHeads: 4 },
      hasTokenizer: true,
      warnings: [],
    })
    expect(native.spec).toMatchObject({
      backend: 'cpu',
      isa: 'auto',
      threads: 0,
      heads: { medusaHeads: 4 },
    })
    const { tokens, speculation } = await engine.generate('const answer =', { maxTokens: 30 })
    expect(tokens.length).toBeGreaterThan(0)
    expect(speculation.tree).toBe('auto')
    expect(engine.info.stepCosts!.rows[0]).toBe(1)
    await engine.close()
    expect(native.openModels).toBe(0)
  })

  it('loads by its folder, without heads when told so', async () => {
    const native = new LoadingNative({ ...DEMO, medusaHeads: 0 })
    const engine = await load(native, { model: demoModel(), heads: false })
    expect(engine.info.heads).toBeNull()
    expect(native.spec!.heads).toBeNull()
    expect((await engine.generate('x', { maxTokens: 5 })).speculation.used).toBe(false)
    await engine.close()
  })

  it('ends at its end-of-sequence token', async () => {
    const native = new LoadingNative({ ...DEMO, stopId: 1, stopEvery: 5 })
    const engine = await load(native)
    const { tokens, finish } = await engine.generate([5], { maxTokens: 1000 })
    expect(finish).toBe('stop')
    expect(tokens.at(-1)).toBe(1)
    await engine.close()
  })
})

describe('options', () => {
  it('reach the native side', async () => {
    const native = new LoadingNative(DEMO)
    const engine = await load(native, { threads: 3, dtype: 'f32', backend: 'cpu', isa: 'portable' })
    expect(native.spec).toMatchObject({ threads: 3, dtype: 'f32', backend: 'cpu', isa: 'portable' })
    await engine.close()
  })

  it('may ask for more threads than there are cores, and are told of it', async () => {
    const native = new LoadingNative(DEMO)
    const threads = availableParallelism() + 1
    const crowded = await load(native, { threads })
    expect(crowded.info.warnings).toEqual([expect.stringMatching(`^threads is ${threads}, more than the`)])
    await crowded.close()
    const roomy = await load(native, { threads: threads - 1 })
    expect(roomy.info.warnings).toEqual([])
    await roomy.close()
  })

  it('say which device, and how much of its memory', async () => {
    const native = new LoadingNative(DEMO)
    const devices = [
      { name: 'A', memoryBytes: 1e9, computeCapability: '8.0', multiprocessors: 108 },
      { name: 'B', memoryBytes: 2e9, computeCapability: '9.0', multiprocessors: 132 },
    ]
    const isas = [{ name: 'sm_80', usable: true }]
    native.backends = () => [{ name: 'cuda', usable: true, detail: 'A, B', isas, devices }]
    const engine = await load(native, { device: 1, deviceMemory: 1.5e9 })
    expect(native.spec).toMatchObject({ backend: 'cuda', device: 1, memoryBudget: 1.5e9 })
    expect(engine.info.device).toEqual({ index: 1, name: 'B', memoryBytes: 2e9, budgetBytes: 1.5e9 })
    await engine.close()
    const first = await load(native)
    expect(native.spec).toMatchObject({ device: 0, memoryBudget: 0 })
    await first.close()
  })

  it('with int8 weights compute in bf16, whatever the checkpoint has', async () => {
    const native = new LoadingNative(DEMO)
    const engine = await load(native, { weights: 'int8' })
    expect(native.spec).toMatchObject({ weights: 'int8', dtype: 'bf16' })
    await engine.close()
  })

  it('may be forced by the environment', async () => {
    vi.stubEnv('GORGON_CPU', 'portable')
    const native = new LoadingNative(DEMO)
    const engine = await load(native)
    expect(native.spec!.isa).toBe('portable')
    await engine.close()
    vi.stubEnv('GORGON_BACKEND', 'tpu')
    await expect(load(native)).rejects.toMatchObject({ code: 'ERR_OPTION' })
  })

  it('are checked against what was found', async () => {
    const native = new LoadingNative(DEMO)
    await expect(load(native, { limits: { maxContext: 20000 } })).rejects.toMatchObject({
      code: 'ERR_OPTION',
      details: { maxPositions: 16384 },
    })
    await expect(load(native, { speculation: { tree: 'chain:5' } })).rejects.toMatchObject({ code: 'ERR_TREE' })
    await expect(load(native, { model: tmpdir() })).rejects.toMatchObject({ code: 'ERR_MODEL_NOT_FOUND' })
    await expect(load(native, { heads: '/nowhere' })).rejects.toMatchObject({ code: 'ERR_FILE' })
    expect(native.openModels).toBe(0)
  })
})

describe('progress', () => {
  it('is told from the first file to the end', async () => {
    const native = new LoadingNative(DEMO)
    native.onOpen = async ({ progress }) => {
      for (const done of [3, 7]) {
        Atomics.store(progress, 0, done)
        await new Promise((resolve) => setTimeout(resolve, 120))
      }
      Atomics.store(progress, 0, tensorCount(native.spec!))
    }
    const events: LoadProgress[] = []
    const engine = await load(native, { onProgress: (event) => events.push(event) })
    const total = tensorCount(native.spec!)
    const measuring = events.filter(({ phase }) => phase === 'measure')
    expect(measuring.length).toBeGreaterThan(10)
    expect(measuring.every(({ done, total: all }, i) => done <= all && done >= (measuring[i - 1]?.done ?? 0))).toBe(
      true,
    )
    expect(events.filter((event) => !measuring.includes(event))).toEqual([
      { phase: 'read', done: 0, total: 1 },
      { phase: 'read', done: 1, total: 1 },
      { phase: 'map', done: 0, total },
      { phase: 'map', done: 3, total },
      { phase: 'map', done: 7, total },
      { phase: 'map', done: total, total },
      { phase: 'ready', done: 1, total: 1 },
    ])
    await engine.close()
  })

  it('ends loading when its listener throws', async () => {
    const native = new LoadingNative(DEMO)
    let cancelled = 0
    native.onOpen = async ({ progress }) => {
      Atomics.store(progress, 0, 5)
      await new Promise((resolve) => setTimeout(resolve, 120))
      cancelled = Atomics.load(progress, 1)
    }
    const onProgress = ({ phase, done }: LoadProgress) => {
      if (phase === 'map' && done > 0) throw new Error('mine')
    }
    await expect(load(native, { onProgress })).rejects.toThrow('mine')
    expect(cancelled).toBe(1)
    expect(native.openModels).toBe(0)
  })

  it.each([new GorgonError('ERR_OPTION', 'mine'), Object.assign(new Error('mine'), { code: 'EPIPE' }), null])(
    'ends loading when its listener throws while step costs are measured: %s',
    async (thrown) => {
      const native = new LoadingNative(DEMO)
      const onProgress = ({ phase }: LoadProgress) => {
        if (phase === 'measure') throw thrown
      }
      await expect(load(native, { onProgress })).rejects.toBe(thrown)
      expect(native.openModels).toBe(0)
    },
  )
})

describe('abort', () => {
  it('before loading opens nothing', async () => {
    const native = new LoadingNative(DEMO)
    await expect(load(native, { signal: AbortSignal.abort('no') })).rejects.toBe('no')
    expect(native.spec).toBeNull()
  })

  it('while weights load cancels it', async () => {
    const native = new LoadingNative(DEMO)
    const controller = new AbortController()
    native.onOpen = async ({ progress }) => {
      controller.abort('enough')
      expect(Atomics.load(progress, 1)).toBe(1)
      throw nativeError('ERR_CANCELLED', 'cancelled')
    }
    await expect(load(native, { signal: controller.signal })).rejects.toBe('enough')
  })

  it('too late to cancel still frees the model', async () => {
    const native = new LoadingNative(DEMO)
    const controller = new AbortController()
    native.onOpen = () => controller.abort('enough')
    await expect(load(native, { signal: controller.signal })).rejects.toBe('enough')
    expect(native.openModels).toBe(0)
  })
})

it('fails with the native side’s own error', async () => {
  const native = new LoadingNative(DEMO)
  native.onOpen = () => {
    throw nativeError('ERR_OUT_OF_MEMORY', 'no room for weights')
  }
  await expect(load(native)).rejects.toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
})
