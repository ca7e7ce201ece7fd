// gorgon heads convert: what it says to people and programs, and its exit codes.
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { ConvertReport } from '../../heads/index.js'
import { errorLine, gorgon } from './command.js'

const HEADS = 'heads/demo'
const MODEL = 'models/demo'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'gorgon-heads-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

test('says what was converted, and to where', async () => {
  const out = join(folder, 'e')
  const { exitCode, stdout, stderr } = await gorgon([
    'heads',
    'convert',
    HEADS,
    '--to',
    'E',
    '--out',
    out,
    '--model',
    MODEL,
  ])
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  expect(stdout).toMatch(/^Medusa heads +4, 1 block each, biases, through one projection for all$/m)
  expect(stdout).toMatch(/^from +layout B, .*heads\/demo$/m)
  expect(stdout).toMatch(/^to +layout E, .*\/e$/m)
  expect(stdout).toMatch(/^ +4\.1 MiB of bf16$/m)
  const inspected = await gorgon(['inspect', MODEL, '--heads', out])
  expect(inspected.stdout).toMatch(/^loads +yes$/m)
})

test('--json is the report of the library', async () => {
  const out = join(folder, 'a')
  const { stdout } = await gorgon(['heads', 'convert', HEADS, '--to', 'A', '--out', out, '--model', MODEL, '--json'])
  expect(JSON.parse(stdout) as ConvertReport).toMatchObject({ from: 'B', to: 'A', out, dtypes: ['BF16'], warnings: [] })
})

test('a terminal gets progress, and warnings are told', async () => {
  const out = join(folder, 'f32')
  const argv = ['heads', 'convert', HEADS, '--to', 'B', '--out', out, '--dtype', 'f32']
  const { stdout, stderr } = await gorgon(argv, { isTerminal: true })
  expect(stderr).toMatch(/converting \[/)
  expect(stdout).toMatch(/^ +2\.3 MiB of f32$/m)
  const again = await gorgon([...argv, '--force'])
  expect(again).toMatchObject({ exitCode: 0, stderr: '' })
})

test('heads that are there are not replaced unasked', async () => {
  const out = join(folder, 'f32')
  const { exitCode, stderr } = await gorgon(['heads', 'convert', HEADS, '--to', 'B', '--out', out])
  expect(exitCode).toBe(2)
  expect(errorLine(stderr)).toMatch(/^gorgon: ERR_FILE: .* already\. Give another folder, or --force/)
})

test('interrupted, it leaves nothing', async () => {
  const out = join(folder, 'interrupted')
  const signal = AbortSignal.abort()
  const { exitCode } = await gorgon(['heads', 'convert', HEADS, '--to', 'B', '--out', out], { signal })
  expect(exitCode).toBe(130)
  expect(existsSync(out)).toBe(false)
})

test.each([
  [['heads'], /ERR_OPTION: no command is given/, /Commands:\n +convert/],
  [['heads', 'convert', HEADS, '--to', 'E'], /required option '--out <DIR>'/, /Try: gorgon heads convert --help/],
  [['heads', 'convert', HEADS, '--to', 'D', '--out', 'x'], /Allowed choices are A, B, E/, /Try: gorgon heads convert/],
  [['heads', 'convert', HEADS, '--to', 'A', '--out', 'x'], /ERR_OPTION: .*Give the model .* as --model/, /^gorgon/],
])('%j is refused with what to do', async (argv, says, help) => {
  const { exitCode, stdout, stderr } = await gorgon(argv)
  expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
  expect(errorLine(stderr)).toMatch(says)
  expect(stderr).toMatch(help)
  expect(existsSync('x')).toBe(false)
})
