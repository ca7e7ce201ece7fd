// Lets node run this project's TypeScript as it is, for tests that need a process or a thread of their own: node --import test/support/typescript.mjs
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { register } from 'node:module'
import { fileURLToPath } from 'node:url'
import { threadId } from 'node:worker_threads'

// This file is run twice: for --import, in each thread, and as the hooks that are then registered, in theirs.
if (!import.meta.url.endsWith('?hooks')) register(`${import.meta.url}?hooks`)

/** JavaScript by the hash of its TypeScript: the compiler takes longer to start than most programs run. */
const cache = new URL('../../node_modules/.cache/gorgon-typescript/', import.meta.url)

/**
 * './x.js' of a TypeScript source is './x.ts' where there is such a file.
 *
 * @type {import('node:module').ResolveHook}
 */
export async function resolve(specifier, context, next) {
  if (/^\.{1,2}\/.*\.js$/.test(specifier) && context.parentURL?.startsWith('file:')) {
    const source = new URL(specifier.replace(/\.js$/, '.ts'), context.parentURL)
    if (existsSync(source)) return { url: source.href, format: 'module', shortCircuit: true }
  }
  return next(specifier, context)
}

/** @type {import('node:module').LoadHook} */
export async function load(url, context, next) {
  if (!url.endsWith('.ts')) return next(url, context)
  const text = readFileSync(fileURLToPath(url), 'utf8')
  const file = new URL(`${createHash('sha256').update(url).update(text).digest('hex')}.js`, cache)
  if (existsSync(file)) return { format: 'module', source: readFileSync(file, 'utf8'), shortCircuit: true }
  const source = await compile(fileURLToPath(url), text)
  mkdirSync(cache, { recursive: true })
  const half = new URL(`${file.href}.${process.pid}.${threadId}`)
  writeFileSync(half, source)
  renameSync(half, file)
  return { format: 'module', source, shortCircuit: true }
}

/**
 * @param {string} fileName
 * @param {string} text
 */
async function compile(fileName, text) {
  const { default: typescript } = await import('typescript')
  const { ModuleKind, ScriptTarget } = typescript
  const compilerOptions = { module: ModuleKind.ESNext, target: ScriptTarget.ES2022, inlineSourceMap: true }
  return typescript.transpileModule(text, { fileName, compilerOptions }).outputText
}
