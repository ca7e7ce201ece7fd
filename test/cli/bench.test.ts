// gorgon bench, on the demo model and on one without heads or tokenizer, with prompts so short that it takes seconds.
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { decodeResult } from '../../src/bench/results.js'
import { run } from '../../src/cli/program.js'
import { temporaryFolder } from '../support/folder.js'
import { writeTinyModel } from '../support/tiny-model.js'
import { errorLine, gorgon, Sink } from './command.js'

const root = temporaryFolder()
const quick = ['--tokens', '16', '--rounds', '1']

test('measures the four arms, says that tokens are the same, and counts what was left out', async () => {
  const { exitCode, stdout, stderr } = await gorgon([
    'bench',
    '--prompt-lengths',
    '24,80,20000',
    '--budget',
    '48',
    ...quick,
  ])
  expect(exitCode).toBe(0)
  expect(stderr).toMatch(/^gorgon: Left out: prompts of 20000 tokens do not fit/)
  const rows = stdout.split('\n').filter((line) => /^(24|80) /.test(line))
  const arms = rows.map((row) => row.split(/ {2,}/).slice(0, 2).join(' '))
  const each = ['plain', 'Medusa', 'SnapKV', 'Medusa + SnapKV']
  const speculating = ['Medusa', 'Medusa + SnapKV']
  expect(arms).toEqual([
    ...['24', '80'].flatMap((length) => each.map((arm) => `${length} ${arm}`)),
    ...['24', '80'].flatMap((length) => speculating.map((arm) => `${length} ${arm}`)),
  ])
  expect(stdout).toContain('budget 48')
  expect(stdout).toMatch(/tokens are those of plain decoding over the same cache/)
})

test('--json prints every run, and --out writes the same to a file', async () => {
  const file = join(root, 'result.json')
  const argv = [
    'bench',
    '--prompt-lengths',
    '20',
    '--temperature',
    '0.5',
    '--tree',
    '8',
    '--json',
    '--out',
    file,
    ...quick,
  ]
  const { exitCode, stdout, stderr } = await gorgon(argv)
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  const result = decodeResult(stdout)
  expect(result).toMatchObject({
    bench: 'decode/decode',
    command: `gorgon ${argv.join(' ')}`,
    options: {
      model: 'demo',
      promptLengths: [20],
      tokens: 16,
      rounds: 1,
      temperature: 0.5,
      tree: '8',
      prompts: 'sources',
    },
    measurements: ['plain', 'medusa', 'snapkv', 'both'].map((arm) => ({ arm, promptTokens: 20, tokens: 16 })),
  })
  expect(await readFile(file, 'utf8')).toBe(stdout)
})

test('a model without heads and tokenizer runs what it can, on random ids', async () => {
  const dir = join(await mkdtemp(join(root, 'tiny-')), 'model')
  await writeTinyModel(dir)
  const { exitCode, stdout, stderr } = await gorgon([
    'bench',
    '--model',
    dir,
    '--prompt-lengths',
    '20',
    '--json',
    ...quick,
  ])
  expect(exitCode).toBe(0)
  expect(stderr).toMatch(/No Medusa heads/)
  expect(stderr).toMatch(/random token ids/)
  const { measurements, options } = JSON.parse(stdout)
  expect(measurements.map((one: { arm: string }) => one.arm)).toEqual(['plain', 'snapkv'])
  expect(options.prompts).toBe('random')
})

test('prompts can come from a file', async () => {
  const file = join(root, 'prompt.txt')
  await writeFile(file, 'once upon a time\n')
  const argv = ['bench', '--prompt-file', file, '--prompt-lengths', '50', '--heads', 'none', '--json', ...quick]
  const { exitCode, stdout } = await gorgon(argv)
  expect(exitCode).toBe(0)
  expect(JSON.parse(stdout).options.prompts).toBe('text')
})

test.each([
  [['--prompt-lengths', '1,x'], /--prompt-lengths.*Use a whole number from 1/],
  [['--rounds', '0'], /--rounds.*from 1 to 1000/],
  [['--tokens', '2'], /--tokens.*from 16/],
  [['--budget', '3'], /--budget is 3/],
  [['--prompt-file', '/no/such/file'], /--prompt-file "\/no\/such\/file" cannot be read: ENOENT/],
  [['--prompt-lengths', '99999'], /No prompt fits: the context holds/],
])('%j is refused', async (argv, message) => {
  const { exitCode, stdout, stderr } = await gorgon(['bench', ...argv])
  expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
  expect(stderr.split('\n').find((line) => /gorgon: ERR/.test(line))).toMatch(message)
})

test.each([
  [root, /--out .* cannot be written: it is a folder/],
  [join(root, 'no', 'result.json'), /--out .* cannot be written: its folder .* is missing/],
  ['', /--out "" cannot be written: it names no file/],
])('an unwritable --out (%s) is an error before anything is measured', async (out, message) => {
  const { exitCode, stdout, stderr } = await gorgon(['bench', '--prompt-lengths', '20', '--out', out, ...quick])
  expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
  expect(errorLine(stderr)).toMatch(message)
})

test('interrupted, it prints and writes what is done', async () => {
  const file = join(root, 'interrupted.json')
  const interruption = new AbortController()
  const stdout = new Sink()
  /** Interrupts as soon as the bar has moved. */
  class Watcher extends Sink {
    override _write(chunk: Buffer, encoding: string, done: () => void): void {
      super._write(chunk, encoding, done)
      if (/measuring \[.*\] [1-9]/.test(this.text)) interruption.abort()
    }
  }
  const io = { stdin: new PassThrough().end(), stdout, stderr: new Watcher(true), env: {}, signal: interruption.signal }
  const argv = ['bench', '--prompt-lengths', '24', '--tokens', '16', '--rounds', '1000', '--out', file]
  const exitCode = await run(argv, io)
  expect(exitCode).toBe(130)
  expect(stdout.text).toMatch(/^24 +plain +/m)
  const rounds = Number(/medians of (\d+) rounds?/.exec(stdout.text)?.[1])
  expect(rounds).toBeGreaterThan(0)
  expect(rounds).toBeLessThan(1000)
  const written = JSON.parse(await readFile(file, 'utf8'))
  expect(decodeResult(JSON.stringify(written))).toEqual(written)
  expect(written.measurements.length).toBeGreaterThanOrEqual(rounds)
})
