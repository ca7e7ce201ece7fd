// gorgon tree: tables or one object, files where the user named a folder and nowhere else, and flags that are refused.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { HeadsAccuracy } from '../../heads/format/accuracy.js'
import { run } from '../../src/cli/program.js'
import { packageRoot } from '../../src/index.js'
import { temporaryFolder } from '../support/folder.js'
import { errorLine, gorgon, Sink } from './command.js'

const dir = temporaryFolder()
const DEMO_HEADS = join(packageRoot(), 'heads', 'demo')
const DATA = join(packageRoot(), 'src', 'decode')
const quick = ['--data', DATA, '--prompts', '8', '--prompt-tokens', '48', '--tokens', '24', '--threads', '1']

/** A copy of the demo heads. */
function headsFolder(name: string): string {
  const folder = join(dir, name)
  cpSync(DEMO_HEADS, folder, { recursive: true })
  return folder
}

const contents = (folder: string) =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'latin1')]))

test('prints what it found, and writes nothing where nobody named a folder', async () => {
  const before = contents(DEMO_HEADS)
  const { exitCode, stdout, stderr } = await gorgon(['tree', ...quick])
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  expect(stdout).toContain(`${DEMO_HEADS} on cpu`)
  expect(stdout).toMatch(
    /^6 texts to grow from, of 24 tokens at most, \d+ together, and 2 to check on; greedy and temperature 0.7;/m,
  )
  // Four heads, twelve sizes of which one is chosen, two temperatures.
  expect(stdout.match(/^[1-4] +\d+ +\d+% +\d+% +\d+%$/gm)).toHaveLength(4)
  const sizes = stdout.match(/^\d+( \*)? +\d +\d\.\d\d +\d\.\d\d +\d+\.\d\d +\d+ +\d+\.\d\d$/gm)!
  expect(sizes.map((row) => Number.parseInt(row, 10))).toEqual([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
  expect(sizes.filter((row) => row.includes('*'))).toHaveLength(1)
  expect(stdout).toMatch(/^greedy +\d\.\d\d ± \d\.\d\d +\d\.\d\d +-?\d+\.\d% +\d\.\d\d +\d\.\d\d$/m)
  expect(stdout).toMatch(/^temperature 0\.7 +/m)
  expect(stdout).toContain('nothing was written: --out DIR takes accuracy.json')
  expect(contents(DEMO_HEADS)).toEqual(before)
})

test('writes into the folder of the heads, and the engine takes its trees from there', async () => {
  const heads = headsFolder('own')
  const { exitCode, stdout } = await gorgon(['tree', '--heads', heads, '--nodes', '12', ...quick])
  expect(exitCode).toBe(0)
  expect(stdout.split('\n').slice(-4)).toEqual([
    `${join(heads, 'accuracy.json')} (replaced)`,
    join(heads, 'tree.json'),
    join(heads, 'tree.svg'),
    '',
  ])
  const accuracy = HeadsAccuracy.parse(JSON.parse(readFileSync(join(heads, 'accuracy.json'), 'utf8')))
  expect(accuracy.paths).toHaveLength(63)
  const { stdout: text } = await gorgon([
    'generate',
    'const x =',
    '--heads',
    heads,
    '--tree',
    join(heads, 'tree.json'),
    '--mode',
    'medusa',
    '--max-tokens',
    '20',
    '--json',
  ])
  expect(JSON.parse(text).speculation.nodes).toBe(12)
})

test('says so where plain decoding is faster than the tree', async () => {
  const heads = headsFolder('untrained')
  const file = join(heads, 'medusa_lm_head.safetensors')
  const bytes = readFileSync(file)
  writeFileSync(file, bytes.fill(0, 8 + Number(bytes.readBigUInt64LE())))
  const { exitCode, stdout } = await gorgon(['tree', '--heads', heads, '--nodes', '64', ...quick])
  expect(exitCode).toBe(0)
  expect(stdout).toContain('plain decoding is faster here than this tree')
})

test('heads named by their file have their folder', async () => {
  const heads = headsFolder('by-file')
  const file = join(heads, 'medusa_lm_head.safetensors')
  expect((await gorgon(['tree', '--heads', file, '--nodes', '4', ...quick])).exitCode).toBe(0)
  expect(existsSync(join(heads, 'tree.json'))).toBe(true)
})

test('--json prints one object, and --out takes the files', async () => {
  const out = join(dir, 'out', 'new')
  const argv = ['tree', '--nodes', '6', '--temperature', '0.5', '--out', out, '--json', ...quick]
  const { exitCode, stdout, stderr } = await gorgon(argv)
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  const printed = JSON.parse(stdout)
  expect(printed).toMatchObject({
    heads: DEMO_HEADS,
    tree: { nodes: 6 },
    conditions: { temperatures: [0.5], texts: 6, heldOut: 2, kv: { policy: 'snapkv' } },
    checks: [{ temperature: 0.5 }],
    engine: { backend: 'cpu', threads: 1 },
    files: ['accuracy.json', 'tree.json', 'tree.svg'].map((name) => ({ file: join(out, name), replaced: false })),
  })
  expect(JSON.parse(readFileSync(join(out, 'tree.json'), 'utf8')).paths).toEqual(printed.tree.paths)
})

test('stops at once when interrupted, and leaves no files', async () => {
  const controller = new AbortController()
  const out = join(dir, 'interrupted')
  const stderr = new Sink(true)
  const interruptOnTrace = new Proxy(stderr, {
    get(target, key) {
      if (target.text.includes('judging drafts')) controller.abort()
      const value = Reflect.get(target, key)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  const code = await run(['tree', '--out', out, ...quick, '--prompts', '400'], {
    stdin: new PassThrough().end(),
    stdout: new Sink(),
    stderr: interruptOnTrace,
    env: {},
    signal: controller.signal,
  })
  expect(code).toBe(130)
  expect(existsSync(out)).toBe(false)
})

describe('refuses', () => {
  const file = join(dir, 'file')
  writeFileSync(file, '')
  mkdirSync(join(dir, 'empty'))

  test.each([
    ['no data', ['tree'], 'ERR_OPTION', /--data/],
    ['heads that are not there', ['tree', ...quick, '--heads', join(dir, 'nowhere')], 'ERR_FILE', /nowhere/],
    ['data that hold nothing', ['tree', '--data', join(dir, 'empty')], 'ERR_DATA', /no text/],
    ['data that are not there', ['tree', '--data', join(dir, 'nowhere')], 'ERR_FILE', /nowhere/],
    ['a folder that is a file', ['tree', ...quick, '--out', file], 'ERR_FILE', /--out .* is not a folder/],
    ['a folder below a file', ['tree', ...quick, '--out', join(file, 'a', 'b')], 'ERR_FILE', /is not a folder/],
    ['a tree of one node', ['tree', ...quick, '--nodes', '1'], 'ERR_OPTION', /--nodes/],
    ['a temperature that is none', ['tree', ...quick, '--temperature', '0,hot'], 'ERR_OPTION', /--temperature/],
    ['an empty temperature', ['tree', ...quick, '--temperature', '0,'], 'ERR_OPTION', /--temperature/],
    ['a tree to start from', ['tree', ...quick, '--tree', 'auto'], 'ERR_OPTION', /--tree/],
  ])('%s', async (_, argv, code, message) => {
    const { exitCode, stdout, stderr } = await gorgon(argv)
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
    expect(errorLine(stderr)).toMatch(new RegExp(`^gorgon: ${code}: `))
    expect(stderr).toMatch(message)
  })
})
