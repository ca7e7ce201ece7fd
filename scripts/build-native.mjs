#!/usr/bin/env node
// Builds the native addon with CMake, after checking that the machine has what that takes.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const minimumCmake = [3, 18]

const usage = `usage: node scripts/build-native.mjs [--debug] [--install | --check [--json]]

  --debug     Debug configuration, into build/Debug
  --install   as npm's install hook: skip when the addon is newer than its sources, never fail
  --check     build nothing; say which tools were found (--json: as one object)

environment
  CUDA=auto|on|off    auto (default): when CMake finds a CUDA compiler; on: or fail; off: never
  SANITIZE=address    AddressSanitizer and UBSan, into build-asan
  EMULATE=amx         the AMX code on software tiles, to test it on any x86-64 processor, into build-emulated
`

class BuildProblem extends Error {}

/** The first of the names found in a folder of PATH or of `more`, or null. */
function which(names, more = []) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...more].filter(Boolean)
  for (const name of names) {
    const file = folders
      .map((folder) => join(folder, name))
      .find((path) => statSync(path, { throwIfNoEntry: false })?.isFile())
    if (file) return file
  }
  return null
}

function versionOf(tool) {
  if (!tool) return null
  try {
    const text = execFileSync(tool, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    return /\d+(\.\d+)+/.exec(text)?.[0] ?? null
  } catch {
    return null
  }
}

function isOldCmake(version) {
  const [major = 0, minor = 0] = (version ?? '0').split('.').map(Number)
  return major < minimumCmake[0] || (major === minimumCmake[0] && minor < minimumCmake[1])
}

function choice(name, allowed) {
  const value = process.env[name] || allowed[0]
  if (!allowed.includes(value)) {
    throw new BuildProblem(`${name} is "${value}". Allowed: ${allowed.filter(Boolean).join(', ')}.`)
  }
  return value
}

/** The value of a CMakeCache.txt entry, or null. */
function cached(folder, entry) {
  const file = join(folder, 'CMakeCache.txt')
  if (!existsSync(file)) return null
  return new RegExp(`^${entry}:[A-Z]+=(.*)$`, 'm').exec(readFileSync(file, 'utf8'))?.[1] ?? null
}

/** What a build needs and what of it is here; `missing` is empty when a build can start. */
function inspectTools() {
  const cmake = which(['cmake'])
  const cmakeVersion = versionOf(cmake)
  const compiler = which(['g++', 'clang++'])
  const buildTool = which(['ninja', 'make'])
  const cudaCompiler = process.env.CUDACXX || which(['nvcc'], ['/usr/local/cuda/bin'])
  const missing = []
  if (!cmake) missing.push('CMake')
  else if (isOldCmake(cmakeVersion)) missing.push(`CMake ${minimumCmake.join('.')} or newer (found ${cmakeVersion})`)
  if (!compiler) missing.push('a C++ compiler')
  if (!buildTool) missing.push('make or ninja')
  return {
    cmake: cmake && { path: cmake, version: cmakeVersion },
    compiler: compiler && { path: compiler, version: versionOf(compiler) },
    buildTool,
    cuda: {
      compiler: cudaCompiler,
      switch: process.env.CUDA || 'auto',
      lastBuild: cached(join(root, 'build'), 'GORGON_CUDA'),
    },
    missing,
    advice: missing.length ? advice(missing) : null,
  }
}

function advice(missing) {
  return `The native addon cannot be built here: ${missing.join(', ')} missing. Install

  Debian, Ubuntu   sudo apt-get install cmake g++ make
  Fedora           sudo dnf install cmake gcc-c++ make
  macOS            xcode-select --install && brew install cmake

then run: npm run build:native`
}

/** Runs one cmake-js command; its output, told only when it fails. */
function cmakeJs(command, options) {
  const require = createRequire(import.meta.url)
  let script
  try {
    script = join(dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
  } catch {
    throw new BuildProblem('cmake-js is not installed. Run: npm ci')
  }
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [script, command, ...options], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const output = []
    child.stdout.on('data', (bytes) => output.push(bytes))
    child.stderr.on('data', (bytes) => output.push(bytes))
    child.on('error', fail)
    child.on('close', (code, signal) => {
      if (code === 0) done()
      else
        fail(
          new BuildProblem(
            `${Buffer.concat(output)}\nThe native build failed (${command}: ${signal ?? `exit code ${code}`}).`,
          ),
        )
    })
  })
}

/** Latest modification under a file or folder, in ms. */
function newest(path) {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat) return 0
  if (!stat.isDirectory()) return stat.mtimeMs
  return readdirSync(path).reduce((latest, name) => Math.max(latest, newest(join(path, name))), 0)
}

function isUpToDate(addon) {
  const sources = ['kernels', 'CMakeLists.txt'].map((name) => newest(join(root, name)))
  return existsSync(addon) && statSync(addon).mtimeMs > Math.max(...sources)
}

function forgetConfiguration(out) {
  rmSync(join(out, 'CMakeCache.txt'), { force: true })
  rmSync(join(out, 'CMakeFiles'), { recursive: true, force: true })
}

/** Not so for a build folder that came along with a moved or copied checkout. */
function isBuiltHere(out) {
  const home = cached(out, 'CMAKE_HOME_DIRECTORY')
  return Boolean(home) && existsSync(home) && realpathSync(home) === realpathSync(root)
}

async function configure(out, options) {
  if (!isBuiltHere(out)) forgetConfiguration(out)
  const isFirst = !existsSync(join(out, 'CMakeCache.txt'))
  try {
    await cmakeJs('configure', options)
  } catch (error) {
    if (isFirst) throw error
    // Another generator or compiler than last time: CMake refuses to change those in place.
    forgetConfiguration(out)
    await cmakeJs('configure', options)
  }
}

async function build({ isDebug, isInstall }) {
  const started = Date.now()
  const cuda = choice('CUDA', ['auto', 'on', 'off'])
  const isSanitized = choice('SANITIZE', ['', 'address']) === 'address'
  const config = isDebug ? 'Debug' : 'Release'
  const isEmulated = choice('EMULATE', ['', 'amx']) === 'amx'
  const variant = `${isSanitized ? '-asan' : ''}${isEmulated ? '-emulated' : ''}`
  const out = join(root, `build${variant}`)
  const addon = join(out, config, 'gorgon.node')
  const isSameBuild = isBuiltHere(out) && cached(out, 'GORGON_CUDA') === cuda
  if (isInstall && isSameBuild && isUpToDate(addon)) return 'gorgon: the native addon is up to date'

  const tools = inspectTools()
  if (tools.advice) throw new BuildProblem(tools.advice)

  const options = ['--out', out, '--config', config, '--log-level', 'error']
  options.push(`--CDGORGON_CUDA=${cuda}`, `--CDGORGON_SANITIZE=${isSanitized ? 'ON' : 'OFF'}`)
  options.push(`--CDGORGON_EMULATE_AMX=${isEmulated ? 'ON' : 'OFF'}`)
  await configure(out, options)
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(availableParallelism())
  await cmakeJs('build', [...options, '--parallel', jobs])
  if (!existsSync(addon))
    throw new BuildProblem(`The build finished but left no ${addon}. This is a bug in CMakeLists.txt.`)
  const seconds = ((Date.now() - started) / 1000).toFixed(1)
  return `gorgon: built ${relative(root, addon)} in ${seconds} s (CUDA=${cuda}${isSanitized ? ', SANITIZE=address' : ''}${isEmulated ? ', EMULATE=amx' : ''})`
}

function describe(tools) {
  const found = (tool) => (tool ? `${tool.path} ${tool.version ?? ''}`.trim() : 'not found')
  return [
    `CMake          ${found(tools.cmake)}`,
    `C++ compiler   ${found(tools.compiler)}`,
    `make or ninja  ${tools.buildTool ?? 'not found'}`,
    `CUDA compiler  ${tools.cuda.compiler ?? 'not found'} (CUDA=${tools.cuda.switch})`,
    ...(tools.advice ? ['', tools.advice] : []),
  ].join('\n')
}

function readFlags() {
  try {
    return parseArgs({
      options: {
        debug: { type: 'boolean', default: false },
        install: { type: 'boolean', default: false },
        check: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values
  } catch (error) {
    process.stderr.write(`${error.message}\n\n${usage}`)
    return null
  }
}

async function main() {
  const values = readFlags()
  if (!values) return 1
  if (values.help) {
    process.stdout.write(usage)
    return 0
  }
  if (values.check) {
    const tools = inspectTools()
    process.stdout.write(`${values.json ? JSON.stringify(tools) : describe(tools)}\n`)
    return tools.missing.length ? 1 : 0
  }
  try {
    process.stdout.write(`${await build({ isDebug: values.debug, isInstall: values.install })}\n`)
    return 0
  } catch (error) {
    if (!(error instanceof BuildProblem)) throw error
    process.stderr.write(`${error.message}\n`)
    if (!values.install) return 1
    process.stderr.write('gorgon: installed without its native addon; "npx gorgon doctor" says what is missing.\n')
    return 0
  }
}

process.exitCode = await main()
