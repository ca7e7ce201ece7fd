// Our engine as an arm.
import { type EngineInfo, type GenerateOptions, GorgonError, loadEngine } from '../../src/index.js'
import { serveArm } from './arm-process.js'

export interface GorgonSetup {
  readonly model: string
  readonly heads?: string
  readonly threads: number
  readonly speculation: NonNullable<GenerateOptions['speculation']>
  readonly kv: NonNullable<GenerateOptions['kv']>
}

export type GorgonInfo = Pick<EngineInfo, 'isa' | 'threads' | 'dtype'>

serveArm<GorgonSetup, GorgonInfo>(async ({ model, heads, threads, speculation, kv }) => {
  const engine = await loadEngine({ model, threads, ...(heads !== undefined && { heads }) })
  const { isa, dtype } = engine.info
  if (speculation.mode !== 'off' && engine.info.heads === null) {
    throw new GorgonError('ERR_OPTION', `${model} has no Medusa heads. Give their folder with --heads.`, { model })
  }
  return {
    info: { isa, threads: engine.info.threads, dtype },
    // Takes memory as it is needed.
    prepare: async () => undefined,
    async *generate({ prompt, tokens }) {
      const options = { maxTokens: tokens, ignoreEos: true, speculation, kv }
      for await (const chunk of engine.generate(prompt, options)) yield chunk.tokens
    },
  }
})
