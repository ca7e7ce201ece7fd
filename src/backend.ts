// Which backend and instruction set an engine runs on: asked for, forced by the environment, or the best this machine has.
import { GorgonError } from './errors.js'
import { type BackendInfo, native } from './native.js'

/** Of `auto`, the first that can be used. */
const PREFERENCE = ['cuda', 'cpu']

export interface BackendChoice {
  readonly backend: string
  /** `auto` leaves it to the backend. */
  readonly isa: string
  /** Why this one. */
  readonly reason: string
}

/** What this build can run on, and why not where it cannot. */
export function backends(): BackendInfo[] {
  return native().backends()
}

/**
 * An option wins over the environment (`GORGON_BACKEND`, `GORGON_CPU`), which stands in where the option is `auto`.
 *
 * @throws {GorgonError} ERR_OPTION for a name that does not exist; ERR_DEVICE for one that cannot be used here.
 */
export function chooseBackend(
  wanted: { readonly backend: string; readonly isa: string },
  env: Readonly<Record<string, string | undefined>>,
  known: readonly BackendInfo[],
): BackendChoice {
  const { backend, reason } = choose(ask(wanted.backend, 'backend', env, 'GORGON_BACKEND'), known)
  // The variable is about CPUs; on another backend it has nothing to say.
  const isa = ask(wanted.isa, 'isa', backend.name === 'cpu' ? env : {}, 'GORGON_CPU')
  if (isa.name !== 'auto') find(isa, 'Instruction set', backend.isas)
  return { backend: backend.name, isa: isa.name, reason }
}

interface Asked {
  readonly name: string
  readonly by: string
}

function ask(option: string, path: string, env: Readonly<Record<string, string | undefined>>, variable: string): Asked {
  const forced = env[variable]
  return option === 'auto' && forced ? { name: forced, by: variable } : { name: option, by: path }
}

function choose(asked: Asked, known: readonly BackendInfo[]): { backend: BackendInfo; reason: string } {
  if (asked.name !== 'auto') {
    return { backend: find(asked, 'Backend', known), reason: `${asked.by} asked for it` }
  }
  const passed: string[] = []
  for (const name of PREFERENCE) {
    const backend = known.find((candidate) => candidate.name === name)
    if (backend?.usable) {
      const why = passed.length > 0 ? passed.join('; ') : 'it is the fastest here'
      return { backend, reason: why }
    }
    passed.push(backend ? `${name} cannot be used: ${backend.detail}` : `${name} was not built`)
  }
  throw new GorgonError('ERR_DEVICE', `No backend can be used here: ${passed.join('; ')}.`, { known })
}

function find<T extends { readonly name: string; readonly usable: boolean; readonly detail?: string }>(
  asked: Asked,
  what: string,
  known: readonly T[],
): T {
  const found = known.find(({ name }) => name === asked.name)
  if (found?.usable) return found
  const usable = known.filter((candidate) => candidate.usable).map(({ name }) => name)
  const others = known.filter((candidate) => !candidate.usable)
  const list = [
    `Available: ${usable.join(', ') || 'none'}.`,
    ...others.map(({ name, detail }) => `${name} cannot be used${detail ? `: ${detail}` : ' on this machine'}.`),
  ].join(' ')
  const details = { [asked.by]: asked.name, available: usable }
  if (!found)
    throw new GorgonError('ERR_OPTION', `${what} "${asked.name}" (${asked.by}) is not known. ${list}`, details)
  throw new GorgonError('ERR_DEVICE', `${what} "${asked.name}" (${asked.by}) cannot be used here. ${list}`, details)
}
