// Material beside the package: reference models and goldens that tests read where they exist.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../../src/native.js'

/** A path in the folder beside the package, or null when it is not there: the test then skips and says so. */
export function sharedPath(...parts: string[]): string | null {
  const path = join(packageRoot(), '..', 'shared', ...parts)
  return existsSync(path) ? path : null
}

/** For the name of a test that needs such a path. */
export function orSkipped(path: string | null): string {
  return path === null ? ' (skipped: ../shared is absent)' : ''
}
