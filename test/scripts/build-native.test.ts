// The build script where tools are missing: it says what to install, and the install hook does not fail.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'gorgon-build-'))
  mkdirSync(join(root, 'scripts'))
  mkdirSync(join(root, 'bin'))
  copyFileSync('scripts/build-native.mjs', join(root, 'scripts', 'build-native.mjs'))
})
afterEach(() => rmSync(root, { recursive: true }))

/** A program of that name that answers `--version`. */
function tool(name: string, version: string): void {
  writeFileSync(join(root, 'bin', name), `#!/bin/sh\necho ${name} version ${version}\n`, { mode: 0o755 })
}

function build(argv: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const script = join(root, 'scripts', 'build-native.mjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...argv], {
    encoding: 'utf8',
    env: { PATH: join(root, 'bin'), ...env },
  })
  return { status, stdout, stderr }
}

describe('without tools', () => {
  test('a build fails and says what to install', () => {
    const { status, stderr } = build([])
    expect(status).toBe(1)
    expect(stderr).toMatch(/CMake, a C\+\+ compiler, make or ninja missing/)
    for (const advice of ['apt-get install', 'dnf install', 'brew install']) expect(stderr).toContain(advice)
  })

  test('the install hook says the same and succeeds', () => {
    const { status, stderr } = build(['--install'])
    expect(status).toBe(0)
    expect(stderr).toContain('apt-get install')
    expect(stderr).toContain('gorgon doctor')
  })

  test('--check names each', () => {
    const { status, stdout } = build(['--check', '--json'])
    expect(status).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({
      cmake: null,
      compiler: null,
      buildTool: null,
      advice: expect.any(String),
    })
  })
})

test('a CMake that is too old is named with its version', () => {
  tool('cmake', '3.10.2')
  tool('g++', '12.2.0')
  tool('make', '4.3')
  const { status, stderr } = build([])
  expect(status).toBe(1)
  expect(stderr).toContain('CMake 3.18 or newer (found 3.10.2)')
})

test('--check with everything there', () => {
  tool('cmake', '3.25.1')
  tool('clang++', '17.0.1')
  tool('ninja', '1.11')
  const { status, stdout } = build(['--check', '--json'], { CUDACXX: '/opt/nvcc' })
  expect(status).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({
    cmake: { version: '3.25.1' },
    compiler: { version: '17.0.1' },
    cuda: { compiler: '/opt/nvcc', switch: 'auto' },
    missing: [],
  })
})

test.each([
  ['CUDA', 'yes', 'CUDA is "yes". Allowed: auto, on, off.'],
  ['SANITIZE', 'thread', 'SANITIZE is "thread". Allowed: address.'],
])('%s=%s is refused', (name, value, message) => {
  const { status, stderr } = build([], { [name]: value })
  expect(status).toBe(1)
  expect(stderr).toContain(message)
})

test('an unknown flag is refused with the usage', () => {
  const { status, stderr } = build(['--fast'])
  expect(status).toBe(1)
  expect(stderr).toContain('--fast')
  expect(stderr).toContain('usage:')
})

describe('the install hook and an addon that is there', () => {
  const at = (seconds: number) => new Date(1_700_000_000_000 + seconds * 1000)
  function place(addonAge: number, sourceAge: number, home = root): void {
    mkdirSync(join(root, 'build', 'Release'), { recursive: true })
    writeFileSync(
      join(root, 'build', 'CMakeCache.txt'),
      `CMAKE_HOME_DIRECTORY:INTERNAL=${home}\nGORGON_CUDA:STRING=auto\n`,
    )
    mkdirSync(join(root, 'kernels', 'ops'), { recursive: true })
    for (const [path, age] of [
      ['build/Release/gorgon.node', addonAge],
      ['kernels/ops/linear.cpp', sourceAge],
      ['CMakeLists.txt', 0],
    ] as const) {
      writeFileSync(join(root, path), '')
      utimesSync(join(root, path), at(age), at(age))
    }
  }

  test('leaves one that is newer than its sources', () => {
    place(20, 10)
    expect(build(['--install'])).toMatchObject({ status: 0, stderr: '', stdout: expect.stringContaining('up to date') })
  })

  test('builds when a source is newer', () => {
    place(10, 20)
    expect(build(['--install']).stderr).toContain('missing')
  })

  test('builds when the folder was built elsewhere, or with another switch', () => {
    place(20, 10, tmpdir())
    expect(build(['--install']).stderr).toContain('missing')
    place(20, 10)
    expect(build(['--install'], { CUDA: 'off' }).stderr).toContain('missing')
  })

  test('without --install it always asks CMake', () => {
    place(20, 10)
    expect(build([]).status).toBe(1)
  })
})
