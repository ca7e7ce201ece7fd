// Tiny heads and a tiny model to convert between layouts, and what is in the folders that come of it.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll } from 'vitest'
import { convertHeads } from '../../../heads/convert/convert.js'
import type { ConvertOptionsInput } from '../../../heads/convert/options.js'
import { type ModelFolder, readHeads, readModelFolder } from '../../../src/weights/load.js'
import { openSafetensors, readTensorBytes } from '../../../src/weights/safetensors.js'
import { temporaryFolder } from '../../support/folder.js'
import { type TinyHeadsOptions, type TinyModel, writeTinyHeads, writeTinyModel } from '../../support/tiny-model.js'

export type Layout = 'A' | 'B' | 'E'

/** Call at the top of a test file. */
export function conversions() {
  const folder = temporaryFolder()
  let folders = 0
  const made: { model?: TinyModel; base?: ModelFolder } = {}
  const next = (): string => join(folder, String(folders++))
  beforeAll(async () => {
    made.model = await writeTinyModel(next(), { dtype: 'bf16' })
    made.base = await readModelFolder(made.model.dir)
  })
  return {
    folder,
    /** A path at which there is nothing. */
    next,
    /** The folder of the model, bf16, of hidden width 64 and 128 tokens. */
    get model(): string {
      return made.model!.dir
    },
    get base(): ModelFolder {
      return made.base!
    },
    /** The folder of three heads for it. */
    async tinyHeads(format: Layout, options: TinyHeadsOptions = {}): Promise<string> {
      return (await writeTinyHeads(next(), made.model!, { format, dtype: 'bf16', ...options })).dir
    },
    /** Converts to a new folder and gives its path. */
    async converted(source: string, to: Layout, options: Partial<ConvertOptionsInput> = {}): Promise<string> {
      const out = next()
      await convertHeads({ source, to, out, ...options })
      return out
    },
    /** The tensors of heads under the roles that the engine gives them, so that layouts compare. */
    async rolesOf(dir: string, of = made.base!): Promise<Record<string, unknown>> {
      const heads = await readHeads(dir, of)
      const content: Record<string, unknown> = { tokenMap: heads.tokenMap }
      for (const [role, { dtype, shape, file, begin, end }] of Object.entries(heads.tensors)) {
        const data = Buffer.from(await readTensorBytes(heads.files[file]!, { begin, end })).toString('hex')
        content[role] = { dtype, shape, data }
      }
      return content
    },
  }
}

export const fileOf = (dir: string): string =>
  join(dir, readdirSync(dir).find((name) => name.endsWith('.safetensors'))!)

export const configOf = (dir: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>

export interface Content {
  readonly dtype: string
  readonly shape: readonly number[]
  /** In hex. */
  readonly data: string
}

/** Every tensor of a folder, by name. */
export async function contentOf(dir: string): Promise<Record<string, Content>> {
  const path = fileOf(dir)
  const content: Record<string, Content> = {}
  for (const [name, entry] of (await openSafetensors(path)).tensors) {
    const data = Buffer.from(await readTensorBytes(path, entry)).toString('hex')
    content[name] = { dtype: entry.dtype, shape: entry.shape, data }
  }
  return content
}
