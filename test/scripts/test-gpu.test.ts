// The script that runs tests on a GPU, where there is none, and with an addon that says there is one.
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'gorgon-test-gpu-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

/** The script in a folder with an addon that reports `cuda`, and a vitest that says what it was asked for. */
function testGpu(cuda: object | null, argv: readonly string[] = [], exitCode = 0) {
  mkdirSync(join(dir, 'scripts'), { recursive: true })
  copyFileSync('scripts/test-gpu.mjs', join(dir, 'scripts', 'test-gpu.mjs'))
  const addon = join(dir, 'addon.cjs')
  const backends = cuda ? [{ name: 'cuda', detail: 'a card', isas: [], devices: [], ...cuda }] : []
  writeFileSync(addon, `exports.backends = () => (${JSON.stringify(backends)})\n`)
  mkdirSync(join(dir, 'node_modules', 'vitest'), { recursive: true })
  writeFileSync(
    join(dir, 'node_modules', 'vitest', 'vitest.mjs'),
    `import { argv, env, exit } from 'node:process'
console.log(env.GORGON_BACKEND + ' ' + env.GORGON_CUDA + ': vitest ' + argv.slice(2).join(' '))
exit(${exitCode})
`,
  )
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(dir, 'scripts', 'test-gpu.mjs'), ...argv], {
    encoding: 'utf8',
    env: { PATH: `${dir}:/bin:/usr/bin`, CUDA_HOME: dir, GORGON_ADDON: addon },
  })
  return { status, stdout, stderr }
}

const HOPPER = {
  usable: true,
  isas: [
    { name: 'sm_90a', usable: true },
    { name: 'sm_80', usable: true },
    { name: 'sm_200', usable: false },
  ],
}

test('without a GPU nothing is run, which is a failure unless it is expected', () => {
  const none = { usable: false, detail: 'this machine has no CUDA device' }
  const stderr = 'test:gpu: skipped, no test was run: CUDA cannot be used here: this machine has no CUDA device\n'
  expect(testGpu(none)).toEqual({ status: 1, stdout: '', stderr })
  expect(testGpu(none, ['--if-present'])).toEqual({ status: 0, stdout: '', stderr })
  expect(testGpu(null).stderr).toContain('it was not built')
})

test('each instruction set is tested', () => {
  const { status, stdout } = testGpu(HOPPER)
  expect(status).toBe(0)
  expect(stdout).toMatch(/^cuda sm_90a: .*vitest run test\/kernels .*\.gpu\.test\.ts$/m)
  expect(stdout).toMatch(/^cuda sm_80: .*vitest run test\/kernels /m)
  expect(stdout).not.toContain('sm_200')
})

test('what is tested are tests that exist, whole training runs among them', () => {
  const { stdout } = testGpu(HOPPER)
  const named = stdout.match(/^cuda sm_80: vitest run (.*)$/m)![1]!.split(' ')
  expect(named).toContain('test/heads/train/training-runs.test.ts')
  for (const path of named.filter((each) => each.startsWith('test/'))) expect(existsSync(path), path).toBe(true)
})

test('other tests may be named', () => {
  const { stdout } = testGpu(HOPPER, ['test/golden', '-t', 'alone'])
  expect(stdout).toMatch(/^cuda sm_80: vitest run test\/golden -t alone$/m)
})

test('a failure is the last word', () => {
  const { status, stderr } = testGpu(HOPPER, [], 1)
  expect(status).toBe(1)
  expect(stderr).toBe('test:gpu: failed on sm_90a, sm_80\n')
})

/** A compute-sanitizer that says how it was called and calls what it was given, or finds errors. */
function sanitizer(exitCode = 0): void {
  const script = `#!/bin/sh\necho "sanitizer $1 $2 $3 $4"\nshift 4\n"$@"\n[ ${exitCode} = 0 ] || exit ${exitCode}\n`
  writeFileSync(join(dir, 'compute-sanitizer'), script, { mode: 0o755 })
}

test('a sanitizer runs over tests of every operation that exist, and of training, in threads of one process', () => {
  sanitizer()
  const { status, stdout, stderr } = testGpu(HOPPER, ['--sanitize', 'racecheck'])
  expect(stderr).toBe('')
  expect(status).toBe(0)
  const runs = [
    ...stdout.matchAll(
      /^sanitizer --tool racecheck --error-exitcode 86\ncuda (\w+): vitest run (--pool=threads .*)$/gm,
    ),
  ]
  const tests = runs.map(([, isa, argv = '']) => {
    const [, file = '', name = ''] = argv.match(/ (test\/\S+) -t (.*)$/) ?? []
    return { isa, file, name }
  })
  expect(new Set(tests.map(({ isa }) => isa))).toEqual(new Set(['sm_90a', 'sm_80']))
  for (const { file, name } of tests) {
    expect(existsSync(file), file).toBe(true)
    for (const alternative of name.split('|')) expect(readFileSync(file, 'utf8')).toMatch(new RegExp(alternative))
  }
  // Those of the bindings, and of what is a part of another operation on a device.
  const others = ['ops', 'kv-append', 'rope'].map((name) => `test/kernels/${name}.test.ts`)
  const files = readdirSync('test/kernels').map((file) => `test/kernels/${file}`)
  expect(new Set([...tests.map(({ file }) => file), ...others])).toEqual(
    new Set([...files, 'test/native/training.test.ts']),
  )
})

test('what a sanitizer finds is a failure, and told apart from that of a test', () => {
  sanitizer(86)
  const found = testGpu(HOPPER, ['--sanitize=memcheck', 'test/kernels/embed.test.ts'])
  expect(found.status).toBe(1)
  expect(found.stderr).toContain('test:gpu: sm_80: test/kernels/embed.test.ts (memcheck found errors)\n')
  sanitizer(1)
  expect(testGpu(HOPPER, ['--sanitize=memcheck', 'test/kernels/embed.test.ts']).stderr).toContain('(tests failed)')
})

test('without a sanitizer, or with one that does not exist, nothing is run', () => {
  const missing = testGpu(HOPPER, ['--sanitize', 'memcheck'])
  expect(missing.status).toBe(1)
  expect(missing.stderr).toMatch(/^test:gpu: compute-sanitizer was not found\. It comes with the CUDA toolkit/)
  const unknown = testGpu(HOPPER, ['--sanitize', 'memchek'])
  expect(unknown).toMatchObject({ status: 1, stdout: '' })
  expect(unknown.stderr).toBe(
    'test:gpu: --sanitize is "memchek". Use one of memcheck, racecheck, synccheck, initcheck.\n',
  )
})
