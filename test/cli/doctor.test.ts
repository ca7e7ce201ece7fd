// gorgon doctor: what is here; what is missing is in process.test.ts, as the addon loads once per process.
import { expect, test } from 'vitest'
import { backends } from '../../src/index.js'
import { gorgon } from './command.js'

test('names what is here, and is content', async () => {
  const { exitCode, stdout, stderr } = await gorgon(['doctor'])
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  for (const name of ['Node', 'platform', 'native addon', 'backend cpu', 'demo model']) {
    expect(stdout).toMatch(new RegExp(`^ok +${name} `, 'm'))
  }
  expect(stdout).toMatch(/^\S+ +backend cuda /m)
  expect(stdout).toMatch(/CUDA=auto\|on\|off/)
  expect(stdout).not.toContain('build tools')
  expect(stdout).toMatch(/\nReady: .*\n$/)
})

test('--json is one object', async () => {
  const { exitCode, stdout } = await gorgon(['doctor', '--json'])
  expect(exitCode).toBe(0)
  const report = JSON.parse(stdout)
  expect(report).toMatchObject({ ok: true, backends: backends() })
  for (const check of report.checks) {
    expect(check).toEqual({
      name: expect.any(String),
      ok: expect.any(Boolean),
      needed: expect.any(Boolean),
      detail: expect.stringMatching(/./),
    })
  }
})
