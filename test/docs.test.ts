// What the documents say about flags, codes and files is so.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { CLIENT_ERROR_CODES, ERROR_CODES, NATIVE_ERROR_CODES } from '../src/errors.js'
import { gorgon } from './cli/command.js'

const read = (path: string) => readFileSync(path, 'utf8')
const documents = ['.', 'docs', 'kernels', 'heads', 'bench', 'src/server'].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name)),
)
const manifest = JSON.parse(read('package.json')) as { scripts: Record<string, string>; files: string[] }

/** Files of this repository that a document links to. */
const linksOf = (path: string) =>
  [...read(path).matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map((match) => join(dirname(path), match[1]!))

/** npm publishes these whatever the manifest says. */
const ALWAYS_PUBLISHED = ['README.md', 'LICENSE', 'package.json']
/** Of no use without a clone. */
const OF_A_CLONE = ['bench', 'CONTRIBUTING.md']

/** Whether it is one of these, or in one. */
const isAmong = (entries: readonly string[], path: string) =>
  entries.some((entry) => new RegExp(`^${entry.replaceAll('.', '\\.').replaceAll('*', '[^/]*')}(/|$)`).test(path))
const isPublished = (path: string) => isAmong([...ALWAYS_PUBLISHED, ...manifest.files], path)

describe.each(documents)('%s', (path) => {
  test('links to files that exist', () => {
    expect(linksOf(path).filter((target) => !existsSync(target))).toEqual([])
  })

  test.runIf(isPublished(path))('is published, and so is what it links to', () => {
    expect(linksOf(path).filter((target) => !isPublished(target) && !isAmong(OF_A_CLONE, target))).toEqual([])
  })

  test('names error codes that exist', () => {
    const known: readonly string[] = [...ERROR_CODES, ...NATIVE_ERROR_CODES, ...CLIENT_ERROR_CODES]
    const named = [...read(path).matchAll(/\bERR_[A-Z]+(?:_[A-Z]+)*\b/g)].map((match) => match[0])
    expect(named.filter((code) => !known.includes(code))).toEqual([])
  })

  test('names npm scripts that exist', () => {
    const named = [...read(path).matchAll(/npm run ([a-z][a-z:-]*)/g)].map((match) => match[1]!)
    expect(named.filter((name) => !(name in manifest.scripts))).toEqual([])
  })
})

test.each([
  ['generate', 'inspect'],
  ['bench', 'serve'],
  ['serve', 'train'],
  ['train', 'heads'],
  ['heads convert', 'tree'],
  ['tree', 'demo'],
])('the README shows the flags that %s has, and no others', async (command, next) => {
  const flagsOf = (text: string) => [...new Set(text.match(/--[a-z][a-z-]*/g))].sort()
  const shown = new RegExp(`^gorgon ${command} [\\s\\S]*?(?=^gorgon ${next})`, 'm').exec(read('README.md'))?.[0] ?? ''
  const { stdout } = await gorgon([...command.split(' '), '--help'])
  const defined = [...stdout.matchAll(/^ {2}(?:-h, )?(--[a-z-]+)/gm)].map((match) => match[1]!)
  expect(flagsOf(shown)).toEqual(defined.filter((flag) => flag !== '--help').sort())
})

test('the package publishes what its manifest points at', () => {
  for (const path of manifest.files.filter((one) => !one.startsWith('dist') && !one.includes('*'))) {
    expect(existsSync(path), path).toBe(true)
  }
})
