// Whether what browsers are given is what its sources say.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import ts from 'typescript'

const { config } = ts.readConfigFile('tsconfig.json', (path) => readFileSync(path, 'utf8'))
// One file alone does not know that its package is of ES modules.
const { options: compilerOptions } = ts.convertCompilerOptionsFromJson(
  { ...config.compilerOptions, module: 'esnext' },
  '.',
)

/**
 * Throws when TypeScript in these folders of `src` has changed since it was compiled into `dist`: browsers are given the compiled files, and
 * a test of old ones would say nothing.
 */
export function expectCompiled(...folders: readonly string[]): void {
  for (const folder of folders) {
    const sources = readdirSync(join('src', folder)).filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
    for (const source of sources.map((name) => join('src', folder, name))) {
      const compiled = join('dist', source.replace(/ts$/, 'js'))
      const { outputText } = ts.transpileModule(readFileSync(source, 'utf8'), {
        compilerOptions,
        fileName: basename(source),
      })
      if (!existsSync(compiled) || readFileSync(compiled, 'utf8') !== outputText) {
        throw new Error(`${compiled} is not what its source says. Run "npm run build:ts" and test again.`)
      }
    }
  }
}
