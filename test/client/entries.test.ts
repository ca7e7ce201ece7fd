// What the entries of `gorgon/client` load: in a browser nothing but the client's own files, the close codes and what all generations share.
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

const root = new URL('../../', import.meta.url)

/** As it is published: without types. */
function compiled(file: URL): string {
  return ts.transpileModule(readFileSync(file, 'utf8'), {
    compilerOptions: {
      module: ts.ModuleKind.ESNext,
      target: ts.ScriptTarget.ES2022,
      verbatimModuleSyntax: true,
    },
  }).outputText
}

/** Files that are loaded with an entry, and packages that they import. */
function graph(entry: string): { files: string[]; packages: string[]; code: string } {
  const files = new Map<string, string>()
  const packages = new Set<string>()
  const visit = (file: URL) => {
    if (files.has(file.href)) return
    const code = compiled(file)
    files.set(file.href, code)
    for (const { fileName } of ts.preProcessFile(code, true, true).importedFiles) {
      if (fileName.startsWith('.')) visit(new URL(fileName.replace(/\.js$/, '.ts'), file))
      else packages.add(fileName)
    }
  }
  visit(new URL(entry, root))
  return {
    files: [...files.keys()].map((href) => href.slice(root.href.length)).sort(),
    packages: [...packages].sort(),
    code: [...files.values()].join('\n'),
  }
}

describe('the browser’s entry', () => {
  const { files, packages, code } = graph('src/client/browser.ts')

  it('loads no package, no module of Node, and of the rest only the close codes and what all generations share', () => {
    expect(packages).toEqual([])
    expect(files).toContain('src/client/client.ts')
    expect(files.filter((file) => !file.startsWith('src/client/'))).toEqual([
      'src/readable-generation.ts',
      'src/server/close-codes.ts',
    ])
  })

  it('uses no global that only Node has', () => {
    const names = new Set<string>()
    const visit = (node: ts.Node): void => {
      if (ts.isIdentifier(node)) names.add(node.text)
      ts.forEachChild(node, visit)
    }
    visit(ts.createSourceFile('all.js', code, ts.ScriptTarget.ES2022))
    expect(names).toContain('setTimeout')
    for (const name of ['process', 'Buffer', 'global', 'require', '__dirname', 'setImmediate']) {
      expect(names).not.toContain(name)
    }
  })
})

describe('Node’s entry', () => {
  it('adds `ws`, and is the same otherwise', async () => {
    const { files, packages } = graph('src/client/node.ts')
    expect(packages).toEqual(['node:events', 'ws'])
    const browser = graph('src/client/browser.ts').files
    expect(files.filter((file) => !browser.includes(file))).toEqual(['src/client/node.ts'])
    const [inNode, inBrowser] = await Promise.all([
      import('../../src/client/node.js'),
      import('../../src/client/browser.js'),
    ])
    expect(Object.keys(inNode)).toEqual(Object.keys(inBrowser))
  })
})

describe('package.json', () => {
  it('leads browsers to the one and everybody else to the other, with types', () => {
    const manifest = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'))
    const { browser, ...other } = manifest.exports['./client']
    // The first condition that holds is taken.
    expect(Object.keys(manifest.exports['./client'])[0]).toBe('browser')
    for (const [entry, paths] of [
      ['browser', browser],
      ['node', other],
    ]) {
      expect(paths).toEqual({ types: `./dist/src/client/${entry}.d.ts`, default: `./dist/src/client/${entry}.js` })
      expect(existsSync(fileURLToPath(new URL(`src/client/${entry}.ts`, root)))).toBe(true)
    }
  })
})
