// What this package's manifest says.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from './native.js'

/** The version of this package and the Node it needs. */
export function packageManifest(): { readonly version: string; readonly engines: { readonly node: string } } {
  return JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8'))
}
