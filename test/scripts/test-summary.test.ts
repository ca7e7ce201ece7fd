// The closing line of .ci/run counts everything that went wrong, also outside of tests.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'

const folder = mkdtempSync(join(tmpdir(), 'gorgon-summary-'))
afterAll(() => rmSync(folder, { recursive: true }))

const passed = { status: 'passed' }
const failed = { status: 'failed' }
const file = (status: string, tests: readonly object[]) => ({
  name: 'a.test.ts',
  message: 'broke',
  status,
  assertionResults: tests,
})
const good = { numPassedTests: 3, numFailedTests: 0, numPendingTests: 1, testResults: [file('passed', [passed])] }

test.each([
  ['all well', good, '0', '3 passed, 0 failed', 0],
  [
    'a test fails',
    { ...good, numFailedTests: 1, testResults: [file('failed', [passed, failed])] },
    '1',
    '3 passed, 1 failed',
    1,
  ],
  ['a file does not load', { ...good, testResults: [file('failed', [])] }, '1', '3 passed, 1 failed', 1],
  ['an error outside tests', good, '1', '3 passed, 1 failed', 1],
  ['no report', null, '1', '0 passed, 1 failed', 1],
])('%s', (_name, report, exitCode, line, status) => {
  const path = join(folder, 'report.json')
  writeFileSync(path, report ? JSON.stringify(report) : '')
  const result = spawnSync(process.execPath, ['scripts/test-summary.mjs', path, exitCode], { encoding: 'utf8' })
  expect(result.stdout.trimEnd().split('\n').at(-1)).toBe(line)
  expect(result.status).toBe(status)
})
