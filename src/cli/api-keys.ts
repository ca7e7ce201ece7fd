// The keys of a server: from flags, a file and the environment, never shown again.
import { readFile } from 'node:fs/promises'
import { GorgonError } from '../index.js'
import { SHORTEST_KEY } from '../server/options.js'
import { UsageError } from './args.js'
import type { Io } from './io.js'

export interface KeySources {
  /** `--api-key`, as often as it was given. */
  readonly apiKey?: readonly string[] | undefined
  readonly apiKeyFile?: string | undefined
}

/** What the server takes. */
export interface ApiKey {
  readonly key: string
  /** Who its holder is, to limits, stored responses and logs. */
  readonly name?: string
}

/** Keys between commas or spaces. */
const VARIABLE = 'GORGON_API_KEYS'

/**
 * Every key given, whichever way.
 *
 * @throws {UsageError} for one that is no key, by where it stands and not by what it is.
 * @throws {GorgonError} ERR_FILE when the file cannot be read or has no keys: a server that should have some must not begin without.
 */
export async function readKeys({ apiKey = [], apiKeyFile }: KeySources, io: Pick<Io, 'env'>): Promise<ApiKey[]> {
  const inEnvironment = (io.env[VARIABLE] ?? '').split(/[\s,]+/).filter((key) => key !== '')
  return [
    ...apiKey.map((key) => checked({ key }, '--api-key')),
    ...inEnvironment.map((key, i) => checked({ key }, `Key ${i + 1} of ${VARIABLE}`)),
    ...(apiKeyFile === undefined ? [] : await readKeyFile(apiKeyFile)),
  ]
}

/** Lines `KEY` or `NAME KEY`; empty ones and those that begin with # are skipped. */
async function readKeyFile(file: string): Promise<ApiKey[]> {
  const refusal = (why: string, error?: unknown): GorgonError =>
    new GorgonError('ERR_FILE', `--api-key-file ${JSON.stringify(file)} ${why}`, { file }, error)
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw refusal(`cannot be read (${error.code ?? error.message}). Check the path.`, error)
  })
  const linesOfNames = new Map<string, number>()
  const linesOfKeys = new Map<string, number>()
  const keys = text.split('\n').flatMap((line, i) => {
    const words = line.trim().split(/\s+/)
    if (words[0] === '' || words[0]!.startsWith('#')) return []
    if (words.length > 2) throw refusal(`has ${words.length} words in line ${i + 1}. Write KEY, or NAME KEY.`)
    const key = words.at(-1)!
    const where = `Line ${i + 1} of ${file}`
    const same = linesOfKeys.get(key)
    if (same !== undefined) throw refusal(`has one key in lines ${same} and ${i + 1}. Give each holder its own, once.`)
    linesOfKeys.set(key, i + 1)
    if (words.length === 1) return [checked({ key }, where)]
    const name = words[0]!
    const before = linesOfNames.get(name)
    if (before !== undefined) {
      throw refusal(`gives the keys of lines ${before} and ${i + 1} one name. Give each its own: limits are by name.`)
    }
    linesOfNames.set(name, i + 1)
    return [checked({ key, name }, where)]
  })
  if (keys.length === 0) throw refusal('has no keys. Write one to a line, or leave the flag out.')
  return keys
}

function checked(key: ApiKey, where: string): ApiKey {
  if (key.key.length >= SHORTEST_KEY && !/\s/.test(key.key)) return key
  throw new UsageError(`${where} is no key: use at least ${SHORTEST_KEY} characters, without spaces.`)
}
