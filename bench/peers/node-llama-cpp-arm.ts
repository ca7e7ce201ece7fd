// node-llama-cpp as an arm: its prebuilt CPU binary, nothing built and nothing downloaded.
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { GorgonError } from '../../src/errors.js'
import { serveArm } from './arm-process.js'

export interface NodeLlamaCppSetup {
  /** The folder it was installed in. */
  readonly dir: string
  readonly gguf: string
  readonly threads: number
  readonly flashAttention: boolean
  readonly batchSize: number
  readonly kv: 'f16' | 'bf16' | 'f32'
}

export interface NodeLlamaCppInfo {
  readonly version: string
  /** Release of llama.cpp. */
  readonly llamaCpp: string
  /** The one of its CPU libraries it chose for this machine; null where that cannot be seen. */
  readonly library: string | null
  /** What it says that one uses. */
  readonly features: string
}

/** The part of its API used here. */
interface NodeLlamaCpp {
  getLlama(options: {
    gpu: false
    build: 'never'
    skipDownload: true
    progressLogs: false
    logLevel: 'error'
    maxThreads: number
  }): Promise<Llama>
}
interface Llama {
  readonly llamaCppRelease: { readonly release: string }
  readonly systemInfo: string
  loadModel(options: { modelPath: string; gpuLayers: 0 }): Promise<Model>
}
interface Model {
  createContext(options: {
    contextSize: number
    batchSize: number
    sequences: 1
    flashAttention: boolean
    threads: { ideal: number; min: number }
    experimentalKvCacheKeyType: string
    experimentalKvCacheValueType: string
    failedCreationRemedy: false
  }): Promise<Context>
}
interface Context {
  readonly contextSize: number
  getSequence(): Sequence
  dispose(): Promise<void>
}
interface Sequence {
  readonly nextTokenIndex: number
  clearHistory(): Promise<void>
  evaluate(tokens: number[], options: { temperature: 0; yieldEogToken: true }): AsyncIterable<number>
}

const PACKAGE = 'node-llama-cpp'

serveArm<NodeLlamaCppSetup, NodeLlamaCppInfo>(async (setup) => {
  const { version, module } = await installed(setup.dir)
  const { getLlama } = (await import(pathToFileURL(module).href)) as NodeLlamaCpp
  const { threads, batchSize, flashAttention, kv } = setup
  const llama = await getLlama({
    gpu: false,
    build: 'never',
    skipDownload: true,
    progressLogs: false,
    logLevel: 'error',
    maxThreads: threads,
  })
  const model = await llama.loadModel({ modelPath: setup.gguf, gpuLayers: 0 })
  let context: Context | null = null
  let sequence: Sequence | null = null
  return {
    info: {
      version,
      llamaCpp: llama.llamaCppRelease.release,
      library: await cpuLibrary(),
      features: llama.systemInfo.replace(/\s+/g, ' ').trim(),
    },
    // Room for the generation and no more, so that the memory is what the prompt needs; enough that nothing is ever shifted out.
    async prepare({ promptTokens, tokens }) {
      await context?.dispose()
      context = await model.createContext({
        contextSize: promptTokens + tokens,
        batchSize,
        sequences: 1,
        flashAttention,
        threads: { ideal: threads, min: threads },
        experimentalKvCacheKeyType: kv.toUpperCase(),
        experimentalKvCacheValueType: kv.toUpperCase(),
        failedCreationRemedy: false,
      })
      sequence = context.getSequence()
    },
    async *generate({ prompt, tokens }) {
      if (!sequence) throw new Error('an arm is prepared before it runs: a bug, please report it')
      await sequence.clearHistory()
      if (sequence.nextTokenIndex !== 0) throw new Error(`${PACKAGE} kept part of its cache between prompts`)
      let left = tokens
      for await (const token of sequence.evaluate([...prompt], { temperature: 0, yieldEogToken: true })) {
        yield [token]
        if (--left === 0) return
      }
    },
  }
})

async function installed(dir: string): Promise<{ version: string; module: string }> {
  // A file of that folder, which need not exist, to look for packages from.
  const require = createRequire(join(resolve(dir), 'index.js'))
  try {
    const module = require.resolve(PACKAGE)
    const manifest = join(module, '..', '..', 'package.json')
    const { version } = JSON.parse(await readFile(manifest, 'utf8')) as { version: string }
    return { version, module }
  } catch (error) {
    throw new GorgonError(
      'ERR_OPTION',
      `${resolve(dir)} has no ${PACKAGE}: ${(error as Error).message.split('\n')[0]}. Install it there: npm install --prefix ${resolve(dir)} ${PACKAGE}@3.22.1.`,
      { dir: resolve(dir) },
      error,
    )
  }
}

async function cpuLibrary(): Promise<string | null> {
  const maps = await readFile('/proc/self/maps', 'utf8').catch(() => '')
  const path = /\/\S*libggml-cpu-\S*\.so/.exec(maps)?.[0]
  return path === undefined ? null : basename(path, '.so')
}
