// Turns vitest's JSON report into the closing line of .ci/run: usage: test-summary.mjs REPORT EXIT_CODE
import { readFileSync } from 'node:fs'

const [file = '', exitCode = '1'] = process.argv.slice(2)
let report = { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0, testResults: [] }
try {
  report = JSON.parse(readFileSync(file, 'utf8'))
} catch {
  process.stdout.write('vitest ended without a report\n')
}

// A file that does not load, or whose process dies, fails without any of its tests failing.
const brokenFiles = report.testResults.filter(
  (result) => result.status === 'failed' && !result.assertionResults.some((test) => test.status === 'failed'),
)
for (const { name, message } of brokenFiles) process.stdout.write(`failed as a whole: ${name}: ${message}\n`)
let failed = report.numFailedTests + brokenFiles.length
// An error outside all tests, or vitest itself falling over, shows in the exit code alone.
if (failed === 0 && exitCode !== '0') failed = 1
if (report.numPendingTests) process.stdout.write(`${report.numPendingTests} skipped\n`)
process.stdout.write(`${report.numPassedTests} passed, ${failed} failed\n`)
process.exitCode = failed ? 1 : 0
