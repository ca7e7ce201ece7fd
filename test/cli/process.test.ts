// The compiled command line as its own process: signals, pipes, and an addon that is not there.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'
import { beforeAll, describe, expect, test } from 'vitest'

const MAIN = 'dist/src/cli/main.js'
const ENDLESS = ['generate', 'const x = ', '--max-tokens', '16000', '--ignore-eos']

beforeAll(() => {
  // What was built last may not be what these sources say.
  const compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  execFileSync(process.execPath, [compiler, '-p', 'tsconfig.build.json'])
})

function start(argv: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, [MAIN, ...argv], { env: { ...process.env, ...env } })
  const exit = once(child, 'exit') as Promise<[code: number | null, signal: string | null]>
  return { child, exit, stderr: text(child.stderr) }
}

test('generates, and ends by itself', async () => {
  const { child, exit, stderr } = start(['generate', 'const x = ', '--max-tokens', '8', '--json'])
  const stdout = await text(child.stdout)
  expect(JSON.parse(stdout).tokens).toHaveLength(8)
  expect(await exit).toEqual([0, null])
  expect(await stderr).toBe('')
})

test('exit codes reach the shell', async () => {
  expect(await start(['generate', '--frobnicate']).exit).toEqual([2, null])
})

describe('signals', () => {
  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s ends a generation cleanly with exit code %i', async (signal, code) => {
    const { child, exit, stderr } = start(ENDLESS)
    await once(child.stdout, 'data')
    child.stdout.resume()
    child.kill(signal)
    expect(await exit).toEqual([code, null])
    expect(await stderr).toBe('')
  })

  test('SIGINT ends the waiting for a prompt', async () => {
    const { child, exit } = start(['generate', '--prompt-file', '-'])
    // Signals before the handlers are there would end it the ordinary way.
    await new Promise((done) => setTimeout(done, 1500))
    child.kill('SIGINT')
    expect(await exit).toEqual([130, null])
  })
})

test('a reader who leaves ends it without a word', async () => {
  const { child, exit, stderr } = start(ENDLESS)
  await once(child.stdout, 'data')
  child.stdout.destroy()
  expect(await exit).toEqual([0, null])
  expect(await stderr).toBe('')
})

describe('without the addon', () => {
  const env = { GORGON_ADDON: '/nowhere/gorgon.node' }

  test('generate says what was tried and what to run', async () => {
    const { exit, stderr } = start(['generate', 'x'], env)
    expect(await exit).toEqual([1, null])
    expect(await stderr).toMatch(/^gorgon: ERR_ADDON_MISSING: .*npm run build:native.*\n[\s\S]*\/nowhere\/gorgon\.node/)
  })

  test('doctor says so, shows the build tools, and exits with 1', async () => {
    const { child, exit } = start(['doctor'], env)
    const stdout = await text(child.stdout)
    expect(await exit).toEqual([1, null])
    expect(stdout).toMatch(/^MISSING +native addon .*/m)
    expect(stdout).toContain('/nowhere/gorgon.node')
    expect(stdout).toMatch(/^ok +build tools +CMake/m)
    expect(stdout).toMatch(/^ok +demo model/m)
    expect(stdout).toMatch(/\nNot ready: /)
  })

  test('inspect and help need none', async () => {
    expect(await start(['inspect', 'models/demo'], env).exit).toEqual([0, null])
    expect(await start(['generate', '--help'], env).exit).toEqual([0, null])
  })
})
