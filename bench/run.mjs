// npm run bench -- NAME [arguments]: runs one benchmark of this folder, compiled.
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const built = join(root, 'dist', 'bench')
const name = process.argv[2]
const file = name === undefined ? '' : join(built, `${name}.bench.js`)
if (!existsSync(file)) {
  const known = existsSync(built)
    ? readdirSync(built, { recursive: true })
        .map(String)
        .filter((path) => path.endsWith('.bench.js'))
        .map((path) => path.slice(0, -'.bench.js'.length))
        .sort()
    : []
  const why = name === undefined ? 'Name a benchmark.' : `There is no benchmark "${name}".`
  process.stderr.write(`${why} ${known.length > 0 ? `Known: ${known.join(', ')}` : 'Build first: npm run build:ts'}\n`)
  process.exit(2)
}
process.argv.splice(1, 2, file)
await import(pathToFileURL(file).href)
