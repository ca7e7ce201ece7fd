// Which backend, instruction set and device an engine runs on: asked for, forced by the environment, or the best this machine has.
import { GorgonError } from './errors.js'
import { type BackendInfo, type DeviceInfo, native } from './native.js'

/** Of `auto`, the first that can be used. */
const PREFERENCE = ['cuda', 'cpu']

export interface BackendChoice {
  readonly backend: string
  /** `auto` leaves it to the backend. */
  readonly isa: string
  /** Null on the CPU. */
  readonly device: ChosenDevice | null
  /** Why this one. */
  readonly reason: string
}

export interface ChosenDevice extends DeviceInfo {
  /** As the backend counts its devices, from 0. */
  readonly index: number
  /** Bytes of its memory that may be used; 0 is what is free. */
  readonly budgetBytes: number
}

/** Of load options, what is said about where an engine runs. */
interface Wanted {
  readonly backend: string
  readonly isa: string
  readonly device?: number | undefined
  readonly deviceMemory?: number | undefined
}

type Environment = Readonly<Record<string, string | undefined>>

/** What this build can run on, and why not where it cannot. */
export function backends(): BackendInfo[] {
  return native().backends()
}

/**
 * An option wins over the environment, which stands in where the option is `auto` or left out: `GORGON_BACKEND`; `GORGON_CPU` and
 * `GORGON_CUDA`, the instruction set of each; `GORGON_DEVICE`, which on the CPU has nothing to say.
 *
 * @throws {GorgonError} ERR_OPTION for a name that does not exist, a budget that the device cannot have, or a device or a budget where the
 *   backend has no devices; ERR_DEVICE for a backend, an instruction set or a device that cannot be used here.
 */
export function chooseBackend(wanted: Wanted, env: Environment, known: readonly BackendInfo[]): BackendChoice {
  const { backend, reason } = choose(ask(wanted.backend, 'backend', env, 'GORGON_BACKEND'), known)
  // Each variable is about one backend; on another it has nothing to say.
  const isa = ask(wanted.isa, 'isa', env, backend.name === 'cpu' ? 'GORGON_CPU' : 'GORGON_CUDA')
  if (isa.name !== 'auto') find(isa, 'Instruction set', backend.isas)
  if (backend.devices.length > 0) {
    return { backend: backend.name, isa: isa.name, device: chooseDevice(wanted, env, backend), reason }
  }
  refuseDevice(wanted, backend, reason)
  return { backend: backend.name, isa: isa.name, device: null, reason }
}

/** Who asks for a device, or limits its memory, is not served by a backend that has none. The environment alone asks for nothing. */
function refuseDevice({ device, deviceMemory }: Wanted, { name }: BackendInfo, reason: string): void {
  const path = device !== undefined ? 'device' : deviceMemory !== undefined ? 'deviceMemory' : null
  if (path === null) return
  throw new GorgonError(
    'ERR_OPTION',
    `${path} is given, but the backend is "${name}" (${reason}), which has no devices. Leave it out, or use backend "cuda".`,
    { path, value: path === 'device' ? device : deviceMemory, backend: name },
  )
}

function chooseDevice({ device, deviceMemory }: Wanted, env: Environment, { devices }: BackendInfo): ChosenDevice {
  const forced = env['GORGON_DEVICE']
  const by = device === undefined && forced ? 'GORGON_DEVICE' : 'device'
  const asked = by === 'device' ? String(device ?? 0) : forced!
  const list = devices.map(({ name }, number) => `${number} (${name})`).join(', ')
  if (!/^\d+$/.test(asked)) {
    throw new GorgonError('ERR_OPTION', `${by} is "${asked}". Use the number of a device: ${list}.`, { [by]: asked })
  }
  const index = Number(asked)
  const found = devices[index]
  if (!found) {
    throw new GorgonError('ERR_DEVICE', `Device ${index} (${by}) does not exist. There is ${list}.`, { [by]: index })
  }
  if (deviceMemory !== undefined && deviceMemory > found.memoryBytes) {
    throw new GorgonError(
      'ERR_OPTION',
      `deviceMemory is ${deviceMemory} bytes, but device ${index} (${found.name}) has ${found.memoryBytes}. Use at most that many.`,
      { path: 'deviceMemory', value: deviceMemory, memoryBytes: found.memoryBytes },
    )
  }
  return { ...found, index, budgetBytes: deviceMemory ?? 0 }
}

interface Asked {
  readonly name: string
  readonly by: string
}

function ask(option: string, path: string, env: Environment, variable: string): Asked {
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
