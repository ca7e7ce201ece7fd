#!/usr/bin/env node
// Runs the tests of native code on this machine's GPU: once for each instruction set of CUDA that it has. Or some of them under a tool of
// compute-sanitizer, which finds what a right result hides.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')

const TOOLS = ['memcheck', 'racecheck', 'synccheck', 'initcheck']

const usage = `usage: node scripts/test-gpu.mjs [--if-present] [--sanitize TOOL] [VITEST ARGUMENTS]

  --if-present      exit with 0 where CUDA cannot be used
  --sanitize TOOL   run every operation, on few and small shapes, under compute-sanitizer: ${TOOLS.join(', ')}

VITEST ARGUMENTS replace the list of tests: test/kernels -t alone
`

/** What compares operations and models with oracles, goldens and each other, whatever they run on. */
const TESTS = [
  'test/kernels',
  'test/native',
  'test/golden',
  'test/exactness.test.ts',
  'test/engine-native/requests.test.ts',
  'test/heads/train/training-runs.test.ts',
  '.gpu.test.ts',
]

/**
 * Files of tests and the names of their tests that reach every kernel: a sanitizer makes them tens of times slower, so of the sweeps over shapes
 * only those that cross the edges of tiles, and one whole model, decoding and in training.
 */
const SANITIZED = [
  ['kernels/adamw', 'every count|NaN spoils'],
  ['kernels/attention-votes', 'every head width|attention windows'],
  ['kernels/causal-attention', 'every head width|number of tokens around|sliding windows|tiles of 128'],
  ['kernels/cross-entropy', 'every vocabulary|long rows|nothing'],
  ['kernels/embed', 'rows of a table'],
  ['kernels/gated-linear', 'every width|every number of rows'],
  ['kernels/kv-gather', 'compression|commit'],
  ['kernels/linear', 'every number of columns|every number of rows|prompts:|bias, residual'],
  ['kernels/linear-gradient', 'every number of rows|every depth|every cut|NaN'],
  ['kernels/medusa-heads', 'any width'],
  ['kernels/model', 'a step through the whole model|drafts are|the oracle.s rows stay'],
  ['kernels/pack-columns', 'a range of columns'],
  ['kernels/pack-weight', 'every size'],
  ['kernels/posterior', 'any options at once|has to be searched for'],
  ['kernels/residual-silu', 'every width'],
  ['kernels/rms-norm', 'every width|many rows'],
  ['kernels/rope-angles', 'rope_angles'],
  ['kernels/rope-append', 'rope_append'],
  ['kernels/silu-mul', 'every width'],
  ['kernels/snapkv-select', 'every budget|nothing to choose'],
  ['kernels/sum-of-squares', 'every count'],
  ['kernels/top-k', 'every number of columns|long rows'],
  ['kernels/tree-attention', 'every head width|number of nodes|sliding windows|bits they have alone'],
  ['kernels/yardsticks', 'reads every element'],
  [
    'native/training',
    'guess what the model|teach what computed ones do|slopes of the oracle|gradients that are not finite',
  ],
]

/** Told apart from a test that failed. */
const SANITIZER_FOUND = 86

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

function refuse(why) {
  process.stderr.write(`test:gpu: ${why}\n`)
  process.exit(1)
}

/** The program and its arguments, of ours and for vitest. */
function argumentsOf(given) {
  // Ours come first; what follows them is vitest's, whatever it is.
  let ours = 0
  while (ours < given.length && /^--(help|if-present|sanitize(=.*)?)$/.test(given[ours])) {
    ours += given[ours] === '--sanitize' ? 2 : 1
  }
  try {
    const { values } = parseArgs({
      args: given.slice(0, ours),
      options: { help: { type: 'boolean' }, 'if-present': { type: 'boolean' }, sanitize: { type: 'string' } },
    })
    return { ...values, wanted: given.slice(ours) }
  } catch (error) {
    return refuse(error.message)
  }
}

const VITEST = [process.execPath, join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run']

function run(isa, [command, ...argv]) {
  const toolkit = join(process.env.CUDA_HOME || '/usr/local/cuda', 'bin')
  return spawnSync(command, argv, {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      PATH: [process.env.PATH, toolkit].join(delimiter),
      GORGON_BACKEND: 'cuda',
      GORGON_CUDA: isa,
    },
  })
}

/** Whether all tests passed. */
function test(isa, wanted) {
  process.stdout.write(`\n== cuda, ${isa} ==\n`)
  const { status, error } = run(isa, [...VITEST, ...(wanted.length > 0 ? wanted : TESTS)])
  if (error) process.stderr.write(`test:gpu: vitest could not be started: ${error.message}\n`)
  return status === 0
}

/** Whether the tool found nothing and all tests passed. */
function sanitize(isa, tool, wanted) {
  const runs = wanted.length > 0 ? [wanted] : SANITIZED.map(([name, t]) => [`test/${name}.test.ts`, '-t', t])
  const bad = []
  for (const each of runs) {
    process.stdout.write(`\n== cuda, ${isa}, ${tool}: ${each.join(' ')} ==\n`)
    // Threads: the tool need not follow vitest into processes. It has no time limit to keep.
    const vitest = [...VITEST, '--pool=threads', '--testTimeout=0', '--hookTimeout=0', ...each]
    const sanitizer = ['compute-sanitizer', '--tool', tool, '--error-exitcode', String(SANITIZER_FOUND)]
    const { status, error } = run(isa, [...sanitizer, ...vitest])
    if (error?.code === 'ENOENT') {
      refuse(
        'compute-sanitizer was not found. It comes with the CUDA toolkit: install it there, or put its folder on PATH.',
      )
    }
    if (error) refuse(`compute-sanitizer could not be started: ${error.message}`)
    if (status !== 0) bad.push(`${each[0]} (${status === SANITIZER_FOUND ? `${tool} found errors` : 'tests failed'})`)
  }
  if (bad.length > 0) process.stderr.write(`test:gpu: ${isa}: ${bad.join(', ')}\n`)
  return bad.length === 0
}

const { help, 'if-present': isFine, sanitize: tool, wanted } = argumentsOf(process.argv.slice(2))
if (help) {
  process.stdout.write(usage)
  process.exit(0)
}
if (tool !== undefined && !TOOLS.includes(tool)) {
  refuse(`--sanitize is "${tool}". Use one of ${TOOLS.join(', ')}.`)
}

let cuda
try {
  cuda = cudaBackend()
} catch (error) {
  skip(`the native addon could not be loaded: ${error.message.split('\n')[0]}. Run: npm run build:native`, false)
}
if (!cuda?.usable) skip(`CUDA cannot be used here: ${cuda?.detail ?? 'it was not built'}`, isFine)
const isas = cuda.isas.filter(({ usable }) => usable).map(({ name }) => name)
process.stdout.write(`CUDA: ${cuda.detail}; instruction sets: ${isas.join(', ')}\n`)
const failed = isas.filter((isa) => !(tool === undefined ? test(isa, wanted) : sanitize(isa, tool, wanted)))
if (failed.length > 0) process.stderr.write(`test:gpu: failed on ${failed.join(', ')}\n`)
process.exit(failed.length > 0 ? 1 : 0)
