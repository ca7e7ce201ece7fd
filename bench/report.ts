// npm run bench:report: tables and plots from the newest results, into the README files and bench/plots. Running it twice changes nothing.
import { readdir } from 'node:fs/promises'
import { dirname, join, sep } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { packageRoot } from '../src/index.js'
import { type ReportModule, writeReports } from './support/report.js'

const ENDING = '.report.js'

/** Every `AREA/NAME.report.js` beside this file, by benchmark. */
async function reportModules(): Promise<Map<string, ReportModule>> {
  const here = dirname(fileURLToPath(import.meta.url))
  const files = (await readdir(here, { recursive: true })).filter((name) => name.endsWith(ENDING)).sort()
  const modules = new Map<string, ReportModule>()
  for (const file of files) {
    const bench = file.slice(0, -ENDING.length).replaceAll(sep, '/')
    modules.set(bench, (await import(pathToFileURL(join(here, file)).href)) as ReportModule)
  }
  return modules
}

try {
  for (const remark of await writeReports(packageRoot(), await reportModules())) process.stderr.write(`${remark}\n`)
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`)
  process.exitCode = 1
}
