// The script that runs tests on a GPU, where there is none, and with an addon that says there is one.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'gorgon-test-gpu-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

/** An addon that reports `cuda`, and an `npx` that says what it was asked for. */
function testGpu(cuda: object | null, argv: readonly string[] = [], exitCode = 0) {
  const addon = join(dir, 'addon.cjs')
  const backends = cuda ? [{ name: 'cuda', detail: 'a card', isas: [], devices: [], ...cuda }] : []
  writeFileSync(addon, `exports.backends = () => (${JSON.stringify(backends)})\n`)
  const npx = `#!/bin/sh\necho "$GORGON_BACKEND $GORGON_CUDA: $@"\nexit ${exitCode}\n`
  writeFileSync(join(dir, 'npx'), npx, { mode: 0o755 })
  const { status, stdout, stderr } = spawnSync(process.execPath, ['scripts/test-gpu.mjs', ...argv], {
    encoding: 'utf8',
    env: { PATH: `${dir}:/bin:/usr/bin`, GORGON_ADDON: addon },
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

test('other tests may be named', () => {
  const { stdout } = testGpu(HOPPER, ['test/golden', '-t', 'alone'])
  expect(stdout).toMatch(/^cuda sm_80: --no-install vitest run test\/golden -t alone$/m)
})

test('a failure is the last word', () => {
  const { status, stderr } = testGpu(HOPPER, [], 1)
  expect(status).toBe(1)
  expect(stderr).toBe('test:gpu: failed on sm_90a, sm_80\n')
})
