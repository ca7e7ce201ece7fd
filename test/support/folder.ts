// A folder that is gone when the tests of a file are done.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

/** Call at the top of a test file. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'gorgon-test-'))
  afterAll(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}
