// Every way to use a server that README.md shows, as it is written there: against a server that its own line started.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import ts from 'typescript'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Engine, loadEngine } from '../src/index.js'
import { describeInChromium, launchChromium } from './support/browser.js'
import { expectCompiled } from './support/compiled.js'
import { endAll, startServe } from './support/serve-process.js'

const section = /^## Server\n[\s\S]*?(?=^## )/m.exec(readFileSync('README.md', 'utf8'))![0]
const blocks = [...section.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language, code]) => ({
  language: language!,
  code: code!,
}))

/** The one block of a language that says this. */
function block(language: string, holds: string): string {
  const found = blocks.filter((one) => one.language === language && one.code.includes(holds))
  expect(found, `${language} with ${holds}`).toHaveLength(1)
  return found[0]!.code
}

const PROMPT = 'export function add('

let folder: string
let page: Server
let url: string
let expected: { readonly text: string; readonly chat: string }

beforeAll(async () => {
  expectCompiled('.', 'client', 'server')
  // Inside the package, where `gorgon` is its own name, and out of git's sight.
  folder = mkdtempSync('dist/readme-')
  page = createServer((_, response) => {
    response.setHeader('content-type', 'text/html')
    response.end(at(block('html', '<script')))
  })
  page.listen(0, '127.0.0.1')
  await once(page, 'listening')
  const [, command, ...argv] = block('sh', 'gorgon serve').split('#', 1)[0]!.trim().split(/\s+/)
  expect(command).toBe('gorgon')
  const { url: found, logged } = startServe([...argv.slice(1), '--origin', originOf(page)])
  url = await found()
  await logged('ready')
  const engine = await loadEngine({ model: 'demo', threads: 1 })
  expected = { text: await textOf(engine, PROMPT), chat: await textOf(engine, [{ role: 'user', content: PROMPT }]) }
  await engine.close()
})

afterAll(async () => {
  page?.close()
  await endAll()
  if (folder) rmSync(folder, { recursive: true })
})

const originOf = (of: Server) => `http://127.0.0.1:${(of.address() as AddressInfo).port}`

/** The snippet, for the port that the test's server has. */
const at = (code: string) => code.replaceAll('http://127.0.0.1:8080', url)

async function textOf(engine: Engine, prompt: Parameters<Engine['generate']>[0]): Promise<string> {
  return (await engine.generate(prompt, { maxTokens: 40 })).text
}

/** Runs a TypeScript snippet as a program. */
async function runTypeScript(code: string): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const { outputText, diagnostics } = ts.transpileModule(code, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
    reportDiagnostics: true,
  })
  expect(diagnostics).toEqual([])
  const file = resolve(folder, 'snippet.mjs')
  writeFileSync(file, outputText)
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')])
  expect(status, stderr).toBe(0)
  return { stdout, stderr }
}

describe('README.md, "Server"', () => {
  test('has no snippet that is not run here', () => {
    expect(blocks.map(({ language }) => language).sort()).toEqual(['html', 'sh', 'sh', 'ts', 'ts', 'ts', 'ts'])
  })

  test('curl', async () => {
    const child = spawn('bash', ['-c', at(block('sh', 'curl'))], { stdio: ['ignore', 'pipe', 'ignore'] })
    expect(JSON.parse(await text(child.stdout)).choices[0].text).toBe(expected.text)
  })

  test('the openai client', async () => {
    expect((await runTypeScript(at(block('ts', "from 'openai'")))).stdout).toBe(expected.chat)
  })

  test('Node', async () => {
    const { stdout, stderr } = await runTypeScript(at(block('ts', 'client.generate(')))
    expect(stdout).toBe(expected.text)
    expect(stderr).toMatch(/^\d+(\.\d+)? '\d+ of \d+ rows'$|^\d+(\.\d+)? \d+ of \d+ rows$/m)
  })

  test('a session', async () => {
    const { stdout } = await runTypeScript(at(block('ts', 'client.session(')))
    expect(stdout.startsWith(`${expected.text}\n`)).toBe(true)
    expect(stdout).toMatch(/keptTokens: \d+/)
  })

  test('a server in one’s own process', async () => {
    const { stderr } = await runTypeScript(block('ts', "from 'gorgon/server'").replace('port: 8080', 'port: 0'))
    expect(stderr).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/m)
  })
})

describeInChromium('README.md, "Server"', () => {
  test('a browser', async () => {
    const browser = await launchChromium()
    try {
      const tab = await browser.newPage()
      await tab.goto(originOf(page))
      await expect.poll(() => tab.locator('pre').textContent(), { timeout: 30_000 }).toBe(expected.text)
    } finally {
      await browser.close()
    }
  })
})
