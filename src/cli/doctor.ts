// gorgon doctor: what is here, what is missing, and what to do about it.
import { spawnSync } from 'node:child_process'
import { arch, availableParallelism, cpus, freemem, platform, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { type BackendInfo, backends, inspect, packageManifest, packageRoot } from '../index.js'
import { bytes, list } from './format.js'
import { type Io, write } from './io.js'

interface Check {
  readonly name: string
  /** Nothing to do here. */
  readonly ok: boolean
  /** Without it nothing works: a failure is doctor's. */
  readonly needed: boolean
  readonly detail: string
}

/** What `scripts/build-native.mjs --check --json` prints. */
interface Tools {
  readonly cmake: { readonly path: string; readonly version: string | null } | null
  readonly compiler: { readonly path: string; readonly version: string | null } | null
  readonly buildTool: string | null
  readonly cuda: { readonly compiler: string | null; readonly switch: string; readonly lastBuild: string | null }
  readonly advice: string | null
}

/** @returns whether everything needed is here. */
export async function doctor(flags: { readonly json?: true }, io: Io): Promise<boolean> {
  const tools = checkTools()
  const addon = checkAddon()
  const found = 'backends' in addon ? addon.backends : []
  const checks: Check[] = [
    checkNode(),
    checkPlatform(),
    addon.check,
    ...('backends' in addon ? [] : [checkBuildTools(tools)]),
    ...found.map(checkBackend),
    checkCudaSwitch(tools),
    checkThreads(),
    checkMemory(),
    await checkDemoModel(),
  ]
  const ok = checks.every((check) => check.ok || !check.needed)
  if (flags.json) {
    await write(io.stdout, `${JSON.stringify({ ok, checks, backends: found })}\n`)
    return ok
  }
  const mark = ({ ok: isWell, needed }: Check): string => (isWell ? 'ok     ' : needed ? 'MISSING' : '-      ')
  await write(io.stdout, list(checks.map((check) => [`${mark(check)}  ${check.name}`, check.detail])))
  await write(io.stdout, ok ? '\nReady: try "gorgon demo".\n' : '\nNot ready: see MISSING above.\n')
  return ok
}

function checkNode(): Check {
  const wanted = packageManifest().engines.node.replace('>=', '')
  const [major = 0, minor = 0] = wanted.split('.').map(Number)
  const [ownMajor = 0, ownMinor = 0] = process.versions.node.split('.').map(Number)
  const ok = ownMajor > major || (ownMajor === major && ownMinor >= minor)
  return { name: 'Node', ok, needed: true, detail: `${process.version}${ok ? '' : `: install ${wanted} or newer`}` }
}

function checkPlatform(): Check {
  const ok = ['linux', 'darwin'].includes(platform())
  const detail = `${platform()} ${release()}, ${arch()}${ok ? '' : ': only Linux and macOS are supported'}`
  return { name: 'platform', ok, needed: true, detail }
}

function checkAddon(): { check: Check; backends: readonly BackendInfo[] } | { check: Check } {
  const name = 'native addon'
  try {
    return { check: { name, ok: true, needed: true, detail: 'loads' }, backends: backends() }
  } catch (error) {
    return { check: { name, ok: false, needed: true, detail: (error as Error).message } }
  }
}

function checkTools(): Tools | null {
  const script = join(packageRoot(), 'scripts', 'build-native.mjs')
  const { stdout } = spawnSync(process.execPath, [script, '--check', '--json'], { encoding: 'utf8' })
  try {
    return JSON.parse(stdout) as Tools
  } catch {
    return null
  }
}

function checkBuildTools(tools: Tools | null): Check {
  const name = 'build tools'
  if (!tools)
    return {
      name,
      ok: false,
      needed: true,
      detail: 'scripts/build-native.mjs cannot be run: install the package again',
    }
  if (tools.advice) return { name, ok: false, needed: true, detail: tools.advice }
  const detail = `CMake ${tools.cmake?.version}, ${tools.compiler?.path} ${tools.compiler?.version}, ${tools.buildTool}`
  return { name, ok: true, needed: true, detail }
}

function checkBackend(backend: BackendInfo): Check {
  const namesOf = (usable: boolean): string =>
    backend.isas
      .filter((isa) => isa.usable === usable)
      .map((isa) => isa.name)
      .join(', ')
  const lines = [
    backend.detail,
    namesOf(true) && `instruction sets, best first: ${namesOf(true)}`,
    namesOf(false) && `not on this machine: ${namesOf(false)}`,
    ...backend.devices.map(
      ({ name, memoryBytes, computeCapability, multiprocessors }, number) =>
        `device ${number}: ${name}, ${bytes(memoryBytes)}, compute capability ${computeCapability}, ${multiprocessors} multiprocessors`,
    ),
  ]
  return {
    name: `backend ${backend.name}`,
    ok: backend.usable,
    needed: backend.name === 'cpu',
    detail: lines.filter(Boolean).join('\n'),
  }
}

function checkCudaSwitch(tools: Tools | null): Check {
  const built = tools?.cuda.lastBuild ? `last build: CUDA=${tools.cuda.lastBuild}` : 'no build here'
  const compiler = tools?.cuda.compiler ? `CUDA compiler ${tools.cuda.compiler}` : 'no CUDA compiler found'
  return {
    name: 'CUDA switch',
    ok: true,
    needed: false,
    detail: `${built}; ${compiler}; CUDA=auto|on|off npm run build:native`,
  }
}

function checkThreads(): Check {
  const model = cpus()[0]?.model.trim() ?? 'unknown CPU'
  return { name: 'CPU', ok: true, needed: false, detail: `${model}, ${availableParallelism()} logical CPUs usable` }
}

function checkMemory(): Check {
  return { name: 'memory', ok: true, needed: false, detail: `${bytes(totalmem())}, ${bytes(freemem())} free` }
}

async function checkDemoModel(): Promise<Check> {
  const name = 'demo model'
  const folder = join(packageRoot(), 'models', 'demo')
  try {
    const { loads, problems } = await inspect(folder)
    if (loads) return { name, ok: true, needed: true, detail: folder }
    throw new Error(problems.map((problem) => problem.message).join('\n'))
  } catch (error) {
    return { name, ok: false, needed: true, detail: `${(error as Error).message}\nInstall the package again.` }
  }
}
