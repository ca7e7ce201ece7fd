#!/usr/bin/env node
// Runs the tests of native code on this machine's GPU: once for each instruction set of CUDA that it has.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')

const usage = `usage: node scripts/test-gpu.mjs [--if-present] [VITEST ARGUMENTS]

  --if-present   exit with 0 where CUDA cannot be used

VITEST ARGUMENTS replace the list of tests: test/kernels -t alone
`

/** What compares operations and models with oracles, goldens and each other, whatever they run on. */
const TESTS = [
  'test/kernels',
  'test/native',
  'test/golden',
  'test/exactness.test.ts',
  'test/engine-native/requests.test.ts',
  '.gpu.test.ts',
]

/** CUDA as the addon reports it. */
function cudaBackend() {
  const file = process.env.GORGON_ADDON || join(root, 'build', 'Release', 'gorgon.node')
  const addon = createRequire(import.meta.url)(resolve(file))
  return addon.backends().find(({ name }) => name === 'cuda')
}

function skip(why, isFine) {
  process.stderr.write(`test:gpu: skipped, no test was run: ${why}\n`)
  process.exit(isFine ? 0 : 1)
}

/** Whether all tests passed. */
function test(isa, wanted) {
  process.stdout.write(`\n== cuda, ${isa} ==\n`)
  const { status, error } = spawnSync('npx', ['--no-install', 'vitest', 'run', ...wanted], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, GORGON_BACKEND: 'cuda', GORGON_CUDA: isa },
  })
  if (error) process.stderr.write(`test:gpu: vitest could not be started: ${error.message}\n`)
  return status === 0
}

const given = process.argv.slice(2)
if (given.includes('--help')) {
  process.stdout.write(usage)
  process.exit(0)
}
const isFine = given.includes('--if-present')
const wanted = given.filter((argument) => argument !== '--if-present')

let cuda
try {
  cuda = cudaBackend()
} catch (error) {
  skip(`the native addon could not be loaded: ${error.message.split('\n')[0]}. Run: npm run build:native`, false)
}
if (!cuda?.usable) skip(`CUDA cannot be used here: ${cuda?.detail ?? 'it was not built'}`, isFine)
const isas = cuda.isas.filter(({ usable }) => usable).map(({ name }) => name)
process.stdout.write(`CUDA: ${cuda.detail}; instruction sets: ${isas.join(', ')}\n`)
const failed = isas.filter((isa) => !test(isa, wanted.length > 0 ? wanted : TESTS))
if (failed.length > 0) process.stderr.write(`test:gpu: failed on ${failed.join(', ')}\n`)
process.exit(failed.length > 0 ? 1 : 0)
