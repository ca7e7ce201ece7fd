// Where this package lies, and what its manifest says.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'

const require = createRequire(import.meta.url)
/** By the package's own name: the same from src/ and dist/. */
const manifestFile = require.resolve('gorgon/package.json')

export function packageFolder(): string {
  return dirname(manifestFile)
}

export function packageManifest(): { readonly version: string; readonly engines: { readonly node: string } } {
  return JSON.parse(readFileSync(manifestFile, 'utf8'))
}
